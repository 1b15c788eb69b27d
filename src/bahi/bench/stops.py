"""From a tick to the broker: listener, log, lanes, decision and intent, in one process, thousands of stops armed."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal

from bahi.bench.figures import Figure, latency
from bahi.bench.follower import PATIENCE, follower
from bahi.bench.world import USERS, Deaf, Fsync, arm, bench_log, desk_of, fill, until
from bahi.quiet import settle_memory
from brokers.port import Brokers
from domain.events import BuyTriggered, OrderDenied
from domain.strategy import State
from domain.tags import parse_tag
from domain.values import OrderRequest, Side, Tick
from eventstore.clients import commands
from eventstore.envelope import NewEvent, Recorded
from eventstore.fanout import Fanout
from eventstore.keys import price
from eventstore.log import EventLog
from handlers.worker import Worker
from projections.stop_index import StopIndex
from sources.appending import AT_ONCE, append
from sources.feeds.port import Feed, FeedItem
from sources.listener import MarketListener

__all__ = ["PushFeed", "buys_at_once", "by_stop", "engine", "stops"]


class PushFeed:
    """The benchmark's own market: what is pushed arrives."""

    name = "bench"

    def __init__(self) -> None:
        self.queue: asyncio.Queue[FeedItem] = asyncio.Queue()

    def subscribe(self, symbols: frozenset[str]) -> None:
        """All of them come anyway."""

    def reconnect(self) -> None:
        """There is no connection."""

    async def ticks(self) -> AsyncIterator[FeedItem]:
        while True:
            yield await self.queue.get()


class _Run:
    """A running engine: `hit` sends the tick that triggers a strategy's stop."""

    def __init__(self, log: EventLog, states: list[State], feed: PushFeed) -> None:
        self.log = log
        self.states = states
        self.feed = feed
        self.sent: dict[int, float] = {}
        self.called: dict[int, float] = {}
        self.bought: dict[int, float] = {}
        self.denied: dict[int, str] = {}
        self.broker = Deaf(self.on_call)

    def on_call(self, request: OrderRequest) -> None:
        tag = parse_tag(request.tag)
        if tag is not None:
            (self.called if request.side is Side.SELL else self.bought)[tag.strategy_id] = time.perf_counter()

    async def note_denials(self, events: AsyncIterator[Recorded]) -> None:
        async for recorded in events:
            if isinstance(recorded.event, OrderDenied):
                self.denied[recorded.strategy_id] = recorded.event.reason

    def hit(self, state: State) -> None:
        """A tick at the strategy's own stop, which no other strategy's lies above."""
        self.sent[state.id] = time.perf_counter()
        self.feed.queue.put_nowait([Tick(state.symbol, state.stop_loss, self.log.clock.now())])

    def latencies(self) -> list[float]:
        return [self.called[each] - begun for each, begun in self.sent.items() if each in self.called]


@asynccontextmanager
async def engine(log: EventLog, brokers: Brokers, *markets: tuple[Feed, list[State]]) -> AsyncIterator[Fanout]:
    """One worker, and a listener for each feed with the strategies whose stops it minds. It runs while the block lasts;
    what it yields tells of the events from there on."""
    desk = desk_of(log, brokers)
    worker = Worker(desk, consumer="bench")
    listeners = [
        MarketListener(log, feed, log.clock, desk.calendar, StopIndex.from_states(states)) for feed, states in markets
    ]
    fanout = Fanout(log, await log.last_position())
    subscriptions = [fanout.subscribe() for _ in listeners]
    async with asyncio.TaskGroup() as group:
        follower = group.create_task(fanout.run())
        group.create_task(worker.run())
        for listener, events in zip(listeners, subscriptions, strict=True):
            group.create_task(listener.run(events))
        await _caught_up(log)
        settle_memory()
        yield fanout
        for listener in listeners:
            listener.stop()
        await worker.stop()
        follower.cancel()


@asynccontextmanager
async def _engine(log: EventLog, armed: int, waiting: int) -> AsyncIterator[_Run]:
    states = await arm(log, range(1, armed + 1), bought=True)
    await arm(log, range(armed + 1, armed + waiting + 1), bought=False)
    run = _Run(log, states, PushFeed())
    async with engine(log, run.broker, (run.feed, states)) as fanout:
        noting = asyncio.create_task(run.note_denials(fanout.subscribe()))
        yield run
        noting.cancel()


async def _caught_up(log: EventLog) -> None:
    """Until the lanes have acknowledged everything that came before."""
    from prometheus_client import CollectorRegistry

    from bahi.telemetry.metrics import Metrics, measure_lanes

    metrics = Metrics(CollectorRegistry())
    async with asyncio.timeout(PATIENCE):
        while True:
            await measure_lanes(log, metrics)
            behind = [
                sample.value
                for family in metrics.registry.collect()
                for sample in family.samples
                if sample.name in ("bahi_lane_lag_seconds", "bahi_lane_pending")
            ]
            if not any(behind):
                return
            await asyncio.sleep(0.05)


async def stops(fsync: Fsync, armed: int, samples: int) -> list[Figure]:
    """One stop after the other, the highest of its symbol first, so that each tick hits one; and the same while the
    archive's follower works in the same process."""
    p50, p99 = (1.2, 3.0) if fsync == "always" else (0.6, 1.5)
    async with bench_log(fsync) as log, _engine(log, armed, 0) as run:
        alone = await _one_by_one(run, by_stop(run.states)[:samples])
    async with bench_log(fsync) as log, follower(log) as archive, _engine(log, armed, 0) as run:
        await archive.archived()
        archived = await _one_by_one(run, by_stop(run.states)[:samples])
    return [
        latency(f"tick to broker, {armed:,} armed", fsync, alone, p50=p50, p99=p99),
        latency("tick to broker, archived in the same process", fsync, archived),
    ]


async def _one_by_one(run: _Run, states: Sequence[State]) -> list[float]:
    desk = desk_of(run.log, run.broker)
    for state in states:
        run.hit(state)
        await until(lambda state=state: state.id in run.called, 10)  # type: ignore[misc]
        await fill(desk, run.broker.taken)
        await asyncio.sleep(0.01)
    return run.latencies()


async def buys_at_once(fsync: Fsync, armed: int, buys: int, samples: int) -> list[Figure]:
    """`buys` strategies due at one instant; while their orders go out, stops are hit at random moments."""
    async with bench_log(fsync) as log, _engine(log, armed, buys) as run:
        rng = random.Random(1)  # noqa: S311 (a benchmark)
        ids = range(armed + 1, armed + buys + 1)
        loaded = await log.load(ids[0])
        due_at = int(loaded.runtime["buy_at"])
        symbols = sorted({state.symbol for state in run.states})
        run.feed.queue.put_nowait([Tick(symbol, Decimal(2000), log.clock.now()) for symbol in symbols])
        prices = [("GET", price(symbol)) for symbol in symbols]
        async with asyncio.timeout(PATIENCE):
            while None in await commands(log.redis, prices):  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.001)
        triggers = [NewEvent(BuyTriggered(run=2, due_at=due_at), each, each % USERS + 1) for each in ids]
        begun = time.perf_counter()
        sending = asyncio.create_task(_fire(log, triggers))
        for state in by_stop(run.states)[:samples]:
            if len(run.bought) + len(run.denied) == buys:
                break
            run.hit(state)
            await asyncio.sleep(rng.uniform(0.002, 0.02))
        await sending
        await until(lambda: len(run.bought) + len(run.denied) == buys and run.sent.keys() <= run.called.keys(), 60)
        last = max(run.bought.values()) - begun
        return [
            Figure(
                name=f"{buys:,} BUYs due at once, last order",
                fsync=fsync,
                value=round(last, 3),
                unit="s",
                note=f"{len(run.denied)} denied",
            ),
            latency("tick to broker meanwhile", fsync, run.latencies(), p99=10.0),
        ]


async def _fire(log: EventLog, triggers: list[NewEvent]) -> None:
    """As the scheduler does it."""
    for start in range(0, len(triggers), AT_ONCE):
        await append(log, triggers[start : start + AT_ONCE])


def by_stop(states: list[State]) -> list[State]:
    """The highest stop of each symbol first, then the next: no tick hits more than its own."""
    return sorted(states, key=lambda state: state.stop_loss, reverse=True)
