"""What is known of an order, as events: the broker's answers and its order book, held against the state.

Pure. Each function answers the events that the state lacks, so that repeats, late answers and whoever comes second
change nothing (architecture §5.3–5.5).
"""

from brokers.port import Accepted, BookOrder, BookStatus, Changing, Done, NotPlaced, Placing, Refused, Unanswered
from domain.decide import NO_SESSION, outcome_alerts
from domain.events import (
    CancelRejected,
    CancelRequested,
    Event,
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
)
from domain.facts import Facts
from domain.order_fold import UNANSWERED
from domain.rules.acts import alert
from domain.strategy import Order, State, evolve
from domain.values import Code, Denial, Doubt, Final, Phase, Tag

UNSETTLED = (Phase.SENDING, Phase.UNKNOWN)
OF_ANOTHER_DAY = "it is of an earlier day, which the order book does not show: look at the holdings, and settle"


def placing(state: State, intent: Intent, answer: Placing, facts: Facts) -> tuple[Event, ...]:
    """The broker's answer to an order."""
    order = state.find(intent.tag)
    if order is None:
        return ()
    match answer:
        case Accepted(order_id):
            return accepted(order, order_id)
        case NotPlaced() if order.phase in UNSETTLED:
            rejected = OrderRejected(
                tag=order.tag,
                reason=NO_SESSION if answer.session else answer.reason,
                curable=answer.curable,
                counted=answer.counted,
                text=answer.text,
            )
            return rejected, OrderFinalized(tag=order.tag, final=Final.REJECTED)
        case Unanswered() if order.phase is Phase.SENDING:
            unknown = OrderOutcomeUnknown(tag=order.tag, doubt=Doubt.AMBIGUOUS, text=answer.text)
            return unknown, *outcome_alerts(order, facts)
        case Unanswered() if order.phase is Phase.UNKNOWN and order.doubt is Doubt.DEAD_SENDER:
            # the sender was thought dead and is not: the order may still surface, so the quarantine is the long one
            return (OrderOutcomeUnknown(tag=order.tag, doubt=Doubt.AMBIGUOUS, text=answer.text),)
        case _:
            return ()


def accepted(order: Order, order_id: str) -> tuple[Event, ...]:
    """The order is at the broker, though it may have been given up."""
    known = order.phase is Phase.LIVE or (order.resolved and not order.given_up)
    return () if known else (OrderAccepted(tag=order.tag, order_id=order_id),)


def not_sent(state: State, tag: Tag, reason: Denial, told: dict[str, str]) -> tuple[Event, ...]:
    """We did not send the order."""
    order = state.find(tag)
    if order is None or order.phase is not Phase.SENDING:
        return ()
    denied = OrderDenied(kind=order.kind, reason=reason, facts=told, tag=tag)
    return denied, OrderFinalized(tag=tag, final=Final.NOT_PLACED)


def changing(state: State, asked: CancelRequested | ModifyRequested, answer: Changing) -> tuple[Event, ...]:
    """The broker's answer to a cancel or a change; a good one says nothing that the book does not say better."""
    order = state.find(asked.tag)
    if order is None or order.resolved:
        return ()
    match answer:
        case Done():
            return ()
        case Refused(reason):
            why = reason
        case Unanswered(text):
            why = f"{UNANSWERED}: {text}"
    rejected = CancelRejected if isinstance(asked, CancelRequested) else ModifyRejected
    return (rejected(tag=asked.tag, reason=why),)


def is_ours(state: State, tag: Tag, row: BookOrder) -> bool:
    """Whether the row is the order of this tag, and not another one that bears it: Kite lets any number of orders have
    the same tag. The first that was seen with it is the one."""
    order = state.find(tag)
    if order is None or (row.symbol, row.side) != (state.symbol, order.kind.side):
        return False
    return order.order_id is None or order.order_id == row.order_id


def booked(state: State, tag: Tag, row: BookOrder) -> tuple[Event, ...]:
    """What the order book says of an order and the state does not know yet."""
    order = state.find(tag)
    if order is None or not is_ours(state, tag, row):
        return ()
    events: list[Event] = []

    def add(*more: Event) -> None:
        nonlocal state
        for event in more:
            events.append(event)
            state = evolve(state, event)

    if order.given_up and row.status.terminal and row.filled == 0:
        return ()  # it surfaced dead: nothing came of it
    add(*accepted(order, row.order_id))
    if row.filled > order.filled and row.average_price is not None:
        add(OrderFilled(tag=tag, order_id=row.order_id, filled=row.filled, average_price=row.average_price))
    now = state.find(tag)
    if row.status.terminal and now is not None and not now.resolved:
        add(*_ended(tag, row))
    return tuple(events)


def _ended(tag: Tag, row: BookOrder) -> tuple[Event, ...]:
    def final(how: Final) -> OrderFinalized:
        return OrderFinalized(tag=tag, final=how, filled=row.filled, average_price=row.average_price)

    match row.status:
        case BookStatus.COMPLETE:
            return (final(Final.COMPLETE),)
        case BookStatus.CANCELLED:
            cancelled = OrderCancelled(tag=tag, order_id=row.order_id, filled=row.filled)
            return cancelled, final(Final.CANCELLED)
        case BookStatus.REJECTED:
            reason = row.reason or "REJECTED"
            rejected = OrderRejected(
                tag=tag,
                order_id=row.order_id,
                reason=reason,
                curable=row.curable,
                counted=row.counted,
                text=row.text,
            )
            return rejected, final(Final.REJECTED)
        case BookStatus.OPEN:
            return ()


def of_another_day(state: State, facts: Facts) -> tuple[Event, ...]:
    """What is said of a run that lost the end of the log, and whose day is over: no book shows its orders any more."""
    today = facts.calendar.wall(facts.now).date()
    if not state.alive or state.session_date is None or state.session_date >= today:
        return ()
    told = {"symbol": state.symbol, "open_quantity": str(state.open_quantity), "session": str(state.session_date)}
    return (alert(facts, Code.OUTCOME_UNKNOWN, told | {"cure": OF_ANOTHER_DAY}),)


def absent(state: State, sought: Order, facts: Facts) -> tuple[Event, ...]:
    """The book was read often and long enough for the doubt that there was, and the order is not there: it is given up
    (and stays watched). The book is of one day: of an order of an earlier one, somebody must look at what is held."""
    order = state.find(sought.tag)
    if order is None or order.phase is not Phase.UNKNOWN or order.doubt is not sought.doubt:
        return ()
    finalized = OrderFinalized(tag=order.tag, final=Final.NOT_PLACED)
    if facts.calendar.wall(order.at).date() == facts.calendar.wall(facts.now).date():
        return (finalized,)
    told = {"tag": order.tag, "kind": order.kind, "symbol": state.symbol, "quantity": str(order.quantity)}
    return finalized, alert(facts, Code.OUTCOME_UNKNOWN, told | {"cure": OF_ANOTHER_DAY})
