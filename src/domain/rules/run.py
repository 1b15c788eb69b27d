"""Rules 9 to 16, while the run is alive."""

from domain.events import (
    OrderDenied,
)
from domain.facts import Facts
from domain.rules.acts import (
    alert,
    end_run,
    exit_reason,
    exit_with,
    market_open,
    place,
)
from domain.rules.step import PASS, Step
from domain.strategy import State
from domain.values import (
    Code,
    Denial,
    Exit,
    Kind,
)


def abort(state: State, facts: Facts) -> Step:
    """9. Abort is due."""
    if not state.abort_due:
        return PASS
    told = {"reason": state.abort_reason, "open_quantity": str(state.open_quantity), "symbol": state.symbol}
    return alert(facts, Code.SAFETY_ABORT, told), *end_run(state, facts, Exit.ABORT)


def session_over(state: State, facts: Facts) -> Step:
    """10. The session is over."""
    if facts.now < state.close_at:
        return PASS
    if state.open_quantity > 0:
        return end_run(state, facts, Exit.SESSION_END)
    return end_run(state, facts, Exit.MISSED if state.bought == 0 else exit_reason(state))


def wind_down(state: State, facts: Facts) -> Step:
    """11. A stop is requested, or the user is halted and flat or asked to square off."""
    halt = facts.halt
    halted = halt is not None and (state.open_quantity <= 0 or halt.square_off)
    if not state.stop_requested and not halted:
        return PASS
    square_off = (state.stop_requested and state.square_off) or (halt is not None and halt.square_off)
    if state.open_quantity > 0 and square_off:
        # the stop-loss overrides here too: it does not wait for the SELL's back-off, nor share its attempts
        return exit_with(state, facts, Kind.STOPLOSS if state.stop_due else Kind.SELL)
    if state.bought > 0 and state.open_quantity <= 0 and state.last_exit is not None and not state.stop_requested:
        return end_run(state, facts, exit_reason(state))
    return end_run(state, facts, Exit.USER if state.stop_requested else Exit.HALTED)


def stoploss_due(state: State, facts: Facts) -> Step:
    """12. STOPLOSS overrides SELL: this rule stands before the next."""
    return exit_with(state, facts, Kind.STOPLOSS) if state.open_quantity > 0 and state.stop_due else PASS


def sell_due(state: State, facts: Facts) -> Step:
    """13. The timed exit."""
    return exit_with(state, facts, Kind.SELL) if state.open_quantity > 0 and state.sell_due else PASS


def flat_after_exit(state: State, facts: Facts) -> Step:
    """14. Flat after an exit."""
    return end_run(state, facts, exit_reason(state)) if state.bought > 0 and state.open_quantity <= 0 else PASS


def nothing_bought(state: State, facts: Facts) -> Step:
    """15. Nothing bought, and the entry is spent, missed or denied, or the exit's time has come."""
    if state.bought > 0:
        return PASS
    if state.entry_denied:
        return end_run(state, facts, Exit.DENIED)
    if state.entry_spent:
        return end_run(state, facts, Exit.REJECTED)
    if state.buy_missed and facts.now < state.entries_after and not state.sell_due:
        return PASS  # one that was placed before the log's end was lost may still surface
    if state.buy_missed or state.sell_due:
        return end_run(state, facts, Exit.MISSED)
    return PASS


def buy_due(state: State, facts: Facts) -> Step:
    """16. The entry: pre-trade checks, then EXECUTE_BUY."""
    if not state.buy_due or state.entered or facts.now < max(state.tried(Kind.BUY).not_before, state.entries_after):
        return PASS
    denial = why_denied(state, facts)
    if denial is not None:
        reason, told = denial
        return (OrderDenied(kind=Kind.BUY, reason=reason, facts=told),)
    return place(state, facts, Kind.BUY, state.quantity)


def why_denied(state: State, facts: Facts) -> tuple[Denial, dict[str, str]] | None:
    """The pre-trade checks: the first that fails, with its facts. They concern entries only."""
    policy, rules = facts.policy, facts.instrument
    late = facts.now - state.buy_at
    if not market_open(facts):
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
