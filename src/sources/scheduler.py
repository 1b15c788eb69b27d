"""The scheduler: appends BUY_TRIGGERED and SELL_TRIGGERED at their instants, and tells a run that its timers stand.

The timetable says what is due; the clock decides. APScheduler is the alarm clock: one job per distinct instant, which
does no more than ring. A bell that rings too early, twice or late is therefore harmless, and what could not be
appended is still due at the next ring. Any number of schedulers may run: the log takes each trigger once.

1. `fire_due(now)` appends a trigger for everything that is due, by the late policy: a BUY later than the limit is
   TRIGGER_MISSED, a SELL is fired late until the close and not after it.
2. `announce()` appends READY and RUNNING of the runs whose timers stand in the timetable.
3. `step(now)` is both, for a clock that is turned by hand. `run(follower)` is both for ever.
"""

import asyncio
import datetime as dt
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from domain.clock import Clock
from domain.events import BuyTriggered, Event, SellTriggered, StrategyReady, StrategyRunning, TriggerMissed
from domain.values import SECOND, Duration, Instant
from eventstore.batch import Appended
from eventstore.envelope import Dedupe, NewEvent, Recorded
from eventstore.errors import LogUnavailable
from eventstore.log import EventLog
from projections.timetable import Due, Starting, Timer, Timetable
from sources.appending import AT_ONCE, append, until_available
from sources.following import following

__all__ = ["Scheduler"]

PULSE: Final[Duration] = SECOND // 4
"""How often the clock itself is looked at: an alarm waits on a monotonic clock and does not see a jump of the other."""
JUMP: Final[Duration] = 1_000
"""How far the two may drift apart before the alarms are set anew."""

_DIGEST: Final = "timer"
"""The same for a trigger and for its miss: whichever is in the log first is what became of the timer."""


class Scheduler:
    """The timers of one partition.

    `timetable` was made from the states loaded, `run` follows the log from before that. `lateness` is called for
    every trigger when it is in the log, with how long after its instant that is; `outage` whenever the log could not
    be reached.
    """

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        timetable: Timetable,
        *,
        buy_late_limit: Duration = 30 * SECOND,
        lateness: Callable[[Timer, Duration], None] | None = None,
        outage: Callable[[LogUnavailable], None] | None = None,
    ) -> None:
        self.timetable = timetable
        self._log = log
        self._clock = clock
        self._buy_late_limit = buy_late_limit
        self._lateness = lateness
        self._outage = outage
        self._alarm: Any = None
        self._armed: set[Instant] = set()
        self._armed_revision = -1
        self._offset = 0
        self._bell = asyncio.Event()
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()

    # --- by hand ----------------------------------------------------------------------------------------------------

    def next_due(self) -> Instant | None:
        """The next instant at which there is something to do."""
        return self.timetable.next_due()

    def apply(self, recorded: Recorded) -> None:
        """Follow one event of the log."""
        self.timetable.apply(recorded)
        if self.timetable.starting():
            self._started.set()
        if self.timetable.revision != self._armed_revision:
            self._bell.set()

    async def step(self, now: Instant) -> int:
        """Announce the runs whose timers stand, and fire what is due at `now`; how many triggers that were.
        Raises LogUnavailable: nothing is forgotten, the next step does it."""
        await self.announce()
        return await self.fire_due(now)

    async def fire_due(self, now: Instant) -> int:
        """Append the triggers of everything due at `now`; how many there were. Raises LogUnavailable, LogLost."""
        due = []
        for each in self.timetable.due(now):
            if each.timer is Timer.SELL and now >= each.close_at:  # the end of the session ends the run
                self.timetable.settle(each.strategy_id, each.run, each.timer, each.due_at)
            else:
                due.append(each)
        for start in range(0, len(due), AT_ONCE):
            await self._fire(due[start : start + AT_ONCE], now)
        return len(due)

    async def _fire(self, due: list[Due], now: Instant) -> None:
        results = await append(self._log, [self._trigger(each, now) for each in due])
        appended_at = self._clock.now()
        for each in due:
            self.timetable.settle(each.strategy_id, each.run, each.timer, each.due_at)
        if self._lateness is not None and any(isinstance(result, Appended) for result in results):
            for each in due:
                self._lateness(each.timer, appended_at - each.due_at)

    def _trigger(self, each: Due, now: Instant) -> NewEvent:
        late = now - each.due_at
        event: Event
        if each.timer is Timer.SELL:
            event = SellTriggered(run=each.run, due_at=each.due_at)
        elif late > self._buy_late_limit:
            event = TriggerMissed(run=each.run, due_at=each.due_at, lateness=late)
        else:
            event = BuyTriggered(run=each.run, due_at=each.due_at)
        key = f"timer:{each.strategy_id}:{each.run}:{each.timer}:{each.due_at}"
        return NewEvent(event, each.strategy_id, each.user_id, dedupe=Dedupe(key, _DIGEST))

    async def announce(self) -> int:
        """Append READY and RUNNING of every run whose timers stand; how many there were.
        Raises LogUnavailable, LogLost."""
        starting = self.timetable.starting()
        for start in range(0, len(starting), AT_ONCE // 2):
            these = starting[start : start + AT_ONCE // 2]
            # a batch holds whole pairs, so that nobody is READY and not RUNNING
            await append(self._log, [event for each in these for event in _ready(each)])
            for each in these:
                self.timetable.told(each)
        return len(starting)

    # --- by the clock -----------------------------------------------------------------------------------------------

    async def run(self, follower: AsyncIterator[Recorded]) -> None:
        """Fire and announce until `stop()`. Raises, as a group, what the follower raises and LogLost."""
        logging.getLogger("apscheduler").setLevel(logging.WARNING)  # a line for each job set and rung is no news
        self._alarm = AsyncIOScheduler(
            timezone=dt.UTC, job_defaults={"misfire_grace_time": None, "coalesce": False, "max_instances": 1}
        )
        self._alarm.start()
        try:
            async with asyncio.TaskGroup() as group:
                services = [
                    group.create_task(self._follow(follower), name="scheduler: follow"),
                    group.create_task(self._fire_for_ever(), name="scheduler: fire"),
                    group.create_task(self._announce_for_ever(), name="scheduler: announce"),
                    group.create_task(self._watch_the_clock(), name="scheduler: clock"),
                ]
                await self._stopping.wait()
                for service in services:
                    service.cancel()
        finally:
            self._alarm.shutdown(wait=False)
            await asyncio.sleep(0)  # it shuts down in the loop's next turn
            self._alarm = None
            self._armed.clear()

    def stop(self) -> None:
        """Let `run` return. What is due then is due for the next scheduler."""
        self._stopping.set()

    async def _follow(self, follower: AsyncIterator[Recorded]) -> None:
        async with following(follower) as events:
            async for recorded in events:
                self.apply(recorded)

    async def _fire_for_ever(self) -> None:
        while True:
            self._bell.clear()
            await until_available(self._clock, self._fire_now, self._outage)
            self._set_alarms()
            await self._bell.wait()

    async def _fire_now(self) -> None:
        await self.fire_due(self._clock.now())

    async def _announce_for_ever(self) -> None:
        while True:
            self._started.clear()
            await until_available(self._clock, self._announce_now, self._outage)
            await self._started.wait()

    async def _announce_now(self) -> None:
        self._set_alarms()
        await self.announce()

    def _set_alarms(self) -> None:
        """One job for each instant of the timetable, none for any other."""
        if self._armed_revision == self.timetable.revision:
            return
        if not self._armed:
            self._offset = self._drift()
        self._armed_revision = self.timetable.revision
        wanted = set(self.timetable.instants())
        for instant in self._armed - wanted:
            if self._alarm.get_job(str(instant)) is not None:
                self._alarm.remove_job(str(instant))
        for instant in sorted(wanted - self._armed):
            # by our clock: where it differs from the machine's, the alarm is set for as far ahead
            ahead = dt.timedelta(microseconds=instant - self._clock.now())
            trigger = DateTrigger(dt.datetime.now(dt.UTC) + ahead)
            self._alarm.add_job(self._ring, trigger, args=(instant,), id=str(instant), replace_existing=True)
        self._armed = wanted

    async def _ring(self, instant: Instant) -> None:
        """The job: an alarm only wakes, so that what goes wrong in firing is not the alarm clock's to swallow."""
        self._armed.discard(instant)
        self._armed_revision = -1
        self._bell.set()

    async def _watch_the_clock(self) -> None:
        """Set the alarms anew when the clock was moved, and ring for whatever is due unnoticed."""
        while True:
            await self._clock.sleep(PULSE)
            if abs(self._drift() - self._offset) > JUMP:
                self._alarm.remove_all_jobs()
                self._armed.clear()
                self._armed_revision = -1
                self._bell.set()
            next_due = self.timetable.next_due()
            if next_due is not None and next_due <= self._clock.now():
                self._bell.set()

    def _drift(self) -> Duration:
        """The clock against the monotonic one, by which alarms are waited for."""
        return self._clock.now() - time.monotonic_ns() // 1_000


def _ready(each: Starting) -> tuple[NewEvent, NewEvent]:
    def new(name: str, event: Event) -> NewEvent:
        dedupe = Dedupe(f"{name}:{each.strategy_id}:{each.run}", _DIGEST)
        return NewEvent(event, each.strategy_id, each.user_id, causation_id=each.cause, dedupe=dedupe)

    return new("ready", StrategyReady(run=each.run)), new("running", StrategyRunning(run=each.run))
