"""A scenario enacted: the simulated world without chance, and one place where a call to the outside can be struck."""

import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from brokers.instruments import BUILT_IN
from brokers.paper.broker import PaperBrokers
from brokers.paper.exchange import Exchange
from domain.values import SECOND, Duration, Instant, Price, Tick
from handlers.desk import Desk
from simulation.ending import book_of, final
from simulation.house import ACCOUNTS, USERS
from simulation.process import Kind, Process, State
from simulation.roles import ArchiveRole, Role
from simulation.scenarios import SYMBOL, Outcome, Scenario, outcome
from simulation.script import CALENDAR, CALM, Days
from simulation.stage import Stage
from simulation.wire import Crossing
from simulation.world import World

__all__ = ["Enacted"]

CREW: Final = (
    ("archive-1", Kind.ARCHIVE),
    ("worker-1", Kind.WORKER),
    ("scheduler-1", Kind.SCHEDULER),
    ("market-1", Kind.MARKET),
    ("updates-1", Kind.UPDATES),
    ("api-1", Kind.API),
)
BETWEEN_TICKS: Final[Duration] = 10 * SECOND
AWAY: Final[Duration] = SECOND
"""After so long a process that died is there again."""


class Enacted(World):
    """Of the calls that wait the one that came first is let through; when none waits, the first process that has
    something to do does it. `passing` decides about each call instead, if it wants to. `outcome` is there after `live`,
    unless something was violated before."""

    def __init__(self, stage: Stage, scenario: Scenario) -> None:
        super().__init__(stage, 0, (), strategies=1, crew=CREW)
        self.scenario = scenario
        self.outcome: Outcome | None = None
        self.passed = 0
        """How many calls there were within the scenario's window."""
        self.days = course = _Course(self, scenario)
        self._struck_from, self._struck_until = (course.after(seconds) for seconds in scenario.window)
        self.connected = set(USERS[:1])
        self.exchange = Exchange(
            self.book, self.clock, self._last, instruments=BUILT_IN, calendar=CALENDAR, plan=scenario.plan
        )
        self.brokers = PaperBrokers(self.exchange, self._connected, poll=None)

    async def passing(self, crossing: Crossing) -> bool:
        """Asked about each call of the scenario's window when its turn has come. What deals with it returns True."""
        return False

    async def die(self, process: Process) -> None:
        """As kill -9; after a while it is started again."""
        process.kill()
        await self.traffic.rest()
        await process.bury()
        del self.processes[process.name]
        self.stir()
        self.at(self.clock.now() + AWAY, partial(self.hire, process.name, process.kind))

    # --- without chance ----------------------------------------------------------------------------------------------

    def _choose(self) -> Callable[[], Awaitable[None]] | None:
        if self.traffic.parked:
            return partial(self._pass, self.traffic.parked[0])
        now = self.clock.now()
        awake = self._awake(now)
        if lookers := self._lookers(awake, now):
            return partial(self._look_around, lookers[0])
        ready = next((each for each in awake if self._has_work(each, now)), self._with_leftovers(now))
        return None if ready is None else partial(self._step, ready)

    async def _pass(self, crossing: Crossing) -> None:
        if self._struck_from <= self.clock.now() < self._struck_until:
            self.passed += 1
            if await self.passing(crossing):
                return
        self.traffic.release(crossing)

    def _equip(self, desk: Desk, process: Process, engine: Any) -> Role:
        if process.kind is not Kind.ARCHIVE:
            return super()._equip(desk, process, engine)
        steady = _Steady(0.25 if self.scenario.trims else 0.5)
        return ArchiveRole(desk.log, process.clock, engine, steady, trims=self.scenario.trims)

    # --- the end -----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Everything is final, and everybody is at work."""
        self.look()
        self.found += final(self.watch.states())
        for name, _ in CREW:
            process = self.processes.get(name)
            if process is None or process.state is not State.IDLE:
                told = "gone" if process is None else f"{process.state}: {process.error}"
                self.found.append(f"liveness: {name} is {told}")
        self.over = True

    async def _conclude(self) -> None:
        await super()._conclude()
        orders, _ = await book_of(self.book, sorted(ACCOUNTS))
        self.outcome = outcome(self.scenario, self.history, orders)
        self.found += self.outcome.found


class _Course(Days):
    """The scenario's day instead of one that is drawn."""

    def __init__(self, world: Enacted, scenario: Scenario) -> None:
        super().__init__(world, 1)
        self._enacted = world
        self._scenario = scenario
        self._opening_at = self._opening(self._days[0])

    def after(self, seconds: float) -> Instant:
        return self._opening_at + int(seconds * SECOND)

    def write(self) -> None:
        for seconds, told, ask in self._scenario.asked:
            self._ask(self.after(seconds), told, ask)
        end = self.after(self._scenario.window[1]) + CALM
        prices = [(self.after(seconds), price) for seconds, price in self._scenario.prices]
        moments = {at for at, _ in prices} | set(range(self._opening_at, end, BETWEEN_TICKS))
        for at in sorted(moments):
            price = [price for since, price in prices if since <= at][-1]
            self._enacted.at(at, partial(self.trade, _batch(at, price)))
        self._enacted.at(end, self._enacted.end)


def _batch(at: Instant, price: Price) -> Sequence[Tick]:
    return [Tick(SYMBOL, price, at)]


class _Steady(random.Random):
    """Draws the same every time."""

    def __init__(self, always: float) -> None:
        super().__init__()
        self._always = always

    def random(self) -> float:
        return self._always
