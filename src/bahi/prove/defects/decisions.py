"""Defects of the rules and the fold: what a strategy decides, and what it believes of its orders."""

from typing import Final

import domain
from bahi.prove.defects.defect import Defect
from bahi.prove.planting import Edit, SourceEdit
from domain import blind, commands, order_fold, strategy
from domain.rules import acts, ended, orders, run
from simulation.faults import BROKER, Fault

__all__ = ["DEFECTS"]

ANSWERS: Final = frozenset(BROKER)
PEOPLE: Final = frozenset({Fault.UPDATE, Fault.STOP, Fault.SQUARE_OFF, Fault.HALT, Fault.RESTART, Fault.FORCE_STOP})

DEFECTS: Final = (
    Defect(
        name="stop-dropped-behind-a-buy",
        what="the stop-loss that came while the entry rested is forgotten when the entry's rest is cancelled",
        changes=(
            Edit(
                order_fold._cancel_requested,
                "    order = state.find(event.tag)\n",
                "    order = state.find(event.tag)\n    state.stop_due = False\n",
            ),
        ),
        test="tests/unit/domain/test_orders.py::test_a_stop_that_comes_while_the_entry_rests_waits_and_then_exits_what_was_filled",
        why="a stop has to be hit within the ten seconds that an entry may rest",
    ),
    Defect(
        name="sell-before-stoploss",
        what="the timed SELL takes precedence over the stop-loss",
        changes=(
            Edit(
                run.stoploss_due,
                "return exit_with(state, facts, Kind.STOPLOSS) if state.open_quantity > 0 and state.stop_due else PASS",
                "return exit_with(state, facts, Kind.STOPLOSS) if state.open_quantity > 0 and state.stop_due"
                " and not state.sell_due else PASS",
            ),
        ),
        test="tests/unit/domain/test_run.py::test_the_stoploss_overrides_the_sell",
        why="stop and SELL have to become due behind one order",
    ),
    Defect(
        name="halt-blocks-an-exit",
        what="the kill switch holds back exits, too",
        changes=(
            Edit(
                acts.exit_with,
                "    if not may_place(state, facts, kind):\n",
                "    if facts.halt is not None or not may_place(state, facts, kind):\n",
            ),
        ),
        faults=frozenset({Fault.HALT}),
        by=("idle", "time 2"),
    ),
    Defect(
        name="trigger-of-an-earlier-instant",
        what="a BUY trigger counts whatever instant it was for, also one from which the user has moved the entry away",
        changes=(
            Edit(
                blind.cases,
                'Case({"run": (event.run,), "buy_at": (event.due_at,), "status": _ALIVE}, {"buy_due": True})',
                'Case({"run": (event.run,), "status": _ALIVE}, {"buy_due": True})',
            ),
        ),
        test="tests/unit/domain/test_run.py::test_a_buy_trigger_of_an_instant_that_the_user_moved_away_from_places_nothing",
        why="an update has to overtake the trigger of the instant that it moves",
    ),
    Defect(
        name="trigger-of-an-earlier-run",
        what="a BUY trigger counts whatever run it was for",
        changes=(
            Edit(
                blind.cases,
                'Case({"run": (event.run,), "buy_at": (event.due_at,), "status": _ALIVE}, {"buy_due": True})',
                'Case({"status": _ALIVE}, {"buy_due": True})',
            ),
        ),
        test="tests/engine/test_orders.py::test_a_trigger_of_an_earlier_run_places_nothing",
        why="a write of an earlier run is never so late in a simulated life",
    ),
    Defect(
        name="stop-of-an-earlier-revision",
        what="a stop-loss trigger counts whatever revision of the stop it was for",
        changes=(Edit(blind.cases, '                "stop_revision": (event.stop_revision,),\n', ""),),
        test="tests/unit/domain/test_run.py::test_a_stop_trigger_of_the_old_revision_comes_too_late",
        why="an update has to overtake the trigger of the stop that it moves",
    ),
    Defect(
        name="partial-fill-counted-twice",
        what="what was filled before is booked again with every further fill",
        changes=(
            Edit(
                order_fold._book,
                "_credit(state, order, filled - order.filled, filled * average_price - order.filled *"
                " order.average_price)",
                "_credit(state, order, filled, filled * average_price)",
            ),
        ),
        faults=frozenset({Fault.PARTIAL}),
        by=("2", "judge", "liveness"),
    ),
    Defect(
        name="square-off-sells-everything-bought",
        what="an exit sells what was bought, also when part of it is sold already",
        changes=(
            Edit(
                acts.exit_with,
                "quantity = clip(state, state.open_quantity, facts)",
                "quantity = clip(state, state.bought, facts)",
            ),
        ),
        test="tests/unit/domain/test_run.py::test_an_exit_sells_exactly_what_was_bought_and_not_yet_sold",
        why="an exit has to end short after it was filled in part",
    ),
    Defect(
        name="exits-not-clipped",
        what="an exit is placed beside one that surfaced and may still sell the same shares",
        changes=(Edit(acts.clip, "left = max(0, quantity + elsewhere - selling)", "left = quantity"),),
        test="tests/unit/domain/test_orders.py",
        why="two exits live at once need an order that surfaces after its quarantine",
    ),
    Defect(
        name="retry-without-back-off",
        what="a rejected order is placed again at once",
        changes=(Edit(orders._backoff, "facts.policy.retry_backoff << min(attempt - 1, 6)", "0"),),
        faults=frozenset({Fault.REJECTED, Fault.REJECTED_AFTER}),
        by=("time 5",),
    ),
    Defect(
        name="back-off-not-kept",
        what="an exit does not wait for the end of its back-off",
        changes=(
            Edit(
                acts.may_place,
                "facts.now >= state.tried(kind).not_before and market_open(facts)",
                "market_open(facts)",
            ),
        ),
        faults=frozenset({Fault.REJECTED, Fault.REJECTED_AFTER, Fault.THROTTLED}),
        by=("time 5",),
    ),
    Defect(
        name="attempts-never-limited",
        what="an order that is rejected is tried for ever",
        changes=(
            Edit(
                orders.ended_short,
                "    if order.curable and attempt < policy.max_attempts:\n",
                "    if order.curable:\n",
            ),
        ),
        test="tests/engine/test_orders.py::test_the_third_rejection_of_an_exit_aborts_keeps_the_position_and_alerts",
        why="an order has to be rejected three times in a row",
    ),
    Defect(
        name="second-entry-after-a-fill",
        what="an entry that was filled in part is placed again for its whole quantity",
        changes=(
            Edit(run.buy_due, "not state.buy_due or state.entered or", "not state.buy_due or"),
            Edit(
                orders.live_order,
                "return WAIT if state.unresolved else PASS",
                "return WAIT if state.unresolved and state.order.kind is not Kind.BUY else PASS",
            ),
        ),
        faults=frozenset({Fault.RESTS, Fault.PARTIAL}),
        by=("1", "3", "5", "judge"),
    ),
    Defect(
        name="surfaced-quantity-ignored",
        what="shares of an order that surfaced are left lying",
        changes=(Edit(orders.surfaced_quantity, "if state.surfaced <= 0:", "if state.surfaced < 10**9:"),),
        test="tests/unit/domain/test_orders.py::test_surfaced_shares_are_sold_and_alerted",
        why="an order has to surface after its quarantine, and to fill",
    ),
    Defect(
        name="surfaced-order-ignored",
        what="an order that shows up after it was given up is left to live",
        changes=(
            Edit(orders.surfaced_order, "if one.surfaced and one.phase is Phase.LIVE and not", "if False and not"),
        ),
        test="tests/unit/domain/test_orders.py",
        why="an order has to surface after its quarantine and to rest then",
    ),
    Defect(
        name="dead-sender-never-noticed",
        what="an order whose sender died is waited for, for ever",
        changes=(Edit(orders.dead_sender, "if facts.now < answer_due(order, facts):", "if facts.now < 2**62:"),),
        faults=frozenset({Fault.WORKER_DIES, Fault.PAUSED_PAST_QUARANTINE}),
        by=("liveness", "9", "1"),
    ),
    Defect(
        name="update-of-what-is-held",
        what="quantity and product may be changed while shares are held",
        changes=(
            Edit(commands.decide_update, "if fixed and (held_back or (state.alive and state.entered)):", "if False:"),
        ),
        test="tests/unit/domain/test_commands.py",
        why="the quantity of the next entry is the only thing that follows from it",
    ),
    Defect(
        name="start-with-an-order-unresolved",
        what="a strategy is started again while it is not flat",
        changes=(
            Edit(ended.why_refused, "if state.open_quantity != 0 or state.surfaced != 0:", "if False:"),
            Edit(commands.decide_start, "if state.unresolved:", "if False:"),
        ),
        test="tests/unit/domain/test_run.py",
        why="a run ends with an order unresolved or shares held only when its session ends or it is aborted",
    ),
    Defect(
        name="run-ends-over-a-live-entry",
        what="a stop ends the run at once, and an entry that still rests fills afterwards",
        changes=(
            Edit(
                orders.resting_entry,
                "if facts.connected and (why := _why_not_enter(state, facts, order)):",
                "if False:",
            ),
            Edit(
                orders.live_order,
                "return WAIT if state.unresolved else PASS",
                "return WAIT if state.unresolved and not state.stop_requested else PASS",
            ),
        ),
        faults=frozenset({Fault.RESTS, Fault.PARTIAL, Fault.STOP, Fault.SQUARE_OFF, Fault.FORCE_STOP}),
        by=("1", "2", "5", "6", "9", "liveness", "judge", "12"),
    ),
    Defect(
        name="decision-loops",
        what="an alert is raised again at every look",
        changes=(
            Edit(
                acts.alert_once,
                "return () if last is not None and facts.now < last + facts.policy.alert_repeat else",
                "return () if last == facts.now else",
            ),
        ),
        faults=ANSWERS,
        test="tests/unit/domain/test_orders.py",
        why="an alert too many breaks no rule of the log",
    ),
    Defect(
        name="stop-flag-cleared-by-any-update",
        what="an update of the stop forgets that it was hit",
        changes=(
            Edit(
                strategy._updated,
                "state.stop_due = state.stop_due and state.stop_price is not None and state.stop_price <="
                " event.stop_loss",
                "state.stop_due = False",
            ),
        ),
        test="tests/unit/domain/test_run.py",
        why="an update would have to come between a stop's trigger and its exit",
    ),
    Defect(
        name="wall-clock-in-a-decision",
        what="a rule asks the machine for the time",
        changes=(
            SourceEdit(
                domain,
                "rules/run.py",
                "    late = facts.now - state.buy_at\n",
                "    late = time.time_ns() // 1_000 - state.buy_at\n",
            ),
        ),
        test="tests/property/test_purity.py",
        why="a life of minutes takes a second of the machine's time: a scan of the source is surer",
    ),
    Defect(
        name="float-price-in-a-decision",
        what="a limit is worked out in floating point",
        changes=(
            SourceEdit(
                domain,
                "rules/orders.py",
                "    wished = min(known) * (1 - facts.policy.chase_step)\n",
                "    wished = Decimal(float(min(known)) * float(1 - facts.policy.chase_step))\n",
            ),
        ),
        test="tests/property/test_purity.py",
        why="what floating point gets wrong is rounded away nearly always: a scan of the source is surer",
    ),
)
