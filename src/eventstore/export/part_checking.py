"""One partition of an exported file, line by line: every position is told of, every event is what its bytes say, and
every seal covers what is there."""

from collections.abc import Callable, Sequence

from eventstore.envelope import Raw
from eventstore.export.cloudevents import Source, Stored, as_line, stored
from eventstore.export.differing import difference
from eventstore.export.faults import DATA, END, FILTER, HOLE, MANIFEST, ORDER
from eventstore.export.lines import LeftOut, Manifest, Part, PartEnd
from eventstore.export.merkle import DIGEST, blocks
from eventstore.export.stretch import Stretch
from eventstore.seal_chain import CHAIN, COVER, Anchor, SealChain
from eventstore.seal_trust import Trust
from eventstore.seals import Seal, leaf

__all__ = ["PartChecker"]


class PartChecker:
    """Tells what is wrong to `fault(kind, text, partition, position, last, exact)`."""

    def __init__(
        self, part: Part, manifest: Manifest, trust: Trust, anchors: Sequence[Anchor], fault: Callable[..., None]
    ) -> None:
        self.part = part
        self.source = Source(part.epochs[0].log_id, part.partition, several=manifest.partitions > 1)
        self.next = part.first
        """The position that comes next."""
        self.events = self.corrupt = self.left_out = self.seals = 0
        self._filters = manifest.filters
        self._tell = fault
        self._first_seal: Seal | None = None
        self._blank: LeftOut | None = None
        """Left out without hashes: all that the next seal covers, or under none."""
        self._finished = False
        if self.source.uri != part.source:
            self._fault(MANIFEST, f"its source is {part.source!r}, of this log {self.source.uri!r}", part.first)
        self.chain = SealChain(trust, part.partition, begins=part.first, anchors=self._later_than_begin(anchors))
        self._restart()

    @property
    def over(self) -> bool:
        """Every position was told of."""
        return self.next > self.part.last

    @property
    def end(self) -> PartEnd:
        """What the end of the file must say."""
        head = self.chain.head
        return PartEnd(
            partition=self.part.partition,
            last=self.part.last,
            seal=head.number if head is not None else 0,
            hash=head.hash.hex() if head is not None else "",
            hints=bytes(self._stretch.hints),
        )

    def event(self, raw: Raw, line: bytes) -> None:
        position = raw.position
        if not self._expected(position):
            return
        it = stored(raw.envelope)
        if (written := as_line(raw, self.source, it)) != line:
            self._fault(DATA, difference(line, written), position)
        if not self._wanted(position, it):
            self._fault(FILTER, "it is not among what was asked for", position)
        self._stretch.show(position, leaf(raw))
        self.events += 1
        if it is None:
            self.corrupt += 1

    def leave_out(self, it: LeftOut) -> None:
        if it.count < 1 or it.last > self.part.last:
            self._fault(ORDER, f"positions {it.first} to {it.last} cannot be left out here", self.next)
            self._told = True
            return
        if not self._expected(it.first):
            return
        self.next = it.last + 1
        self.left_out += it.count
        if not self._filters.by_owner and it.last >= self.part.wanted_first and it.first <= self.part.wanted_last:
            self._fault(FILTER, f"positions {it.first} to {it.last} were asked for and are left out", it.first)
        begin = it.first - self._stretch.begin
        sizes = list(blocks(begin, begin + it.count))
        if not it.hashes:
            self._blank = self._blank or it
        elif len(it.hashes) != DIGEST * len(sizes):
            self._fault(ORDER, f"there are {len(it.hashes)} bytes of hashes, for {len(sizes)} subtrees", it.first)
            self._told = True
        else:
            for number, size in enumerate(sizes):
                self._stretch.tree.add(it.hashes[number * DIGEST : (number + 1) * DIGEST], size)

    def seal(self, seal: Seal, hints: bytes) -> None:
        self.seals += 1
        for fault in self.chain.follow(seal):
            self._fault(fault.kind, fault.text, fault.position, last=fault.last, exact=fault.exact)
        self._first_seal = self._first_seal or seal
        if not self._told:
            self._cover(seal, hints)
        self.next = max(self.next, seal.last + 1)
        self._restart()

    def unreadable(self, why: str) -> None:
        """A line that may have been the next event."""
        self._fault(DATA, f"the line is not as it was written: {why}", self.next)
        self._told = True
        self.next += 1

    def finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        if not self.over:
            self._missing(self.next, self.part.last)
        if self._blank is not None:
            text = f"positions {self._blank.first} to {self._blank.last} are left out without hashes, and under no seal"
            self._fault(ORDER, text, self._blank.first)
        span, head = self.part.seals, self.chain.head
        if span is not None:
            if head is None or head.number < span.last:
                gone = span.first if head is None else head.number + 1
                text = f"seal {gone} is missing: the file has seals up to {span.last}"
                self._fault(CHAIN, text, self.chain.sealed + 1)
            first = self._first_seal
            if first is not None and (first.number, first.previous.hex()) != (span.first, span.previous):
                text = f"the first seal is {first.number}, the manifest names {span.first}, or another one before it"
                self._fault(MANIFEST, text, first.first)
        elif head is not None:
            self._fault(MANIFEST, "it names no seals, and there are some", self.part.first)
        for fault in self.chain.end():
            self._fault(fault.kind, fault.text, fault.position, last=fault.last, exact=fault.exact)

    def changed_since(self, end: PartEnd) -> bool:
        """Tells which events after the last seal are not those of the end's hints."""
        found = self._stretch.differing(end.hints)
        for position in found:
            self._fault(END, "this is not the event that the end was signed over; no seal covers it yet", position)
        return bool(found)

    # --- of the entries up to the next seal ---------------------------------------------------------------------------

    def _restart(self) -> None:
        self._stretch = Stretch(self.next)
        self._blank = None
        self._told = False
        """What is wrong here was told: the seal's root cannot hold."""

    def _expected(self, position: int) -> bool:
        """Whether the position is not one that was there already; goes on behind it."""
        if position == self.next and position <= self.part.last:
            self.next += 1
            return True
        if position > self.part.last or position < self.part.first:
            self._fault(ORDER, f"the file tells of {self.part.first} to {self.part.last}, not of this", position)
        elif position < self.next:
            self._fault(ORDER, f"it comes again, or too late: {self.next} was to come", position)
        else:
            self._missing(self.next, position - 1)
            self.next = position + 1
            return True
        self._told = True
        return False

    def _missing(self, first: int, last: int) -> None:
        what = f"position {first} is" if first == last else f"positions {first} to {last} are"
        self._fault(HOLE, f"{what} missing", first, last=last)
        self._told = True

    def _wanted(self, position: int, it: Stored | None) -> bool:
        if not self.part.wanted_first <= position <= self.part.wanted_last:
            return False
        return self._filters.take(it)

    def _cover(self, seal: Seal, hints: bytes) -> None:
        name = f"seal {seal.number} (positions {seal.first} to {seal.last})"
        if seal.first != self._stretch.begin:
            return  # told as a broken chain
        if self.next != seal.last + 1:
            # Where the others were renumbered, the hints tell which one it was that came or went.
            for position in self._stretch.differing(hints)[:1]:
                self._fault(COVER, f"this is not the entry that {name} covers", position)
            if self.next <= seal.last:
                self._missing(self.next, seal.last)
            else:
                self._fault(ORDER, f"{name} comes when {self.next - 1} was there already", seal.last + 1)
            return
        if self._blank is not None:
            if self._stretch.tree.count or self._blank.count != seal.count:
                text = f"some of {name} are left out without the hashes that would prove the others"
                self._fault(COVER, text, self._blank.first)
            return
        holds = self._stretch.tree.root == seal.root
        if holds and hints == self._stretch.hints:
            return
        changed = self._stretch.differing(hints)
        if holds:
            text = f"the leaf hashes kept beside {name} were changed; what it covers was not"
            self._fault(COVER, text, changed[0] if changed else seal.first)
            return
        for position in changed:
            self._fault(COVER, f"this is not the entry that {name} covers", position)
        if not changed:
            text = f"the entries of {name} are not those that were sealed; which of them, it does not tell"
            self._fault(COVER, text, seal.first, last=seal.last, exact=False)

    def _later_than_begin(self, anchors: Sequence[Anchor]) -> list[Anchor]:
        """Those that come in the file. The others: the seal right before it is known, of earlier ones nothing."""
        span = self.part.seals
        anchors = [each for each in anchors if each.partition == self.part.partition]
        if span is None:
            return anchors
        for each in anchors:
            if each.number < span.first:
                text = f"the file begins with seal {span.first}: whether it follows seal {each.number}, it cannot tell"
                if each.number != span.first - 1:
                    self._fault(CHAIN, text, self.part.first)
                elif each.hash.hex() != span.previous:
                    text = f"the seal before has the hash {span.previous}, and had {each.hash.hex()} when it was made"
                    self._fault(CHAIN, text, self.part.first)
        return [each for each in anchors if each.number >= span.first]

    def _fault(self, kind: str, text: str, position: int, *, last: int = 0, exact: bool = True) -> None:
        self._tell(kind, text, partition=self.part.partition, position=position, last=last, exact=exact)
