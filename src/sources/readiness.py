"""The pre-open readiness check: whoever has strategies armed for today and no broker session hears of it in time.

A session at the broker ends every day and only a person can begin the next one. So at 08:45 on the exchange's clock,
on every day that has a session, and once more at 09:10, each user whose armed strategies would find no broker session
gets a critical alert SESSION_MISSING. It is told once for each user, day and call, however many processes check. A
check that begins late, while something is still to be bought or sold, is made at once.

1. `next_due()` says when there is something to do, `step(now)` does what is due then, for a clock turned by hand.
2. `run()` does both for ever.
"""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Final, Protocol

import structlog
from msgspec import Struct

from domain.calendar import Calendar, Session, UnknownYear
from domain.clock import Clock
from domain.events import AlertTriggered
from domain.strategy import State
from domain.values import MINUTE, Code, Duration, Instant, Severity
from eventstore.envelope import Dedupe, NewEvent
from eventstore.errors import LogUnavailable
from eventstore.log import EventLog
from projections.live import live_states
from sources.appending import AT_ONCE, append, until_available

__all__ = ["CURE", "Readiness", "Sessions"]

CALLS: Final = (dt.time(8, 45), dt.time(9, 10))
"""When to look, on the exchange's clock: half an hour before the open, and a last time five minutes before it."""
NAP: Final[Duration] = MINUTE
"""How long to sleep at most: the clock may be set meanwhile."""
CURE: Final = (
    "log in at the broker now: GET /broker/kite/login-url gives the address, and POST /broker/connect takes the "
    "request_token that comes back"
)
_DAY: Final = dt.timedelta(days=1)
SEARCH_DAYS: Final = 14
NAMED: Final = 20
"""Strategies that an alert names."""

log = structlog.get_logger(__name__)


class Sessions(Protocol):
    """Who has a broker session."""

    async def lasts(self, user_id: int, until: Instant) -> bool:
        """Whether the user has a session now that will be there at `until`. Raises LogUnavailable when that cannot be
        known."""
        ...


class Check(Struct, frozen=True, order=True):
    """One look at one day: its instant, and which of the calls it is."""

    at: Instant
    date: dt.date
    call: int


class Readiness:
    """The check of one partition.

    `cure` tells the user what to do. `outage` is called whenever the log or the sessions could not be read.
    """

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        calendar: Calendar,
        sessions: Sessions,
        *,
        cure: str = CURE,
        outage: Callable[[LogUnavailable], None] | None = None,
    ) -> None:
        self._log = log
        self._clock = clock
        self._calendar = calendar
        self._sessions = sessions
        self._cure = cure
        self._outage = outage
        self._done: Check | None = None
        """The latest one made: nothing before it is made any more."""
        self._unknown: set[int] = set()
        """Years that the calendar does not know, each reported once."""
        self._stopping = asyncio.Event()

    # --- by hand ----------------------------------------------------------------------------------------------------

    def next_due(self) -> Instant | None:
        """When to look next, possibly past; None while the calendar does not know the year."""
        check = self._next(self._clock.now())
        return None if check is None else check.at

    async def step(self, now: Instant) -> int:
        """Make the check that is due at `now`, if one is; how many users lack a session.

        Raises LogUnavailable: nothing is forgotten, the next step does it.
        """
        check = self._next(now)
        if check is None or check.at > now:
            return 0
        missing = await self._look(check, now)
        self._done = check
        return missing

    def _next(self, now: Instant) -> Check | None:
        """The check to make next. Of several that are due only the latest is, and none of a session that is over."""
        today = self._calendar.wall(now).date()
        for date in (today + offset * _DAY for offset in range(SEARCH_DAYS)):
            session = self._session_on(date)
            if session is None or session.close_at <= now:
                continue
            checks = [Check(self._calendar.instant(date, at), date, call) for call, at in enumerate(CALLS)]
            due = [check for check in checks if check.at <= now]
            left = [*due[-1:], *checks[len(due) :]]
            for check in left:
                if (self._done is None or check > self._done) and check.at < session.close_at:
                    return check
        return None

    def _session_on(self, date: dt.date) -> Session | None:
        try:
            return self._calendar.session_on(date)
        except UnknownYear as error:
            if error.year not in self._unknown:
                self._unknown.add(error.year)
                log.error("readiness_not_checked", year=error.year, why=str(error))
            return None

    async def _look(self, check: Check, now: Instant) -> int:
        _, states, corrupt = await live_states(self._log)
        for strategy_id, why in corrupt.items():
            log.error("readiness_not_checked", strategy_id=strategy_id, why=why)
        armed: dict[int, list[State]] = {}
        for state in states:
            if _needs_a_session(state, check.date):
                armed.setdefault(state.user_id, []).append(state)
        alerts = []
        for user_id, theirs in armed.items():
            until = max(max(now, state.sell_at) for state in theirs)
            if not await self._sessions.lasts(user_id, until):
                alerts.append(self._alert(user_id, theirs, check, now))
        for start in range(0, len(alerts), AT_ONCE):
            await append(self._log, alerts[start : start + AT_ONCE])
        return len(alerts)

    def _alert(self, user_id: int, theirs: list[State], check: Check, now: Instant) -> NewEvent:
        ids = [str(state.id) for state in theirs]
        buys = [state.buy_at for state in theirs if not state.entered and state.buy_at > now]
        facts = {
            "date": check.date.isoformat(),
            "strategies": ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""),
            "cure": self._cure,
        }
        if buys:
            facts["first_buy"] = self._calendar.wall(min(buys)).time().isoformat("seconds")
        if held := sum(state.open_quantity for state in theirs):
            facts["shares_held"] = str(held)
        alert = AlertTriggered(severity=Severity.CRITICAL, code=Code.SESSION_MISSING, at=now, facts=facts)
        dedupe = Dedupe(f"session-missing:{user_id}:{check.date.isoformat()}:{check.call}", "told")
        return NewEvent(alert, user_id=user_id, dedupe=dedupe)

    # --- by the clock -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look whenever it is time, until `stop()`. Raises, as a group, LogLost."""
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._look_for_ever(), name="readiness")
            await self._stopping.wait()
            looking.cancel()

    async def _look_for_ever(self) -> None:
        while True:
            await until_available(self._clock, self._step, self._outage)
            due = self.next_due()
            await self._clock.sleep(NAP if due is None else min(NAP, max(0, due - self._clock.now())))

    async def _step(self) -> None:
        await self.step(self._clock.now())

    def stop(self) -> None:
        """Let `run` return."""
        self._stopping.set()


def _needs_a_session(state: State, date: dt.date) -> bool:
    """It has something to buy or to sell on this day, or an order whose outcome only the broker knows."""
    to_buy = state.alive and not state.entry_spent
    return state.unresolved or (state.session_date == date and (to_buy or state.open_quantity > 0))
