"""Whether an exported file is what its seals and its signature say. Line by line, in memory that does not grow.

Feed every line to `take`, then call `finish`; what is wrong is told to `on_fault` as it is found, with the line and the
position. After a fault it goes on, so that all that was changed is told; what a fault only entails is not told again.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

from eventstore.export.cloudevents import NotAnEntry, as_raw
from eventstore.export.faults import END, FILE, MANIFEST, ORDER, SIGNATURE, FileFault
from eventstore.export.lines import BadLine, End, EndLine, LeftOut, Manifest, ManifestLine, SealLine, kind_of, read
from eventstore.export.part_checking import PartChecker
from eventstore.seal_chain import CHAIN, Anchor
from eventstore.seal_trust import Trust
from eventstore.seals import Seal

__all__ = ["Checker"]


class Checker:
    """`trusted` are public keys; None takes the file's own keys at its word, so that only what lies within the file is
    checked. `anchors` are seals that the file must have."""

    def __init__(
        self,
        trusted: Sequence[bytes] | None,
        on_fault: Callable[[FileFault], None],
        anchors: Sequence[Anchor] = (),
    ) -> None:
        self.manifest: Manifest | None = None
        self.end: End | None = None
        self.lines = 0
        """How many were taken."""
        self.faults = 0
        self._trusted = trusted
        self._tell = on_fault
        self._anchors = anchors
        self._digest = sha256()
        self._trust: Trust | None = None
        self._parts: list[PartChecker] = []
        self._at = 0
        """Which of the parts is being read."""
        self._lost = False
        """The first line was no manifest: nothing else can be said."""

    @property
    def sha256(self) -> str:
        """Of the lines so far; of a whole file, of all before the end."""
        return self._digest.hexdigest()

    @property
    def events(self) -> int:
        """How many events there were; `corrupt` ones among them, and `left_out` besides."""
        return sum(part.events for part in self._parts)

    @property
    def corrupt(self) -> int:
        return sum(part.corrupt for part in self._parts)

    @property
    def left_out(self) -> int:
        return sum(part.left_out for part in self._parts)

    @property
    def seals(self) -> int:
        return sum(part.seals for part in self._parts)

    @property
    def position(self) -> int:
        """The last position that was read, of the partition that is being read."""
        return self._parts[self._at].next - 1 if self._parts else 0

    @property
    def heads(self) -> dict[int, Seal]:
        """The newest seal of each partition that has one."""
        return {it.part.partition: it.chain.head for it in self._parts if it.chain.head is not None}

    @property
    def signed(self) -> bool:
        """Manifest and end say that they are signed."""
        return self.manifest is not None and bool(self.manifest.signed_by)

    def take(self, line: bytes) -> None:
        """The next line, without its line feed."""
        self.lines += 1
        if self._lost:
            return
        if self.end is not None:
            self.fault(ORDER, "it comes after the end")
            self._lost = True
            return
        if self.lines > 1 and line.startswith(b'{"specversion":"1.0",'):
            self._hash(line)
            self._event(line)
            return
        try:
            kind = kind_of(line)
            if (self.lines == 1) != (kind == "bahi"):
                raise BadLine("the first line is not the manifest" if self.lines == 1 else "it is a second manifest")
            found = None if kind == "specversion" else read(line, kind)
        except BadLine as error:
            self._hash(line)
            self._unreadable(str(error))
            return
        if not isinstance(found, EndLine):
            self._hash(line)
        match found:
            case ManifestLine():
                self._begin(found)
            case LeftOut():
                self._leave_out(found)
            case SealLine():
                self._seal(found)
            case EndLine():
                self._end(found)
            case _:
                self._event(line)

    def finish(self) -> None:
        """There are no more lines."""
        if self._lost:
            return
        if self.manifest is None:
            self.fault(FILE, "the file is empty")
        elif self.end is None:
            after = f" after position {self.position}" if self.position > 0 else ""
            self.fault(FILE, f"the file is cut short: it stops{after}, before its end", position=self.position + 1)

    def broken_off(self, why: str) -> None:
        """The file cannot be read any further."""
        self.lines += 1
        after = f"after position {self.position} " if self._parts and self.position > 0 else ""
        self.fault(FILE, f"{after}it cannot be read any further: {why}", position=self.position + 1)
        self._lost = True

    def fault(
        self,
        kind: str,
        text: str,
        *,
        partition: int | None = None,
        position: int = 0,
        last: int = 0,
        exact: bool = True,
    ) -> None:
        if partition is None:
            partition = self._parts[self._at].part.partition if self._parts else 0
        self.faults += 1
        self._tell(
            FileFault(
                line=self.lines, kind=kind, text=text, partition=partition, position=position, last=last, exact=exact
            )
        )

    # --- lines ------------------------------------------------------------------------------------------------------

    def _hash(self, line: bytes) -> None:
        self._digest.update(line)
        self._digest.update(b"\n")

    def _unreadable(self, why: str) -> None:
        if self.manifest is None:
            self.fault(MANIFEST, f"this is no file that `bahi archive export` wrote: {why}")
            self._lost = True
        else:
            self._parts[self._at].unreadable(why)

    def _begin(self, line: ManifestLine) -> None:
        self.manifest = it = line.manifest
        try:
            keys = [key.plain for key in it.keys]
            trusted = [key.public_key for key in keys] if self._trusted is None else self._trusted
            self._trust = trust = Trust(keys, trusted)
            self._check_parts(it)
        except ValueError as error:
            self.fault(MANIFEST, f"the manifest makes no sense: {error}")
            self._lost = True
            return
        self._check_signature("the manifest", it.body, line.signature)
        self._parts = [PartChecker(part, it, trust, self._anchors, self.fault) for part in it.parts]
        known = {part.partition for part in it.parts}
        for each in self._anchors:
            if each.partition not in known:
                self.fault(
                    CHAIN, f"the anchor {each} is of partition {each.partition}, which the file does not tell of"
                )

    @staticmethod
    def _check_parts(it: Manifest) -> None:
        numbers = [part.partition for part in it.parts]
        if not numbers or numbers != sorted(set(numbers)) or not 0 <= numbers[0] <= numbers[-1] < it.partitions:
            raise ValueError(f"its partitions are {numbers}, of {it.partitions}")
        for part in it.parts:
            if part.first < 1 or part.last > part.archived or not part.epochs:
                raise ValueError(f"partition {part.partition} is told from {part.first} to {part.last}")

    def _check_signature(self, what: str, body: bytes, signature: str) -> None:
        """Unsigned is a fault when keys are trusted: anybody could have written it."""
        by, trust = self._signer()
        try:
            mark = bytes.fromhex(signature)
        except ValueError:
            mark = b""
        if not by:
            if self._trusted is not None:
                self.fault(SIGNATURE, f"{what} is not signed: what no seal covers could be anybody's")
        elif by not in trust:
            self.fault(SIGNATURE, f"{what} is signed with key {by}, which no trusted key vouches for")
        elif not trust.signed(by, mark, body):
            self.fault(SIGNATURE, f"{what} is not what was signed with key {by}")

    def _part_for_entries(self) -> PartChecker:
        """Where the next entry belongs."""
        while self._parts[self._at].over and self._at + 1 < len(self._parts):
            self._parts[self._at].finish()
            self._at += 1
        return self._parts[self._at]

    def _event(self, line: bytes) -> None:
        part = self._part_for_entries()
        try:
            part.event(as_raw(line, part.source), line)
            return
        except NotAnEntry as error:
            why = str(error)
        for number in range(self._at + 1, len(self._parts)):
            other = self._parts[number]
            try:
                raw = as_raw(line, other.source)
            except NotAnEntry:
                continue
            for each in self._parts[self._at : number]:
                each.finish()
            self._at = number
            other.event(raw, line)
            return
        part.unreadable(why)

    def _leave_out(self, line: LeftOut) -> None:
        part = self._part_for_entries()
        if line.partition == part.part.partition:
            part.leave_out(line)
        else:
            self.fault(ORDER, f"what was left out of partition {line.partition} does not belong here")

    def _seal(self, line: SealLine) -> None:
        try:
            seal = line.plain
        except ValueError as error:
            self._unreadable(str(error))
            return
        if seal.partition != self._parts[self._at].part.partition:
            part = self._part_for_entries()
            if seal.partition != part.part.partition:
                self.fault(ORDER, f"seal {seal.number} of partition {seal.partition} does not belong here")
                return
        self._parts[self._at].seal(seal, line.hints)

    def _end(self, line: EndLine) -> None:
        self.end = it = line.end
        for part in self._parts[self._at :]:
            part.finish()
        earlier = self.faults
        self._check_signature("the end", it.body, line.signature)
        self._check_age()
        if earlier:
            return  # what the end says cannot be so
        if it.sha256 != self.sha256:
            changed = [part.changed_since(end) for part, end in zip(self._parts, it.parts, strict=False)]
            if not any(changed):
                self.fault(
                    END,
                    "the lines before are not those that the end tells of: every sealed event is as it was sealed, so "
                    "it is the manifest, the hashes of what was left out, or something after the last seal",
                )
            return
        counted = (self.lines - 1, self.events, self.left_out, self.seals, [part.end for part in self._parts])
        if counted != (it.lines, it.events, it.left_out, it.seals, list(it.parts)):
            self.fault(END, "the counts at the end are not those of the file")

    def _check_age(self) -> None:
        """A key that another one has followed signs no more."""
        by, trust = self._signer()
        signer = trust.number_of(by)
        newest = max((trust.number_of(seal.key_id) or 0 for seal in self.heads.values()), default=0)
        if signer is not None and signer < newest:
            self.fault(SIGNATURE, f"the file is signed with key {by}, which was replaced before")

    def _signer(self) -> tuple[str, Trust]:
        """Who signed, and who may."""
        assert self.manifest is not None  # noqa: S101 (the first line)
        assert self._trust is not None  # noqa: S101 (the same)
        return self.manifest.signed_by, self._trust
