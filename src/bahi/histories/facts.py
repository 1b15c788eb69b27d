"""Facts as they are recorded: what a decision looked at, and what of it is the same for many decisions, told once.

Whoever gives `Facts` another field adds it to `FactsLine`, with the default that leaves earlier decisions as they were.
"""

import datetime as dt
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import Struct

from domain.calendar import Calendar, Session, UnknownYear
from domain.facts import Facts, Halt, Policy, Rules
from domain.values import Instant, Price, Quantity

__all__ = ["FactsLine", "KnownSessions", "Listed", "RecordedCalendar", "Tables", "UnrecordedDay"]

BEFORE: Final = 3
AHEAD: Final = 30
"""Days around a decision whose sessions are recorded. The rules look two weeks ahead."""
_DAY = dt.timedelta(days=1)


class FactsLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`Facts` with the numbers of its calendar, policy and instrument in the tables."""

    now: Instant
    log_id: str
    calendar: int = 0
    policy: int = 0
    price: Price | None = None
    price_at: Instant = 0
    connected: bool = True
    halt: Halt | None = None
    instrument: int | None = None
    foreign: Quantity = 0
    day_spent: bool = False
    cause: str = ""


class Listed(Struct, frozen=True, kw_only=True):
    """`domain.facts.Rules`: what the rules may ask of an instrument."""

    lot: Quantity
    tick_size: Decimal
    freeze: Quantity
    lower_circuit: Price | None = None
    upper_circuit: Price | None = None

    @classmethod
    def of(cls, rules: Rules) -> "Listed":
        return cls(
            lot=rules.lot,
            tick_size=rules.tick_size,
            freeze=rules.freeze,
            lower_circuit=rules.lower_circuit,
            upper_circuit=rules.upper_circuit,
        )


class UnrecordedDay(LookupError):
    """A rule looks at a day whose session was not recorded: it looks further than it did."""


class KnownSessions(Struct, frozen=True, kw_only=True):
    """The calendar as it was: the sessions of the days from `first` to `last`."""

    first: dt.date
    last: dt.date
    sessions: tuple[Session, ...]
    unknown_years: tuple[int, ...] = ()


class RecordedCalendar(Calendar):
    """Knows what is recorded and nothing else."""

    def __init__(self, known: KnownSessions) -> None:
        self._known = known
        self._sessions = {session.date: session for session in known.sessions}

    def session_on(self, date: dt.date) -> Session | None:
        known = self._known
        if date.year in known.unknown_years:
            raise UnknownYear(date.year)
        if not known.first <= date <= known.last:
            raise UnrecordedDay(f"the session of {date} is not recorded, only those from {known.first} to {known.last}")
        return self._sessions.get(date)


class Tables(Struct, kw_only=True):
    """What the lines of a history's decisions refer to by number."""

    calendars: list[KnownSessions] = []
    policies: list[Policy] = []
    instruments: list[Listed] = []

    def read(self) -> list[RecordedCalendar]:
        """The calendars, for `facts`."""
        return [RecordedCalendar(each) for each in self.calendars]

    def facts(self, line: FactsLine, calendars: list[RecordedCalendar]) -> Facts:
        """Raises LookupError when a number is none of the tables'."""
        given = {name: getattr(line, name) for name in line.__struct_fields__}
        given["calendar"] = calendars[line.calendar]
        given["policy"] = self.policies[line.policy]
        given["instrument"] = None if line.instrument is None else self.instruments[line.instrument]
        return Facts(**given)

    def line(self, facts: Facts) -> FactsLine:
        """The line that `facts` are told by; what it refers to is added, except for the calendar (`add_calendar`)."""
        given: dict[str, Any] = {name: getattr(facts, name) for name in FactsLine.__struct_fields__}
        given["calendar"] = 0
        given["policy"] = _number(self.policies, facts.policy)
        if facts.instrument is not None:
            given["instrument"] = _number(self.instruments, Listed.of(facts.instrument))
        return FactsLine(**given)

    def add_calendar(self, calendar: Calendar, begins: Instant, ends: Instant) -> None:
        """The sessions of all days that decisions between these moments may look at."""
        first = calendar.wall(begins).date() - BEFORE * _DAY
        last = calendar.wall(ends).date() + AHEAD * _DAY
        sessions: list[Session] = []
        unknown: dict[int, None] = {}
        date = first
        while date <= last:
            try:
                session = calendar.session_on(date)
            except UnknownYear as error:
                unknown[error.year] = None
            else:
                sessions += [] if session is None else [session]
            date += _DAY
        self.calendars.append(
            KnownSessions(first=first, last=last, sessions=tuple(sessions), unknown_years=tuple(unknown))
        )


def _number(table: list[Any], value: Any) -> int:
    """Its place in the table, where it is put if it is new."""
    told = msgspec.json.encode(value)
    for number, each in enumerate(table):
        if msgspec.json.encode(each) == told:
            return number
    table.append(value)
    return len(table) - 1
