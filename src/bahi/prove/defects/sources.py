"""Defects of the sources: the market listener, the scheduler, the API."""

from typing import Final

from api.routes import strategy as routes
from bahi.prove.defects.defect import Defect
from bahi.prove.planting import Edit
from projections.stop_index import StopIndex
from projections.timetable import Timetable
from simulation.faults import Fault
from sources.judging import TickJudge
from sources.listener import MarketListener
from sources.scheduler import Scheduler

__all__ = ["DEFECTS"]

TICKS: Final = frozenset(
    {Fault.TICK_LATE, Fault.TICK_REPEATED, Fault.TICKS_REORDERED, Fault.TICK_MISSING, Fault.TICK_BROKEN}
)
CALLS: Final = frozenset({Fault.CALL_LOST, Fault.REPLY_LOST, Fault.REDIS_AWAY})

DEFECTS: Final = (
    Defect(
        name="stop-not-armed-anew",
        what="a stop that the user moves is watched at its old price and revision",
        changes=(
            Edit(
                StopIndex._rearm,
                "if wanted == self._armed.get(state.id):",
                "if wanted is not None and state.id in self._armed:",
            ),
        ),
        test="tests/unit/test_stop_index.py::test_a_new_revision_arms_anew",
        why="an update of the stop has to come while shares are held, and a trade between the two prices",
    ),
    Defect(
        name="stop-armed-only-at-the-start",
        what="a stop is armed when the listener starts, and by no fill that comes later",
        changes=(Edit(StopIndex.apply, "return self._rearm(state)", "return []"),),
        faults=frozenset(),
        by=("judge stop",),
    ),
    Defect(
        name="stop-at-its-price-does-not-hit",
        what="a trade at the stop does not trigger it, only one under it",
        changes=(
            Edit(
                MarketListener.look, "if stop.is_hit_by(tick):", "if stop.is_hit_by(tick) and tick.price < stop.price:"
            ),
        ),
        faults=frozenset(),
        by=("judge stop",),
    ),
    Defect(
        name="float-price-of-a-tick",
        what="the price of a tick passes through floating point",
        changes=(
            Edit(
                MarketListener.look,
                "    for tick in batch:\n",
                "    from decimal import Decimal\n"
                "    for tick in [Tick(each.symbol, Decimal(float(each.price)), each.at) for each in batch]:\n",
            ),
        ),
        faults=frozenset(),
        by=("judge stop", "judge"),
    ),
    Defect(
        name="stale-tick-in-the-stop-check",
        what="a trade that is older than the last one counts as the newest, however old it is",
        changes=(
            Edit(
                TickJudge.judge,
                "if last is None or at >= last.at:",
                "if True:",
            ),
        ),
        test="tests/unit/test_judging.py",
        why="nobody but the judge of ticks knows which trade was late",
    ),
    Defect(
        name="trigger-dropped-when-the-log-is-away",
        what="a stop's trigger that the log does not take at once is given up",
        changes=(
            Edit(
                MarketListener._append_until_done,
                "        await until_available(self._clock, attempt, self._observer.unavailable)\n",
                "        try:\n            await attempt()\n        except LogUnavailable:\n            return\n",
            ),
        ),
        test="tests/sources/test_listener.py::test_a_stop_hit_while_the_log_is_away_is_triggered_when_it_is_back",
        why="a simulated listener is stepped, and has another way to its triggers",
    ),
    Defect(
        name="timer-settled-before-it-is-in-the-log",
        what="a due timer is struck off before its trigger is appended",
        changes=(
            Edit(
                Scheduler._fire,
                "    results = await append(self._log, [self._trigger(each, now) for each in due])\n",
                "    for each in due:\n"
                "        self.timetable.settle(each.strategy_id, each.run, each.timer, each.due_at)\n"
                "    results = await append(self._log, [self._trigger(each, now) for each in due])\n",
            ),
        ),
        test="tests/sources/test_scheduler.py::test_an_outage_of_the_log_at_the_due_instant_forgets_nothing",
        why="the call that is lost has to be that of a trigger, and at both schedulers",
    ),
    Defect(
        name="timer-not-moved-by-an-update",
        what="the scheduler fires at the time that stood there before the update",
        changes=(Edit(Timetable._follow, "case StrategyUpdated():", "case StrategyUpdated() if False:"),),
        faults=frozenset({Fault.UPDATE}),
        by=("time 7", "idle", "liveness", "judge"),
    ),
    Defect(
        name="user-filter-missing",
        what="whose strategy it is that somebody asks for is not looked at",
        changes=(Edit(routes._check_owner, "state.version == 0 or state.user_id != user_id", "state.version == 0"),),
        test="tests/api/test_tenants.py::test_anothers_object_is_not_found_and_nothing_happens",
        why="a simulated life has no REST",
    ),
)
