"""The day runner: one trading day through the real engine, on a clock that it turns by hand.

Everything is real — the log, the handlers, the sources, the broker's book — but time: the clock stands still while
anything can be done, then moves to whatever comes first, the next tick, trigger or timer. So a day takes seconds, and
the same ticks, strategies and plan give the same events.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Protocol

from redis.asyncio import Redis

from brokers.paper.exchange import Exchange
from domain.strategy import State
from domain.values import DAY, SECOND, Instant, Tick
from eventstore.errors import LogError
from eventstore.timers import next_timer
from handlers.desk import Desk
from handlers.poller import Poller
from handlers.worker import Worker
from projections.live import live_states
from projections.stop_index import Stop, StopIndex
from projections.timetable import Timetable
from simulation.clock import VirtualClock
from sources.feeds.port import Feed, FeedItem
from sources.judging import Verdict
from sources.listener import MarketListener, Observer
from sources.prices import PriceWriter
from sources.scheduler import Scheduler
from sources.updates import OPEN_PERIOD, WATCH_PERIOD, OpenOrders, Updates

__all__ = ["Crew", "Day", "NoFeed", "NoRest", "PaperVenue", "Venue"]

AFTERMATH = 15 * 60 * SECOND
"""How long after the last tick the day goes on, for orders whose fate is not known yet."""


class NoRest(LogError):
    """The engine does not come to rest: a defect, with what it was doing."""


class Venue(Protocol):
    """The market and the broker's side of it."""

    @property
    def feed(self) -> Feed:
        """What is asked for the symbols that are wanted. Its ticks are the answer of `trade`."""
        ...

    async def trade(self, batch: Sequence[Tick]) -> Sequence[Tick]:
        """The market trades. Answers the ticks as the engine's feed brings them."""
        ...

    async def match(self, batch: Sequence[Tick]) -> None:
        """Fills what rests, while orders are open."""
        ...

    def next_due(self) -> Instant | None:
        """When time alone next changes something at the broker, as far as it knows."""
        ...


class PaperVenue:
    """The paper exchange, which looks at the market only when orders are open."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.feed: Feed = NoFeed()

    async def trade(self, batch: Sequence[Tick]) -> Sequence[Tick]:
        return batch

    async def match(self, batch: Sequence[Tick]) -> None:
        for tick in batch:
            await self._exchange.on_tick(tick)

    def next_due(self) -> Instant | None:
        return None


class Crew(Protocol):
    """The workers."""

    async def step(self) -> int:
        """How much was done; zero: nothing can be done until something happens or time goes on."""
        ...


class Day:
    """One partition's engine, to be stepped. `archive` writes what the log has; it is called when there is news."""

    def __init__(
        self,
        desk: Desk,
        clock: VirtualClock,
        venue: Venue,
        *,
        archive: Callable[[], Awaitable[int]],
        observer: Observer | None = None,
        crew: Crew | None = None,
    ) -> None:
        """One worker unless there is a `crew`."""
        self._desk = desk
        self._clock = clock
        self._venue = venue
        self._crew: Crew = Worker(desk, consumer="day") if crew is None else crew
        self._archive = archive
        self._heard = _Heard(observer or Observer())
        self._prices = _PricesOnDemand(desk.log.redis)
        self._position = 0
        self._next_timer: Instant | None = None
        self._read_at: Instant = 0
        self._watched_at: Instant = 0

    async def begin(self) -> None:
        """Loads the live states, as every start does."""
        desk = self._desk
        self._position, states, _ = await live_states(desk.log)
        self._scheduler = Scheduler(
            desk.log, self._clock, Timetable.from_states(states), buy_late_limit=desk.policy.buy_late_limit
        )
        self._listener = MarketListener(
            desk.log,
            self._venue.feed,
            self._clock,
            desk.calendar,
            StopIndex.from_states(states),
            prices=self._prices,
            observer=self._heard,
        )
        self._orders = OpenOrders()
        self._orders.start(states)
        pollers: dict[int, Poller] = {}

        async def poll(user_id: int, strategies: frozenset[int]) -> int:
            poller = pollers.setdefault(user_id, Poller(desk, user_id))
            return await poller.poll(strategies)

        self._updates = Updates(brokers=desk.brokers, clock=self._clock, poll=poll, orders=self._orders)
        await self._listener.begin()
        await self.settle()

    async def play(self, ticks: Iterable[Tick], progress: Callable[[Instant, int], None] | None = None) -> int:
        """Lives through the ticks, in the order of the recording; answers how many there were."""
        count = 0
        for at, batch in _moments(ticks):
            await self.until(at)
            await self._market(batch)
            count += len(batch)
            if progress is not None:
                progress(at, len(batch))
        return count

    async def until(self, at: Instant) -> None:
        """Moves on to `at`, stopping wherever something is due. A time that is past changes nothing."""
        while (due := self._next_due()) is not None and due <= at:
            self._clock.set(max(due, self._clock.now()))
            await self.settle()
        if at > self._clock.now():
            self._clock.set(at)

    async def finish(self) -> list[State]:
        """Goes on until nothing is due any more, or the aftermath is over; answers the final states."""
        end = self._clock.now() + AFTERMATH
        await self.until(end)
        await self.settle()
        _, states, _ = await live_states(self._desk.log)
        return states

    async def settle(self) -> None:
        """Lets everything happen that can happen now."""
        await self._prices.write_prices(self._clock.now())
        for _ in range(10_000):
            done = await self._crew.step()
            done += await self._follow()
            done += await self._scheduler.step(self._clock.now())
            done += await self._updates.step()
            if not done:
                break
        else:
            raise NoRest(f"the engine does not come to rest at position {self._position}")
        self._read_at = self._clock.now()
        await self._watch()
        await self._archive()
        await self._prices.write_ticks(self._clock.now())
        self._next_timer = await next_timer(self._desk.log)

    async def _watch(self) -> None:
        """Reads the books of those who have given up orders that may yet surface."""
        users = [user_id for user_id, tags in self._orders.given_up.items() if tags]
        if users and self._clock.now() - self._watched_at >= WATCH_PERIOD:
            self._watched_at = self._clock.now()
            await self._updates.watch(users)

    async def _market(self, traded: list[Tick]) -> None:
        batch = await self._venue.trade(traded)
        received_at = time.perf_counter_ns()
        self._heard.triggers = 0
        await self._listener.on_ticks(batch, received_at)
        if self._orders.any_open():
            await self._venue.match(traded)
            await self.settle()
        elif self._heard.triggers:
            await self.settle()

    async def _follow(self) -> int:
        """Tells the sources what is new in the log."""
        count = 0
        async for recorded in self._desk.log.read(after=self._position):
            self._position = recorded.position
            self._scheduler.apply(recorded)
            self._orders.apply(recorded)
            await self._listener.on_event(recorded)
            count += 1
        return count

    def _next_due(self) -> Instant | None:
        times = [self._scheduler.next_due(), self._next_timer, self._clock.next_at(), self._venue.next_due()]
        if self._orders.any_open():
            times.append(self._read_at + OPEN_PERIOD)
        if any(self._orders.given_up.values()):
            times.append(self._watched_at + WATCH_PERIOD)
        return min((at for at in times if at is not None), default=None)


def _moments(ticks: Iterable[Tick]) -> Iterator[tuple[Instant, list[Tick]]]:
    """Ticks of one stamp are one batch; the order of arrival is kept, also where stamps step back."""
    for at, batch in groupby(ticks, key=lambda tick: tick.at):
        yield at, list(batch)


class _PricesOnDemand(PriceWriter):
    """Prices are written before anybody can look at them, not at every tick: the clock stands still meanwhile."""

    def __init__(self, redis: "Redis") -> None:
        super().__init__(redis, every=DAY)

    async def flush(self, now: Instant, *, everything: bool = False) -> None:
        """Not yet."""

    async def write_prices(self, now: Instant) -> None:
        await super().flush(now)

    async def write_ticks(self, now: Instant) -> None:
        await super().flush(now, everything=True)


class _Heard(Observer):
    """Counts the triggers, and passes everything on."""

    def __init__(self, inner: Observer) -> None:
        self._inner = inner
        self.triggers = 0

    def received(self, batch: Sequence[Tick], received_at: int) -> None:
        self._inner.received(batch, received_at)

    def triggered(self, stops: Sequence[Stop], received_at: int) -> None:
        self.triggers += len(stops)
        self._inner.triggered(stops, received_at)

    def dropped(self, reason: Verdict, count: int) -> None:
        self._inner.dropped(reason, count)


class NoFeed:
    """The day hands its ticks over itself."""

    name = "day"
    symbols: frozenset[str] = frozenset()

    def subscribe(self, symbols: frozenset[str]) -> None:
        """All ticks come anyway."""

    def reconnect(self) -> None:
        """There is no connection."""

    async def ticks(self) -> AsyncIterator[FeedItem]:
        empty: tuple[FeedItem, ...] = ()
        for item in empty:
            yield item


_feed: type[Feed] = NoFeed
