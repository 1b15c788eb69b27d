"""Which ticks count, and when a feed is silent."""

import datetime as dt
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.calendar import instant
from domain.values import MINUTE, SECOND, Tick
from sources.judging import TickJudge, Verdict
from sources.silence import Silence
from tests.sources.world import ALWAYS, CLOSE, INFY, NSE, OPEN, TEN, tick

NOW = CLOSE


def verdicts(*ticks: Tick, now: int = NOW) -> list[Verdict]:
    judge = TickJudge(NSE)
    return [judge.judge(each, now) for each in ticks]


def test_of_equal_stamps_the_later_arrival_is_the_price() -> None:
    judge = TickJudge(NSE)
    assert [judge.judge(tick(price), NOW) for price in ("100", "101")] == [Verdict.NEWEST, Verdict.NEWEST]
    assert judge.last[INFY].price == 101


def test_a_step_back_of_two_seconds_counts_but_is_not_the_price_and_an_older_one_is_dropped() -> None:
    judge = TickJudge(NSE)
    judge.judge(tick("100", TEN), NOW)
    assert judge.judge(tick("99", TEN - 2 * SECOND), NOW) is Verdict.EARLIER
    assert judge.judge(tick("98", TEN - 2 * SECOND - 1), NOW) is Verdict.OLD
    assert judge.last[INFY].price == 100


def test_steps_back_do_not_add_up() -> None:
    """Each is judged against the newest stamp, not against the one before."""
    assert verdicts(tick("1"), tick("1", TEN - SECOND), tick("1", TEN - 3 * SECOND)) == [
        Verdict.NEWEST,
        Verdict.EARLIER,
        Verdict.OLD,
    ]


def test_symbols_have_their_own_time() -> None:
    assert verdicts(tick("1"), tick("1", OPEN, "NSE:TCS")) == [Verdict.NEWEST, Verdict.NEWEST]


@pytest.mark.parametrize("price", ["0", "-1", "NaN", "Infinity", "-Infinity", "sNaN"])
def test_a_price_that_is_none_is_dropped(price: str) -> None:
    assert verdicts(tick(price)) == [Verdict.PRICE]


def test_only_trades_within_the_session_count() -> None:
    sunday = instant(dt.date(2021, 4, 11), dt.time(10))
    inside = [OPEN, CLOSE - 1]
    outside = [OPEN - 1, CLOSE, sunday, instant(dt.date(1990, 1, 3), dt.time(10)), 0, -1, -(10**18)]
    for at in inside:
        assert verdicts(tick("1", at)) == [Verdict.NEWEST]
    for at in outside:
        assert verdicts(tick("1", at)) == [Verdict.CLOSED]


def test_a_break_is_not_trading() -> None:
    special = next(
        session
        for year in sorted(NSE.years)
        for day in range(366)
        if (date := dt.date(year, 1, 1) + dt.timedelta(day)).year == year
        and (session := NSE.session_on(date)) is not None
        and session.breaks
    )
    pause = special.breaks[0]
    now = special.close_at
    assert verdicts(tick("1", pause.start_at - 1), tick("1", pause.start_at), tick("1", pause.end_at), now=now) == [
        Verdict.NEWEST,
        Verdict.CLOSED,
        Verdict.NEWEST,
    ]


def test_one_broken_stamp_ahead_does_not_make_all_others_old() -> None:
    assert verdicts(tick("1", TEN + 2 * MINUTE), tick("1", TEN + MINUTE), tick("1", TEN), now=TEN) == [
        Verdict.FUTURE,
        Verdict.NEWEST,
        Verdict.OLD,
    ]
    assert verdicts(tick("1", 10**19), now=TEN) == [Verdict.FUTURE]


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 300)), max_size=30))
def test_the_price_is_the_last_arrival_of_the_newest_stamp(rows: list[tuple[int, int]]) -> None:
    judge = TickJudge(ALWAYS)
    newest: Tick | None = None
    for offset, price in rows:
        each = Tick(INFY, Decimal(price), TEN + offset * SECOND)
        verdict = judge.judge(each, TEN)
        if newest is None or each.at >= newest.at:
            newest, expected = each, Verdict.NEWEST
        else:
            expected = Verdict.EARLIER if newest.at - each.at <= 2 * SECOND else Verdict.OLD
        assert verdict is expected
        assert judge.last[INFY] == newest


# --- silence --------------------------------------------------------------------------------------------------------


def test_a_feed_is_silent_once_after_five_seconds_and_restored_with_its_gap() -> None:
    silence = Silence()
    assert silence.heard(TEN) is None
    assert silence.check(TEN + 5 * SECOND - 1, True) is None
    assert silence.check(TEN + 5 * SECOND, True) == 5 * SECOND
    assert silence.check(TEN + 9 * SECOND, True) is None
    assert silence.heard(TEN + 12 * SECOND) == 12 * SECOND
    assert silence.heard(TEN + 13 * SECOND) is None


def test_the_wait_begins_when_ticks_are_first_expected() -> None:
    silence = Silence()
    assert silence.check(TEN, False) is None
    assert silence.check(TEN + MINUTE, True) is None
    assert silence.check(TEN + MINUTE + 5 * SECOND, True) == 5 * SECOND


def test_the_night_is_not_silence() -> None:
    silence = Silence()
    silence.heard(TEN)
    assert silence.check(TEN + MINUTE, False) is None
    assert silence.check(TEN + 2 * MINUTE, True) is None


def test_a_clock_set_back_begins_the_wait_anew() -> None:
    silence = Silence()
    silence.heard(TEN + MINUTE)
    assert silence.check(TEN, True) is None
    assert silence.check(TEN + 5 * SECOND, True) == 5 * SECOND


def test_a_reconnect_is_asked_for_at_once_and_then_each_five_seconds() -> None:
    silence = Silence()
    assert not silence.asks(TEN)
    silence.heard(TEN)
    silence.check(TEN + 5 * SECOND, True)
    asked = [second for second in range(5, 21) if silence.asks(TEN + second * SECOND)]
    assert asked == [5, 10, 15, 20]
