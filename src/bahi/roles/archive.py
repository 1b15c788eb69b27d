"""The role `archive`: writes every event, the SQL projections and the checkpoint."""

import asyncio
from collections.abc import Sequence

from bahi.roles.base import Partition
from bahi.wiring import House
from projections.projector import Projector


class ArchiveRole:
    def __init__(self, house: House, partitions: Sequence[Partition]) -> None:
        self._projectors = [Projector(log, house.engine, house.clock) for log in house.logs]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for projector in self._projectors:
                group.create_task(projector.run())

    async def stop(self) -> None:
        for projector in self._projectors:
            await projector.stop()
