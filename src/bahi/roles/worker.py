"""The role `worker`: one worker on every partition."""

import asyncio
import os
from collections.abc import Sequence

from bahi.roles.base import Partition
from bahi.wiring import House, consumer_name
from handlers.worker import Worker


class WorkerRole:
    def __init__(self, house: House, partitions: Sequence[Partition]) -> None:
        # stable across restarts of one worker, and never the same for two that live at once
        slot = _slot(house)
        self._workers = [
            Worker(desk, consumer=consumer_name("worker", slot), concurrency=house.settings.worker_concurrency)
            for desk in house.desks
        ]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.run())

    async def stop(self) -> None:
        for worker in self._workers:
            await worker.stop()


_held: list[int] = []


def _slot(house: House) -> int:
    """The lowest number that no other live worker of this HOME has: its lock dies with its process."""
    import fcntl

    folder = house.settings.home.expanduser() / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1024):
        descriptor = os.open(folder / f"{number}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        _held.append(descriptor)
        return number
    raise RuntimeError(f"1024 workers run in {folder} already")
