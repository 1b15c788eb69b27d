"""What a user may ask of a strategy: pure checks of the request against the state, before anything is appended."""

import datetime as dt
from decimal import Decimal

from msgspec import Struct
from msgspec.structs import replace

from domain.calendar import UnknownYear
from domain.decide import next_run, why_refused
from domain.events import (
    Event,
    PositionSettled,
    SchedulerResyncRequired,
    StrategyStartRequested,
    StrategyStopRequested,
    StrategyUpdated,
)
from domain.facts import Facts
from domain.strategy import State
from domain.values import Config, Price, Product, Quantity, Refusal, Status

MAX_PRICE = Decimal(10_000_000)
MAX_QUANTITY = 10_000_000


class FieldError(Struct, frozen=True):
    """What is wrong with one field: its name, the rule it breaks, and what to do, for a person."""

    field: str
    rule: str
    message: str


class Refused(Struct, frozen=True):
    """The request cannot be carried out. `conflict`: the strategy's state forbids it; else the values are wrong."""

    code: str
    detail: str
    conflict: bool = True
    errors: tuple[FieldError, ...] = ()


class Changes(Struct, frozen=True, kw_only=True):
    """The fields that an update changes; None leaves a field as it is."""

    quantity: Quantity | None = None
    buy_time: dt.time | None = None
    sell_time: dt.time | None = None
    stop_loss: Price | None = None
    product: Product | None = None
    market_protection: Decimal | None = None

    def given(self) -> dict[str, object]:
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}


def check_config(config: Config, facts: Facts, near: list[str] | None = None) -> tuple[FieldError, ...]:
    """Every fault of a strategy's config. `facts.instrument` is that of `config.symbol`; `near` are similar symbols."""
    return (
        *_check_symbol(config, facts, near or []),
        *_check_quantity(config, facts),
        *_check_times(config, facts),
        *_check_prices(config, facts),
    )


def decide_update(state: State, changes: Changes, facts: Facts) -> tuple[Event, ...] | Refused:
    """The events of an update, to be appended at the state's version. A run's timers and stop follow it."""
    given = {name: value for name, value in changes.given().items() if getattr(state, name) != value}
    if not given:
        return ()
    if state.status is Status.STOPPING:
        return Refused("STRATEGY_STOPPING", "the strategy is being stopped: update it when it has stopped")
    fixed = [name for name in ("quantity", "buy_time", "product") if name in given]
    held_back = state.unresolved or state.lingering or state.open_quantity != 0 or state.surfaced != 0
    if fixed and (held_back or (state.alive and state.entered)):
        held = f"an order is unresolved or {state.open_quantity + state.surfaced} shares are held"
        return Refused("POSITION_OPEN", f"{held}: {', '.join(fixed)} can be changed when the run is over")
    config = replace(state.config, **given)
    # what concerns the exit alone may follow the market even when the symbol has gone from the broker's list
    unknown = _check_symbol(config, facts, []) if fixed else ()
    errors: tuple[FieldError, ...] = (
        *unknown,
        *(error for error in (*_check_quantity(config, facts), *_check_prices(config, facts)) if error.field in given),
    )
    timed = not given.keys().isdisjoint(("buy_time", "sell_time", "product"))
    buy_at = sell_at = None
    if timed and not (state.alive and state.session_date is not None):
        errors += _check_times(config, facts)
    if state.alive and state.session_date is not None:
        if timed:
            errors += _check_order_of_times(config, facts)
        if "buy_time" in given:
            buy_at = facts.calendar.instant(state.session_date, config.buy_time)
        if "sell_time" in given:
            sell_at = facts.calendar.instant(state.session_date, config.sell_time)
        for name, at, instant in (("buy_time", config.buy_time, buy_at), ("sell_time", config.sell_time, sell_at)):
            if instant is None:
                continue
            if instant <= facts.now:
                errors += (FieldError(name, "in_the_past", f"{at} has passed: choose a later time"),)
            elif not state.open_at <= instant < state.close_at:
                why = f"{at} lies outside the session of {state.session_date} that the run is armed for"
                errors += (FieldError(name, "in_session", why),)
        if "stop_loss" in given and facts.price is not None and config.stop_loss >= facts.price:
            why = f"the last price is {facts.price}: a stop must lie below it"
            errors += (FieldError("stop_loss", "at_or_above_price", why),)
    if errors:
        return Refused("VALIDATION_FAILED", "the update breaks a rule", conflict=False, errors=errors)
    updated = StrategyUpdated(
        stop_revision=state.stop_revision + 1 if "stop_loss" in given else state.stop_revision,
        buy_at=buy_at,
        sell_at=sell_at,
        **given,  # type: ignore[arg-type]  # the names and types are those of Changes
    )
    return (updated, SchedulerResyncRequired()) if buy_at is not None or sell_at is not None else (updated,)


def decide_start(state: State, facts: Facts) -> tuple[Event, ...] | Refused:
    """The request to start, to be appended at the state's version; none if it is already asked for."""
    if state.alive:
        return Refused(Refusal.ALREADY_RUNNING, f"strategy {state.id} is {state.status} already")
    if state.unresolved:
        return Refused(Refusal.ORDER_UNRESOLVED, f"order {state.lock_state} is not resolved yet")
    refusal = why_refused(state, facts)
    if refusal is not None:
        reason, told = refusal
        detail = ", ".join(f"{name} {value}" for name, value in told.items())
        return Refused(reason, f"strategy {state.id} cannot start: {detail}")
    return () if state.start_requested else (StrategyStartRequested(),)


def decide_stop(state: State, square_off: bool, reason: str = "USER") -> tuple[Event, ...]:
    """The request to stop (blind); none when there is nothing to stop, so that stopping twice is harmless."""
    open_ended = state.open_quantity > 0 and not state.alive
    asked = state.stop_requested and state.square_off >= square_off
    if (state.alive or open_ended or state.start_requested) and not asked:
        return (StrategyStopRequested(square_off=square_off, reason=reason),)
    return ()


def decide_settle(state: State, quantity: Quantity, how: str) -> tuple[Event, ...] | Refused:
    """`quantity` shares were closed elsewhere; below zero: over-sold ones were bought back. At the state's version."""
    if state.unresolved or state.lingering:
        tag = state.lock_state if state.unresolved else state.lingering[0].tag
        return Refused(Refusal.ORDER_UNRESOLVED, f"order {tag} is not resolved yet: try again when it is")
    held = max(0, state.open_quantity) + max(0, state.surfaced)
    owed = min(0, state.open_quantity) + min(0, state.surfaced)
    if quantity == 0 or not owed <= quantity <= held:
        why = f"{held} shares are open: settle between 1 and that"
        if owed:
            why = f"{-owed} shares are over-sold: settle between {owed} and -1 when they are bought back"
        error = FieldError("quantity", "more_than_open", why)
        return Refused("VALIDATION_FAILED", why, conflict=False, errors=(error,))
    return (PositionSettled(quantity=quantity, how=how),)


def _check_symbol(config: Config, facts: Facts, near: list[str]) -> tuple[FieldError, ...]:
    if facts.instrument is not None:
        return ()
    hint = f": did you mean {', '.join(near)}?" if near else ": write EXCHANGE:TRADINGSYMBOL, for example NSE:INFY"
    return (FieldError("symbol", "unknown", f"{config.symbol!r} is not a known instrument{hint}"),)


def _check_quantity(config: Config, facts: Facts) -> tuple[FieldError, ...]:
    if not 0 < config.quantity <= MAX_QUANTITY:
        return (FieldError("quantity", "range", f"must be from 1 to {MAX_QUANTITY}, was {config.quantity}"),)
    rules = facts.instrument
    if rules is not None and config.quantity % rules.lot:
        return (FieldError("quantity", "lot", f"must be a multiple of the lot {rules.lot}, was {config.quantity}"),)
    if rules is not None and config.quantity > rules.freeze:
        why = f"the exchange takes at most {rules.freeze} in one order, was {config.quantity}"
        return (FieldError("quantity", "freeze", why),)
    return ()


def _check_times(config: Config, facts: Facts) -> tuple[FieldError, ...]:
    if wrong := _check_order_of_times(config, facts):
        return wrong
    try:
        ahead = facts.calendar.next_session_with(config.buy_time, facts.now)
    except UnknownYear:
        return ()  # arming refuses then; a strategy may be written down before the calendar of its year is known
    if ahead is None:
        return (FieldError("buy_time", "in_session", f"{config.buy_time} lies in no trading session of the next days"),)
    if next_run(config, facts) is None:
        why = f"{config.sell_time} lies at or after the close of the session that {config.buy_time} falls in"
        return (FieldError("sell_time", "in_session", why),)
    return ()


def _check_order_of_times(config: Config, facts: Facts) -> tuple[FieldError, ...]:
    if config.buy_time >= config.sell_time:
        why = f"must be before sell_time {config.sell_time}, was {config.buy_time}"
        return (FieldError("buy_time", "before_sell_time", why),)
    cutoff = facts.policy.mis_cutoff
    if config.product is Product.MIS and config.sell_time > cutoff:
        why = f"must be at or before {cutoff} for MIS (the broker squares off after it), was {config.sell_time}"
        return (FieldError("sell_time", "mis_cutoff", why),)
    return ()


def _check_prices(config: Config, facts: Facts) -> tuple[FieldError, ...]:
    errors: list[FieldError] = []
    stop = config.stop_loss
    if not stop.is_finite() or not 0 < stop <= MAX_PRICE:
        errors.append(FieldError("stop_loss", "range", f"must be above 0 and at most {MAX_PRICE}, was {stop}"))
    elif facts.instrument is not None and stop % facts.instrument.tick_size:
        grid = facts.instrument.tick_size
        errors.append(FieldError("stop_loss", "tick_size", f"must be a multiple of {grid}, was {stop}"))
    protection = config.market_protection
    if not protection.is_finite() or not (protection == -1 or 0 < protection <= 100):
        why = f"must be -1 (automatic) or a percentage above 0 and at most 100, was {protection}"
        errors.append(FieldError("market_protection", "range", why))
    return tuple(errors)
