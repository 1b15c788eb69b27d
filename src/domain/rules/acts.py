"""What the rules have in common: placing, cancelling, ending, alerting, and when."""

import datetime as dt
from decimal import Decimal
from typing import Final

from domain.calendar import UnknownYear
from domain.events import (
    AlertTriggered,
    CancelRequested,
    Event,
    ExecuteBuy,
    ExecuteSell,
    ExecuteStoploss,
    Intent,
    LockAcquired,
    SafetyAbort,
    StrategyExited,
    StrategyStopped,
)
from domain.facts import Facts
from domain.rules.step import WAIT, Step
from domain.strategy import Order, State
from domain.tags import make_tag
from domain.values import (
    SECOND,
    Abort,
    Code,
    Exit,
    Instant,
    Kind,
    Money,
    OrderRequest,
    Product,
    Quantity,
    Severity,
)

OVERDUE: Final = 10 * SECOND
"""How long the readings may take that settle a recovery; the book is read every second."""
MOST_PAUSES = 8
"""Back-offs between two cancels of one order at most: what waits for it is an exit."""


def exit_with(state: State, facts: Facts, kind: Kind) -> Step:
    """Sells what is open. No pre-trade check may hold it back; without a broker session the strategy is aborted."""
    if not may_place(state, facts, kind):
        return WAIT
    if not facts.connected:
        told = {"kind": kind, "open_quantity": str(state.open_quantity)}
        return (SafetyAbort(run=state.run, reason=Abort.TOKEN_INVALID, facts=told),)
    if facts.day_spent:
        told = {"open_quantity": str(state.open_quantity), "symbol": state.symbol, "cause": "LIMIT_DAY"}
        return alert_once(state, facts, Code.UNPROTECTED_POSITION, told) or WAIT
    quantity = clip(state, state.open_quantity, facts)
    if quantity <= 0 and state.lingering:
        return WAIT  # what surfaced may still sell it; its cancel is on its way
    if quantity <= 0:
        told = {"open_quantity": str(state.open_quantity), "foreign": str(facts.foreign), "symbol": state.symbol}
        return alert_once(state, facts, Code.POSITION_MISMATCH, told) or WAIT
    return place(state, facts, kind, quantity)


def clip(state: State, quantity: Quantity, facts: Facts) -> Quantity:
    """Never more than the account can hold, nor than one order may be.

    What was sold elsewhere is gone, unless it is settled already; what a surfaced order, live until its cancel is
    answered, may still sell, too.
    """
    selling = sum(order.remaining for order in state.lingering if order.kind is not Kind.BUY)
    elsewhere = min(0, facts.foreign + max(0, state.settled))
    left = max(0, quantity + elsewhere - selling)
    if facts.instrument is None or left <= facts.instrument.freeze:
        return left
    return facts.instrument.freeze - facts.instrument.freeze % facts.instrument.lot


def market_open(facts: Facts) -> bool:
    """Whether the market is open; a year that the calendar does not know is closed."""
    try:
        return facts.calendar.is_open(facts.now)
    except UnknownYear:
        return False


def next_opening(facts: Facts) -> Instant | None:
    """When trading next begins: a session opens, or one of its breaks ends. None if the calendar does not know."""
    try:
        for session in facts.calendar.sessions_from(facts.now):
            starts = (session.open_at, *(pause.end_at for pause in session.breaks))
            if ahead := [at for at in starts if at > facts.now]:
                return min(ahead)
    except UnknownYear:
        pass  # nothing is known of it: an alert is all there is
    return None


def may_place(state: State, facts: Facts, kind: Kind) -> bool:
    return facts.now >= state.tried(kind).not_before and market_open(facts)


def place(
    state: State, facts: Facts, kind: Kind, quantity: Quantity, product: Product | None = None
) -> tuple[Event, ...]:
    tag = make_tag(facts.log_id, state.id, state.run, state.orders + 1)
    request = OrderRequest(
        symbol=state.symbol,
        side=kind.side,
        quantity=quantity,
        product=state.product if product is None else product,
        tag=tag,
        market_protection=state.market_protection,
    )
    intent = _INTENTS[kind](
        request=request,
        tag=tag,
        kind=kind,
        attempt=state.tried(kind).attempts + 1,
        at=facts.now,
        deadline=facts.now + facts.policy.send_deadline,
        cause=facts.cause,
    )
    return LockAcquired(tag=tag, kind=kind), intent


_INTENTS: dict[Kind, type[Intent]] = {
    Kind.BUY: ExecuteBuy,
    Kind.SELL: ExecuteSell,
    Kind.STOPLOSS: ExecuteStoploss,
    Kind.SURFACED: ExecuteSell,
}


def end_run(state: State, facts: Facts, reason: Exit) -> tuple[Event, ...]:
    return (
        StrategyExited(run=state.run, reason=reason, realised=realised(state)),
        StrategyStopped(run=state.run, reason=reason, at=facts.now, open_quantity=max(0, state.open_quantity)),
    )


def realised(state: State) -> Money:
    """Profit or loss of the shares sold, at the average buying price, before charges."""
    if state.bought == 0 or state.sold == 0:
        return Decimal(0)
    cost = state.buy_value if state.sold == state.bought else state.buy_value * state.sold / state.bought
    return (state.sell_value - cost).quantize(Decimal("0.01"))


def exit_reason(state: State) -> Exit:
    match state.last_exit:
        case Kind.STOPLOSS:
            return Exit.STOPLOSS
        case None:
            return Exit.USER  # settled: closed elsewhere
        case _:
            return Exit.SELL


def cancel(order: Order, facts: Facts, why: str) -> CancelRequested:
    return CancelRequested(
        tag=order.tag,
        order_id=order.order_id or "",
        why=why,
        at=facts.now,
        deadline=facts.now + facts.policy.send_deadline,
    )


def cancel_outstanding(order: Order, facts: Facts) -> bool:
    return facts.now < cancel_again_at(order, facts)


def cancel_again_at(order: Order, facts: Facts) -> Instant:
    """When a cancel may be asked for again: after its deadline, and ever later when it is refused again and again."""
    pauses = min((1 << min(max(order.cancels - 1, 0), 6)) - 1, MOST_PAUSES)
    return order.cancel_until + pauses * facts.policy.retry_backoff if order.cancel_until else 0


def carried_over(product: Product, bought_on: dt.date | None, facts: Facts) -> bool:
    """Intraday shares of an earlier day are not there any more: the broker squared them off, or made them delivery.
    Sold as MIS today they would be sold short."""
    return product is Product.MIS and bought_on is not None and bought_on < facts.calendar.wall(facts.now).date()


CARRIED_OVER = "the broker has squared off the intraday shares of an earlier day, or converted them: look, and settle"
"""What alerts say of them."""


def squaring_off(state: State) -> bool:
    """A square-off was asked for after the run had ended."""
    return not state.alive and state.stop_requested and state.square_off


def answer_due(order: Order, facts: Facts) -> Instant:
    return order.deadline + facts.policy.request_timeout + facts.policy.skew


def settling_overdue_at(state: State) -> Instant:
    """When the order book should have been read often enough after the end of the log was lost."""
    return state.settle_after + OVERDUE


def chase_at(order: Order, facts: Facts) -> Instant:
    return max(order.at, order.changed_at) + facts.policy.exit_patience


def outcome_alerts(order: Order, facts: Facts) -> tuple[AlertTriggered, ...]:
    """An unknown exit is alerted at once."""
    if order.kind is Kind.BUY:
        return ()
    return (alert(facts, Code.OUTCOME_UNKNOWN, {"tag": order.tag, "kind": order.kind}),)


def alert(facts: Facts, code: Code, told: dict[str, str]) -> AlertTriggered:
    return AlertTriggered(severity=Severity.CRITICAL, code=code, at=facts.now, facts=told)


def alert_once(state: State, facts: Facts, code: Code, told: dict[str, str]) -> tuple[AlertTriggered, ...]:
    """The alert, unless it was raised within the repeat interval."""
    last = state.alerted.get(code)
    return () if last is not None and facts.now < last + facts.policy.alert_repeat else (alert(facts, code, told),)


def uneasy(state: State) -> bool:
    """Something is open that must be sold or watched."""
    return state.open_quantity != 0 or state.surfaced != 0
