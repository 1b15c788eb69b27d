"""What an exported file holds, for whoever has had it checked before (`checking`) and takes it at its word."""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

from eventstore.envelope import Raw
from eventstore.export.cloudevents import NotAnEntry, Source, as_raw
from eventstore.export.lines import BadLine, LeftOut, Manifest, ManifestLine, Part, SealLine, kind_of, read

__all__ = ["Contents", "entry_of", "sources_of"]


def sources_of(manifest: Manifest) -> list[Source]:
    """Of each part."""
    several = manifest.partitions > 1
    return [Source(part.epochs[0].log_id, part.partition, several=several) for part in manifest.parts]


def entry_of(line: bytes, sources: Sequence[Source]) -> tuple[Source, Raw]:
    """The entry of an event's line, and whose it is. Raises NotAnEntry."""
    for number, source in enumerate(sources, 1):
        try:
            return source, as_raw(line, source)
        except NotAnEntry:
            if number == len(sources):
                raise
    raise NotAnEntry("the file tells of no partition")


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
        parts = {part.partition: part for part in self.manifest.parts}
        sources = sources_of(self.manifest)
        while (line := self._line()) is not None:
            kind = kind_of(line)
            if kind == "end":
                return
            self._hash(line)
            if kind == "specversion":
                source, raw = entry_of(line, sources)
                yield parts[source.partition], raw
                continue
            match read(line, kind):
                case SealLine() as found:
                    yield parts[found.seal.partition], found
                case LeftOut() as found:
                    yield parts[found.partition], found
                case _:
                    raise BadLine("it does not belong here")

    def _line(self) -> bytes | None:
        return next(self._lines, None)

    def _hash(self, line: bytes) -> None:
        self._digest.update(line)
        self._digest.update(b"\n")
