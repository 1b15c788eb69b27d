"""The fold of what happens to orders: their phases, and the shares that their fills move. Part of `evolve`."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from domain.events import (
    AlertTriggered,
    CancelRejected,
    CancelRequested,
    Event,
    ExecuteBuy,
    ExecuteSell,
    ExecuteStoploss,
    Intent,
    ModifyRejected,
    ModifyRequested,
    OrderAccepted,
    OrderCancelled,
    OrderDenied,
    OrderFilled,
    OrderFinalized,
    OrderOutcomeUnknown,
    OrderRecovered,
    OrderRejected,
    OrderRetryRequired,
    PositionSettled,
    RecoverySettled,
    StrategyRecovered,
)
from domain.state import FREE, UNREACHABLE, Order, State, Tries
from domain.values import (
    DAY,
    Doubt,
    Final,
    Holding,
    Kind,
    Money,
    Phase,
    Price,
    Quantity,
    Tag,
)

UNANSWERED = "unanswered"
"""How the reason of a change begins that was perhaps carried out."""


def _with_past(state: State) -> dict[Tag, Order]:
    """The past orders and the current one, unless that certainly never left this house: nothing can come of it, and
    while a line is out there are hundreds."""
    order = state.order
    if order is None or (order.given_up and order.reason == UNREACHABLE):
        return state.past
    return {**state.past, order.tag: order}


def watched(state: State) -> dict[Tag, Order]:
    """What a new run takes over: the orders of the last day that had any. They may surface until that day ends, even
    when the new run is armed for a later one."""
    orders = _with_past(state)
    newest = max((order.at for order in orders.values()), default=0)
    return {tag: order for tag, order in orders.items() if order.at > newest - DAY}


def _intended(state: State, event: Intent) -> None:
    state.past = _with_past(state)
    state.order = Order(
        tag=event.tag,
        kind=event.kind,
        run=state.run,
        quantity=event.request.quantity,
        attempt=event.attempt,
        at=event.at,
        deadline=event.deadline,
        product=event.request.product,
    )
    state.orders += 1
    state.lock_state = event.tag
    state.tries = {**state.tries, event.kind: Tries(event.attempt, since=state.tried(event.kind).since)}
    state.last_action = event.kind
    if event.kind is Kind.BUY:
        state.entered = True
        state.entry_spent = False


def _keep(state: State, order: Order) -> None:
    """Puts a changed order back where it belongs."""
    if state.order is not None and state.order.tag == order.tag:
        state.order = order
        state.lock_state = FREE if order.resolved else order.tag
    else:
        state.past = {**state.past, order.tag: order}


def _accepted(state: State, event: OrderAccepted) -> None:
    order = state.find(event.tag)
    if order is None:
        return
    if order.resolved:
        if not order.given_up:
            return  # it has ended: an old answer
        order = replace(order, surfaced=True, final=None, cancel_asked=False, cancel_until=0, cancels=0)
    _keep(state, replace(order, phase=Phase.LIVE, order_id=event.order_id, doubt=None))
    _name_order(state, order, event.order_id)


def _name_order(state: State, order: Order, order_id: str) -> None:
    if order.run != state.run:
        return
    match order.kind:
        case Kind.BUY:
            state.last_buy_order = order_id
        case Kind.STOPLOSS:
            state.last_sl_order = order_id
        case Kind.SELL | Kind.SURFACED:
            state.last_sell_order = order_id


def _filled(state: State, event: OrderFilled) -> None:
    order = state.find(event.tag)
    if order is None or event.filled <= order.filled:
        return
    _book(state, order, event.filled, event.average_price)
    reopened = order.given_up
    order = replace(order, filled=event.filled, average_price=event.average_price, order_id=event.order_id, doubt=None)
    if reopened:
        order = replace(order, surfaced=True, final=None, cancel_asked=False, cancel_until=0, cancels=0)
    _keep(state, replace(order, phase=Phase.LIVE) if reopened or not order.resolved else order)
    _name_order(state, order, event.order_id)


def _book(state: State, order: Order, filled: Quantity, average_price: Price) -> None:
    """Books what `filled`, which is cumulative, adds to what is known of the order."""
    _credit(state, order, filled - order.filled, filled * average_price - order.filled * order.average_price)
    state.last_price = average_price
    if order.run == state.run:  # a late fill of an earlier run shortens no back-off of this one
        state.tries = {**state.tries, order.kind: Tries()}


def _credit(state: State, order: Order, more: Quantity, value: Money) -> None:
    """Books a fill: to the run it belongs to while that lives, else to `surfaced` (architecture §4)."""
    of_this_run = order.run == state.run
    if order.kind is Kind.SURFACED:
        state.surfaced -= more
    elif order.kind is Kind.BUY:
        if of_this_run and state.alive:
            state.bought += more
            state.buy_value += value
        else:
            state.surfaced += more
    elif of_this_run:
        state.sold += more
        state.sell_value += value
        state.last_exit = order.kind
    else:
        state.surfaced -= more
    _count(state)


def _count(state: State) -> None:
    state.open_quantity = state.bought - state.sold - state.settled
    if state.bought == 0:
        state.position = Holding.NONE
    elif state.open_quantity > 0:
        state.position = Holding.BOUGHT
    else:
        state.position = Holding.EXITED_BY_SL if state.last_exit is Kind.STOPLOSS else Holding.SOLD


def _settled(state: State, event: PositionSettled) -> None:
    """Shares closed elsewhere: of the run first, then surfaced ones. Below zero: what was over-sold is bought back.

    What an order of another run sold (or bought) too much is settled with it: it is how these shares were closed.
    """
    of_the_run = _towards_zero(state.open_quantity, event.quantity)
    rest = event.quantity - of_the_run
    state.settled += of_the_run
    state.surfaced -= rest if rest else _towards_zero(state.surfaced, -of_the_run)
    _count(state)


def _towards_zero(held: Quantity, quantity: Quantity) -> Quantity:
    """As much of `quantity` as brings `held` nearer to zero, and not beyond."""
    return max(0, min(held, quantity)) if quantity > 0 else min(0, max(held, quantity))


def _rejected(state: State, event: OrderRejected) -> None:
    order = state.find(event.tag)
    if order is not None and not order.resolved:
        order_id = event.order_id or order.order_id
        _keep(
            state,
            replace(order, reason=event.reason, curable=event.curable, counted=event.counted, order_id=order_id),
        )


def _cancelled(state: State, event: OrderCancelled) -> None:
    order = state.find(event.tag)
    if order is not None and not order.resolved:
        _keep(state, replace(order, order_id=event.order_id, reason=order.reason or "CANCELLED"))


def _denied(state: State, event: OrderDenied) -> None:
    if event.kind is Kind.BUY:
        state.entry_denied = event.reason
    state.last_action = f"{event.kind} denied: {event.reason}"
    if event.tag is not None and (order := state.find(event.tag)) is not None and not order.resolved:
        _keep(state, replace(order, reason=event.reason, denied=True))


def _finalized(state: State, event: OrderFinalized) -> None:
    order = state.find(event.tag)
    if order is None:
        return
    if event.filled > order.filled:  # the last fills were told with the end
        price = order.average_price if event.average_price is None else event.average_price
        _book(state, order, event.filled, price)
        order = replace(order, filled=event.filled, average_price=price)
        _keep(state, order)
    if order.resolved and (not order.given_up or event.final in (Final.NOT_PLACED, order.final)):
        return
    surfaced = order.surfaced or order.resolved
    order = replace(order, surfaced=surfaced)
    _keep(state, replace(order, phase=Phase.FINAL, final=event.final, cancel_until=0, modify_until=0, doubt=None))
    if order.kind is Kind.BUY and order.run == state.run:
        state.entry_spent = True


def _retry(state: State, event: OrderRetryRequired) -> None:
    order = state.find(event.tag)
    if order is not None:
        _keep(state, replace(order, followed_up=True))
    attempts = event.attempt if event.counted else event.attempt - 1
    since = state.tried(event.kind).since
    if not since and not event.counted and order is not None and not order.denied:
        since = order.at
    state.tries = {**state.tries, event.kind: Tries(attempts, event.not_before, since)}
    if event.kind is Kind.BUY:
        state.entered = state.entry_spent = False


def _unknown(state: State, event: OrderOutcomeUnknown) -> None:
    order = state.find(event.tag)
    if order is None or order.phase not in (Phase.SENDING, Phase.UNKNOWN):
        return
    if order.doubt is not Doubt.AMBIGUOUS:  # a sender thought dead that answers ambiguously prolongs the quarantine
        _keep(state, replace(order, phase=Phase.UNKNOWN, doubt=event.doubt, reason=event.text))


def _cancel_requested(state: State, event: CancelRequested) -> None:
    order = state.find(event.tag)
    if order is not None:
        _keep(state, replace(order, cancel_until=event.deadline, cancel_asked=True, cancels=order.cancels + 1))


def _cancel_rejected(state: State, event: CancelRejected) -> None:
    # `cancel_until` stays: the same cancel is not asked again before its deadline
    state.last_action = f"CANCEL refused: {event.reason}"


def _modify_requested(state: State, event: ModifyRequested) -> None:
    order = state.find(event.tag)
    if order is not None:
        _keep(
            state,
            replace(
                order,
                limit=event.price,
                limit_before=order.limit,
                changes=order.changes + 1,
                changed_at=event.at,
                modify_until=event.deadline,
            ),
        )


def _modify_rejected(state: State, event: ModifyRejected) -> None:
    order = state.find(event.tag)
    if order is not None and not event.reason.startswith(UNANSWERED):
        # it rests where it rested: the next change must not go on from a price that it never had
        _keep(state, replace(order, limit=order.limit_before, refused=order.limit))
    state.last_action = f"MODIFY refused: {event.reason}"


def _strategy_recovered(state: State, event: StrategyRecovered) -> None:
    state.settle_after = max(event.settle_after, state.settle_after)
    state.entries_after = max(event.entries_after, state.entries_after)


def _recovery_settled(state: State, event: RecoverySettled) -> None:
    state.settle_after = 0


def _order_recovered(state: State, event: OrderRecovered) -> None:
    """The run's own order, if there is room for it; else one that surfaced, as every order of a run that is over."""
    if state.find(event.tag) is not None:
        return
    order = Order(
        tag=event.tag,
        kind=event.kind,
        run=event.run,
        quantity=event.quantity,
        attempt=1,
        at=event.placed_at,
        deadline=event.placed_at,
        product=event.product,
        phase=Phase.LIVE,
        order_id=event.order_id,
    )
    state.last_action = f"{event.kind} recovered"
    of_this_run = event.run == state.run and (state.alive or event.kind is Kind.SURFACED)
    if of_this_run:
        state.orders = max(state.orders, event.number)
        state.entered = state.entered or event.kind is Kind.BUY
    if not of_this_run or state.unresolved:
        state.past = {**state.past, order.tag: replace(order, surfaced=True)}
        return
    state.past = _with_past(state)
    state.order = order
    state.lock_state = event.tag
    if event.kind is Kind.BUY:
        state.entry_spent = False
    _name_order(state, order, event.order_id)


def _alerted(state: State, event: AlertTriggered) -> None:
    state.alerted = {**state.alerted, event.code: event.at}


ON_ORDERS: dict[type[Event], Callable[[State, Any], None]] = {
    ExecuteBuy: _intended,
    ExecuteSell: _intended,
    ExecuteStoploss: _intended,
    OrderAccepted: _accepted,
    OrderFilled: _filled,
    OrderRejected: _rejected,
    OrderCancelled: _cancelled,
    OrderDenied: _denied,
    OrderFinalized: _finalized,
    OrderRetryRequired: _retry,
    OrderOutcomeUnknown: _unknown,
    CancelRequested: _cancel_requested,
    CancelRejected: _cancel_rejected,
    ModifyRequested: _modify_requested,
    ModifyRejected: _modify_rejected,
    PositionSettled: _settled,
    StrategyRecovered: _strategy_recovered,
    RecoverySettled: _recovery_settled,
    OrderRecovered: _order_recovered,
    AlertTriggered: _alerted,
}
"""What each event of an order does to the state."""
