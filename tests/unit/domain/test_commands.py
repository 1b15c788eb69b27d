"""What a user may ask of a strategy, and why not (architecture §4.1, *Updates*)."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from bahi.testing.story import (
    Scene,
    Word,
    absent,
    accepted,
    at,
    bought,
    buy_triggered,
    calendar,
    clock_time,
    completed,
    config,
    created,
    decided,
    disconnected,
    exited,
    exiting,
    filled,
    finalized,
    given,
    halted,
    instrument,
    intended,
    no_instrument,
    sell_triggered,
    start_requested,
    started,
    started_with,
    stop_requested,
    told,
    unknown,
)
from domain.commands import Changes, Refused, check_config, decide_settle, decide_start, decide_stop, decide_update
from domain.events import (
    PositionSettled,
    SchedulerResyncRequired,
    StrategyStartRequested,
    StrategyStopRequested,
    StrategyUpdated,
)
from domain.values import Config, Final, Kind, Product, Refusal
from tests.unit.domain.test_run import LEFT, UNKNOWN_YEARS

GIVEN_UP = told(
    started, bought(), sell_triggered, intended(Kind.SELL), unknown(), absent, decided, accepted(), completed(), decided
)
OVERSOLD = told(GIVEN_UP, filled(10, of=2), finalized(Final.COMPLETE, 10, of=2))
"""An exit that was given up came through after its successor."""


def scene(*words: Word) -> Scene:
    return given(*words).scene


def update(*words: Word, **changes: Any) -> Any:
    told = scene(*words)
    return decide_update(told.state, Changes(**changes), told.facts)


def faults(refused: Any) -> list[tuple[str, str]]:
    assert isinstance(refused, Refused), refused
    return [(error.field, error.rule) for error in refused.errors]


# --- a config -------------------------------------------------------------------------------------------------------


def checked(words: tuple[Word, ...] = (), near: list[str] | None = None, **changes: Any) -> list[tuple[str, str]]:
    protection = changes.pop("protection", "-1")
    one: Config = config(**changes)
    one = Config(
        **{name: getattr(one, name) for name in one.__struct_fields__} | {"market_protection": Decimal(protection)}
    )
    return [(error.field, error.rule) for error in check_config(one, scene(*words).facts, near)]


def test_a_sound_config_has_no_fault():
    assert checked() == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"qty": 0}, ("quantity", "range")),
        ({"qty": -1}, ("quantity", "range")),
        ({"qty": 10_000_001}, ("quantity", "range")),
        ({"words": (instrument(lot=3),)}, ("quantity", "lot")),
        ({"words": (instrument(freeze=9),)}, ("quantity", "freeze")),
        ({"words": (no_instrument,)}, ("symbol", "unknown")),
        ({"buy": "15:10"}, ("buy_time", "before_sell_time")),
        ({"sell": "15:15:01"}, ("sell_time", "mis_cutoff")),
        ({"buy": "09:14:59"}, ("buy_time", "in_session")),
        ({"sell": "15:30", "product": Product.CNC}, ("sell_time", "in_session")),
        ({"stop": "0"}, ("stop_loss", "range")),
        ({"stop": "-5"}, ("stop_loss", "range")),
        ({"stop": "NaN"}, ("stop_loss", "range")),
        ({"stop": "Infinity"}, ("stop_loss", "range")),
        ({"stop": "95.01"}, ("stop_loss", "tick_size")),
        ({"protection": "0"}, ("market_protection", "range")),
        ({"protection": "-2"}, ("market_protection", "range")),
        ({"protection": "101"}, ("market_protection", "range")),
        ({"protection": "NaN"}, ("market_protection", "range")),
    ],
)
def test_a_config_is_faulted(changes, fault):
    assert checked(**changes) == [fault]


def test_every_fault_is_told_at_once():
    assert {field for field, _ in checked(qty=0, buy="16:00", stop="0")} == {"quantity", "buy_time", "stop_loss"}


def test_a_mistyped_symbol_is_answered_with_similar_ones():
    (error,) = check_config(config(), scene(no_instrument).facts, ["NSE:INFY", "NSE:INFIBEAM"])
    assert "did you mean NSE:INFY, NSE:INFIBEAM?" in error.message


def test_a_config_may_be_written_before_the_calendar_of_its_year_is_known():
    assert checked(words=(calendar(UNKNOWN_YEARS),)) == []


# --- update ---------------------------------------------------------------------------------------------------------


def test_an_update_of_a_resting_strategy_may_change_everything():
    (updated,) = update(created(), quantity=20, buy_time=dt.time(10), stop_loss=Decimal(96), product=Product.CNC)
    assert updated == StrategyUpdated(
        stop_revision=2, quantity=20, buy_time=dt.time(10), stop_loss=Decimal(96), product=Product.CNC
    )


def test_an_update_that_changes_nothing_is_no_event():
    assert update(created(), quantity=10, stop_loss=Decimal("95.00")) == ()


def test_an_update_of_the_times_of_a_run_moves_its_timers():
    updated, resync = update(started, buy_time=dt.time(9, 30), sell_time=dt.time(14))
    assert (updated.buy_at, updated.sell_at) == (clock_time("09:30"), clock_time("14:00"))
    assert resync == SchedulerResyncRequired()
    assert updated.stop_revision == 1


BUYING = told(started, buy_triggered, intended(Kind.BUY))


@pytest.mark.parametrize("word", [BUYING, told(BUYING, unknown()), told(started, bought()), LEFT, OVERSOLD])
@pytest.mark.parametrize("changes", [{"quantity": 20}, {"buy_time": dt.time(11)}, {"product": Product.CNC}])
def test_quantity_time_and_product_are_fixed_while_an_order_or_a_position_is_open(word, changes):
    refused = update(word, **changes)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.conflict) == ("POSITION_OPEN", True)


def test_a_new_stop_for_an_open_position_is_a_new_revision():
    (updated,) = update(started, bought(), stop_loss=Decimal(97))
    assert (updated.stop_loss, updated.stop_revision) == (Decimal(97), 2)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"sell_time": dt.time(9, 20)}, ("sell_time", "in_the_past")),
        ({"stop_loss": Decimal(100)}, ("stop_loss", "at_or_above_price")),
        ({"stop_loss": Decimal("100.05")}, ("stop_loss", "at_or_above_price")),
        ({"stop_loss": Decimal("99.99")}, ("stop_loss", "tick_size")),
        ({"sell_time": dt.time(15, 16)}, ("sell_time", "mis_cutoff")),
    ],
)
def test_an_update_of_a_run_is_faulted(changes, fault):
    words = (started_with(buy="09:18"), bought(), at("09:25"))
    refused = update(*words, **changes)
    assert fault in faults(refused)
    assert not refused.conflict


def test_the_exit_of_what_is_held_follows_the_user_though_its_symbol_has_gone_from_the_list():
    words = (started, bought(), no_instrument)
    assert update(*words, stop_loss=Decimal("97.03"), sell_time=dt.time(14))[0].stop_loss == Decimal("97.03")
    assert ("symbol", "unknown") in faults(update(created(), no_instrument, quantity=20))


def test_a_stop_of_a_strategy_at_rest_is_not_held_against_the_price():
    assert isinstance(update(created(), stop_loss=Decimal(120))[0], StrategyUpdated)


def test_a_stop_can_be_tightened_though_the_next_session_is_too_short_for_the_times_of_this_run():
    """Times that an update does not touch are not judged again, least of all against another day."""
    words = (started_with(buy="09:18"), bought(), at("10:00"), calendar(UNKNOWN_YEARS))
    assert isinstance(update(*words, stop_loss=Decimal(97))[0], StrategyUpdated)
    friday = dt.date(2026, 11, 6)  # the next session is Sunday's, of an hour, in the evening
    words = (at("09:00", friday), started_with(friday, buy="09:18"), bought(), at("10:00", friday))
    assert isinstance(update(*words, stop_loss=Decimal(97))[0], StrategyUpdated)


def test_a_sell_time_is_judged_by_the_session_of_the_run():
    words = (started_with(buy="09:18", product=Product.CNC), bought(), at("10:00"))
    assert ("sell_time", "in_session") in faults(update(*words, sell_time=dt.time(15, 30)))
    assert update(*words, sell_time=dt.time(15, 29))


def test_a_strategy_that_is_being_stopped_is_not_updated():
    refused = update(started, bought(filled=4, resting=6), stop_requested(), stop_loss=Decimal(96))
    assert isinstance(refused, Refused)
    assert refused.code == "STRATEGY_STOPPING"


def test_the_sell_time_may_be_moved_after_it_fired_as_long_as_it_lies_ahead():
    words = (started, bought(), exiting(), at("15:11"))
    updated, _ = update(*words, sell_time=dt.time(15, 14))
    assert updated.sell_at == clock_time("15:14")


# --- start ----------------------------------------------------------------------------------------------------------


def start(*words: Word) -> Any:
    told = scene(*words)
    return decide_start(told.state, told.facts)


def test_a_start_is_requested_once():
    assert start(created()) == (StrategyStartRequested(),)
    assert start(created(), start_requested) == ()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (Refusal.ALREADY_RUNNING, [started]),
        (Refusal.NOT_FLAT, [LEFT]),
        (Refusal.NOT_FLAT, [OVERSOLD]),
        (Refusal.ORDER_UNRESOLVED, [BUYING, unknown(), absent, decided, accepted(of=1)]),
        (Refusal.ORDER_UNRESOLVED, [LEFT, stop_requested(square_off=True), decided]),
        (Refusal.HALTED, [created(), halted()]),
        (Refusal.INSTRUMENT, [created(), no_instrument]),
        (Refusal.TIMES, [created(sell="15:20")]),
        (Refusal.UNKNOWN_YEAR, [created(), calendar(UNKNOWN_YEARS)]),
        (Refusal.NO_SESSION_AHEAD, [created(buy="07:00")]),
    ],
)
def test_a_start_is_refused_with_a_conflict(code, words):
    refused = start(*words)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.conflict) == (code, True)


def test_a_start_needs_no_broker_session_yet():
    assert start(created(), disconnected) == (StrategyStartRequested(),)


def test_a_stopped_strategy_that_is_flat_starts_again():
    assert start(started, bought(), exited()) == (StrategyStartRequested(),)


# --- stop -----------------------------------------------------------------------------------------------------------


def stop(*words: Word, square_off: bool = False) -> Any:
    return decide_stop(scene(*words).state, square_off)


def test_a_stop_is_requested_of_what_runs_or_is_about_to_or_has_shares_left():
    for words in ((started,), (created(), start_requested), (LEFT,)):
        assert stop(*words, square_off=True) == (StrategyStopRequested(square_off=True),)


def test_a_stop_of_what_is_at_rest_is_harmless():
    assert stop(created()) == ()
    assert stop(started, bought(), exited(), square_off=True) == ()


def test_stopping_twice_is_harmless_but_a_square_off_may_follow():
    held = (started, bought(filled=4, resting=6), stop_requested())
    assert stop(*held) == ()
    assert stop(*held, square_off=True) == (StrategyStopRequested(square_off=True),)
    assert stop(*held, stop_requested(square_off=True)) == ()


# --- settle ---------------------------------------------------------------------------------------------------------


def settle(*words: Word, quantity: int) -> Any:
    return decide_settle(scene(*words).state, quantity, "by hand")


def test_shares_closed_elsewhere_are_settled():
    assert settle(LEFT, quantity=10) == (PositionSettled(quantity=10, how="by hand"),)
    assert settle(started, bought(), quantity=4) == (PositionSettled(quantity=4, how="by hand"),)


@pytest.mark.parametrize("quantity", [0, -1, 11])
def test_no_more_is_settled_than_is_open(quantity):
    assert faults(settle(LEFT, quantity=quantity)) == [("quantity", "more_than_open")]


def test_nothing_is_settled_while_an_order_is_unresolved():
    refused = settle(started, bought(), exiting(), quantity=4)
    assert isinstance(refused, Refused)
    assert refused.code == Refusal.ORDER_UNRESOLVED


def test_surfaced_shares_can_be_settled_too():
    words = (BUYING, unknown(), absent, decided, filled(10, of=1), finalized(Final.COMPLETE, 10, of=1))
    told = scene(*words)
    assert told.state.surfaced == 10
    (event,) = settle(*words, quantity=10)
    told.fold(event)
    assert (told.state.surfaced, told.state.open_quantity) == (0, 0)


def test_over_sold_shares_that_were_bought_back_are_settled_below_zero():
    """Otherwise such a strategy could never be started again."""
    told = scene(OVERSOLD)
    assert told.state.open_quantity == -10
    assert faults(settle(OVERSOLD, quantity=1)) == [("quantity", "more_than_open")]
    assert faults(settle(OVERSOLD, quantity=-11)) == [("quantity", "more_than_open")]
    (event,) = settle(OVERSOLD, quantity=-10)
    told.fold(event)
    assert told.state.open_quantity == 0
    assert decide_start(told.state, told.facts) == (StrategyStartRequested(),)
