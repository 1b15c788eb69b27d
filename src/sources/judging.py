"""Which ticks count. Feeds repeat, reorder, replay and stutter; the listener acts on what this lets through. Pure."""

import datetime as dt
from enum import StrEnum
from typing import Final

from domain.calendar import Calendar, Session, UnknownYear, instant, wall
from domain.values import DAY, SECOND, Duration, Instant, Tick

__all__ = ["FUTURE", "STEP_BACK", "TickJudge", "Verdict"]

STEP_BACK: Final[Duration] = 2 * SECOND
"""How far behind the newest stamp of its symbol a trade may still trigger a stop."""
FUTURE: Final[Duration] = 60 * SECOND
"""How far ahead of our clock a stamp may lie. Without a bound one broken stamp would make all later trades old."""


class Verdict(StrEnum):
    """What a tick is good for, or why for nothing."""

    NEWEST = "newest"
    """The last price, and stops are checked."""
    EARLIER = "earlier"
    """Stops are checked; the last price is a later one."""
    PRICE = "price"
    """Not above zero, or no number."""
    CLOSED = "closed"
    """Stamped outside the hours of a session."""
    OLD = "old"
    """Stamped too far behind the newest of its symbol."""
    FUTURE = "future"
    """Stamped too far ahead of the clock."""


class TickJudge:
    """Judges ticks in the order of their arrival; of equal stamps the one that arrives later is newer."""

    def __init__(self, calendar: Calendar) -> None:
        self.last: dict[str, Tick] = {}
        """The newest valid tick of each symbol."""
        self._calendar = calendar
        self._day_from: Instant = 0
        self._day_until: Instant = 0
        self._session: Session | None = None

    def judge(self, tick: Tick, now: Instant) -> Verdict:
        """What the tick is good for; if it is the newest of its symbol, it is remembered in `last`."""
        price, at = tick.price, tick.at
        if not price.is_finite() or price <= 0:
            return Verdict.PRICE
        if at > now + FUTURE:
            return Verdict.FUTURE
        if not self._in_session(at):
            return Verdict.CLOSED
        last = self.last.get(tick.symbol)
        if last is None or at >= last.at:
            self.last[tick.symbol] = tick
            return Verdict.NEWEST
        return Verdict.EARLIER if last.at - at <= STEP_BACK else Verdict.OLD

    def _in_session(self, at: Instant) -> bool:
        if not self._day_from <= at < self._day_until:
            if at <= 0:
                return False
            date = wall(at).date()
            self._day_from = instant(date, dt.time.min)
            self._day_until = self._day_from + DAY
            try:
                self._session = self._calendar.session_on(date)
            except UnknownYear:  # nothing can be armed in it
                self._session = None
        session = self._session
        if session is None or not session.open_at <= at < session.close_at:
            return False
        return not session.breaks or session.trades_at(at)
