"""A strategy: its state and the fold of its events. What to do with it is decided in `domain.decide`.

`evolve(state, event)` is pure. `apply(state, event)` is the same in place, for replays that own their state.
"""

import copy
import datetime as dt
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from domain import blind
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
    OrderRejected,
    OrderRetryRequired,
    PositionSettled,
    StrategyCreated,
    StrategyExited,
    StrategyStarted,
    StrategyStartRefused,
    StrategyStartRequested,
    StrategyStopped,
    StrategyUpdated,
)
from domain.values import (
    ALIVE,
    DAY,
    ZERO,
    Config,
    Doubt,
    Exit,
    Final,
    Holding,
    Instant,
    Kind,
    Money,
    Phase,
    Price,
    Product,
    Quantity,
    Status,
    Tag,
)

FREE = "free"


class Order(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One order, from its intent to its end. `filled` is cumulative; `limit` the price we last changed it to."""

    tag: Tag
    kind: Kind
    run: int
    quantity: Quantity
    attempt: int
    at: Instant
    deadline: Instant
    product: Product = Product.MIS
    phase: Phase = Phase.SENDING
    order_id: str | None = None
    filled: Quantity = 0
    average_price: Price = ZERO
    final: Final | None = None
    reason: str = ""
    curable: bool = True
    counted: bool = True
    denied: bool = False
    """We did not send it (past its deadline, halted): nobody refused it, so rule 8 does not follow up."""
    followed_up: bool = False
    doubt: Doubt | None = None
    limit: Price | None = None
    changes: int = 0
    changed_at: Instant = 0
    modify_until: Instant = 0
    cancel_until: Instant = 0
    cancel_asked: bool = False
    surfaced: bool = False
    """It was finalized as not placed, and then showed up."""

    @property
    def resolved(self) -> bool:
        return self.phase is Phase.FINAL

    @property
    def remaining(self) -> Quantity:
        return self.quantity - self.filled


class Tries(Struct, frozen=True, omit_defaults=True):
    """How often a kind of order was tried since its last fill, and when it may be tried again."""

    attempts: int = 0
    not_before: Instant = 0


class State(Struct, kw_only=True):
    """Everything bahi knows of a strategy: its config, the current (or last) run and its orders.

    The fields above `start_requested` live in `strategy:{id}` and stay; those below live in `runtime:{id}`.
    """

    id: int = 0
    user_id: int = 0
    version: int = 0
    symbol: str = ""
    quantity: Quantity = 0
    buy_time: dt.time = dt.time(0)
    sell_time: dt.time = dt.time(0)
    product: Product = Product.MIS
    market_protection: Decimal = Decimal(-1)
    stop_revision: int = 0
    past: dict[Tag, Order] = field(default_factory=dict)
    """The earlier orders of the day, across runs, by tag: one that surfaces or fills late is recognised here."""

    stop_loss: Price = ZERO
    status: Status = Status.CREATED
    position: Holding = Holding.NONE
    start_requested: bool = False
    run: int = 0
    session_date: dt.date | None = None
    open_at: Instant = 0
    close_at: Instant = 0
    buy_at: Instant = 0
    sell_at: Instant = 0
    ready: bool = False
    buy_due: bool = False
    sell_due: bool = False
    stop_due: bool = False
    stop_price: Price | None = None
    """The price of the tick that made the stop due."""
    buy_missed: bool = False
    stop_requested: bool = False
    square_off: bool = False
    stop_reason: str = ""
    abort_due: bool = False
    abort_reason: str = ""
    entered: bool = False
    """A BUY of this run exists or may exist."""
    entry_spent: bool = False
    entry_denied: str = ""
    orders: int = 0
    """Intents of this run so far: the next order's number."""
    order: Order | None = None
    """The current or last order."""
    lock_state: str = FREE
    """The tag of the unresolved order, or `free`."""
    tries: dict[Kind, Tries] = field(default_factory=dict)
    bought: Quantity = 0
    sold: Quantity = 0
    settled: Quantity = 0
    open_quantity: Quantity = 0
    """bought − sold − settled; below zero is over-sold."""
    surfaced: Quantity = 0
    """Shares from fills of earlier runs, or after the end: to be sold again. Below zero is over-sold."""
    buy_value: Money = ZERO
    sell_value: Money = ZERO
    last_exit: Kind | None = None
    exit_reason: Exit | None = None
    last_action: str = ""
    last_price: Price | None = None
    last_buy_order: str = ""
    last_sell_order: str = ""
    last_sl_order: str = ""
    alerted: dict[str, Instant] = field(default_factory=dict)
    """When each alert code was last raised, for its repetition."""
    terminated_at: Instant = 0
    updated_at: Instant = 0
    """recorded_at of the last event of the strategy (set by whoever folds recorded events)."""
    position_in_log: int = 0

    @property
    def alive(self) -> bool:
        return self.status in ALIVE

    @property
    def unresolved(self) -> bool:
        return self.order is not None and not self.order.resolved

    @property
    def lingering(self) -> tuple[Order, ...]:
        """The past orders that live at the broker: they surfaced after they were given up, and are being cancelled."""
        return tuple(order for order in self.past.values() if order.phase is Phase.LIVE)

    @property
    def config(self) -> Config:
        return Config(
            symbol=self.symbol,
            quantity=self.quantity,
            buy_time=self.buy_time,
            sell_time=self.sell_time,
            stop_loss=self.stop_loss,
            product=self.product,
            market_protection=self.market_protection,
        )

    def tried(self, kind: Kind) -> Tries:
        return self.tries.get(kind, Tries())

    def find(self, tag: Tag) -> Order | None:
        """The order of this tag, current or past."""
        if self.order is not None and self.order.tag == tag:
            return self.order
        return self.past.get(tag)


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
    handler = _HANDLERS.get(type(event))
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


def _started(state: State, event: StrategyStarted) -> None:
    past = _watched(state)
    fresh = State()
    for name in _RUN_FIELDS:
        setattr(state, name, getattr(fresh, name))
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


# --- orders ---------------------------------------------------------------------------------------------------------


def _with_past(state: State) -> dict[Tag, Order]:
    """The past orders and the current one."""
    return state.past if state.order is None else {**state.past, state.order.tag: state.order}


def _watched(state: State) -> dict[Tag, Order]:
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
    state.tries = {**state.tries, event.kind: Tries(event.attempt)}
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
        if order.final is not Final.NOT_PLACED:
            return  # it has ended: an old answer
        order = replace(order, surfaced=True, final=None, cancel_asked=False, cancel_until=0)
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
    reopened = order.resolved and order.final is Final.NOT_PLACED
    order = replace(order, filled=event.filled, average_price=event.average_price, order_id=event.order_id, doubt=None)
    if reopened:
        order = replace(order, surfaced=True, final=None, cancel_asked=False, cancel_until=0)
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
    if order.resolved and (order.final is not Final.NOT_PLACED or event.final is Final.NOT_PLACED):
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
    state.tries = {**state.tries, event.kind: Tries(attempts, event.not_before)}
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
        _keep(state, replace(order, cancel_until=event.deadline, cancel_asked=True))


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
                changes=order.changes + 1,
                changed_at=event.at,
                modify_until=event.deadline,
            ),
        )


def _modify_rejected(state: State, event: ModifyRejected) -> None:
    state.last_action = f"MODIFY refused: {event.reason}"


def _alerted(state: State, event: AlertTriggered) -> None:
    state.alerted = {**state.alerted, event.code: event.at}


_HANDLERS: dict[type[Event], Callable[[State, Any], None]] = {
    StrategyCreated: _created,
    StrategyUpdated: _updated,
    StrategyStartRequested: _start_requested,
    StrategyStartRefused: _start_refused,
    StrategyStarted: _started,
    StrategyExited: _exited,
    StrategyStopped: _stopped,
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
    AlertTriggered: _alerted,
}
