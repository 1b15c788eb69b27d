"""decide_next: what a strategy should do now (architecture §4.1).

The rules are functions in the order of the table; each returns the events of its decision, WAIT when nothing may be
done until something happens, or PASS when it does not apply. The order of the rules is the priority of the events:
nothing depends on the order in which anything arrived.
"""

from collections.abc import Callable
from decimal import ROUND_FLOOR, Decimal
from typing import Final as Const

from msgspec import Struct

from domain.calendar import Session, UnknownYear
from domain.events import (
    AlertTriggered,
    CancelRequested,
    Event,
    ExecuteBuy,
    ExecuteSell,
    ExecuteStoploss,
    Intent,
    LockAcquired,
    ModifyRequested,
    OrderDenied,
    OrderOutcomeUnknown,
    OrderRetryRequired,
    PositionSettled,
    SafetyAbort,
    StrategyExited,
    StrategyStarted,
    StrategyStartRefused,
    StrategyStopped,
)
from domain.facts import Facts
from domain.strategy import Order, State, evolve
from domain.tags import make_tag
from domain.values import (
    Abort,
    Code,
    Config,
    Denial,
    Doubt,
    Duration,
    Exit,
    Final,
    Instant,
    Kind,
    Money,
    OrderRequest,
    Phase,
    Price,
    Product,
    Quantity,
    Refusal,
    Severity,
)

NO_SESSION: Const = "NO_SESSION"
"""The reason code of an order that the broker refused for want of a valid session."""

Step = tuple[Event, ...] | None
"""Events to append; PASS (None): the rule does not apply; WAIT (empty): nothing, and no later rule either."""
PASS: Const[Step] = None
WAIT: Const[Step] = ()


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


# --- in every status: the orders that exist -------------------------------------------------------------------------


def oversold(state: State, facts: Facts) -> Step:
    """1. More was sold than bought: alert, until it is settled."""
    if state.surfaced >= 0 and state.open_quantity >= 0:
        return PASS
    if Code.OVERSOLD in state.alerted and not _open(facts):
        return PASS
    told = {"surfaced": str(state.surfaced), "open": str(state.open_quantity), "symbol": state.symbol}
    return _alert_once(state, facts, Code.OVERSOLD, told) or PASS


def surfaced_order(state: State, facts: Facts) -> Step:
    """1. An order finalized as not placed shows up live, or live exits exceed what is open: cancel it, alert."""
    order = state.order
    for one in (*state.lingering, *([order] if order else [])):
        if one.surfaced and one.phase is Phase.LIVE and not _cancel_outstanding(one, facts):
            return _cancel(one, facts, "surfaced after it was given up"), *_alert_once(
                state, facts, Code.ORDER_SURFACED, {"tag": one.tag, "filled": str(one.filled)}
            )
    if order is None or order.phase is not Phase.LIVE or order.kind is Kind.BUY or _cancel_outstanding(order, facts):
        return PASS
    left = state.surfaced if order.kind is Kind.SURFACED else state.open_quantity
    if order.remaining > max(0, left):
        return (_cancel(order, facts, f"sells {order.remaining}, only {left} open"),)
    return PASS


def dead_sender(state: State, facts: Facts) -> Step:
    """3. An order is *sending*, and its deadline, the request's time-out and the skew allowance are over."""
    order = state.order
    if order is None or order.phase is not Phase.SENDING:
        return PASS
    if facts.now < _answer_due(order, facts):
        return WAIT
    unknown = OrderOutcomeUnknown(tag=order.tag, doubt=Doubt.DEAD_SENDER, text="the sender left no answer")
    return unknown, *outcome_alerts(order, facts)


def unanswered(state: State, facts: Facts) -> Step:
    """4. An order is unknown, or a cancel or change of it is outstanding: reconciliation or the answer will wake us."""
    order = state.order
    if order is None or order.resolved:
        return PASS
    waiting = order.phase is Phase.UNKNOWN or _cancel_outstanding(order, facts) or facts.now < order.modify_until
    return WAIT if waiting else PASS


def resting_entry(state: State, facts: Facts) -> Step:
    """5. An entry rests, and an exit, a stop, an abort or a halt is due, or it is too old: cancel its rest."""
    order = state.order
    if order is None or order.phase is not Phase.LIVE or order.kind is not Kind.BUY:
        return PASS
    if why := _why_not_enter(state, facts, order):
        return (_cancel(order, facts, why),)
    return PASS


def _why_not_enter(state: State, facts: Facts, order: Order) -> str:
    if not state.alive:
        return "the run is over"
    if state.stop_due or state.sell_due:
        return "an exit is due"
    if state.stop_requested or state.abort_due:
        return "the strategy is being stopped"
    if facts.halt is not None:
        return "the user is halted"
    if facts.now >= state.close_at:
        return "the session is over"
    return "it rests too long" if facts.now >= order.at + facts.policy.entry_patience else ""


def resting_exit(state: State, facts: Facts) -> Step:
    """6. An exit rests too long (its protection ran out): move it toward the market; after 25 changes replace it."""
    order = state.order
    if order is None or order.phase is not Phase.LIVE or order.kind is Kind.BUY:
        return PASS
    if facts.now < _chase_at(order, facts):
        return WAIT
    if not _open(facts):
        return WAIT
    told = {"tag": order.tag, "filled": str(order.filled), "of": str(order.quantity), "changes": str(order.changes)}
    if order.changes >= facts.policy.max_changes:
        cancel = _cancel(order, facts, "its changes are used up")
        return cancel, *_alert_once(state, facts, Code.EXIT_NOT_FILLING, told)
    price = _chase_price(order, facts)
    if price is None or price == order.limit:
        # at the circuit limit, or no price to go by: only an alert is left, repeated
        return _alert_once(state, facts, Code.EXIT_NOT_FILLING, told) or WAIT
    modify = ModifyRequested(
        tag=order.tag,
        order_id=order.order_id or "",
        why="it rests too long",
        price=price,
        at=facts.now,
        deadline=facts.now + facts.policy.send_deadline,
    )
    return modify, *_alert_once(state, facts, Code.EXIT_NOT_FILLING, told)


def _chase_price(order: Order, facts: Facts) -> Price | None:
    """A step under the last price (when fresh) and under the last limit, on the tick grid, within the circuit.

    Under the limit even if the last trade was higher: what rests there unfilled says that nobody pays it.
    """
    fresh = facts.price is not None and facts.now - facts.price_at <= facts.policy.price_max_age
    known = [price for price in (facts.price if fresh else None, order.limit) if price is not None]
    if not known or facts.instrument is None:
        return None
    tick = facts.instrument.tick_size
    beyond = 1 - facts.policy.chase_step
    price: Decimal = (min(known) * beyond / tick).to_integral_value(ROUND_FLOOR) * tick
    if facts.instrument.lower_circuit is not None:
        price = max(price, facts.instrument.lower_circuit)
    return max(price, tick)


def live_order(state: State, facts: Facts) -> Step:
    """7. An order is live otherwise: nothing."""
    return WAIT if state.unresolved else PASS


def ended_short(state: State, facts: Facts) -> Step:
    """8. The last order ended short: try again, or abort, but not while a stop is still untried."""
    order = state.order
    if order is None or order.followed_up:
        return PASS
    wanted = order.kind is Kind.SURFACED or (state.alive and not state.abort_due) or _squaring_off(state)
    if not wanted:
        return PASS
    if order.resolved and order.denied and order.kind is not Kind.BUY and order.remaining > 0:
        # we did not send it in time: nobody refused it, so it is due at once, unless this goes on and on
        return (_retry(state, order, facts, _limit_backoff(state, facts) - facts.policy.limit_backoff, counted=False),)
    if not needs_follow_up(order):
        return PASS
    policy, attempt = facts.policy, _attempt(state, order)
    if order.kind is Kind.BUY and state.bought > 0:
        return PASS  # part of the entry was filled: there is a position to mind, and no second BUY
    if order.kind is Kind.SURFACED or not state.alive:
        # nobody is left to abort: keep trying, slowly once the attempts are used up
        patient = not order.curable or attempt >= policy.max_attempts
        if order.counted:
            delay = policy.alert_repeat if patient else _backoff(attempt, facts)
        else:
            delay = _limit_backoff(state, facts)
        return (_retry(state, order, facts, delay),)
    if order.kind is not Kind.BUY and state.open_quantity <= 0:
        return PASS  # nothing is left to exit from: no reason to abort
    if not order.counted:
        return (_retry(state, order, facts, _limit_backoff(state, facts)),)
    if order.curable and attempt < policy.max_attempts:
        return (_retry(state, order, facts, _backoff(attempt, facts)),)
    if order.kind is Kind.SELL and state.stop_due and not state.tried(Kind.STOPLOSS).attempts:
        return PASS
    if order.reason == NO_SESSION:
        reason = Abort.TOKEN_INVALID
    else:
        reason = Abort.RETRIES_EXHAUSTED if order.curable else Abort.BROKER_REFUSED
    told = {"tag": order.tag, "kind": order.kind, "attempt": str(attempt), "reason": order.reason}
    return (SafetyAbort(run=state.run, reason=reason, facts=told),)


def needs_follow_up(order: Order) -> bool:
    """Whether the order ended short against our will: rejected, or an exit that somebody else cancelled."""
    if not order.resolved or order.followed_up or order.denied or order.remaining <= 0:
        return False
    if order.final is Final.REJECTED:
        return True
    return order.final is Final.CANCELLED and order.kind is not Kind.BUY and not order.cancel_asked


def _retry(state: State, order: Order, facts: Facts, delay: Duration, counted: bool = True) -> OrderRetryRequired:
    attempt = _attempt(state, order)
    return OrderRetryRequired(
        tag=order.tag,
        kind=order.kind,
        attempt=attempt,
        counted=order.counted and counted,
        not_before=facts.now + delay,
        reason=order.reason,
        last=attempt + 1 >= facts.policy.max_attempts,
    )


def _attempt(state: State, order: Order) -> int:
    """The number of the order's attempt since the last fill of its kind."""
    return max(1, state.tried(order.kind).attempts)


def _backoff(attempt: int, facts: Facts) -> Duration:
    return facts.policy.retry_backoff << min(attempt - 1, 6)


def _limit_backoff(state: State, facts: Facts) -> Duration:
    """Longer the more orders the run has had, so that the numbers of a tag (1,295 a run) last a whole day."""
    return facts.policy.limit_backoff * (1 + state.orders // 32)


def surfaced_quantity(state: State, facts: Facts) -> Step:
    """2. Shares surfaced that no run accounts for: sell them, alert.

    What one run sold too much and another holds is the same shares: it is settled, not sold twice.
    """
    if state.surfaced < 0 < state.open_quantity or state.open_quantity < 0 < state.surfaced:
        both = min(abs(state.surfaced), abs(state.open_quantity))
        quantity = both if state.open_quantity > 0 else -both
        return (PositionSettled(quantity=quantity, how="traded by an order that surfaced in another run"),)
    if state.surfaced <= 0:
        return PASS
    told = {"surfaced": str(state.surfaced), "symbol": state.symbol}
    alert = _alert_once(state, facts, Code.ORDER_SURFACED, told)
    if alert and (_open(facts) or Code.ORDER_SURFACED not in state.alerted):
        return alert
    quantity = _clip(state, state.surfaced, facts)
    if quantity <= 0 or not _may_place(state, facts, Kind.SURFACED) or not facts.connected:
        return PASS
    return _place(state, facts, Kind.SURFACED, quantity, _surfaced_product(state))


def _surfaced_product(state: State) -> Product:
    """The product that the surfaced shares were bought under, which the config may have left since."""
    orders = (*state.past.values(), *([state.order] if state.order else []))
    bought = [order for order in orders if order.kind is Kind.BUY and order.filled]
    strays = [order for order in bought if order.run != state.run or not state.alive]
    return max(strays, key=lambda order: order.at).product if strays else state.product


# --- while the run is alive -----------------------------------------------------------------------------------------


def abort(state: State, facts: Facts) -> Step:
    """9. Abort is due."""
    if not state.abort_due:
        return PASS
    told = {"reason": state.abort_reason, "open_quantity": str(state.open_quantity), "symbol": state.symbol}
    return _alert(facts, Code.SAFETY_ABORT, told), *_end(state, facts, Exit.ABORT)


def session_over(state: State, facts: Facts) -> Step:
    """10. The session is over."""
    if facts.now < state.close_at:
        return PASS
    if state.open_quantity > 0:
        return _end(state, facts, Exit.SESSION_END)
    return _end(state, facts, Exit.MISSED if state.bought == 0 else _exit_reason(state))


def wind_down(state: State, facts: Facts) -> Step:
    """11. A stop is requested, or the user is halted and flat or asked to square off."""
    halt = facts.halt
    halted = halt is not None and (state.open_quantity <= 0 or halt.square_off)
    if not state.stop_requested and not halted:
        return PASS
    square_off = (state.stop_requested and state.square_off) or (halt is not None and halt.square_off)
    if state.open_quantity > 0 and square_off:
        # the stop-loss overrides here too: it does not wait for the SELL's back-off, nor share its attempts
        return _exit(state, facts, Kind.STOPLOSS if state.stop_due else Kind.SELL)
    if state.bought > 0 and state.open_quantity <= 0 and state.last_exit is not None and not state.stop_requested:
        return _end(state, facts, _exit_reason(state))
    return _end(state, facts, Exit.USER if state.stop_requested else Exit.HALTED)


def stoploss_due(state: State, facts: Facts) -> Step:
    """12. STOPLOSS overrides SELL: this rule stands before the next."""
    return _exit(state, facts, Kind.STOPLOSS) if state.open_quantity > 0 and state.stop_due else PASS


def sell_due(state: State, facts: Facts) -> Step:
    """13. The timed exit."""
    return _exit(state, facts, Kind.SELL) if state.open_quantity > 0 and state.sell_due else PASS


def flat_after_exit(state: State, facts: Facts) -> Step:
    """14. Flat after an exit."""
    return _end(state, facts, _exit_reason(state)) if state.bought > 0 and state.open_quantity <= 0 else PASS


def nothing_bought(state: State, facts: Facts) -> Step:
    """15. Nothing bought, and the entry is spent, missed or denied, or the exit's time has come."""
    if state.bought > 0:
        return PASS
    if state.entry_denied:
        return _end(state, facts, Exit.DENIED)
    if state.entry_spent:
        return _end(state, facts, Exit.REJECTED)
    if state.buy_missed or state.sell_due:
        return _end(state, facts, Exit.MISSED)
    return PASS


def buy_due(state: State, facts: Facts) -> Step:
    """16. The entry: pre-trade checks, then EXECUTE_BUY."""
    if not state.buy_due or state.entered or facts.now < state.tried(Kind.BUY).not_before:
        return PASS
    denial = why_denied(state, facts)
    if denial is not None:
        reason, told = denial
        return (OrderDenied(kind=Kind.BUY, reason=reason, facts=told),)
    return _place(state, facts, Kind.BUY, state.quantity)


def why_denied(state: State, facts: Facts) -> tuple[Denial, dict[str, str]] | None:
    """The pre-trade checks: the first that fails, with its facts. They concern entries only."""
    policy, rules = facts.policy, facts.instrument
    late = facts.now - state.buy_at
    if not _open(facts):
        return Denial.MARKET_CLOSED, {"symbol": state.symbol}
    if facts.halt is not None:
        return Denial.HALTED, {"reason": facts.halt.reason}
    if late > policy.buy_late_limit:
        return Denial.TOO_LATE, {"late_us": str(late), "limit_us": str(policy.buy_late_limit)}
    if not facts.connected:
        return Denial.NO_SESSION, {"cure": "connect the broker again"}
    if rules is None:
        return Denial.INSTRUMENT, {"symbol": state.symbol}
    if state.quantity % rules.lot or state.quantity > rules.freeze:
        told = {"quantity": str(state.quantity), "lot": str(rules.lot), "freeze": str(rules.freeze)}
        return Denial.LOT_SIZE, told
    age = facts.now - facts.price_at
    if facts.price is None or age > policy.price_max_age:
        return Denial.NO_FRESH_PRICE, {"symbol": state.symbol, "age_us": str(age) if facts.price_at else "none seen"}
    if facts.price <= state.stop_loss:
        return Denial.PRICE_AT_STOP, {"price": str(facts.price), "stop_loss": str(state.stop_loss)}
    notional = facts.price * state.quantity
    if notional > policy.max_notional:
        return Denial.LIMIT_NOTIONAL, {"notional": str(notional), "limit": str(policy.max_notional)}
    if facts.day_spent:
        return Denial.LIMIT_DAY, {"cure": "the account's orders of the day are used up; a share is kept for exits"}
    return None


# --- otherwise: created, stopped or failed --------------------------------------------------------------------------


def unprotected(state: State, facts: Facts) -> Step:
    """17. Shares are open and no run minds them: square off when asked to, alert until flat or settled."""
    if state.open_quantity <= 0:
        return PASS
    if _squaring_off(state) and facts.connected and _may_place(state, facts, Kind.SELL):
        quantity = _clip(state, state.open_quantity, facts)
        if quantity > 0:
            return _place(state, facts, Kind.SELL, quantity)
    if not _open(facts) and Code.UNPROTECTED_POSITION in state.alerted:
        return PASS
    told = {"open_quantity": str(state.open_quantity), "symbol": state.symbol}
    return _alert_once(state, facts, Code.UNPROTECTED_POSITION, told) or PASS


def start_requested(state: State, facts: Facts) -> Step:
    """18. START arms the next session whose buy time is still ahead, or is refused with the reason."""
    if not state.start_requested:
        return PASS
    refused = why_refused(state, facts)
    if refused is not None:
        reason, told = refused
        return (StrategyStartRefused(reason=reason, facts=told),)
    armed = next_run(state.config, facts)
    assert armed is not None  # noqa: S101 (why_refused has looked)
    session, buy_at, sell_at = armed
    started = StrategyStarted(
        session_date=session.date,
        open_at=session.open_at,
        close_at=session.close_at,
        buy_at=buy_at,
        sell_at=sell_at,
        config=state.config,
    )
    return (started,)


def why_refused(state: State, facts: Facts) -> tuple[Refusal, dict[str, str]] | None:
    """Why a start would be refused now, with the facts; None if it would not."""
    if state.open_quantity != 0 or state.surfaced != 0:
        return Refusal.NOT_FLAT, {"open_quantity": str(state.open_quantity), "surfaced": str(state.surfaced)}
    if state.lingering:
        return Refusal.ORDER_UNRESOLVED, {"tag": state.lingering[0].tag}
    if facts.halt is not None:
        return Refusal.HALTED, {"reason": facts.halt.reason}
    if facts.instrument is None:
        return Refusal.INSTRUMENT, {"symbol": state.symbol}
    if state.product is Product.MIS and state.sell_time > facts.policy.mis_cutoff:
        return Refusal.TIMES, {"sell_time": str(state.sell_time), "mis_cutoff": str(facts.policy.mis_cutoff)}
    try:
        armed = next_run(state.config, facts)
    except UnknownYear as unknown:
        return Refusal.UNKNOWN_YEAR, {"why": str(unknown)}
    if armed is None:
        return Refusal.NO_SESSION_AHEAD, {"buy_time": str(state.buy_time), "sell_time": str(state.sell_time)}
    return None


def next_run(config: Config, facts: Facts) -> tuple[Session, Instant, Instant] | None:
    """The next session whose buy time is still ahead, with the two instants; None if the times lie in no session.

    Raises UnknownYear when the calendar does not reach that far.
    """
    ahead = facts.calendar.next_session_with(config.buy_time, facts.now)
    if ahead is None:
        return None
    session, buy_at = ahead
    sell_at = facts.calendar.instant(session.date, config.sell_time)
    return (session, buy_at, sell_at) if buy_at < sell_at < session.close_at else None


Rule = Callable[[State, Facts], Step]
ALWAYS: tuple[Rule, ...] = (
    oversold,
    surfaced_order,
    dead_sender,
    unanswered,
    resting_entry,
    resting_exit,
    live_order,
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


# --- what the rules have in common ----------------------------------------------------------------------------------


def _exit(state: State, facts: Facts, kind: Kind) -> Step:
    """Sells what is open. No pre-trade check may hold it back; without a broker session the strategy is aborted."""
    if not _may_place(state, facts, kind):
        return WAIT
    if not facts.connected:
        told = {"kind": kind, "open_quantity": str(state.open_quantity)}
        return (SafetyAbort(run=state.run, reason=Abort.TOKEN_INVALID, facts=told),)
    quantity = _clip(state, state.open_quantity, facts)
    if quantity <= 0 and state.lingering:
        return WAIT  # what surfaced may still sell it; its cancel is on its way
    if quantity <= 0:
        told = {"open_quantity": str(state.open_quantity), "foreign": str(facts.foreign), "symbol": state.symbol}
        return _alert_once(state, facts, Code.POSITION_MISMATCH, told) or WAIT
    return _place(state, facts, kind, quantity)


def _clip(state: State, quantity: Quantity, facts: Facts) -> Quantity:
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


def _open(facts: Facts) -> bool:
    """Whether the market is open; a year that the calendar does not know is closed."""
    try:
        return facts.calendar.is_open(facts.now)
    except UnknownYear:
        return False


def _next_opening(facts: Facts) -> Instant | None:
    """When trading next begins: a session opens, or one of its breaks ends. None if the calendar does not know."""
    try:
        for session in facts.calendar.sessions_from(facts.now):
            starts = (session.open_at, *(pause.end_at for pause in session.breaks))
            if ahead := [at for at in starts if at > facts.now]:
                return min(ahead)
    except UnknownYear:
        pass  # nothing is known of it: an alert is all there is
    return None


def _may_place(state: State, facts: Facts, kind: Kind) -> bool:
    return facts.now >= state.tried(kind).not_before and _open(facts)


def _place(
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


def _end(state: State, facts: Facts, reason: Exit) -> tuple[Event, ...]:
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


def _exit_reason(state: State) -> Exit:
    match state.last_exit:
        case Kind.STOPLOSS:
            return Exit.STOPLOSS
        case None:
            return Exit.USER  # settled: closed elsewhere
        case _:
            return Exit.SELL


def _cancel(order: Order, facts: Facts, why: str) -> CancelRequested:
    return CancelRequested(
        tag=order.tag,
        order_id=order.order_id or "",
        why=why,
        at=facts.now,
        deadline=facts.now + facts.policy.send_deadline,
    )


def _cancel_outstanding(order: Order, facts: Facts) -> bool:
    return facts.now < order.cancel_until


def _squaring_off(state: State) -> bool:
    """A square-off was asked for after the run had ended."""
    return not state.alive and state.stop_requested and state.square_off


def _answer_due(order: Order, facts: Facts) -> Instant:
    return order.deadline + facts.policy.request_timeout + facts.policy.skew


def _chase_at(order: Order, facts: Facts) -> Instant:
    return max(order.at, order.changed_at) + facts.policy.exit_patience


def outcome_alerts(order: Order, facts: Facts) -> tuple[AlertTriggered, ...]:
    """An unknown exit is alerted at once."""
    if order.kind is Kind.BUY:
        return ()
    return (_alert(facts, Code.OUTCOME_UNKNOWN, {"tag": order.tag, "kind": order.kind}),)


def _alert(facts: Facts, code: Code, told: dict[str, str]) -> AlertTriggered:
    return AlertTriggered(severity=Severity.CRITICAL, code=code, at=facts.now, facts=told)


def _alert_once(state: State, facts: Facts, code: Code, told: dict[str, str]) -> tuple[AlertTriggered, ...]:
    """The alert, unless it was raised within the repeat interval."""
    last = state.alerted.get(code)
    return () if last is not None and facts.now < last + facts.policy.alert_repeat else (_alert(facts, code, told),)


def _wake_at(state: State, facts: Facts) -> Instant | None:
    """The next instant, after now, at which time alone could change the decision."""
    policy, now = facts.policy, facts.now
    at: list[Instant] = []
    orders = list(state.lingering)
    if state.order is not None and not state.order.resolved:
        orders.append(state.order)
    for order in orders:
        at += [order.cancel_until, order.modify_until]
        if order.phase is Phase.SENDING:
            at.append(_answer_due(order, facts))
        elif order.phase is Phase.LIVE and order.kind is Kind.BUY:
            at.append(order.at + policy.entry_patience)
        elif order.phase is Phase.LIVE:
            # at the circuit limit, or without a price, it is looked at again after another while
            at.append(_chase_at(order, facts) if now < _chase_at(order, facts) else now + policy.exit_patience)
    at += [tries.not_before for tries in state.tries.values()]
    at += [last + policy.alert_repeat for last in state.alerted.values() if _uneasy(state)]
    if state.alive:
        at.append(state.close_at)
    if _uneasy(state) and not _open(facts) and (opening := _next_opening(facts)) is not None:
        at.append(opening)
    return min((t for t in at if t > now), default=None)


def _uneasy(state: State) -> bool:
    """Something is open that must be sold or watched."""
    return state.open_quantity != 0 or state.surfaced != 0


__all__ = [
    "NO_SESSION",
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
