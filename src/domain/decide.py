"""decide_next: what a strategy should do now (architecture §4.1).

The rules are functions in the order of the table; each returns the events of its decision, WAIT when nothing may be
done until something happens, or PASS when it does not apply. The order of the rules is the priority of the events:
nothing depends on the order in which anything arrived.
"""

from msgspec import Struct

from domain.events import (
    Event,
)
from domain.facts import Facts
from domain.rules.acts import (
    answer_due,
    cancel_again_at,
    chase_at,
    market_open,
    next_opening,
    outcome_alerts,
    realised,
    settling_overdue_at,
    uneasy,
)
from domain.rules.ended import next_run, start_requested, unprotected, why_refused
from domain.rules.orders import (
    dead_sender,
    ended_short,
    live_order,
    needs_follow_up,
    oversold,
    recovering,
    resting_entry,
    resting_exit,
    surfaced_order,
    surfaced_quantity,
    unanswered,
)
from domain.rules.run import (
    abort,
    buy_due,
    flat_after_exit,
    nothing_bought,
    sell_due,
    session_over,
    stoploss_due,
    why_denied,
    wind_down,
)
from domain.rules.step import NO_SESSION, PASS, UNREACHABLE, WAIT, Rule, Step
from domain.strategy import State, evolve
from domain.values import (
    Instant,
    Kind,
    Phase,
)


class Decision(Struct, frozen=True):
    """The events to append, the state after them, and the next instant at which time alone could change the answer."""

    events: tuple[Event, ...]
    state: State
    wake_at: Instant | None = None
    keep_timer: bool = False
    """Leave the timer as it is instead of setting it to `wake_at`."""


class Undecidable(Exception):
    """The rules did not come to rest: a defect, reported with the strategy and what it wanted to do."""


def decide_next(state: State, facts: Facts) -> Decision:
    """What the strategy should do now: the rules of architecture §4.1, applied until none has anything to say.

    Pure and total: the same state and facts give the same events, and after they are folded the same call gives none.
    Called on every wake-up, so it must not care which one it was.
    """
    events: list[Event] = []
    for _ in range(32):
        step = _first_rule(state, facts)
        if not step:
            return Decision(tuple(events), state, _wake_at(state, facts))
        for event in step:
            events.append(event)
            state = evolve(state, event)
    raise Undecidable(f"strategy {state.id} at version {state.version}: {[e.type for e in events[-8:]]}")


def _first_rule(state: State, facts: Facts) -> Step:
    rules = ALWAYS + (ALIVE if state.alive else ENDED)
    for rule in rules:
        step = rule(state, facts)
        if step is not PASS:
            return step
    return WAIT


ALWAYS: tuple[Rule, ...] = (
    oversold,
    surfaced_order,
    dead_sender,
    unanswered,
    resting_entry,
    resting_exit,
    live_order,
    recovering,
    ended_short,
    surfaced_quantity,
)
"""Rules 1 and 3–8, then 2: the sale of a surfaced quantity is an order, and only one may be unresolved."""
ALIVE: tuple[Rule, ...] = (
    abort,
    session_over,
    wind_down,
    stoploss_due,
    sell_due,
    flat_after_exit,
    nothing_bought,
    buy_due,
)
ENDED: tuple[Rule, ...] = (unprotected, start_requested)


def _wake_at(state: State, facts: Facts) -> Instant | None:
    """The next instant, after now, at which time alone could change the decision."""
    policy, now = facts.policy, facts.now
    at: list[Instant] = []
    orders = list(state.lingering)
    if state.order is not None and not state.order.resolved:
        orders.append(state.order)
    for order in orders:
        at += [cancel_again_at(order, facts), order.modify_until]
        if order.phase is Phase.SENDING:
            at.append(answer_due(order, facts))
        elif order.phase is Phase.LIVE and order.kind is Kind.BUY:
            at.append(order.at + policy.entry_patience)
        elif order.phase is Phase.LIVE:
            # at the circuit limit, or without a price, it is looked at again after another while
            at.append(chase_at(order, facts) if now < chase_at(order, facts) else now + policy.exit_patience)
    at += [tries.not_before for tries in state.tries.values()]
    at += [last + policy.alert_repeat for last in state.alerted.values() if uneasy(state)]
    if state.settle_after:
        at.append(settling_overdue_at(state))
    if state.alive:
        at += [state.close_at, state.entries_after]
    if uneasy(state) and not market_open(facts) and (opening := next_opening(facts)) is not None:
        at.append(opening)
    if not facts.connected and (uneasy(state) or any(order.phase is Phase.LIVE for order in orders)):
        at.append(now + policy.session_patience)
    return min((t for t in at if t > now), default=None)


__all__ = [
    "NO_SESSION",
    "UNREACHABLE",
    "Decision",
    "Undecidable",
    "decide_next",
    "needs_follow_up",
    "next_run",
    "outcome_alerts",
    "realised",
    "why_denied",
    "why_refused",
]
