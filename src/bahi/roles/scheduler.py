"""The role `scheduler`: fires what is due on every partition, and sees before the open who has no broker session."""

import asyncio
from collections.abc import Sequence

import structlog

from bahi.roles.base import Partition
from bahi.wiring import House
from eventstore.errors import LogUnavailable
from projections.timetable import Timetable
from sources.readiness import Readiness
from sources.scheduler import Scheduler

log = structlog.get_logger(__name__)


class SchedulerRole:
    def __init__(self, house: House, partitions: Sequence[Partition]) -> None:
        self._schedulers = [
            (
                Scheduler(
                    house.logs[each.number],
                    house.clock,
                    Timetable.from_states(each.states),
                    buy_late_limit=house.policy.buy_late_limit,
                    outage=_waits,
                ),
                each.follow(),
            )
            for each in partitions
        ]
        self._readiness = [
            Readiness(house.logs[each.number], house.clock, house.calendar, house.sessions, outage=_waits)
            for each in partitions
        ]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for scheduler, events in self._schedulers:
                group.create_task(scheduler.run(events))
            for readiness in self._readiness:
                group.create_task(readiness.run())

    async def stop(self) -> None:
        for scheduler, _ in self._schedulers:
            scheduler.stop()
        for readiness in self._readiness:
            readiness.stop()


def _waits(error: LogUnavailable) -> None:
    log.warning("scheduler_waits", why=str(error))
