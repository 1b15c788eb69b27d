"""The role `worker`: one worker on every partition, and a look now and then at how far behind the lanes are."""

import asyncio
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

import structlog

from bahi.roles.base import Partition
from bahi.telemetry.metrics import measure_lanes, timed
from bahi.wiring import House, consumer_name
from domain.values import SECOND
from eventstore.errors import LogUnavailable
from handlers.worker import Worker

log = structlog.get_logger(__name__)

LANES_EVERY = 5 * SECOND
MOST = 1024
"""Workers of one HOME."""


class WorkerRole:
    def __init__(self, house: House, partitions: Sequence[Partition]) -> None:
        self._house = house
        number, self._held = _slot(house.settings.home.expanduser() / "workers")
        handling = timed(house.metrics.handler_seconds, lambda delivery: delivery.stream)
        self._workers = [
            Worker(
                desk,
                consumer=consumer_name("worker", number),
                concurrency=house.settings.worker_concurrency,
                around=handling,
            )
            for desk in house.desks
        ]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            measuring = group.create_task(self._measure())
            async with asyncio.TaskGroup() as workers:
                for worker in self._workers:
                    workers.create_task(worker.run())
            measuring.cancel()
        os.close(self._held)

    async def stop(self) -> None:
        for worker in self._workers:
            await worker.stop()

    async def _measure(self) -> None:
        while True:
            for each in self._house.logs:
                try:
                    await measure_lanes(each, self._house.metrics)
                except LogUnavailable as error:
                    log.debug("lanes_not_measured", why=str(error))
            await self._house.clock.sleep(LANES_EVERY)


def _slot(folder: Path) -> tuple[int, int]:
    """The lowest number that no live worker of this HOME has, and the lock on it, which dies with the process.

    So a consumer's name is the same after a restart, and never that of two at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(MOST):
        descriptor = os.open(folder / f"{number}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return number, descriptor
    raise OSError(f"{MOST} workers run in {folder} already")
