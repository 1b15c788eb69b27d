"""The archived history against its seals, page by page."""

from collections.abc import Mapping, Sequence

from msgspec import Struct, field
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.values import Instant
from eventstore.envelope import Raw
from eventstore.seal_chain import SIGNED, Anchor, SealChain
from eventstore.seal_rows import read_seals
from eventstore.seal_trust import SealKey, Trust
from eventstore.seals import Seal, leaf
from projections.faults import Faults
from projections.replay import Fault

__all__ = ["SealCheck", "Trusted"]

_AT_ONCE = 64
"""Seals fetched together: each may have some kilobytes of hints."""


class Trusted(Struct, frozen=True):
    """The line of keys, which of the public ones are trusted, and why others are not, by their id."""

    keys: Sequence[SealKey]
    public: Sequence[bytes]
    closed: Mapping[str, str] = field(default_factory=dict)


class SealCheck:
    """The seals of a partition up to number `newest`, and the entries that they cover."""

    def __init__(
        self, partition: int, newest: int, trusted: Trusted, anchors: Sequence[Anchor], faults: Faults
    ) -> None:
        self._partition = partition
        self._newest = newest
        self._closed = trusted.closed
        self._chain = SealChain(Trust(trusted.keys, trusted.public), partition, anchors=anchors)
        self._faults = faults
        self._waiting: list[tuple[Seal, bytes]] = []
        """Fetched, by number."""
        self._after: int | None = None
        self._fetched_all = newest == 0
        self.count = 0
        self.unsealed_since: Instant = 0
        """The time of the first entry under no seal, so far."""

    @property
    def head(self) -> Seal | None:
        """The newest seal so far."""
        return self._chain.head

    @property
    def sealed(self) -> int:
        """The last position under a seal, so far."""
        return self._chain.sealed

    async def fetch(self, connection: AsyncConnection, until: int) -> None:
        """Have the seals that end at `until` or before."""
        while not self._fetched_all and (not self._waiting or self._waiting[-1][0].last <= until):
            some = await read_seals(connection, self._partition, after=self._after, limit=_AT_ONCE)
            some = [each for each in some if each[0].number <= self._newest]
            self._fetched_all = not some
            if some:
                self._after = some[-1][0].number
                self._waiting += some

    def page(self, entries: Sequence[Raw]) -> None:
        """Entries in the order of their positions, as they are archived."""
        take, waiting = self._chain.take, self._waiting
        due = waiting[0][0].last if waiting else 0
        for raw in entries:
            self.unsealed_since = self.unsealed_since or raw.recorded_at
            if waiting or not self._fetched_all:
                take(raw.position, leaf(raw))
            while waiting and due <= raw.position:
                self._seal(*waiting.pop(0))
                due = waiting[0][0].last if waiting else 0

    def end(self) -> None:
        """There are no more entries; whatever seals are left cover what is not there."""
        while self._waiting:
            self._seal(*self._waiting.pop(0))
        for fault in self._chain.end():
            self._faults.add(Fault(fault.position, 0, fault.kind, fault.text))

    def _seal(self, seal: Seal, hints: bytes) -> None:
        self.count += 1
        self.unsealed_since = 0
        for fault in self._chain.seal(seal, hints):
            text = fault.text
            if fault.kind == SIGNED and seal.key_id in self._closed:
                text += f": {self._closed[seal.key_id]}"
            self._faults.add(Fault(fault.position, 0, fault.kind, text), None if fault.exact else fault.last)
