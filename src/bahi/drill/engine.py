"""The engine of one process, on a clock that is turned by hand: the roles of `bahi run`, a step at a time.

Everything is real but time, and that a role's loop is turned from outside. A log that cannot be reached, and a broker
that takes its time, are waited for on that clock.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from msgspec import Struct

from bahi.roles.archive import ArchiveRole
from bahi.roles.process import report_restart
from bahi.roles.rest import RestRole
from bahi.roles.updates import Pollers
from bahi.settings import Settings
from bahi.wiring import House, open_house
from domain.calendar import load_nse
from domain.events import (
    RuntimeStateLoaded,
    StrategyCreated,
    StrategyStartRequested,
    UserRegistered,
)
from domain.strategy import State, evolve, initial
from domain.values import MINUTE, Config, Duration, Instant, Tick
from eventstore.archive import OUTAGES
from eventstore.envelope import NewEvent
from eventstore.errors import LogLost, LogUnavailable
from eventstore.log import EventLog
from eventstore.timers import next_timer
from eventstore.witness import Witness, bear_witness
from handlers.decider import Wake, decided, persist, take_turn
from handlers.worker import Worker
from projections.live import live_states
from projections.runtime import encode_change
from projections.stop_index import StopIndex
from projections.timetable import Timetable
from simulation.clock import VirtualClock
from simulation.day import NoFeed
from sources.listener import MarketListener
from sources.prices import PriceWriter
from sources.scheduler import Scheduler
from sources.updates import OPEN_PERIOD, WATCH_PERIOD, OpenOrders, Updates

__all__ = ["ROLES", "Engine", "Rest", "open_engine"]

ROLES: Final = ("api", "worker", "scheduler", "market", "updates", "archive")
TURNS: Final = 20_000
"""After so many the engine counts as one that never comes to rest."""
SURFACES: Final[Duration] = 5 * MINUTE
SELDOM: Final[Duration] = 10 * MINUTE
PAUSE: Final = 0.002
"""Seconds of real time after which it is looked whether something waits for time to go on, and between two attempts to
reach a log that does not answer."""


class Rest(Struct, frozen=True):
    """Nothing more can be done now. `due` is when time alone brings something; `now` is later than it was asked for
    when something had to wait for the log."""

    done: int
    due: Instant | None
    now: Instant


@asynccontextmanager
async def open_engine(settings: Settings, now: Instant, roles: Sequence[str]) -> AsyncIterator["Engine"]:
    """As `bahi run ROLES` starts: the house is opened, with whatever recovery that takes, and the states are loaded."""
    clock = VirtualClock(now)
    member = "-".join(roles)
    async with open_house(settings, clock=clock, calendar=load_nse(), limit_reads=False, member=member) as house:
        engine = Engine(house, clock, roles, Witness(house.logs[0], member))
        try:
            await engine.begin()
            yield engine
        finally:
            await engine.end()


class Engine:
    """Raises LogLost from any step when the log is not the one that it was: then it is to be opened anew."""

    def __init__(self, house: House, clock: VirtualClock, roles: Sequence[str], witness: Witness) -> None:
        self.house = house
        self.clock = clock
        self._roles = frozenset(roles)
        self._desk = house.desks[0]
        self._log = house.logs[0]
        self._witness = witness
        self._looking: asyncio.Task[None] | None = None
        self._steps: list[Callable[[], Awaitable[int]]] = []
        self._position = 0
        self._read_at: Instant = 0
        self._watched_at: Instant = 0
        self._scheduler: Scheduler | None = None
        self._listener: MarketListener | None = None
        self._orders: OpenOrders | None = None
        self._updates: Updates | None = None
        self._worker: Worker | None = None
        self._prices = PriceWriter(house.redis)
        self._archive = ArchiveRole(house, []) if "archive" in self._roles else None
        self._rest: RestRole | None = None
        self._serving: asyncio.Task[None] | None = None
        self.address = ""

    async def begin(self) -> None:
        """Joins the log and loads the states, as every start does, and says so in the log."""
        await self._witness.join()
        self._looking = asyncio.create_task(bear_witness(self._witness, _in_a_step))
        await self._patiently(self._load())

    async def _load(self) -> None:
        begun = time.monotonic_ns()
        self._position, states, corrupt = await persist(lambda: live_states(self._log), self.clock)
        if corrupt:
            raise RuntimeError(f"corrupt runtimes: {corrupt}")
        took = (time.monotonic_ns() - begun) // 1000
        loaded = RuntimeStateLoaded(reached=self._position, strategies=len(states), took=took)
        await persist(lambda: self._log.append([NewEvent(loaded)]), self.clock)
        if "worker" in self._roles:
            self._worker = Worker(self._desk, consumer="worker-drill-0")
            self._steps.append(self._worker.step)
        if self._roles & {"scheduler", "market", "updates"}:
            self._steps.append(self._follow)
        if "scheduler" in self._roles:
            self._scheduler = scheduler = Scheduler(
                self._log,
                self.clock,
                Timetable.from_states(states),
                buy_late_limit=self.house.policy.buy_late_limit,
            )
            self._steps.append(lambda: scheduler.step(self.clock.now()))
        if "updates" in self._roles:
            self._orders = OpenOrders()
            self._orders.start(states)
            poll = Pollers(self._desk).poll
            self._updates = Updates(brokers=self.house.brokers, clock=self.clock, poll=poll, orders=self._orders)
            self._steps.append(self._updates.step)
        if "market" in self._roles:
            self._listener = listener = MarketListener(
                self._log,
                NoFeed(),
                self.clock,
                self.house.calendar,
                StopIndex.from_states(states),
                prices=self._prices,
            )
            await listener.begin()
        if "api" in self._roles:
            self._rest = RestRole(self.house, [])
            self.address = self._rest.address
            self._serving = asyncio.create_task(self._rest.run())

    async def end(self) -> None:
        """Gives up what is under way, as the end of the process would; if nothing is amiss, it leaves the log."""
        if self._looking is not None:
            whole = not self._looking.done()
            self._looking.cancel()
            with suppress(asyncio.CancelledError, LogLost):
                await self._looking
            if whole:
                with suppress(LogUnavailable):
                    await self._witness.leave()
        await self._witness.aclose()
        if self._worker is not None:
            self._worker.drop()
        if self._rest is not None and self._serving is not None:
            await self._rest.stop()
            self._serving.cancel()
            with suppress(asyncio.CancelledError):
                await self._serving

    # --- a step at a time --------------------------------------------------------------------------------------------

    async def settle(self, now: Instant, *, archive: bool) -> Rest:
        """Lets everything happen that can happen now. `archive`: also what the archive lacks is written."""
        self.clock.set(max(now, self.clock.now()))
        total = await self._patiently(self._bear_witness())
        for _ in range(TURNS):
            done = 0
            for step in self._steps:
                done += await self._patiently(step())
            total += done
            if not done:
                break
        else:
            raise RuntimeError(f"the engine does not come to rest at position {self._position}")
        self._read_at = self.clock.now()
        await self._watch()
        if archive:
            total += await self.archive()
        return Rest(total, await self._due(), self.clock.now())

    async def ticks(self, now: Instant, batch: Sequence[Tick]) -> bool:
        """The feed brings these. Whether anything may come of it."""
        self.clock.set(max(now, self.clock.now()))
        if self._listener is None:
            return False
        hit = await self._patiently(self._hear(self._listener, batch))
        return bool(hit) or self._orders is None or self._orders.any_open()

    async def archive(self) -> int:
        """Writes what the archive lacks; how many events that was. PostgreSQL may be away."""
        if self._archive is None:
            return 0
        try:
            return sum([await each.step() for each in self._archive.projectors])
        except (LogUnavailable, *OUTAGES):
            return 0

    async def create(self, asked: Sequence[tuple[int, int, Config]]) -> None:
        """Users and their strategies (strategy, user, config), written down and started, before the day begins."""
        for user_id in sorted({user_id for _, user_id, _ in asked}):
            await self._log.append([NewEvent(UserRegistered(), user_id=user_id)])
        for strategy_id, user_id, config in asked:
            created = StrategyCreated(config=config)
            write = encode_change(initial(strategy_id), evolve(initial(strategy_id, user_id), created), None)
            await self._log.append([NewEvent(created, strategy_id, user_id)], expected=0, runtime=write)
            await take_turn(self._desk, strategy_id, _start, Wake())

    def stops(self) -> list[int]:
        """The strategies whose stops are watched."""
        return [] if self._listener is None else [stop.strategy_id for stop in self._listener.index.armed()]

    # --- what a step is made of --------------------------------------------------------------------------------------

    async def _bear_witness(self) -> int:
        """Is Redis the one that it was, and the log no shorter, as far as all of them know? As in `bahi run` that is
        asked all the time; but what comes of it is said in a step."""
        while not await self._witness.look():  # noqa: ASYNC110 (what it does is look)
            await asyncio.sleep(10 * PAUSE)
        if not self._witness.vouched:
            return 0
        await report_restart(self._log)
        self._witness.vouched = False
        return 1

    async def _follow(self) -> int:
        """Tells the sources what is new in the log."""
        count = 0
        async for recorded in self._log.read(after=self._position):
            self._position = recorded.position
            if self._scheduler is not None:
                self._scheduler.apply(recorded)
            if self._orders is not None:
                self._orders.apply(recorded)
            if self._listener is not None:
                await self._listener.on_event(recorded)
            count += 1
        return count

    async def _hear(self, listener: MarketListener, batch: Sequence[Tick]) -> int:
        """How many stops were hit."""
        armed = len(listener.index)
        await listener.on_ticks(batch)
        return armed - len(listener.index)

    async def _watch(self) -> None:
        """Reads the books of those who have given up orders that may yet surface."""
        if self._orders is None or self._updates is None:
            return
        users = [user_id for user_id, tags in self._orders.given_up.items() if tags]
        if users and self.clock.now() >= self._watched_at + self._watch_period(self._orders):
            self._watched_at = self.clock.now()
            await self._patiently(self._updates.watch(users))

    def _watch_period(self, orders: OpenOrders) -> Duration:
        """As `bahi run` while an order may yet surface; later the day would take too long."""
        given_up = max((at for tags in orders.given_up.values() for at in tags.values()), default=0)
        return WATCH_PERIOD if self.clock.now() < given_up + SURFACES else SELDOM

    async def _patiently(self, work: Coroutine[Any, Any, Any] | Awaitable[Any]) -> int:
        """The work, which may wait for time to go on. A log that cannot be reached counts as something done: the
        next turn tries again."""
        assert self._looking is not None  # noqa: S101
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait({task, self._looking}, timeout=PAUSE, return_when=asyncio.FIRST_COMPLETED)
            if self._looking.done():
                task.cancel()
                await asyncio.wait({task})
                self._looking.result()
            if self._log.guard.refused.is_set():
                continue  # the others have yet to look, which takes none of the day's time
            if not task.done() and self.clock.asleep(task) and (at := self.clock.next_at()) is not None:
                self.clock.set(at)
        try:
            return int(task.result() or 0)
        except LogUnavailable:
            await asyncio.sleep(PAUSE)
            return 1

    async def _due(self) -> Instant | None:
        """When time alone next brings something to do here."""
        times = [self.clock.next_at()]
        if self._scheduler is not None:
            times.append(self._scheduler.next_due())
        if self._worker is not None:
            with suppress(LogUnavailable):
                times.append(await next_timer(self._log))
        if self._orders is not None:
            if self._orders.any_open():
                times.append(self._read_at + OPEN_PERIOD)
            if any(self._orders.given_up.values()):
                times.append(self._watched_at + self._watch_period(self._orders))
        return min((at for at in times if at is not None), default=None)


async def _in_a_step(_: EventLog) -> None:
    """What was survived is reported with the next step: what happens when is drawn from the seed."""
    raise LogUnavailable("it is not the moment for it")


def _start(state: State, _: Any) -> Any:
    return decided(state, [StrategyStartRequested()])
