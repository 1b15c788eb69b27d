"""One partition's lines, from its entries and its seals. Pure: what goes into them is what was just read.

The tree of every seal is made anew on the way, so nothing leaves the archive that is not what was sealed.
"""

from collections.abc import Iterable, Iterator

from eventstore.envelope import Raw
from eventstore.errors import LogError
from eventstore.export.cloudevents import Source, as_line, stored
from eventstore.export.lines import Filters, LeftOut, Part, PartEnd, encode, sealed
from eventstore.export.merkle import Tree
from eventstore.export.stretch import Stretch
from eventstore.seal_chain import ChainFault, SealChain
from eventstore.seal_trust import Trust
from eventstore.seals import HINT, Seal, leaf

__all__ = ["ArchiveDamaged", "PartWriter"]


class ArchiveDamaged(LogError):
    """The archive is not what was sealed, or has a hole: nothing is exported under our signature."""

    def __init__(self, partition: int, position: int, why: str) -> None:
        super().__init__(f"nothing is exported: position {position} of partition {partition}: {why}")
        self.partition = partition
        self.position = position


class PartWriter:
    """Give it every entry from the part's first to its last, and each seal after the last entry that it covers."""

    def __init__(self, part: Part, source: Source, filters: Filters, trust: Trust) -> None:
        self.next = part.first
        self.events = self.left_out = self.seals = 0
        self._part = part
        self._source = source
        self._filters = filters
        self._chain = SealChain(trust, part.partition, begins=part.first)
        self._restart()

    def _restart(self) -> None:
        self._shown = Stretch(self.next)
        self._hints = bytearray()
        """Of every entry, left out or not."""
        self._gap: Tree | None = None
        """The entries just before `next` that are left out."""

    def entries(self, raws: Iterable[Raw]) -> Iterator[bytes]:
        """Their lines. Raises ArchiveDamaged at a hole."""
        part, source, take = self._part, self._source, self._filters.take
        for raw in raws:
            position = raw.position
            if position != self.next:
                raise ArchiveDamaged(
                    part.partition, self.next, "it is missing in the archive. `bahi verify` tells more"
                )
            self.next += 1
            it, digest = stored(raw.envelope), leaf(raw)
            self._hints += digest[:HINT]
            if part.wanted_first <= position <= part.wanted_last and take(it):
                if self._gap is not None:
                    yield self._close_gap(position - 1)
                self._shown.show(position, digest)
                self.events += 1
                yield as_line(raw, source, it)
            else:
                if self._gap is None:
                    self._gap = Tree(position - self._shown.begin)
                self._gap.add(digest)
                self._shown.tree.add(digest)
                self.left_out += 1

    def seal(self, seal: Seal, hints: bytes) -> Iterator[bytes]:
        """Its line. `hints` are those of the archive. Raises ArchiveDamaged."""
        for fault in self._chain.follow(seal):
            raise _damaged(seal, fault)
        if seal.last != self.next - 1 or self._shown.tree.root != seal.root:
            at = _first_difference(hints, self._hints)
            where = f"the entries of seal {seal.number}, positions {seal.first} to {seal.last}, are not those"
            where = f"this is not the entry that seal {seal.number} covers" if at is not None else where
            raise ArchiveDamaged(seal.partition, seal.first + (at or 0), f"{where}. `bahi verify` tells more")
        if self._gap is not None:
            whole = self._gap.count == seal.count
            yield self._close_gap(seal.last, hashes=not whole)
        self.seals += 1
        yield encode(sealed(seal, bytes(self._shown.hints)))
        self._restart()

    def end(self) -> Iterator[bytes]:
        """What is left to write. Raises ArchiveDamaged when the last entries are missing."""
        if self.next <= self._part.last:
            raise ArchiveDamaged(self._part.partition, self.next, "it is missing in the archive")
        head, span = self._chain.head, self._part.seals
        if span is not None and (head is None or head.number != span.last):
            raise ArchiveDamaged(self._part.partition, self._part.last, f"seal {span.last} is gone meanwhile")
        if self._gap is not None:
            yield self._close_gap(self._part.last)

    @property
    def ended(self) -> PartEnd:
        """What the file's end says of it."""
        head = self._chain.head
        return PartEnd(
            partition=self._part.partition,
            last=self._part.last,
            seal=head.number if head is not None else 0,
            hash=head.hash.hex() if head is not None else "",
            hints=bytes(self._shown.hints),
        )

    def _close_gap(self, last: int, *, hashes: bool = True) -> bytes:
        gap, self._gap = self._gap, None
        assert gap is not None  # noqa: S101 (the caller looked)
        first = last - gap.count + 1
        found = b"".join(gap.subtrees) if hashes else b""
        return encode(LeftOut(left_out=(first, last), partition=self._part.partition, hashes=found))


def _damaged(seal: Seal, fault: ChainFault) -> ArchiveDamaged:
    return ArchiveDamaged(seal.partition, fault.position, f"{fault.text}. `bahi verify` tells more")


def _first_difference(theirs: bytes, ours: bytes | bytearray) -> int | None:
    """Which entry of a seal it is, as far as the hints tell."""
    for i in range(0, len(ours), HINT):
        if theirs and theirs[i : i + HINT] != ours[i : i + HINT]:
            return i // HINT
    return None
