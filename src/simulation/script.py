"""The days of a simulated life: what its users trade and do at the worst moments; the market; the end of the faults."""

import datetime as dt
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from domain.calendar import load_nse
from domain.commands import Changes
from domain.values import MINUTE, SECOND, Config, Duration, Instant, Tick
from simulation import people
from simulation.ending import final
from simulation.faults import Fault
from simulation.people import draw_config
from simulation.process import Kind
from simulation.roles import MarketRole
from simulation.street import GRID, OPENING, SYMBOLS, Feed, draw_ticks

if TYPE_CHECKING:
    from simulation.world import World

__all__ = ["CALENDAR", "FIRST_DAY", "Days"]

CALENDAR: Final = load_nse()
FIRST_DAY: Final = dt.date(2026, 11, 20)
BEFORE: Final[Duration] = MINUTE
"""How long before the open a day begins."""
TROUBLED: Final[Duration] = 9 * MINUTE
"""How long after the open the faults last."""
CALM: Final[Duration] = 60 * SECOND
"""Within so long after the faults have stopped everything is to be final."""


class Days:
    """The script of one life: so many trading days, one after the other."""

    def __init__(self, world: "World", days: int) -> None:
        self._world = world
        self._days = list(_trading_days(days))
        self._feed = Feed(world.chance, world.faults)
        self.begins_at: Instant = self._opening(self._days[0]) - BEFORE

    def write(self) -> None:
        """The next day."""
        world, day = self._world, self._days.pop(0)
        opening = self._opening(day)
        world.faults.healed = False
        for strategy_id, user_id in world.strategies.items():
            config = draw_config(world.chance, _time, opening)
            if world.clock.now() == self.begins_at:
                self._ask(self.begins_at + SECOND, f"create {strategy_id}", people.create(strategy_id, user_id, config))
            else:
                changes = Changes(buy_time=config.buy_time, sell_time=config.sell_time, stop_loss=config.stop_loss)
                self._ask(opening - BEFORE + SECOND, f"update {strategy_id}", people.update(strategy_id, changes))
            world.at(opening - BEFORE + 2 * SECOND, partial(self._start, strategy_id))
            self._trouble(strategy_id, user_id, day, config)
        for batch in draw_ticks(world.chance, opening, opening + TROUBLED):
            world.at(batch[0].at, lambda batch=batch: self.trade(batch))  # type: ignore[misc]
        world.at(opening + TROUBLED, self._heal)

    def trade(self, batch: Sequence[Tick]) -> None:
        """The market trades, and the feed tells of it, well or badly."""
        world = self._world
        for tick in batch:
            world.ticks[tick.symbol] = tick
        arrived = self._feed.bring(batch)
        for process in world.processes.values():
            if isinstance(process.role, MarketRole):
                process.role.inbox.append(arrived)
        world.story.tell(world.clock.now(), "market", " ".join(f"{tick.symbol}={tick.price}" for tick in arrived))

    # --- people ------------------------------------------------------------------------------------------------------

    def _trouble(self, strategy_id: int, user_id: int, day: dt.date, config: Config) -> None:
        """What this strategy's user does at the worst moments: just before and after what is due."""
        world = self._world
        chance, faults = world.chance, world.faults
        buy_at, sell_at = (CALENDAR.instant(day, at) for at in (config.buy_time, config.sell_time))

        def moment() -> Instant:
            near = chance.choice((buy_at, buy_at, sell_at, chance.randint(world.clock.now(), sell_at)))
            later = chance.choice((-SECOND, 0, 0, 200_000, SECOND, 5 * SECOND, 30 * SECOND))
            return max(near + later, world.clock.now())

        if faults.happens(Fault.UPDATE, 0.5):
            self._ask(at := moment(), f"update {strategy_id}", people.update(strategy_id, self._changes(config, at)))
        if faults.happens(Fault.STOP, 0.25):
            self._ask(moment(), f"stop {strategy_id}", people.stop(strategy_id, square_off=False))
        if faults.happens(Fault.SQUARE_OFF, 0.3):
            self._ask(moment(), f"stop {strategy_id}, square off", people.stop(strategy_id, square_off=True))
        if faults.happens(Fault.FORCE_STOP, 0.15):
            self._ask(moment(), f"force-stop {strategy_id}", people.force_stop(strategy_id))
        if faults.happens(Fault.HALT, 0.15):
            square_off = chance.random() < 0.5
            self._ask(at := moment(), f"halt {user_id}", people.halt(user_id, square_off=square_off))
            self._ask(at + chance.randint(0, 2 * MINUTE), f"resume {user_id}", people.resume(user_id))
        if faults.happens(Fault.RESTART, 0.5):
            soon = chance.randint(sell_at, sell_at + MINUTE)
            self._ask(soon, f"update {strategy_id}", people.update(strategy_id, self._later(soon)))
            self._ask(soon + SECOND, f"start {strategy_id}", people.start(strategy_id))
        if faults.happens(Fault.SESSION_LOST, 0.15):
            world.at(at := moment(), lambda: self._disconnect(user_id))
            world.at(at + chance.choice((SECOND, 10 * SECOND, MINUTE)), lambda: world.connected.add(user_id))
        if faults.knows(Fault.CANCEL_BY_HAND) and chance.random() < 0.3:
            world.at(moment(), lambda: world.by_hand.append(user_id))

    def _changes(self, config: Config, at: Instant) -> Changes:
        chance = self._world.chance
        match chance.randrange(4):
            case 0:
                return Changes(stop_loss=config.stop_loss + chance.choice((-40, -10, 10, 40)) * GRID)
            case 1:
                return Changes(quantity=chance.choice((2, 5, 30)))
            case 2:
                return Changes(sell_time=_time(at + chance.randint(10, 200) * SECOND))
            case _:
                return Changes(buy_time=_time(at + chance.randint(1, 60) * SECOND))

    def _later(self, now: Instant) -> Changes:
        chance = self._world.chance
        return Changes(
            buy_time=_time(now + chance.randint(5, 30) * SECOND),
            sell_time=_time(now + chance.randint(40, 90) * SECOND),
        )

    def _disconnect(self, user_id: int) -> None:
        self._world.connected.discard(user_id)
        self._world.story.tell(self._world.clock.now(), "broker", f"the session of user {user_id} is gone")

    def _start(self, strategy_id: int) -> None:
        """For the first time, and not before its user has heard that it was created: the answer waits for the archive,
        which a real one keeps up to date by the millisecond while it can. Not when everybody stops already."""
        world, now = self._world, self._world.clock.now()
        if world.faults.healed:
            return
        if world.client.waits_for(f"create {strategy_id}"):
            for process in world.processes.values():
                if process.kind is Kind.ARCHIVE:
                    process.hurry()
            world.at(now + SECOND, partial(self._start, strategy_id))
        else:
            self._ask(now, f"start {strategy_id}", people.start(strategy_id))

    def _ask(self, at: Instant, told: str, ask: people.Ask) -> None:
        world = self._world

        def now() -> None:
            world.story.tell(world.clock.now(), "user", told)
            world.client.ask(told, ask)

        world.at(at, now)

    # --- the end of the day ------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        """The faults stop; then everybody sells and stops."""
        world = self._world
        now = world.clock.now()
        world.story.tell(now, "faults", "stop")
        world.heal()
        world.at(now + SECOND, self._wind_up)
        world.at(now + CALM, self._end)

    def _wind_up(self) -> None:
        world, now = self._world, self._world.clock.now()
        for user_id in sorted(set(world.strategies.values())):
            self._ask(now, f"resume {user_id}", people.resume(user_id))
        for strategy_id in world.strategies:
            self._ask(now, f"stop {strategy_id}, square off", people.stop(strategy_id, square_off=True))
        for later in range(10 * SECOND, CALM // 2, 10 * SECOND):
            world.at(now + later, self._insist)
        for later in range(0, CALM, 5 * SECOND):
            batch = [Tick(symbol, OPENING, now + later) for symbol in SYMBOLS]
            world.at(now + later, lambda batch=batch: self.trade(batch))  # type: ignore[misc]

    def _insist(self) -> None:
        """A run that the engine gives up ends with its shares, whatever was asked for before: its user is alerted, and
        asks for their sale again."""
        world = self._world
        for strategy_id, state in world.watch.states().items():
            if not state.alive and state.open_quantity > 0 and not state.stop_requested:
                again = people.stop(strategy_id, square_off=True)
                self._ask(world.clock.now(), f"stop {strategy_id}, square off, again", again)

    def _end(self) -> None:
        """Everything is to be final. The next day begins, or the life is over."""
        world = self._world
        world.look()
        world.found += final(world.watch.states())
        if not self._days:
            world.over = True
            return
        world.is_night = True
        world.at(self._opening(self._days[0]) - BEFORE, self._morning)

    def _morning(self) -> None:
        self._world.is_night = False
        self._world.hire_all()
        self.write()

    @staticmethod
    def _opening(day: dt.date) -> Instant:
        return CALENDAR.instant(day, dt.time(9, 15))


def _trading_days(count: int) -> Sequence[dt.date]:
    found, day = [FIRST_DAY], FIRST_DAY
    while len(found) < count:
        day += dt.timedelta(days=1)
        if CALENDAR.session_on(day) is not None:
            found.append(day)
    return found[:count]


def _time(at: Instant) -> dt.time:
    return CALENDAR.wall(at).time().replace(microsecond=0, tzinfo=None)
