"""The engine as it runs: real time, workers and the updates source at once, in one process or in several."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path

from redis.asyncio import Redis

from bahi.clock import SystemClock
from brokers.instruments import BUILT_IN
from brokers.paper.book import Book
from brokers.paper.broker import PaperBrokers
from brokers.paper.exchange import Exchange
from brokers.paper.plan import NoFaults
from domain.calendar import AlwaysOpenCalendar
from domain.events import BuyTriggered, Event, StoplossTriggered, StrategyReady, StrategyRunning, StrategyStartRequested
from domain.facts import Policy
from domain.strategy import State, apply, initial
from domain.values import SECOND, Product, Tick
from eventstore.clients import command
from eventstore.envelope import NewEvent
from eventstore.keys import price
from eventstore.log import EventLog, chunked
from eventstore.open import open_log
from handlers.decider import Wake, decided, take_turn
from handlers.desk import Desk
from handlers.poller import Poller
from handlers.worker import Worker
from projections.prices import decode_price
from projections.runtime import DEFAULTS
from sources.updates import OpenOrders, Updates
from tests.engine.world import INFY, USER, World

HASTY = Policy(
    send_deadline=SECOND,
    request_timeout=SECOND,
    skew=SECOND // 5,
    quarantine_dead_sender=SECOND,
    quarantine_ambiguous=3 * SECOND,
    price_max_age=600 * SECOND,
)
"""So that a dead sender is noticed within seconds of real time."""
LATENCY = 2_000


def desk_of(log: EventLog, book: Book) -> Desk:
    """What a process works with: the book and the prices are shared with all others."""
    clock, calendar = SystemClock(), AlwaysOpenCalendar()

    async def last(symbol: str) -> Tick | None:
        found = decode_price(await command(log.redis, "GET", price(symbol)))
        return None if found is None else Tick(symbol, found[0], found[1])

    async def connected() -> set[int]:
        return {USER}

    exchange = Exchange(book, clock, last, instruments=BUILT_IN, calendar=calendar, plan=NoFaults(LATENCY))
    return Desk(
        log=log,
        clock=clock,
        calendar=calendar,
        policy=HASTY,
        instruments=BUILT_IN,
        brokers=PaperBrokers(exchange, connected),
        known={},
    )


async def open_live(redis_url: str) -> EventLog:
    return await open_log(redis_url, clock=SystemClock(), defaults=DEFAULTS, allow_weak=True)


class Live(World):
    """A world in real time. Workers run; the test triggers, and waits for what the log says."""

    def __init__(self, redis_url: str, redis: "Redis", path: Path) -> None:
        super().__init__(redis_url, redis, book=Book(path), calendar=AlwaysOpenCalendar(), policy=HASTY)
        self.clock = SystemClock()  # type: ignore[assignment]
        self.path = path
        self._folded: dict[int, State] = {}
        self._seen = 0

    async def __aenter__(self) -> "Live":
        self.log = await open_live(self.redis_url)
        self.desk = desk_of(self.log, self.book)
        self._opened.append(self.log)
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        updates_log = await open_live(self.redis_url)
        self._opened.append(updates_log)
        poller = Poller(desk_of(updates_log, self.book), USER)
        self.updates = Updates(
            brokers=self.desk.brokers,
            clock=self.clock,
            poll=lambda user, strategies: poller.poll(strategies),
            orders=OpenOrders(),
        )
        self._tasks.create_task(self.updates.run(updates_log.follow()))
        await self.quote("150")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.updates.stop()
        await self._tasks.__aexit__(None, None, None)
        await self.close()

    async def quote(self, price_: str) -> Tick:
        tick = Tick(INFY, Decimal(price_), self.clock.now())
        await command(self.log.redis, "SET", price(INFY), f"{tick.price}@{tick.at}")
        return tick

    @contextlib.asynccontextmanager
    async def worker(self, name: str) -> AsyncIterator[tuple[Worker, "asyncio.Task[None]"]]:
        """A worker that runs inside; it is drained at the end unless it was cancelled."""
        log = await open_live(self.redis_url)
        worker = Worker(desk_of(log, self.book), consumer=name)
        task = asyncio.create_task(worker.run())
        try:
            yield worker, task
        finally:
            await worker.stop()
            await asyncio.gather(task, return_exceptions=task.done())
            await log.aclose()

    async def many(self, number: int) -> list[State]:
        """Strategies that wait for their buy time: tomorrow's first minute, whatever the time is now."""
        times = {"buy_time": dt.time(0, 0, 1), "sell_time": dt.time(23), "product": Product.CNC}
        ids = [await self.create(**times) for _ in range(number)]  # type: ignore[arg-type]
        for each in ids:
            await take_turn(self.desk, each, lambda s, f: decided(s, (StrategyStartRequested(),)), Wake())
        await self.until(lambda states: all(each in states and states[each].run for each in ids))
        states = [await self.state(each) for each in ids]
        await self.tell_all([(s, e) for s in states for e in (StrategyReady(run=s.run), StrategyRunning(run=s.run))])
        return states

    async def tell_all(self, events: list[tuple[State, Event]]) -> None:
        await self.log.append_many(chunked([NewEvent(event, state.id, state.user_id) for state, event in events]))

    async def buy_all(self, states: list[State]) -> None:
        await self.tell_all([(state, BuyTriggered(run=state.run, due_at=state.buy_at)) for state in states])

    async def stop_all(self, states: list[State]) -> None:
        tick = await self.quote("139")
        await self.tell_all(
            [
                (s, StoplossTriggered(run=s.run, stop_revision=s.stop_revision, tick=tick, stop_loss=s.stop_loss))
                for s in states
            ]
        )
        await self.quote("150")

    async def until(self, condition: Callable[[dict[int, State]], bool], seconds: float = 120) -> dict[int, State]:
        """Follows the log until its fold, from the present on, is as wanted."""
        present = await self.log.last_position()
        if self._seen >= present and condition(self._folded):
            return self._folded
        follower = self.log.follow(self._seen)
        try:
            async with asyncio.timeout(seconds):
                async for recorded in follower:
                    self._seen = recorded.position
                    if recorded.strategy_id:
                        state = self._folded.setdefault(
                            recorded.strategy_id, initial(recorded.strategy_id, recorded.user_id)
                        )
                        apply(state, recorded.event)
                    if recorded.position >= present and condition(self._folded):
                        break
        except TimeoutError:
            told = [
                f"{s.id}: {s.status} due {s.buy_due, s.stop_due} {s.order and s.order.phase} open {s.open_quantity}"
                for s in self._folded.values()
            ]
            raise AssertionError("\n".join(told)) from None
        finally:
            await follower.aclose()  # type: ignore[attr-defined]
        return self._folded

    async def at_rest(self) -> None:
        """Until no wake-up is pending or undelivered."""
        async with asyncio.timeout(60):
            while await self._lag():  # noqa: ASYNC110 (no event tells of an acknowledgement)
                await asyncio.sleep(0)

    async def _lag(self) -> int:
        left = await self.pending()
        for stream in self.log.keys.streams.values():
            (group,) = await self.redis.xinfo_groups(stream)
            newest = await self.redis.xinfo_stream(stream)
            left += group["last-delivered-id"] != newest["last-generated-id"]
        return left
