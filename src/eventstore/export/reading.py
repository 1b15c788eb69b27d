"""What an exported file holds, for whoever has had it checked before (`checking`) and takes it at its word."""

from collections.abc import Iterable, Iterator
from hashlib import sha256

from eventstore.envelope import Raw
from eventstore.export.cloudevents import NotAnEntry, Source, as_raw
from eventstore.export.lines import BadLine, EndLine, LeftOut, Manifest, ManifestLine, Part, SealLine, kind_of, read

__all__ = ["Contents"]


class Contents:
    """Iterate over it for the entries, the seals and what was left out, each with the part that it belongs to. Then
    `sha256` is that of all lines before the end. Raises BadLine, NotAnEntry for what `checking` would not have let
    pass."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._digest = sha256()
        head = self._line()
        if head is None or not isinstance(found := read(head, "bahi"), ManifestLine):
            raise BadLine("there is no manifest")
        self._hash(head)
        self.manifest: Manifest = found.manifest

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[tuple[Part, Raw | SealLine | LeftOut]]:
        several = self.manifest.partitions > 1
        parts = [
            (part, Source(part.epochs[0].log_id, part.partition, several=several)) for part in self.manifest.parts
        ]
        at, following = 0, [part.first for part, _ in parts]
        while (line := self._line()) is not None:
            kind = kind_of(line)
            if kind == "end":
                return
            self._hash(line)
            if kind != "seal":
                while following[at] > parts[at][0].last and at + 1 < len(parts):
                    at += 1
            part, source = parts[at]
            if kind == "specversion":
                following[at] += 1
                yield part, as_raw(line, source)
                continue
            found = read(line, kind)
            if isinstance(found, SealLine):
                yield next(each for each, _ in parts if each.partition == found.seal.partition), found
            elif isinstance(found, LeftOut):
                following[at] = found.last + 1
                yield part, found
            elif isinstance(found, EndLine | ManifestLine):
                raise NotAnEntry("it does not belong here")

    def _line(self) -> bytes | None:
        return next(self._lines, None)

    def _hash(self, line: bytes) -> None:
        self._digest.update(line)
        self._digest.update(b"\n")
