"""When the exchange trades: sessions by date and by instant, in the exchange's own clock.

The facts are a dated data file, `nse.toml`, because the public libraries miss closures. A year that is not in it is
unknown and raises `UnknownYear`: no session is ever guessed. Everything here is a pure function of its arguments;
the one piece of input is `load_nse`, which reads the packaged file once.
"""

from __future__ import annotations

import datetime as dt
from abc import abstractmethod
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Protocol

import msgspec

from domain.values import Instant

__all__ = [
    "AlwaysOpenCalendar",
    "Break",
    "Calendar",
    "CalendarError",
    "NseCalendar",
    "Session",
    "UnknownYear",
    "instant",
    "load_nse",
    "wall",
]

# Asia/Kolkata has had no other offset since 1945, so a fixed one is exact and needs no zone database.
EXCHANGE_ZONE = dt.timezone(dt.timedelta(hours=5, minutes=30), "IST")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_DAY = dt.timedelta(days=1)

# How far ahead a session is looked for: the exchange does not close for so long in a row, so a time that lies in none
# of these days' sessions lies outside trading hours.
SEARCH_DAYS = 14


class CalendarError(ValueError):
    """The calendar file contradicts itself; the message names the entry."""


class UnknownYear(LookupError):
    """The calendar has no list for this year, so whether the exchange trades is not known."""

    def __init__(self, year: int) -> None:
        super().__init__(f"the exchange's calendar for {year} is not known; add the year to nse.toml")
        self.year = year


def instant(date: dt.date, time: dt.time) -> Instant:
    """The instant at which the exchange's clock shows `time` on `date`. `time` is naive: the exchange's wall clock."""
    if time.tzinfo is not None:
        raise ValueError(f"wall-clock times carry no offset, got {time.isoformat()}")
    return (dt.datetime.combine(date, time, EXCHANGE_ZONE) - _EPOCH) // _MICROSECOND


def wall(at: Instant) -> dt.datetime:
    """What the exchange's clock and calendar show at this instant, as an aware datetime (+05:30)."""
    return (_EPOCH + at * _MICROSECOND).astimezone(EXCHANGE_ZONE)


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """Trading stands still inside a session: `start_at <= t < end_at`."""

    start_at: Instant
    end_at: Instant


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One trading day's normal market, `open_at <= t < close_at`, never across midnight.

    `auction_at`: from then on stocks that have derivatives trade only in the closing auction and their resting stop
    orders are cancelled, while all other stocks trade on to `close_at`. None where there is no such auction (at NSE
    before 2026-08-03).
    """

    date: dt.date
    open_at: Instant
    close_at: Instant
    name: str
    breaks: tuple[Break, ...] = ()
    auction_at: Instant | None = None

    def contains(self, at: Instant) -> bool:
        """Whether the instant lies in the session, breaks included."""
        return self.open_at <= at < self.close_at

    def trades_at(self, at: Instant) -> bool:
        """Whether the market is open at the instant: in the session and not in a break."""
        return self.contains(at) and not any(pause.start_at <= at < pause.end_at for pause in self.breaks)


class Calendar(Protocol):
    """The sessions of an exchange. An implementation gives `session_on`; the rest follows from it.

    Every method raises `UnknownYear` when the answer depends on a year that is not known.
    """

    @abstractmethod
    def session_on(self, date: dt.date) -> Session | None:
        """The session of this date, None when the exchange is closed all day."""
        ...

    def session_at(self, at: Instant) -> Session | None:
        """The session that contains this instant (breaks included), None outside of sessions."""
        session = self.session_on(wall(at).date())
        return session if session is not None and session.contains(at) else None

    def sessions_from(self, at: Instant) -> Iterator[Session]:
        """The sessions whose close is still ahead of `at`, ascending, until the first unknown year raises."""
        date = wall(at).date()
        while True:
            session = self.session_on(date)
            if session is not None and session.close_at > at:
                yield session
            date += _DAY

    def is_open(self, at: Instant) -> bool:
        """Whether the market trades at this instant: in a session and not in one of its breaks."""
        session = self.session_at(at)
        return session is not None and session.trades_at(at)

    def next_session_with(self, buy_time: dt.time, after: Instant) -> tuple[Session, Instant] | None:
        """The next session in which `buy_time` is still ahead of `after` and the market is open, with that instant.

        None when no session of the next two weeks is open at `buy_time`: it lies outside trading hours.
        """
        first = wall(after).date()
        for offset in range(SEARCH_DAYS):
            date = first + offset * _DAY
            session = self.session_on(date)
            buy_at = instant(date, buy_time)
            if session is not None and buy_at > after and session.trades_at(buy_at):
                return session, buy_at
        return None

    def instant(self, date: dt.date, time: dt.time) -> Instant:
        """The instant at which the exchange's clock shows `time` on `date`."""
        return instant(date, time)

    def wall(self, at: Instant) -> dt.datetime:
        """What the exchange's clock and calendar show at this instant."""
        return wall(at)


class AlwaysOpenCalendar(Calendar):
    """Every day is one session, 00:00:00 to 23:59:59.999999: for demonstrations and tests outside market hours."""

    def session_on(self, date: dt.date) -> Session:
        return Session(
            date=date,
            open_at=instant(date, dt.time.min),
            close_at=instant(date, dt.time.max),
            name="Always open",
        )


class NseCalendar(Calendar):
    """NSE's cash market: regular hours, weekends, holidays and special sessions as its calendar file states them."""

    def __init__(self, document: bytes) -> None:
        """Takes the file's contents (TOML). Raises `CalendarError` when they are malformed or contradict themselves."""
        try:
            file = msgspec.toml.decode(document, type=_File)
        except (msgspec.DecodeError, ValueError) as error:  # what the TOML parser raises is a ValueError
            raise CalendarError(f"calendar file: {error}") from error
        self.as_of = file.as_of
        """Circulars issued up to this day were searched; later changes are not in the file."""
        self.years = frozenset(year.year for year in file.year)
        if len(self.years) != len(file.year):
            raise CalendarError("a year is listed twice")
        starts = [hours.since for hours in file.hours]
        if starts != sorted(set(starts)):
            raise CalendarError("hours: each entry must start later than the one before")
        self._entries: dict[dt.date, _Holiday | _Special] = {}
        self._sessions: dict[dt.date, Session] = {}
        for year in file.year:
            self._list_entries(year)
            self._lay_out_sessions(year.year, file.hours)

    def session_on(self, date: dt.date) -> Session | None:
        if date.year not in self.years:
            raise UnknownYear(date.year)
        return self._sessions.get(date)

    def holiday_on(self, date: dt.date) -> str | None:
        """The name of the holiday for which the exchange is closed on this date, None when none is listed."""
        entry = self._entries.get(date)
        return entry.name if isinstance(entry, _Holiday) else None

    def source_of(self, date: dt.date) -> str | None:
        """Where this date's holiday or special session is stated, None for a date that follows the general rule."""
        entry = self._entries.get(date)
        return None if entry is None else entry.source

    def _list_entries(self, year: _Year) -> None:
        entries: list[_Holiday | _Special] = [*year.holidays, *year.sessions]
        for entry in entries:
            if entry.date.year != year.year:
                raise CalendarError(f"{entry.date} is listed under {year.year}")
            if entry.date in self._entries:
                raise CalendarError(f"{entry.date} is listed twice")
            if not entry.name or not entry.source:
                raise CalendarError(f"{entry.date} lacks a name or a source")
            self._entries[entry.date] = entry

    def _lay_out_sessions(self, year: int, eras: tuple[_Hours, ...]) -> None:
        date = dt.date(year, 1, 1)
        while date.year == year:
            entry = self._entries.get(date)
            if isinstance(entry, _Special):
                self._sessions[date] = _session(date, entry.name, entry.open, entry.close, entry.auction, entry.breaks)
            elif entry is None and date.weekday() < 5:
                hours = next((hours for hours in reversed(eras) if hours.since <= date), None)
                if hours is None:
                    raise CalendarError(f"no hours are stated for {date}")
                self._sessions[date] = _session(date, "Regular", hours.open, hours.close, hours.auction)
            date += _DAY


@cache
def load_nse() -> NseCalendar:
    """The calendar shipped with this package, read once."""
    return NseCalendar(files("domain").joinpath("nse.toml").read_bytes())


# The file's shape: what `nse.toml` may say, nothing else.


class _Pause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    start: dt.time = msgspec.field(name="from")
    until: dt.time


class _Hours(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    since: dt.date = msgspec.field(name="from")
    open: dt.time
    close: dt.time
    auction: dt.time | None = None
    source: str


class _Holiday(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    date: dt.date
    name: str
    source: str


class _Special(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    date: dt.date
    name: str
    open: dt.time
    close: dt.time
    breaks: tuple[_Pause, ...] = ()
    auction: dt.time | None = None
    source: str


class _Year(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    year: int
    source: str
    holidays: tuple[_Holiday, ...]
    sessions: tuple[_Special, ...] = ()


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    exchange: str
    as_of: dt.date
    hours: tuple[_Hours, ...]
    year: tuple[_Year, ...]


def _session(
    date: dt.date,
    name: str,
    open_time: dt.time,
    close_time: dt.time,
    auction: dt.time | None = None,
    breaks: tuple[_Pause, ...] = (),
) -> Session:
    edges = [open_time]
    for pause in breaks:
        edges += [pause.start, pause.until]
    edges += [close_time] if auction is None else [auction, close_time]
    if any(later <= earlier for earlier, later in pairwise(edges)):
        stated = ", ".join(str(edge) for edge in edges)
        raise CalendarError(f"{date} {name}: open, breaks, auction and close must ascend: {stated}")
    return Session(
        date=date,
        open_at=instant(date, open_time),
        close_at=instant(date, close_time),
        name=name,
        breaks=tuple(Break(start_at=instant(date, p.start), end_at=instant(date, p.until)) for p in breaks),
        auction_at=None if auction is None else instant(date, auction),
    )
