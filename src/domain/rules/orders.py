"""Rules 1 to 8, in every status: the orders that exist, and the shares that surfaced."""

import datetime as dt
from decimal import ROUND_FLOOR, Decimal
from typing import Final as Const

from domain.events import (
    ModifyRequested,
    OrderOutcomeUnknown,
    OrderRetryRequired,
    PositionSettled,
    SafetyAbort,
)
from domain.facts import Facts
from domain.rules.acts import (
    CARRIED_OVER,
    alert_once,
    answer_due,
    cancel,
    cancel_outstanding,
    carried_over,
    chase_at,
    clip,
    market_open,
    may_place,
    outcome_alerts,
    place,
    settling_overdue_at,
    squaring_off,
    uneasy,
)
from domain.rules.step import NO_SESSION, PASS, UNREACHABLE, WAIT, Step
from domain.strategy import Order, State
from domain.values import (
    SECOND,
    Abort,
    Code,
    Doubt,
    Duration,
    Final,
    Kind,
    Phase,
    Price,
    Product,
)


def oversold(state: State, facts: Facts) -> Step:
    """1. More was sold than bought: alert, until it is settled."""
    if state.surfaced >= 0 and state.open_quantity >= 0:
        return PASS
    if Code.OVERSOLD in state.alerted and not market_open(facts):
        return PASS
    told = {"surfaced": str(state.surfaced), "open": str(state.open_quantity), "symbol": state.symbol}
    return alert_once(state, facts, Code.OVERSOLD, told) or PASS


def surfaced_order(state: State, facts: Facts) -> Step:
    """1. An order finalized as not placed shows up live, or live exits exceed what is open: cancel it, alert."""
    order = state.order
    for one in (*state.lingering, *([order] if order else [])):
        if one.surfaced and one.phase is Phase.LIVE and not cancel_outstanding(one, facts):
            told = {"tag": one.tag, "filled": str(one.filled)}
            alert = alert_once(state, facts, Code.ORDER_SURFACED, told)
            if facts.connected:
                return cancel(one, facts, "surfaced after it was given up"), *alert
            return alert or PASS
    if not facts.connected:
        return PASS
    if order is None or order.phase is not Phase.LIVE or order.kind is Kind.BUY or cancel_outstanding(order, facts):
        return PASS
    left = state.surfaced if order.kind is Kind.SURFACED else state.open_quantity
    if order.remaining > max(0, left):
        return (cancel(order, facts, f"sells {order.remaining}, only {left} open"),)
    return PASS


def dead_sender(state: State, facts: Facts) -> Step:
    """3. An order is *sending*, and its deadline, the request's time-out and the skew allowance are over."""
    order = state.order
    if order is None or order.phase is not Phase.SENDING:
        return PASS
    if facts.now < answer_due(order, facts):
        return WAIT
    unknown = OrderOutcomeUnknown(tag=order.tag, doubt=Doubt.DEAD_SENDER, text="the sender left no answer")
    return unknown, *outcome_alerts(order, facts)


def unanswered(state: State, facts: Facts) -> Step:
    """4. An order is unknown, or a cancel or change of it is outstanding: reconciliation or the answer will wake us."""
    order = state.order
    if order is None or order.resolved:
        return PASS
    waiting = order.phase is Phase.UNKNOWN or cancel_outstanding(order, facts) or facts.now < order.modify_until
    return WAIT if waiting else PASS


def resting_entry(state: State, facts: Facts) -> Step:
    """5. An entry rests, and an exit, a stop, an abort or a halt is due, or it is too old: cancel its rest."""
    order = state.order
    if order is None or order.phase is not Phase.LIVE or order.kind is not Kind.BUY:
        return PASS
    if facts.connected and (why := _why_not_enter(state, facts, order)):
        return (cancel(order, facts, why),)
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
    if facts.now < chase_at(order, facts):
        return WAIT
    if not market_open(facts):
        return WAIT
    told = {"tag": order.tag, "filled": str(order.filled), "of": str(order.quantity), "changes": str(order.changes)}
    if order.changes >= facts.policy.max_changes and facts.connected:
        used_up = cancel(order, facts, "its changes are used up")
        return used_up, *alert_once(state, facts, Code.EXIT_NOT_FILLING, told)
    price = _chase_price(order, facts)
    if price is None or price == order.limit or facts.day_spent or not facts.connected:
        # at the circuit limit, no price to go by, or nothing may be sent: only an alert is left, repeated
        return alert_once(state, facts, Code.EXIT_NOT_FILLING, told) or WAIT
    modify = ModifyRequested(
        tag=order.tag,
        order_id=order.order_id or "",
        why="it rests too long",
        price=price,
        at=facts.now,
        deadline=facts.now + facts.policy.send_deadline,
    )
    return modify, *alert_once(state, facts, Code.EXIT_NOT_FILLING, told)


def _chase_price(order: Order, facts: Facts) -> Price | None:
    """A step under the last price (when fresh) and under the last limit, on the tick grid, within the circuit.

    Under the limit even if the last trade was higher: what rests there unfilled says that nobody pays it.
    """
    fresh = facts.price is not None and facts.now - facts.price_at <= facts.policy.price_max_age
    known = [price for price in (facts.price if fresh else None, order.limit) if price is not None]
    if not known:
        return order.refused  # nothing newer to go by: what was refused may be taken now
    wished = min(known) * (1 - facts.policy.chase_step)
    tick = _coarse_tick(wished) if facts.instrument is None else facts.instrument.tick_size
    price: Decimal = (wished / tick).to_integral_value(ROUND_FLOOR) * tick
    if facts.instrument is not None and facts.instrument.lower_circuit is not None:
        price = max(price, facts.instrument.lower_circuit)
    return max(price, tick)


def _coarse_tick(price: Price) -> Price:
    """A grid that lies on the instrument's own, which is not known: its symbol has gone from the list while it is held.
    NSE (2025): the tick is 0.01 to 0.05 below 1,000, at most 0.50 below 10,000, 1 below 20,000 and 5 above."""
    return next(tick for least, tick in _COARSE if price >= least)


_COARSE: Const = (
    (Decimal(20_000), Decimal(5)),
    (Decimal(100), Decimal(1)),
    (Decimal("-Infinity"), Decimal("0.05")),
)


def live_order(state: State, facts: Facts) -> Step:
    """7. An order is live otherwise: nothing."""
    return WAIT if state.unresolved else PASS


def recovering(state: State, facts: Facts) -> Step:
    """After 7. The end of the log was lost: nothing new until the order book shows what was lost with it. While that
    cannot be read, nobody minds what is open: alert, again and again while there are shares."""
    if not state.settle_after:
        return PASS
    shares = uneasy(state)
    code = Code.UNPROTECTED_POSITION if shares else Code.OUTCOME_UNKNOWN
    repeated = shares and market_open(facts)
    if facts.now < settling_overdue_at(state) or (code in state.alerted and not repeated):
        return WAIT
    told = {
        "open_quantity": str(state.open_quantity),
        "surfaced": str(state.surfaced),
        "symbol": state.symbol,
        "cause": "the order book could not be read since the end of the log was lost",
        "cure": "look at the orders" if facts.connected else "connect the broker",
    }
    return alert_once(state, facts, code, told) or WAIT


def ended_short(state: State, facts: Facts) -> Step:
    """8. The last order ended short: try again, or abort, but not while a stop is still untried."""
    order = state.order
    if order is None or order.followed_up:
        return PASS
    wanted = order.kind is Kind.SURFACED or (state.alive and not state.abort_due) or squaring_off(state)
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
        if order.counted and order.reason == NO_SESSION:
            delay = policy.session_patience  # the user may log in any moment
        elif order.counted:
            patient = not order.curable or attempt >= policy.max_attempts
            delay = policy.square_off_patience * _longer(state) if patient else _backoff(attempt, facts)
        else:
            delay = _uncounted_backoff(state, order, facts)
        return (_retry(state, order, facts, delay),)
    if order.kind is not Kind.BUY and state.open_quantity <= 0:
        return PASS  # nothing is left to exit from: no reason to abort
    if not order.counted and (order.curable or order.kind is not Kind.BUY):
        return _goes_on(state, order, facts)
    if order.reason == NO_SESSION and order.kind is not Kind.BUY and attempt < policy.max_attempts:
        return (_retry(state, order, facts, policy.session_grace),)
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


def _goes_on(state: State, order: Order, facts: Facts) -> Step:
    """What does not count never ends in an abort: it is asked again for as long as the run lives. Of an exit it is
    alerted: at once when the broker cannot be reached, or takes no more orders, else when it goes on."""
    retry = _retry(state, order, facts, _uncounted_backoff(state, order, facts))
    waited = _refused_for(state, order, facts)
    passing = order.curable and order.reason != UNREACHABLE and waited < facts.policy.refusals_quiet
    if order.kind is Kind.BUY or passing:
        return (retry,)
    told = {
        "tag": order.tag,
        "kind": order.kind,
        "reason": order.reason,
        "open_quantity": str(state.open_quantity),
        "symbol": state.symbol,
        "for_us": str(waited),
    }
    return retry, *alert_once(state, facts, Code.EXIT_NOT_FILLING, told)


def _refused_for(state: State, order: Order, facts: Facts) -> Duration:
    return facts.now - (state.tried(order.kind).since or order.at)


def _backoff(attempt: int, facts: Facts) -> Duration:
    return facts.policy.retry_backoff << min(attempt - 1, 6)


def _uncounted_backoff(state: State, order: Order, facts: Facts) -> Duration:
    """Nobody is hammered by what is never sent, so a broker that cannot be reached is tried every second, for ten
    minutes at least. One that refuses is asked ever less often."""
    pause = facts.policy.limit_backoff
    if not order.curable:
        return facts.policy.patient_backoff
    if order.reason == UNREACHABLE:
        return pause * (1 + max(0, state.orders - QUICK) // 11)
    longer = min(10, 1 + _refused_for(state, order, facts) // (8 * SECOND))
    return max(pause * longer, _limit_backoff(state, facts))


def _limit_backoff(state: State, facts: Facts) -> Duration:
    return facts.policy.limit_backoff * _longer(state)


def _longer(state: State) -> int:
    """The more orders the run has had, so that the numbers of a tag (1,295 a run) last a whole day."""
    return 1 + state.orders // 32


QUICK: Const = 600
"""Orders of a run after which a broker that cannot be reached is tried less often: the numbers of a tag have to last
for the day."""


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
    product, bought_on = _surfaced_shares(state, facts)
    gone = carried_over(product, bought_on, facts)
    if gone:
        told["cure"] = CARRIED_OVER
    alert = alert_once(state, facts, Code.ORDER_SURFACED, told)
    if alert and (market_open(facts) or Code.ORDER_SURFACED not in state.alerted):
        return alert
    quantity = clip(state, state.surfaced, facts)
    if gone or quantity <= 0 or not may_place(state, facts, Kind.SURFACED) or not facts.connected:
        return PASS
    return place(state, facts, Kind.SURFACED, quantity, product)


def _surfaced_shares(state: State, facts: Facts) -> tuple[Product, dt.date | None]:
    """The product that the surfaced shares were bought under, which the config may have left since, and the day."""
    orders = (*state.past.values(), *([state.order] if state.order else []))
    bought = [order for order in orders if order.kind is Kind.BUY and order.filled]
    strays = [order for order in bought if order.run != state.run or not state.alive]
    if not strays:
        return state.product, state.session_date
    newest = max(strays, key=lambda order: order.at)
    return newest.product, facts.calendar.wall(newest.at).date()
