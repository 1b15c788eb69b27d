"""A strategy: its state and the fold of its events. What to do with it is decided in `domain.decide`.

`evolve(state, event)` is pure. `apply(state, event)` is the same in place, for replays that own their state.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from domain import blind
from domain.events import (
    Event,
    StrategyCreated,
    StrategyExited,
    StrategyStarted,
    StrategyStartRefused,
    StrategyStartRequested,
    StrategyStopped,
    StrategyUpdated,
)
from domain.order_fold import ON_ORDERS, watched
from domain.state import FREE, Order, State, Tries
from domain.values import (
    Config,
    Exit,
    Kind,
    Status,
)

__all__ = ["FREE", "HANDLERS", "Order", "State", "Tries", "apply", "evolve", "fold", "initial"]


def initial(strategy_id: int = 0, user_id: int = 0) -> State:
    return State(id=strategy_id, user_id=user_id)


def evolve(state: State, event: Event) -> State:
    """The state after `event`. Total: an event that means nothing to the state only takes its version."""
    after = copy.copy(state)
    apply(after, event)
    return after


def fold(state: State, events: Iterable[Event]) -> State:
    """The state after all `events`."""
    after = copy.copy(state)
    for event in events:
        apply(after, event)
    return after


def apply(state: State, event: Event) -> None:
    """`evolve` in place. Nested values are replaced, never changed, so a shallow copy of a state stays what it was."""
    if event.versioned:
        state.version += 1
    handler = HANDLERS.get(type(event))
    if handler is not None:
        handler(state, event)
        return
    for case in blind.cases(event) or ():
        if _holds(state, case):
            for name, value in case.then.items():
                setattr(state, name, value)
            return


def _holds(state: State, case: blind.Case) -> bool:
    return all(getattr(state, name) in values for name, values in case.when.items()) and all(
        getattr(state, name) > 0 for name in case.positive
    )


# --- the user -------------------------------------------------------------------------------------------------------


def _created(state: State, event: StrategyCreated) -> None:
    _configure(state, event.config)
    state.stop_revision = 1


def _configure(state: State, config: Config) -> None:
    state.symbol = config.symbol
    state.quantity = config.quantity
    state.buy_time = config.buy_time
    state.sell_time = config.sell_time
    state.stop_loss = config.stop_loss
    state.product = config.product
    state.market_protection = config.market_protection


def _updated(state: State, event: StrategyUpdated) -> None:
    if event.quantity is not None:
        state.quantity = event.quantity
    if event.buy_time is not None:
        state.buy_time = event.buy_time
    if event.sell_time is not None:
        state.sell_time = event.sell_time
    if event.product is not None:
        state.product = event.product
    if event.market_protection is not None:
        state.market_protection = event.market_protection
    if event.stop_loss is not None:
        state.stop_loss = event.stop_loss
        state.stop_revision = event.stop_revision
        # re-judged against the tick that set it
        state.stop_due = state.stop_due and state.stop_price is not None and state.stop_price <= event.stop_loss
        if not state.stop_due:
            state.stop_price = None
    if event.buy_at is not None and event.buy_at != state.buy_at:
        state.buy_at = event.buy_at
        state.buy_due = state.buy_missed = False
    if event.sell_at is not None and event.sell_at != state.sell_at:
        state.sell_at = event.sell_at
        state.sell_due = False


def _start_requested(state: State, event: StrategyStartRequested) -> None:
    if not state.alive:
        state.start_requested = True


def _start_refused(state: State, event: StrategyStartRefused) -> None:
    state.start_requested = False
    state.last_action = f"START refused: {event.reason}"


# --- the run --------------------------------------------------------------------------------------------------------

_RUN_FIELDS = (
    *("ready", "buy_due", "sell_due", "stop_due", "stop_price", "buy_missed", "start_requested", "alerted"),
    *("stop_requested", "square_off", "stop_reason", "abort_due", "abort_reason"),
    *("entered", "entry_spent", "entry_denied", "orders", "order", "lock_state", "tries"),
    *("bought", "sold", "settled", "open_quantity", "buy_value", "sell_value", "position"),
    *("last_exit", "exit_reason", "last_price", "last_buy_order", "last_sell_order", "last_sl_order", "terminated_at"),
)
"""What a new run begins afresh. `surfaced` is not among them: it has to be sold before."""
_FRESH = tuple((name, getattr(State(), name)) for name in _RUN_FIELDS)


def _started(state: State, event: StrategyStarted) -> None:
    past = watched(state)
    for name, value in _FRESH:
        setattr(state, name, value)
    _configure(state, event.config)
    state.past = past
    state.status = Status.STARTING
    state.run = state.version
    state.session_date = event.session_date
    state.open_at = event.open_at
    state.close_at = event.close_at
    state.buy_at = event.buy_at
    state.sell_at = event.sell_at
    state.last_action = "STARTED"


def _exited(state: State, event: StrategyExited) -> None:
    state.exit_reason = event.reason


def _stopped(state: State, event: StrategyStopped) -> None:
    failed = event.reason is Exit.ABORT or (event.reason is Exit.SESSION_END and event.open_quantity > 0)
    state.status = Status.FAILED if failed else Status.STOPPED
    state.stop_requested = state.square_off = False
    state.start_requested = False
    state.terminated_at = event.at
    state.last_action = f"STOPPED: {event.reason}"
    # the sale of surfaced shares is no affair of the run's: it goes on, back-off and all
    state.tries = {kind: tries for kind, tries in state.tries.items() if kind is Kind.SURFACED}
    if state.order is not None and state.order.kind is not Kind.SURFACED:
        state.order = replace(state.order, followed_up=True)


HANDLERS: dict[type[Event], Callable[[State, Any], None]] = {
    StrategyCreated: _created,
    StrategyUpdated: _updated,
    StrategyStartRequested: _start_requested,
    StrategyStartRefused: _start_refused,
    StrategyStarted: _started,
    StrategyExited: _exited,
    StrategyStopped: _stopped,
    **ON_ORDERS,
}
"""What each event does to a state that has taken its version, but for the blind ones."""
