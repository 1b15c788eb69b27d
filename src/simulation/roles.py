"""The roles of `bahi run`, each to be turned by hand: the real scheduler, listener, worker, poller and archive.

A role is stepped when it has something to do: news in the log, something due by the clock, or something in its hands.
"""

import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.clock import Clock
from domain.values import DAY, SECOND, Duration, Instant, Tick
from eventstore.archive import PostgresArchive
from eventstore.archive_tables import seal_keys
from eventstore.entries import check_log
from eventstore.envelope import Recorded, decode
from eventstore.errors import LogHole, LogUnavailable
from eventstore.following import Tail, verify
from eventstore.log import EventLog
from eventstore.seal_trust import key_id, public_bytes
from eventstore.sealing import Sealing
from eventstore.trimming import ArchiveIncomplete, Trimmed, trim
from handlers.desk import Desk
from handlers.poller import Poller
from handlers.worker import Worker
from projections.live import live_states
from projections.projector import Projector
from projections.snapshotter import take_snapshot
from projections.stop_index import StopIndex
from projections.timetable import Timetable
from simulation.day import NoFeed
from sources.listener import MarketListener
from sources.prices import PriceWriter
from sources.scheduler import Scheduler
from sources.silence import Silence
from sources.updates import IDLE_PERIOD, OPEN_PERIOD, WATCH_PERIOD, OpenOrders, Updates

__all__ = ["ArchiveRole", "MarketRole", "Role", "SchedulerRole", "Trade", "UpdatesRole", "WorkerRole"]

Trade = tuple[str, Decimal, Instant, Instant]
"""Symbol, price, from when on it counts, and when it was dealt with."""

SILENCE: Final[Duration] = 25 * SECOND
"""After so long without a tick the feed counts as silent: here it brings one every few seconds only."""
SEALING_KEY: Final = Ed25519PrivateKey.from_private_bytes(b"simulated worlds have no secrets")
AGAIN: Final[Duration] = SECOND // 5
"""After so long a worker takes up again what it could not handle."""
PAGE: Final = 256
KEPT_HOT: Final[Duration] = 20 * SECOND


class Role(Protocol):
    """What a simulated process does."""

    async def begin(self) -> None:
        """As at every start. Raises LogUnavailable, LogLost."""
        ...

    async def step(self, *, news: bool = True, timers: bool = True) -> int:
        """Everything that can be done now; how much that was. Without `news` nothing was appended since the last step,
        without `timers` no strategy's time has come. Raises LogUnavailable, LogLost, what outages raise."""
        ...

    def due(self) -> Instant | None:
        """When time alone next brings something to do, as long as it is not stepped."""
        ...

    def drop(self) -> None:
        """The process dies."""
        ...


class WorkerRole:
    """Its timers are in Redis: whoever conducts looks at them."""

    def __init__(self, desk: Desk, name: str, on_empty: Callable[[], None]) -> None:
        self.worker = Worker(desk, consumer=name, sends_by_hand=False, on_trouble=self._in_trouble)
        self._clock = desk.clock
        self._on_empty = on_empty
        self._again_at: Instant | None = None
        self._own = True
        """Something may be pending for it."""

    async def begin(self) -> None:
        """A worker has nothing to load."""

    async def step(self, *, news: bool = True, timers: bool = True) -> int:
        self._again_at, own, self._own = None, self._own, False  # it may inherit in the midst of this
        try:
            return await self.worker.step(own=own, timers=timers, on_empty=self._on_empty)
        except BaseException:
            self._own = True
            raise
        finally:
            self._own = self._own or self._again_at is not None

    def inherit(self) -> None:
        """What another had in hand is now pending for this one."""
        self._own = True

    def due(self) -> Instant | None:
        """What could not be handled is handled again soon; all else comes from the log."""
        return self._again_at

    def _in_trouble(self, _error: Exception) -> None:
        self._again_at = self._clock.now() + AGAIN

    def drop(self) -> None:
        self.worker.drop()


class _Follower:
    """Loads the live states, then follows the log a step at a time: as `eventstore.following` does, without a wait.
    `on_read` is called in the moment in which it knows all that the log holds."""

    def __init__(self, desk: Desk, on_read: Callable[[], None]) -> None:
        self.desk = desk
        self._on_read = on_read
        self.log = desk.log
        self.clock: Clock = desk.clock
        self._position = 0
        self._tail: Tail | None = None

    async def news(self) -> list[Recorded]:
        """What came since the last call."""
        found: list[Recorded] = []
        try:
            if self._tail is not None:
                try:
                    found = [decode(raw) for raw in await self._tail.look(wait=False)]
                    if len(found) < PAGE and not self._tail.behind:
                        self._on_read()
                except LogHole:  # trimmed meanwhile: the archive may have it
                    self._tail = None
            if self._tail is None:
                found = await self._caught_up()
        except LogUnavailable:
            self._tail = None
            raise
        if found:
            self._position = found[-1].position
            self.log.seen = max(self.log.seen, self._position)
        return found

    async def _caught_up(self) -> list[Recorded]:
        log = self.log
        await verify(log.redis, log.keys, log.epoch, self._position)
        try:
            found = [recorded async for recorded in log.read(after=self._position)]
        except LogHole as hole:  # the log was lost meanwhile, or it is looked at once more
            await check_log(log, log.seen)
            raise LogUnavailable(str(hole)) from hole
        self._tail = Tail(log.redis, log.keys, log.epoch, found[-1].position if found else self._position, PAGE)
        return found

    def drop(self) -> None:
        """Nothing is under way between two steps."""


class SchedulerRole(_Follower):
    async def begin(self) -> None:
        self._position, states, _ = await live_states(self.log)
        self.scheduler = Scheduler(
            self.log, self.clock, Timetable.from_states(states), buy_late_limit=self.desk.policy.buy_late_limit
        )

    async def step(self, *, news: bool = True, timers: bool = True) -> int:
        found = await self.news() if news else []
        for recorded in found:
            self.scheduler.apply(recorded)
        return len(found) + await self.scheduler.step(self.clock.now())

    def due(self) -> Instant | None:
        return self.scheduler.next_due()


class MarketRole(_Follower):
    """`inbox` is what the feed has brought; `heard` takes the trades that it has dealt with."""

    def __init__(self, desk: Desk, on_read: Callable[[], None], heard: list[Trade]) -> None:
        super().__init__(desk, on_read)
        self.inbox: list[Sequence[Tick]] = []
        self._heard = heard
        self._unfollowed: list[Recorded] = []
        self._unsure: list[tuple[str, Decimal, Instant]] = []
        """Those of which a trigger is perhaps not in the log yet."""
        self._newest: dict[str, Instant] = {}

    async def begin(self) -> None:
        self._position, states, _ = await live_states(self.log)
        self._looked_at = self.clock.now()
        self.listener = MarketListener(
            self.log,
            NoFeed(),
            self.clock,
            self.desk.calendar,
            StopIndex.from_states(states),
            prices=PriceWriter(self.log.redis, every=DAY),
            silence=Silence(SILENCE),
        )
        await self.listener.begin()

    async def step(self, *, news: bool = True, timers: bool = True) -> int:
        done, looked_at = 0, self.clock.now()
        self._unfollowed += await self.news() if news else []
        while self._unfollowed:  # what cannot be appended stays with the listener, the rest with us
            await self.listener.on_event(self._unfollowed.pop(0))
            done += 1
        while self.inbox:
            batch = self.inbox.pop(0)
            self._unsure += self._counting(batch, looked_at)
            await self.listener.on_ticks(batch)
            done += 1
        self._looked_at = self.clock.now()
        await self.listener.check_silence(self._looked_at)  # also appends what could not be appended before
        self._heard += [(*trade, self.clock.now()) for trade in self._unsure]
        self._unsure.clear()
        return done

    def _counting(self, batch: Sequence[Tick], looked_at: Instant) -> list[tuple[str, Decimal, Instant]]:
        """The trades that can be held against it: none that is broken or late. They count from a little before it
        looked at the log, so that they are not held against what was armed later."""
        counting, at = [], looked_at - SECOND
        for tick in batch:
            if tick.price.is_finite() and tick.price > 0 and tick.at >= self._newest.get(tick.symbol, 0):
                self._newest[tick.symbol] = tick.at
                counting.append((tick.symbol, tick.price, at))
        return counting

    def due(self) -> Instant | None:
        if self.listener.is_silent or not self.listener.index.symbols():
            return None
        return self._looked_at + SILENCE + SECOND


class UpdatesRole(_Follower):
    def __init__(self, desk: Desk, on_read: Callable[[], None]) -> None:
        super().__init__(desk, on_read)
        self.orders = OpenOrders()
        self._pollers: dict[int, Poller] = {}
        self._updates = Updates(brokers=desk.brokers, clock=self.clock, poll=self._poll, orders=self.orders)
        self._read_at: Instant = 0
        self._watched_at: Instant = 0
        self._hinted: dict[int, None] = {}

    async def begin(self) -> None:
        self._position, states, _ = await live_states(self.log)
        self.orders.start(states)

    async def step(self, *, news: bool = True, timers: bool = True) -> int:
        done, now = 0, self.clock.now()
        for recorded in await self.news() if news else []:
            if (user_id := self.orders.apply(recorded)) is not None:
                self._hinted[user_id] = None
            done += 1
        if self.orders.any_open() and now >= self._read_at + OPEN_PERIOD:
            self._read_at = now
            done += await self._updates.step()
        elif self._hinted:
            users = list(self._hinted)
            self._hinted.clear()
            done += await self._updates.watch(users)
        if now >= self._watch_at():
            self._watched_at = now
            done += await self._updates.watch(await self.desk.brokers.connected())
        return done

    async def _poll(self, user_id: int, strategies: frozenset[int]) -> int:
        poller = self._pollers.setdefault(user_id, Poller(self.desk, user_id))
        return await poller.poll(strategies)

    def _watch_at(self) -> Instant:
        return self._watched_at + (WATCH_PERIOD if any(self.orders.given_up.values()) else IDLE_PERIOD)

    def due(self) -> Instant | None:
        return min(self._read_at + OPEN_PERIOD, self._watch_at()) if self.orders.any_open() else self._watch_at()


class _Keys:
    """The one sealing key of a simulated world; it is worth nothing outside of it."""

    async def newest(self, connection: AsyncConnection) -> Ed25519PrivateKey:
        public = public_bytes(SEALING_KEY)
        row = {"id": key_id(public), "number": 1, "public_key": public}
        await connection.execute(insert(seal_keys).values(row).on_conflict_do_nothing())
        return SEALING_KEY


class ArchiveRole:
    """Archives at moments drawn from the seed, so that it is behind now and then; seals, trims and takes snapshots."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        engine: AsyncEngine,
        chance: random.Random,
        *,
        trims: bool,
        on_trimmed: Callable[[], None] = lambda: None,
    ) -> None:
        self._log = log
        self._clock = clock
        self._chance = chance
        self._trims = trims
        self._on_trimmed = on_trimmed
        self._every = chance.choice((12 * SECOND, 40 * SECOND, 120 * SECOND))
        self._next: Instant = 0
        self.archive = PostgresArchive(engine)
        self.trimmed: Trimmed | None = None
        sealing = Sealing(0, _Keys(), events=40, age=30 * SECOND)
        self.projector = Projector(log, engine, clock, sealing=sealing, lines=_no_lines)

    async def begin(self) -> None:
        """It finds its place by itself."""

    async def step(self, *, news: bool = True, timers: bool = True) -> int:
        now = self._clock.now()
        done = await self.projector.step()
        done += await self.projector.seal()
        self._next = now + max(1, int(self._every * self._chance.uniform(0.5, 1.5)))
        if self._trims and self._chance.random() < 0.3:
            if self._chance.random() < 0.5:
                await take_snapshot(self.archive)
            try:
                self.trimmed = await trim(self._log, self.archive, hot=KEPT_HOT, now=now)
            except ArchiveIncomplete as error:
                raise AssertionError(str(error)) from error
            if self.trimmed.entries:
                self._on_trimmed()
        return done

    def due(self) -> Instant | None:
        return self._next

    def drop(self) -> None:
        """Its transaction ends with its connection."""


def _no_lines(_partition: int, _events: Sequence[Recorded]) -> None:
    """A simulated world writes no log lines."""
