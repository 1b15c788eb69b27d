"""Sealing: the archive's writer puts what it stores under seals, in the transaction that stores it.

Each entry is hashed as it is stored; the hashes wait in memory for their seal. After a start, a rollback, or when
another writer was here, they are made from the archived rows, a bounded number at a time, however many there are.

Archiving never waits for a seal. When none can be made (no key that opens, a hole in the archive) that is told, tried
again every ten seconds, and what was archived meanwhile is sealed afterwards.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct, field
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.values import SECOND, Duration, Instant
from eventstore.archive_tables import events
from eventstore.envelope import Raw
from eventstore.seal_rows import newest_seal
from eventstore.seal_trust import key_id, public_bytes, sign
from eventstore.seals import GENESIS, Seal, hints_of, leaf, merkle_root

__all__ = ["AT_ONCE", "SealKeys", "Sealing", "SealingStopped"]

AT_ONCE = 5_000
"""Archived rows read in one call at least: the writer holds its lock meanwhile."""
_PAGE = 250
_RETRY: Duration = 10 * SECOND
_BIGGEST = 2**63 - 1

_log = structlog.get_logger(__name__)


class SealingStopped(Exception):
    """No seal can be made; the message says why and what to do."""


class SealKeys(Protocol):
    """Where the private keys are."""

    async def newest(self, connection: AsyncConnection) -> Ed25519PrivateKey:
        """The key that seals now; the first one is made when there is none. Raises SealingStopped."""
        ...


class _Open(Struct):
    """What is not under a seal yet: the leaves after `head`, their times, and since when (by our clock) they wait.
    Not `whole`: the archive holds more than was taken."""

    head: Seal | None
    since: Instant
    whole: bool = False
    leaves: list[bytes] = field(default_factory=list)
    times: list[Instant] = field(default_factory=list)

    @property
    def next(self) -> int:
        """The position that follows what was taken."""
        return (self.head.last if self.head is not None else 0) + len(self.leaves) + 1

    def take(self, raws: Sequence[Raw]) -> None:
        times = [raw.recorded_at for raw in raws]
        if max(times, default=0) > _BIGGEST or max([raw.version for raw in raws], default=0) > _BIGGEST:
            raws = [_as_stored(raw) for raw in raws]
            times = [raw.recorded_at for raw in raws]
        self.leaves += [leaf(raw) for raw in raws]
        self.times += times


class Sealing:
    """The seals of one partition: one after `events` entries, or when the oldest unsealed one is `age` microseconds
    old. `on_state` hears why sealing has stopped, and None when it goes on; `on_sealed` of each seal that is committed.
    """

    def __init__(
        self,
        partition: int,
        keys: SealKeys,
        *,
        events: int = 1000,
        age: Duration = 60 * SECOND,
        on_state: Callable[[str | None], None] = lambda _: None,
        on_sealed: Callable[[Seal], None] = lambda _: None,
    ) -> None:
        self.partition = partition
        self._keys = keys
        self._events = events
        self._age = age
        self._on_state = on_state
        self._on_sealed = on_sealed
        self._key: Ed25519PrivateKey | None = None
        self._open: _Open | None = None
        self._made: list[Seal] = []
        """In the transaction that is going on."""
        self.head: Seal | None = None
        """The newest seal that is committed, as far as we know."""
        self._stopped: str | None = None
        self._tried_at: Instant = 0
        self._behind_clock = False

    @property
    def stopped(self) -> str | None:
        """Why no seal can be made just now."""
        return self._stopped

    def due(self, now: Instant, *, rest: bool = False) -> bool:
        """Whether `seal` has something to do, even without new entries. `rest`: everything unsealed is due."""
        if self._stopped is not None and 0 <= now - self._tried_at < _RETRY and not rest:
            return False
        it = self._open
        if it is None or not it.whole or len(it.leaves) >= self._events:
            return True
        if not it.leaves:
            return False
        it.since = min(it.since, now)  # a clock that was set back delays no seal by more than its age
        return rest or now - it.times[0] >= self._age or now - it.since >= self._age

    async def seal(self, connection: AsyncConnection, raws: Sequence[Raw], now: Instant, *, rest: bool = False) -> int:
        """Take the entries that were just stored in the transaction of `connection`, and make the seals that are due.
        How many. Whatever hinders that is told and tried again; only what the database raises is raised."""
        it = self._open
        if it is not None and it.whole and raws:
            # what was read from the archive may hold the first of them already
            if (known := it.next - raws[0].position) >= 0:
                it.since = it.since if it.leaves else now
                it.take(raws[known:])
            else:
                self._open = None
        if not self.due(now, rest=rest):
            if self._stopped is not None:
                self._open = None  # read again when there is a key: nothing piles up in memory
            return 0
        made = len(self._made)
        try:
            most = max(AT_ONCE, 2 * len(raws))  # more than came, or it would never catch up
            if not await self._work(connection, now, rest, most):
                await self._work(connection, now, rest, most)
        except SealingStopped as error:
            self._open, self._key, self._tried_at = None, None, now
            self._tell(str(error))
        else:
            self._tell(None)
        return len(self._made) - made

    def committed(self) -> None:
        """The transaction was committed."""
        made, self._made = self._made, []
        for each in made:
            _log.info(
                "sealed",
                partition=each.partition,
                number=each.number,
                first=each.first,
                last=each.last,
                hash=each.hash.hex(),
                key=each.key_id,
            )
            self.head = each
            self._on_sealed(each)

    def forget(self) -> None:
        """The transaction was rolled back, or another writer was here: look into the archive again."""
        self._open, self._key = None, None
        self._made.clear()

    # --- within the transaction -------------------------------------------------------------------------------------

    async def _work(self, connection: AsyncConnection, now: Instant, rest: bool, most: int) -> bool:
        """Make what is due. False, if another key or another writer came first: look again."""
        if self._key is None:
            self._key = await self._keys.newest(connection)
        if self._open is None:
            self._open = _Open(await newest_seal(connection, self.partition), now)
            if not self._made:
                self.head = self._open.head
        it, read = self._open, 0
        while True:
            while len(it.leaves) >= self._events:
                if not await self._make(connection, it, self._events, now):
                    return False
            if it.whole:
                return not self.due(now, rest=rest) or await self._make(connection, it, len(it.leaves), now)
            if read >= most:
                return True
            read += await self._read(connection, it)

    async def _read(self, connection: AsyncConnection, it: _Open) -> int:
        """Take more of what is archived. Raises SealingStopped at a hole, over which nothing is sealed."""
        found = (
            select(events.c.position, events.c.stream, events.c.version, events.c.recorded_at, events.c.envelope)
            .where(events.c.partition == self.partition, events.c.position >= it.next)
            .order_by(events.c.position)
            .limit(_PAGE)
        )
        raws = [Raw(*row) for row in await connection.execute(found)]
        for expected, raw in enumerate(raws, it.next):
            if raw.position != expected:
                what = "is there twice" if raw.position < expected else "is missing"
                position = min(expected, raw.position)
                raise SealingStopped(
                    f"position {position} {what} in the archive, and is under no seal yet: `bahi verify` tells more"
                )
        it.take(raws)
        it.whole = len(raws) < _PAGE
        return len(raws)

    async def _make(self, connection: AsyncConnection, it: _Open, count: int, now: Instant) -> bool:
        """A seal over the first `count` leaves."""
        assert self._key is not None  # noqa: S101
        head, leaves = it.head, it.leaves[:count]
        until = max(it.times[count - 1], head.until if head is not None else 0)
        last = it.next - 1 - len(it.leaves) + count
        sealed_at = max(now, until, head.sealed_at if head is not None else 0)
        self._mind_clock(sealed_at - now)
        seal = sign(
            self._key,
            Seal(
                partition=self.partition,
                number=head.number + 1 if head is not None else 1,
                first=last - count + 1,
                last=last,
                until=until,
                previous=head.hash if head is not None else GENESIS,
                root=merkle_root(leaves),
                sealed_at=sealed_at,
                key_id=key_id(public_bytes(self._key)),
            ),
        )
        values: dict[str, Any] = {name: getattr(seal, name) for name in seal.__struct_fields__}
        done = await connection.execute(_insert, {**values, "hints": hints_of(leaves)})
        if done.rowcount != 1:
            self._open, self._key = None, None
            return False
        it.head = seal
        del it.leaves[:count], it.times[:count]
        it.since = now
        self._made.append(seal)
        return True

    # --- telling ----------------------------------------------------------------------------------------------------

    def _mind_clock(self, ahead: Duration) -> None:
        """The times of the seals do not run backwards with a clock that was set back; that is told, once."""
        if ahead > SECOND and not self._behind_clock:
            _log.warning("seal_clock_behind", partition=self.partition, seconds=round(ahead / SECOND, 3))
        self._behind_clock = ahead > SECOND

    def _tell(self, why: str | None) -> None:
        if why == self._stopped:
            return
        self._stopped = why
        if why is None:
            _log.info("sealing_resumed", partition=self.partition)
        else:
            _log.error("sealing_stopped", partition=self.partition, why=why)
        self._on_state(why)


_insert = text(
    """
    INSERT INTO seals (partition, number, first, last, until, previous, root, sealed_at, key_id, signature, hints)
    SELECT :partition, :number, :first, :last, :until, :previous, :root, :sealed_at, :key_id, :signature, :hints
    -- not with a key that was replaced meanwhile, nor where another writer made one
    WHERE :key_id = (SELECT id FROM seal_keys ORDER BY number DESC LIMIT 1)
    ON CONFLICT DO NOTHING
    """
)


def _as_stored(raw: Raw) -> Raw:
    """The archive has no number beyond 63 bits, which no append writes: it holds 0 instead."""
    if raw.version <= _BIGGEST and raw.recorded_at <= _BIGGEST:
        return raw
    version, recorded_at = (n if n <= _BIGGEST else 0 for n in (raw.version, raw.recorded_at))
    return Raw(raw.position, raw.stream, version, recorded_at, raw.envelope)
