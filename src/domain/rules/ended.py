"""Rules 17 and 18, when no run is alive: open shares that nobody minds, and the start of a run."""

from domain.calendar import Session, UnknownYear
from domain.events import (
    StrategyStarted,
    StrategyStartRefused,
)
from domain.facts import Facts
from domain.rules.acts import (
    CARRIED_OVER,
    alert_once,
    carried_over,
    clip,
    market_open,
    may_place,
    place,
    squaring_off,
)
from domain.rules.step import PASS, Step
from domain.strategy import State
from domain.values import (
    Code,
    Config,
    Instant,
    Kind,
    Product,
    Refusal,
)


def unprotected(state: State, facts: Facts) -> Step:
    """17. Shares are open and no run minds them: square off when asked to, alert until flat or settled."""
    if state.open_quantity <= 0:
        return PASS
    gone = carried_over(state.product, state.session_date, facts)
    if not gone and squaring_off(state) and facts.connected and may_place(state, facts, Kind.SELL):
        quantity = clip(state, state.open_quantity, facts)
        if quantity > 0:
            return place(state, facts, Kind.SELL, quantity)
    if not market_open(facts) and Code.UNPROTECTED_POSITION in state.alerted:
        return PASS
    told = {"open_quantity": str(state.open_quantity), "symbol": state.symbol}
    if gone:
        told["cure"] = CARRIED_OVER
    return alert_once(state, facts, Code.UNPROTECTED_POSITION, told) or PASS


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
