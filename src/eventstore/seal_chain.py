"""Checking a history against its seals, as it streams by. Pure, and flat in memory.

Feed the leaves of all entries in the order of their positions, and each seal after the last entry that it covers. What
is wrong is told with the position, exactly where that can be known: a root says only that something in its range was
changed, the beginnings of the leaf hashes that were kept beside a seal say which. Those are a hint, never evidence.
"""

import re
from collections.abc import Sequence

from msgspec import Struct

from eventstore.seal_trust import Trust
from eventstore.seals import GENESIS, HINT, Seal, hints_of, merkle_root

__all__ = ["CHAIN", "COVER", "SIGNED", "Anchor", "ChainFault", "SealChain", "parse_anchor"]

CHAIN, SIGNED, COVER = "seal_chain", "seal_signature", "seal_cover"
"""The kinds of faults: the line of seals is broken; a seal does not count; entries are not those that were sealed."""

MOST_LEAVES = 1 << 20
"""More entries than the largest seal may cover: what waits for a seal for longer is let go."""


class ChainFault(Struct, frozen=True, kw_only=True):
    """What is wrong, with the first position at which it shows. Where only a range can be named, it is `position` to
    `last`, and `exact` is False: look there for what else is known."""

    position: int
    kind: str
    text: str
    last: int = 0
    exact: bool = True


class Anchor(Struct, frozen=True):
    """A seal's hash that somebody wrote down when it was made: a history that was sealed anew does not have it."""

    partition: int
    number: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.partition}-{self.number}:{self.hash.hex()}"


def parse_anchor(text: str) -> Anchor:
    """`NUMBER:HASH`, or `PARTITION-NUMBER:HASH`. Raises ValueError."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-9a-fA-F]{64})", text.strip())
    if found is None:
        raise ValueError(f"an anchor is NUMBER:HASH, a seal's number and the 64 hex digits of its hash; not {text!r}")
    return Anchor(int(found[1] or 0), int(found[2]), bytes.fromhex(found[3]))


class SealChain:
    """The seals of one partition, and what they cover.

    `begins` is the first position of the history; from 1 the first seal must be number 1. A history that begins later
    takes its first seal at its word, but for its signature.
    """

    def __init__(self, trust: Trust, partition: int = 0, *, begins: int = 1, anchors: Sequence[Anchor] = ()) -> None:
        self.head: Seal | None = None
        """The newest seal so far."""
        self._trust = trust
        self._partition = partition
        self._begins = begins
        self._anchors = {each.number: each for each in anchors if each.partition == partition}
        self._next = begins
        """The position that the next leaf should have."""
        self._leaves: list[bytes | None] = []
        """Of the entries not yet under a seal, up to `_next`; None for one that is missing."""

    @property
    def sealed(self) -> int:
        """The last position under a seal."""
        return self.head.last if self.head is not None else self._begins - 1

    def take(self, position: int, leaf: bytes) -> None:
        """An entry. One whose position was there already is passed over: let the caller object to it."""
        if position != self._next:
            if position < self._next:
                return
            if (missing := position - self._next) > MOST_LEAVES:
                self._leaves, missing = [], 0
            self._leaves += [None] * missing
        self._leaves.append(leaf)
        self._next = position + 1
        if len(self._leaves) > 2 * MOST_LEAVES:
            del self._leaves[:MOST_LEAVES]

    def seal(self, seal: Seal, hints: bytes = b"") -> list[ChainFault]:
        """The next seal, after the last of its entries. What is wrong with it and with them; nothing, if it is right.

        `hints` are the beginnings of the leaf hashes as they were kept beside it (`seals.hints_of`).
        """
        return [*self.follow(seal), *self._cover(seal, hints)]

    def follow(self, seal: Seal) -> list[ChainFault]:
        """Only that the next seal counts and follows the one before: for who knows otherwise what it covers."""
        objection = self._trust.objection(seal) or self._outdated(seal)
        faults = self._links(seal, signed=objection is None)
        if objection is not None:
            faults.append(_at(seal, SIGNED, f"seal {seal.number} ({_range(seal)}) does not count: {objection}"))
        anchor = self._anchors.pop(seal.number, None)
        if anchor is not None and anchor.hash != seal.hash:
            text = f"seal {seal.number} has the hash {seal.hash.hex()}, and had {anchor.hash.hex()} when it was made"
            faults.append(_at(seal, CHAIN, f"{text}: it, or something before it, was written anew"))
        self.head = seal
        return faults

    def end(self) -> list[ChainFault]:
        """No more seals come: those that were known from before are missing."""
        first = min(self._anchors, default=None)
        if first is None:
            return []
        have = "there is none" if self.head is None else f"the last one is {self.head.number}"
        text = f"seal {first} was made, of hash {self._anchors[first].hash.hex()}, and is gone: {have}"
        return [ChainFault(position=self.sealed + 1, kind=CHAIN, text=text)]

    # --- one seal ---------------------------------------------------------------------------------------------------

    def _outdated(self, seal: Seal) -> str | None:
        """A key that another one has followed seals no more."""
        if self.head is None:
            return None
        before, now = self._trust.number_of(self.head.key_id), self._trust.number_of(seal.key_id)
        if before is None or now is None or now >= before:
            return None
        return f"key {seal.key_id} was replaced by {self.head.key_id}, which made the seal before"

    def _links(self, seal: Seal, *, signed: bool) -> list[ChainFault]:
        """The seal follows the one before."""
        head, number, first, previous = self.head, 1, self._begins, GENESIS
        if head is not None:
            number, first, previous = head.number + 1, head.last + 1, head.hash
        name = f"seal {seal.number} ({_range(seal)})"
        if seal.partition != self._partition:
            return [_at(seal, CHAIN, f"{name} is one of partition {seal.partition}")]
        if seal.last < seal.first:
            return [_at(seal, CHAIN, f"{name} covers nothing")]
        faults: list[ChainFault] = []
        if head is None and self._begins != 1:
            number, previous = seal.number, seal.previous
        if seal.number != number:
            gone = f"seal {number}" if seal.number == number + 1 else f"seals {number} to {seal.number - 1}"
            text = f"{gone} missing: {name} comes next" if seal.number > number else f"{name} comes instead of {number}"
            faults.append(ChainFault(position=first, kind=CHAIN, text=text))
        elif seal.first != first:
            text = f"{name} follows one that ends at {first - 1}"
            faults.append(ChainFault(position=min(first, seal.first), kind=CHAIN, text=text))
        elif seal.previous != previous:
            # What the later seal says is signed: then it is the earlier one that was changed.
            where = head if head is not None and signed else seal
            text = f"{name} names another seal before it than the one that is there"
            faults.append(_at(where, CHAIN, text))
        if head is not None and (seal.until < head.until or seal.sealed_at < head.sealed_at):
            faults.append(_at(seal, CHAIN, f"{name} is of an earlier time than the one before it"))
        elif seal.sealed_at < seal.until:
            faults.append(_at(seal, CHAIN, f"{name} was made before its last event"))
        return faults

    def _cover(self, seal: Seal, hints: bytes) -> list[ChainFault]:
        """The entries are those that were sealed. Lets go of them."""
        begin = self._next - len(self._leaves)
        skip = seal.first - begin
        part = self._leaves[max(skip, 0) : max(seal.last + 1 - begin, 0)]
        del self._leaves[: max(seal.last + 1 - begin, 0)]
        if not 0 < seal.count <= MOST_LEAVES or skip < 0:
            return []  # told as a broken chain
        name = f"seal {seal.number} ({_range(seal)})"
        faults = [
            ChainFault(position=seal.first + i, kind=COVER, text=f"{name} covers it, and it is missing")
            for i, leaf in enumerate(part)
            if leaf is None
        ]
        if len(part) < seal.count:
            text = f"{name} covers more than there is: the history ends at {self._next - 1}"
            faults.append(ChainFault(position=seal.first + len(part), kind=COVER, text=text))
        leaves = [leaf for leaf in part if leaf is not None]
        if not leaves:
            return faults
        holds = not faults and merkle_root(leaves) == seal.root
        if holds and (not hints or hints == hints_of(leaves)):
            return []
        changed = _differing(part, hints)
        if holds:
            where = seal.first + (changed[0] if changed else 0)
            text = f"the leaf hashes kept beside {name} were changed; what it covers was not"
            return [ChainFault(position=where, kind=COVER, text=text)]
        for i in changed:
            text = f"this is not the entry that {name} covers"
            faults.append(ChainFault(position=seal.first + i, kind=COVER, text=text))
        if not faults:
            text = f"the entries of {name} are not those that were sealed; which of them, it does not tell"
            faults.append(_at(seal, COVER, text, exact=False))
        return faults


def _differing(leaves: Sequence[bytes | None], hints: bytes) -> list[int]:
    """Which of them are not as the hints have them."""
    pairs = enumerate(zip(leaves, (hints[i : i + HINT] for i in range(0, len(hints), HINT)), strict=False))
    return [i for i, (leaf, hint) in pairs if leaf is not None and leaf[:HINT] != hint]


def _at(seal: Seal, kind: str, text: str, *, exact: bool = True) -> ChainFault:
    return ChainFault(position=seal.first, kind=kind, text=text, last=seal.last, exact=exact)


def _range(seal: Seal) -> str:
    return f"positions {seal.first} to {seal.last}"
