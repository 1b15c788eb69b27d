"""The exchange calendar: which days trade, when, and that nothing is guessed."""

import datetime as dt
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.calendar import (
    AlwaysOpenCalendar,
    Calendar,
    CalendarError,
    NseCalendar,
    Session,
    UnknownYear,
    instant,
    load_nse,
    wall,
)

NSE = load_nse()
KOLKATA = ZoneInfo("Asia/Kolkata")
SECOND = 1_000_000

known_dates = st.dates(dt.date(2021, 1, 1), dt.date(2026, 12, 31))
clock_times = st.times()
# Ends two weeks and a half before the last known year does, so that a search ahead stays inside it.
known_instants = st.integers(
    instant(dt.date(2021, 1, 1), dt.time.min),
    instant(dt.date(2026, 12, 14), dt.time.min),
)


def day(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


def at(text: str) -> int:
    """An instant from the exchange's wall clock: `2026-02-01 09:15`."""
    moment = dt.datetime.fromisoformat(text)
    return instant(moment.date(), moment.time())


def hours(session: Session | None) -> tuple[str, str]:
    assert session is not None
    return wall(session.open_at).strftime("%H:%M"), wall(session.close_at).strftime("%H:%M")


# --- which days ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "date",
    [
        "2021-04-14",  # Ambedkar Jayanti, the day after the recorded day
        "2022-10-26",
        "2023-06-29",  # Bakri Id, moved by a circular of two days before
        "2024-01-22",  # the four closures that public libraries miss
        "2024-05-20",
        "2024-11-20",
        "2026-01-15",
        "2025-10-22",
        "2026-11-10",
        "2026-12-25",
    ],
)
def test_exchange_is_closed_on_its_holidays(date: str) -> None:
    assert NSE.session_on(day(date)) is None
    assert NSE.holiday_on(day(date))
    assert NSE.source_of(day(date))


@pytest.mark.parametrize("date", ["2021-04-13", "2023-06-28", "2025-09-05", "2026-01-16", "2026-09-15"])
def test_an_ordinary_weekday_has_the_regular_hours(date: str) -> None:
    session = NSE.session_on(day(date))
    assert hours(session) == ("09:15", "15:30")
    assert session is not None
    assert session.name == "Regular"
    assert NSE.holiday_on(day(date)) is None
    assert NSE.source_of(day(date)) is None


@pytest.mark.parametrize("date", ["2021-04-17", "2024-01-21", "2025-02-02", "2026-01-31", "2026-02-07"])
def test_weekends_are_closed(date: str) -> None:
    assert NSE.session_on(day(date)) is None


@pytest.mark.parametrize("date", ["2024-01-20", "2025-02-01", "2026-02-01"])
def test_full_sessions_on_weekends_trade_the_regular_hours(date: str) -> None:
    assert day(date).weekday() >= 5
    assert hours(NSE.session_on(day(date))) == ("09:15", "15:30")
    assert NSE.is_open(at(f"{date} 12:00"))


@pytest.mark.parametrize(
    ("date", "opens", "closes"),
    [
        ("2021-11-04", "18:15", "19:15"),
        ("2022-10-24", "18:15", "19:15"),
        ("2023-11-12", "18:15", "19:15"),
        ("2024-11-01", "18:00", "19:00"),
        ("2025-10-21", "13:45", "14:45"),
    ],
)
def test_muhurat_days_trade_their_hour_and_not_the_day(date: str, opens: str, closes: str) -> None:
    session = NSE.session_on(day(date))
    assert hours(session) == (opens, closes)
    assert session is not None
    assert session.name == "Muhurat trading"
    assert not NSE.is_open(at(f"{date} 10:00"))
    assert NSE.is_open(at(f"{date} {opens}"))
    assert not NSE.is_open(at(f"{date} {closes}"))


def test_muhurat_session_whose_hours_are_not_known_does_not_trade() -> None:
    assert NSE.session_on(day("2026-11-08")) is None
    assert "Muhurat" in (NSE.holiday_on(day("2026-11-08")) or "")


def test_number_of_trading_days_of_each_year() -> None:
    """Guards the file as a whole: a line lost or added anywhere changes a count."""
    counts = {
        year: sum(
            NSE.session_on(dt.date(year, 1, 1) + dt.timedelta(days=n)) is not None
            for n in range((dt.date(year + 1, 1, 1) - dt.date(year, 1, 1)).days)
        )
        for year in sorted(NSE.years)
    }
    assert counts == {2021: 248, 2022: 248, 2023: 246, 2024: 249, 2025: 249, 2026: 246}


@pytest.mark.parametrize("year", [2020, 2027])
def test_a_year_without_a_list_is_refused_not_guessed(year: int) -> None:
    with pytest.raises(UnknownYear, match=str(year)) as caught:
        NSE.session_on(dt.date(year, 6, 1))
    assert caught.value.year == year
    with pytest.raises(UnknownYear):
        NSE.is_open(at(f"{year}-06-01 12:00"))


def test_looking_ahead_stops_at_the_unknown_year() -> None:
    ahead = NSE.sessions_from(at("2026-12-31 15:29:59"))
    assert next(ahead).date == day("2026-12-31")
    with pytest.raises(UnknownYear, match="2027"):
        next(ahead)
    with pytest.raises(UnknownYear, match="2027"):
        NSE.next_session_with(dt.time(9, 20), at("2026-12-31 09:20"))


def test_every_stated_date_names_its_source() -> None:
    for year in NSE.years:
        for n in range(365):
            date = dt.date(year, 1, 1) + dt.timedelta(days=n)
            session = NSE.session_on(date)
            stated = NSE.holiday_on(date) is not None or (session is not None and session.name != "Regular")
            assert bool(NSE.source_of(date)) is stated, date


# --- boundaries ----------------------------------------------------------------------------------------------------


def test_session_opens_on_the_microsecond_and_is_over_on_the_microsecond() -> None:
    opening, closing = at("2021-04-13 09:15"), at("2021-04-13 15:30")
    assert not NSE.is_open(opening - 1)
    assert NSE.is_open(opening)
    assert NSE.is_open(closing - 1)
    assert not NSE.is_open(closing)
    assert NSE.session_at(closing) is None


def test_market_stands_still_between_the_two_parts_of_a_session() -> None:
    for date, start, end in [
        ("2024-03-02", "10:00", "11:30"),
        ("2024-05-18", "10:00", "11:30"),
        ("2021-02-24", "11:40", "15:45"),
    ]:
        assert NSE.is_open(at(f"{date} {start}") - 1)
        assert not NSE.is_open(at(f"{date} {start}"))
        assert not NSE.is_open(at(f"{date} {end}") - 1)
        assert NSE.is_open(at(f"{date} {end}"))
        assert NSE.session_at(at(f"{date} {start}")) == NSE.session_on(day(date))
    assert hours(NSE.session_on(day("2024-03-02"))) == ("09:15", "12:30")
    assert hours(NSE.session_on(day("2021-02-24"))) == ("09:15", "17:00")


def test_closing_auction_begins_with_august_2026() -> None:
    before, after = NSE.session_on(day("2026-07-31")), NSE.session_on(day("2026-08-03"))
    assert before is not None
    assert before.auction_at is None
    assert after is not None
    assert after.auction_at == at("2026-08-03 15:15")
    assert NSE.is_open(at("2026-08-03 15:20"))


def test_the_exchange_clock_is_kolkata() -> None:
    assert instant(day("1970-01-01"), dt.time(5, 30)) == 0
    assert at("2021-04-13 09:15") == 1_618_285_500 * SECOND
    assert wall(at("2021-04-13 09:15:00.000001")).isoformat() == "2021-04-13T09:15:00.000001+05:30"
    with pytest.raises(ValueError, match="no offset"):
        instant(day("2021-04-13"), dt.time(9, 15, tzinfo=dt.UTC))


@given(known_dates, clock_times)
def test_wall_and_instant_are_inverse_and_agree_with_the_zone_database(date: dt.date, time: dt.time) -> None:
    moment = dt.datetime.combine(date, time, KOLKATA)
    assert wall(instant(date, time)) == moment
    assert wall(instant(date, time)).utcoffset() == moment.utcoffset()
    assert (NSE.wall(NSE.instant(date, time)).date(), NSE.wall(NSE.instant(date, time)).time()) == (date, time)


# --- the next session ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "buy_time", "expected"),
    [
        ("2021-04-13 09:19:59.999999", "09:20", "2021-04-13 09:20"),
        ("2021-04-13 09:20", "09:20", "2021-04-15 09:20"),  # over the holiday
        ("2021-04-13 16:00", "15:29:59", "2021-04-15 15:29:59"),
        ("2026-01-14 15:30", "09:15", "2026-01-16 09:15"),  # over the elections
        ("2026-01-30 16:00", "10:00", "2026-02-01 10:00"),  # the Sunday of the Budget
        ("2025-10-20 16:00", "14:00", "2025-10-21 14:00"),  # inside the Muhurat hour
        ("2025-10-20 16:00", "11:00", "2025-10-23 11:00"),  # not inside it, and a holiday follows
        ("2024-03-01 16:00", "11:00", "2024-03-04 11:00"),  # in the break of the Saturday session
        ("2024-03-01 16:00", "12:00", "2024-03-02 12:00"),
    ],
)
def test_strategy_is_armed_for_the_next_session_in_which_its_buy_time_lies(
    after: str, buy_time: str, expected: str
) -> None:
    found = NSE.next_session_with(dt.time.fromisoformat(buy_time), at(after))
    assert found is not None
    session, buy_at = found
    assert buy_at == at(expected)
    assert session.date == wall(buy_at).date()


@pytest.mark.parametrize("buy_time", ["09:14:59.999999", "15:30", "00:00", "23:59"])
def test_a_buy_time_outside_trading_hours_finds_no_session(buy_time: str) -> None:
    assert NSE.next_session_with(dt.time.fromisoformat(buy_time), at("2026-06-01 08:00")) is None


@given(known_instants)
def test_the_session_at_an_instant_is_the_session_on_its_date(moment: int) -> None:
    session, whole_day = NSE.session_at(moment), NSE.session_on(wall(moment).date())
    if session is None:
        assert whole_day is None or not whole_day.open_at <= moment < whole_day.close_at
        assert not NSE.is_open(moment)
    else:
        assert session == whole_day
        assert session.open_at <= moment < session.close_at


@given(known_instants)
def test_sessions_ahead_ascend_and_none_is_left_out(moment: int) -> None:
    ahead = list(islice(NSE.sessions_from(moment), 5))
    assert ahead[0].close_at > moment
    assert all(earlier.close_at <= later.open_at for earlier, later in pairwise(ahead))
    listed = {session.date for session in ahead}
    date = wall(moment).date()
    while date <= ahead[-1].date:
        session = NSE.session_on(date)
        assert (date in listed) is (session is not None and session.close_at > moment)
        date += dt.timedelta(days=1)


@given(known_instants, st.integers(0, 3 * 24 * 3600 * SECOND), clock_times)
def test_the_next_session_is_ahead_open_and_never_earlier_for_a_later_start(
    moment: int, later_by: int, buy_time: dt.time
) -> None:
    found = NSE.next_session_with(buy_time, moment)
    if found is None:
        return
    session, buy_at = found
    assert buy_at > moment
    assert wall(buy_at).time() == buy_time
    assert NSE.is_open(buy_at)
    assert NSE.session_at(buy_at) == session
    later = NSE.next_session_with(buy_time, moment + later_by)
    assert later is None or later[1] >= buy_at


# --- always open ---------------------------------------------------------------------------------------------------


@given(st.dates(dt.date(1971, 1, 1), dt.date(2100, 1, 1)), clock_times.filter(lambda time: time < dt.time.max))
def test_always_open_is_open_at_any_time_of_any_day(date: dt.date, time: dt.time) -> None:
    calendar: Calendar = AlwaysOpenCalendar()
    assert calendar.is_open(calendar.instant(date, time))
    found = calendar.next_session_with(time, calendar.instant(date, time) - 1)
    assert found is not None
    assert found[1] == calendar.instant(date, time)


def test_always_open_sessions_end_before_midnight() -> None:
    session = AlwaysOpenCalendar().session_on(day("2026-02-01"))
    assert wall(session.open_at).isoformat() == "2026-02-01T00:00:00+05:30"
    assert wall(session.close_at).isoformat() == "2026-02-01T23:59:59.999999+05:30"


# --- the file ------------------------------------------------------------------------------------------------------

FILE = """
exchange = "NSE"
as_of = 2030-01-01
[[hours]]
from = 2029-01-01
open = 09:15:00
close = 15:30:00
source = "test"
[[year]]
year = 2030
source = "test"
holidays = [{ date = 2030-01-01, name = "New Year", source = "test" }]
"""
EARLIER_HOURS = """[[hours]]
from = 2028-01-01
open = 09:00:00
close = 15:00:00
source = "test"
"""


def test_a_calendar_can_be_read_from_another_document() -> None:
    calendar = NseCalendar(FILE.encode())
    assert calendar.years == {2030}
    assert calendar.as_of == day("2030-01-01")
    assert calendar.session_on(day("2030-01-01")) is None
    assert hours(calendar.session_on(day("2030-01-02"))) == ("09:15", "15:30")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("date = 2030-01-01", "date = 2031-01-01"), "2031-01-01 is listed under 2030"),
        (('name = "New Year"', 'name = ""'), "lacks a name or a source"),
        (('source = "test" }]', 'source = "test" }, { date = 2030-01-01, name = "x", source = "y" }]'), "listed twice"),
        (("from = 2029-01-01", "from = 2030-01-03"), "no hours are stated for 2030-01-02"),
        (("close = 15:30:00", "close = 09:15:00"), "must ascend"),
        (("close = 15:30:00", "close = 15:30:00\nauction = 15:45:00"), "must ascend"),
        (("close = 15:30:00", "closing = 15:30:00"), "closing"),
        (("as_of = 2030-01-01", "as_of = soon"), "calendar file"),
        (("[[year]]", "[[year]]\nyear = 2030\nsource = 't'\nholidays = []\n[[year]]"), "a year is listed twice"),
        (("[[year]]", f"{EARLIER_HOURS}[[year]]"), "later"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(change: tuple[str, str], complaint: str) -> None:
    document = FILE.replace(*change)
    assert document != FILE
    with pytest.raises(CalendarError, match=complaint):
        NseCalendar(document.encode())


def test_a_malformed_file_is_refused() -> None:
    for document in (b"", b"\xff", b"[[year"):
        with pytest.raises(CalendarError, match="calendar file"):
            NseCalendar(document)
