"""The engine in the hand of a test: a real Redis, the paper broker, workers, the poller, and one hand-turned clock.

`settle` does everything that can be done now; `pass_time` goes from one instant at which anybody wants to be woken to
the next. `check` holds the invariants against the log and the book.
"""

import asyncio
import datetime as dt
import random
from collections.abc import Awaitable, Callable, Coroutine
from decimal import Decimal
from typing import Any, TypeVar, cast

from msgspec import Struct
from redis.asyncio import Redis

import eventstore.keys
from bahi.testing.interfering import HookedBrokers, Hooks, Wire
from bahi.testing.sight import Sight
from brokers.instruments import BUILT_IN
from brokers.paper.book import Book
from brokers.paper.broker import PaperBrokers
from brokers.paper.exchange import Exchange
from brokers.paper.plan import Plan
from brokers.port import Brokers, OrderLimits
from domain.calendar import Calendar, load_nse
from domain.decide import decide_next
from domain.events import (
    BuyTriggered,
    Event,
    SellTriggered,
    StoplossTriggered,
    StrategyCreated,
    StrategyReady,
    StrategyRunning,
    StrategyStartRequested,
    StrategyStopRequested,
    UserHalted,
    UserResumed,
)
from domain.facts import Policy
from domain.strategy import State, evolve, initial
from domain.values import HOUR, SECOND, Config, Duration, Instant, Product, Tick
from eventstore.archive import PostgresArchive
from eventstore.clients import command
from eventstore.entries import read_entries
from eventstore.envelope import Dedupe, NewEvent
from eventstore.epochs import record
from eventstore.errors import LogUnavailable
from eventstore.log import EventLog
from eventstore.open import open_log
from handlers.decider import Wake, decided, take_turn
from handlers.desk import DecideNext, Desk
from handlers.poller import Poller
from handlers.worker import Worker
from projections.prices import encode_price
from projections.recovery import Recovered, recover
from projections.runtime import DEFAULTS, encode_change
from simulation.clock import VirtualClock
from simulation.invariants import Checker
from sources.updates import IDLE_PERIOD, WATCH_PERIOD, OpenOrders, Updates

__all__ = ["CLOSE", "INFY", "OPENING", "USER", "Process", "World"]

T = TypeVar("T")

CALENDAR = load_nse()
DAY = dt.date(2026, 11, 20)
OPENING = CALENDAR.instant(DAY, dt.time(9, 15))
CLOSE = CALENDAR.instant(DAY, dt.time(15, 30))
BUY_TIME = dt.time(9, 20)
SELL_TIME = dt.time(15, 10)
INFY = "NSE:INFY"
USER = 7


class Process(Struct, frozen=True, eq=False):
    """A worker process: its own connection to the log, its own desk."""

    name: str
    log: EventLog
    desk: Desk
    worker: Worker
    wire: Wire


class World(Sight):
    """One partition on an empty Redis at `redis_url`, for `users` with a connected paper account each.

    `await world.open("w1")` starts a worker of that name; `running`, `bought`, `buy`, `stop_loss` … are what happens to
    strategies. The exchange's clock stands at `at` until `pass_time`. `close` when done.
    """

    def __init__(
        self,
        redis_url: str,
        redis: "Redis",
        *,
        plan: Plan | None = None,
        policy: Policy | None = None,
        limits: OrderLimits | None = None,
        calendar: Calendar = CALENDAR,
        users: tuple[int, ...] = (USER,),
        at: Instant = OPENING + 60 * SECOND,
        book: Book | None = None,
        archive: PostgresArchive | None = None,
        decide: DecideNext = decide_next,
    ) -> None:
        self.decide = decide
        self.archive = archive
        self._chance = random.Random(at)
        self.redis_url = redis_url
        self.redis = redis
        self.clock = VirtualClock(at)
        self.calendar = calendar
        self.policy = policy or Policy()
        self.limits = limits
        self.connected: set[int] = set(users)
        self.users = users
        self.ticks: dict[str, Tick] = {}
        self.hooks = Hooks()
        self.book = book or Book()
        self.exchange = Exchange(self.book, self.clock, self._last, instruments=BUILT_IN, calendar=calendar, plan=plan)
        self.brokers: Brokers = HookedBrokers(
            PaperBrokers(self.exchange, self._connected, poll=None, limits=limits), self.hooks
        )
        self.processes: list[Process] = []
        self.orders = OpenOrders()
        self.poll_every: Duration = SECOND
        self.polling = True
        self.checked = True
        """Whether the invariants are checked at the end of the test."""
        self._pollers: dict[int, Poller] = {}
        self._followed = 0
        self._unread_at: Instant | None = None
        """When the books are to be read of accounts of which nothing is known to be open."""
        self._next_id = 41
        self._opened: list[EventLog] = []
        self._started = 0
        self.updates = Updates(brokers=self.brokers, clock=self.clock, poll=self._poll, orders=self.orders)

    # --- processes -------------------------------------------------------------------------------------------------

    async def open(self, *names: str) -> "World":
        self.log = await self.log_of(f"test{len(self._opened) or ''}")
        self.desk = self._desk(self.log)
        for name in names:
            await self.hire(name)
        return self

    async def hire(self, name: str, log: EventLog | None = None) -> Process:
        """Starts a worker process; the name is its consumer."""
        self._started += 1
        log = log or await self.log_of(f"{name}.{self._started}")
        wire = Wire(log)
        desk = self._desk(log)
        process = Process(name, log, desk, Worker(desk, consumer=name), wire)
        self.processes.append(process)
        return process

    async def kill(self, process: Process) -> None:
        """As kill -9: what is under way is never heard of again."""
        self.processes.remove(process)
        process.worker.drop()
        await asyncio.sleep(0)

    async def archive_to(self, position: int) -> None:
        """The archive follows the log up to there."""
        assert self.archive is not None
        async with self.archive.engine.begin() as connection:
            await record(connection, 0, self.log.lineage)
            raws = [raw async for page in read_entries(self.log, 0, position) for raw in page]
            await self.archive.store(connection, raws)
        self.archive.committed()

    async def lose(self, unarchived: int) -> Recovered:
        """Redis is gone, and the last events with it that the archive had not taken; every process died. Another
        system restores what can be."""
        assert self.archive is not None
        await self.archive_to(max(0, await self.log.last_position() - unarchived))
        names = [process.name for process in self.processes]
        for process in list(self.processes):
            await self.kill(process)
        await self.redis.flushall()
        return await self.recover(*names)

    async def recover(self, *names: str) -> Recovered:
        """As a new system does at its start, which then has these workers."""
        assert self.archive is not None
        done = await recover(
            self.redis_url,
            self.archive,
            keys=self.log.keys,
            clock=self.clock,
            defaults=DEFAULTS,
            policy=self.policy,
            random=lambda length: "".join(self._chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=length)),
        )
        assert done is not None
        await self.begin_anew(*names)
        return done

    async def begin_anew(self, *names: str) -> None:
        """All processes are new ones, on a log that may have lost its end."""
        self._pollers.clear()
        self._unread_at = self.clock.now() + IDLE_PERIOD if self.polling else None
        self._followed = 0
        self.orders.open.clear()
        self.orders.given_up.clear()
        await self.open(*names)

    async def inherit(self, process: Process) -> None:
        """What dead workers left pending comes to this one, as after two idle seconds."""
        for stream in self.log.keys.streams.values():
            await command(self.redis, "XAUTOCLAIM", stream, eventstore.keys.GROUP, process.name, 0, "0-0")

    async def close(self) -> None:
        for process in self.processes:
            process.worker.drop()
        for log in self._opened:
            await log.aclose()
        self.book.close()

    async def log_of(self, writer: str) -> EventLog:
        log = await open_log(
            self.redis_url, clock=self.clock, defaults=DEFAULTS, writer=writer, allow_weak=True, archive=self.archive
        )
        self._opened.append(log)
        return log

    def _desk(self, log: EventLog) -> Desk:
        return Desk(
            log=log,
            clock=self.clock,
            calendar=self.calendar,
            policy=self.policy,
            instruments=BUILT_IN,
            brokers=self.brokers,
            known={},
            decide=self.decide,
        )

    async def _last(self, symbol: str) -> Tick | None:
        return self.ticks.get(symbol)

    async def _connected(self) -> set[int]:
        return self.connected

    async def _poll(self, user_id: int, strategies: frozenset[int]) -> int:
        if user_id not in self._pollers:
            self._pollers[user_id] = Poller(self.desk, user_id)
        return await self._pollers[user_id].poll(strategies)

    # --- what happens ----------------------------------------------------------------------------------------------

    async def create(
        self,
        *,
        user: int = USER,
        symbol: str = INFY,
        quantity: int = 10,
        stop: str = "140",
        buy_time: dt.time = BUY_TIME,
        sell_time: dt.time = SELL_TIME,
        product: Product = Product.MIS,
    ) -> int:
        self._next_id += 1
        strategy_id = self._next_id
        config = Config(
            symbol=symbol,
            quantity=quantity,
            buy_time=buy_time,
            sell_time=sell_time,
            stop_loss=Decimal(stop),
            product=product,
        )
        created = StrategyCreated(config=config)
        before = initial(strategy_id, user)
        after = evolve(before, created)
        await self.log.append(
            [NewEvent(created, strategy_id, user)],
            expected=0,
            runtime=encode_change(initial(strategy_id), after, None),
        )
        return strategy_id

    async def start(self, strategy_id: int) -> State:
        """START, and READY with RUNNING as the scheduler would append them."""
        await take_turn(self.desk, strategy_id, lambda s, f: decided(s, (StrategyStartRequested(),)), Wake())
        await self.settle()
        state = await self.state(strategy_id)
        if state.alive:
            await self.tell(strategy_id, StrategyReady(run=state.run), StrategyRunning(run=state.run))
        return await self.state(strategy_id)

    async def running(self, **config: Any) -> int:
        """A strategy that waits for its buy time."""
        strategy_id = await self.create(**config)
        await self.start(strategy_id)
        return strategy_id

    async def bought(self, **config: Any) -> int:
        """A strategy that holds its shares, bought at 150."""
        strategy_id = await self.running(**config)
        await self.buy(strategy_id)
        await self.settle()
        return strategy_id

    async def tell(self, strategy_id: int, *events: Event, dedupe: str = "") -> None:
        """Blind appends, as sources make them."""
        state = await self.state(strategy_id)
        once = Dedupe(dedupe, "once") if dedupe else None
        await self.log.append([NewEvent(event, strategy_id, state.user_id, dedupe=once) for event in events])

    async def tick(self, price: str | Decimal, symbol: str = INFY) -> Tick:
        tick = Tick(symbol, Decimal(price), self.clock.now())
        self.ticks[symbol] = tick
        await command(self.log.redis, "SET", eventstore.keys.price(symbol), encode_price(tick))
        await self.exchange.on_tick(tick)
        return tick

    async def buy(self, *strategy_ids: int, price: str = "150") -> None:
        """It is time to buy."""
        for strategy_id in strategy_ids:
            state = await self.state(strategy_id)
            if self.clock.now() < state.buy_at:
                await self.wait_until(state.buy_at)
            if state.symbol not in self.ticks or self.ticks[state.symbol].at < self.clock.now() - 30 * SECOND:
                await self.tick(price, state.symbol)
            await self.tell(strategy_id, BuyTriggered(run=state.run, due_at=state.buy_at))

    async def sell(self, *strategy_ids: int) -> None:
        """The sell timer fires, whatever the time is."""
        for strategy_id in strategy_ids:
            state = await self.state(strategy_id)
            await self.tell(strategy_id, SellTriggered(run=state.run, due_at=state.sell_at))

    async def stop_loss(self, *strategy_ids: int, price: str = "139.5") -> None:
        """A trade at or under the stop."""
        for strategy_id in strategy_ids:
            state = await self.state(strategy_id)
            tick = await self.tick(price, state.symbol)
            await self.tell(
                strategy_id,
                StoplossTriggered(
                    run=state.run, stop_revision=state.stop_revision, tick=tick, stop_loss=state.stop_loss
                ),
            )

    async def stop(self, strategy_id: int, *, square_off: bool = False) -> None:
        await self.tell(strategy_id, StrategyStopRequested(square_off=square_off))

    async def halt(self, user: int = USER, *, square_off: bool = False) -> None:
        await self.log.append([NewEvent(UserHalted(square_off=square_off), user_id=user)])

    async def resume(self, user: int = USER) -> None:
        await self.log.append([NewEvent(UserResumed(), user_id=user)])

    # --- time ------------------------------------------------------------------------------------------------------

    async def run(self, work: Awaitable[T]) -> T:
        """Awaits it; when it waits for the clock itself, the clock is moved."""
        task = asyncio.ensure_future(cast("Coroutine[Any, Any, T]", work))
        while not task.done():
            if self.clock.asleep(task) and (at := self.clock.next_at()) is not None:
                self.clock.set(at)
            await asyncio.wait({task}, timeout=0)
        return await task

    async def settle(self) -> None:
        """Everything that can be done now."""
        for _ in range(1_000):
            done = 0
            for process in list(self.processes):
                done += await self.step(process)
            done += await self.poll()
            if not done:
                return
        raise AssertionError("it does not come to rest")

    async def step(self, process: Process) -> int:
        """What this worker can do now."""
        try:
            return await self.run(process.worker.step())
        except LogUnavailable:
            return 1

    async def poll(self) -> int:
        """A reading of every account with open orders."""
        await self._follow()
        return await self.run(self.updates.step()) if self.polling else 0

    async def watch(self) -> int:
        """A reading of every account."""
        await self._follow()
        return await self.run(self.updates.watch(self.users))

    async def wait_until(self, at: Instant) -> None:
        await self.pass_time(at - self.clock.now())

    async def pass_time(self, duration: Duration, *, until: Callable[[], Awaitable[bool]] | None = None) -> bool:
        """Lets time pass, stopping wherever something may happen. True as soon as `until` holds."""
        end = self.clock.now() + duration
        watched_at = self.clock.now()
        while True:
            await self.settle()
            if until is not None and await until():
                return True
            now = self.clock.now()
            if now >= end:
                return False
            self.clock.set(min(await self._next_wake(), end))
            if self.polling and self.clock.now() - watched_at >= WATCH_PERIOD and any(self.orders.given_up.values()):
                watched_at = self.clock.now()
                await self.watch()
            await self._watch_after_a_loss()

    async def _watch_after_a_loss(self) -> None:
        """Every book is read once a minute, whatever is known; here only after the log was lost, for only then it may
        show what nobody knows of, and only on that day."""
        now = self.clock.now()
        if self._unread_at is None or now < self._unread_at:
            return
        await self.watch()
        later = now + IDLE_PERIOD
        same_day = self.calendar.wall(now).date() == self.calendar.wall(later).date()
        self._unread_at = later if same_day and not self.connected >= set(self.users) else None

    async def _next_wake(self) -> Instant:
        now = self.clock.now()
        wakes: list[Instant] = [now + 12 * HOUR]
        waiting = await self.redis.zrange(self.log.keys.timers, 0, -1, withscores=True)
        wakes += [int(score) for _, score in cast("list[tuple[bytes, float]]", waiting)]
        if (at := self.clock.next_at()) is not None:
            wakes.append(at)
        if any(self.orders.open.values()):
            wakes.append(now + self.poll_every)
        elif any(self.orders.given_up.values()):
            wakes.append(now + WATCH_PERIOD)
        if self._unread_at is not None:
            wakes.append(self._unread_at)
        return min(at for at in wakes if at > now)

    async def finish(self, limit: Duration = 2 * HOUR) -> None:
        """Lets time pass until every run has ended and every order is resolved."""

        async def ended() -> bool:
            return all(not s.alive and not s.unresolved and not s.lingering for s in (await self.states()).values())

        assert await self.pass_time(limit, until=ended), {
            i: (s.status, s.position, s.order) for i, s in (await self.states()).items()
        }

    async def _follow(self) -> None:
        for recorded in await self.records(self._followed):
            self.orders.apply(recorded)
            self._followed = recorded.position

    # --- the end ---------------------------------------------------------------------------------------------------

    async def check(self) -> Checker:
        """The invariants, at rest."""
        for user in self.users:
            await self.exchange.renew_session(f"PAPER-{user}")
        await self.settle()
        await self.watch()
        await self.settle()
        return await self.check_at_rest(alive=bool(self.processes))
