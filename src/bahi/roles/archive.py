"""The role `archive`: writes every event, the SQL projections and the checkpoint."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from bahi.roles.base import Partition
from bahi.telemetry.event_lines import write_event_lines
from bahi.wiring import House
from projections.projector import Lag, Projector

log = structlog.get_logger(__name__)


class ArchiveRole:
    def __init__(self, house: House, partitions: Sequence[Partition]) -> None:
        self._lags: dict[int, int] = {}
        self._gauge = house.metrics.archive_lag
        self._projectors = [
            Projector(
                each,
                house.engine,
                house.clock,
                lines=write_event_lines,
                on_lag=self._measure(number),
                on_trouble=_report,
            )
            for number, each in enumerate(house.logs)
        ]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for projector in self._projectors:
                group.create_task(projector.run())

    def _measure(self, partition: int) -> Callable[[Lag], None]:
        def measured(lag: Lag) -> None:
            self._lags[partition] = lag.positions
            self._gauge.set(sum(self._lags.values()))

        return measured

    async def stop(self) -> None:
        for projector in self._projectors:
            await projector.stop()


def _report(error: Exception) -> None:
    log.warning("archive_waits", why=str(error).splitlines()[0])
