"""A process of its own that fills a log, so that what is measured has a core to itself.

`python -m bahi.bench.producer URL STRATEGIES`: for each line `EVENTS RATE` on standard input it appends so many events
of trading days, so many a second (0: as fast as Redis takes them), and answers with the seconds that it took.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice

import uvloop

from bahi.bench.trading_days import trading_days
from bahi.clock import SystemClock
from eventstore.envelope import NewEvent
from eventstore.log import EventLog, chunked
from eventstore.open import open_log
from projections.runtime import DEFAULTS

__all__ = ["Producer", "producer"]

AT_ONCE = 512
"""Events in one round trip, eight appends."""
PER_SECOND = 100
"""How often a paced producer appends."""


class Producer:
    """Tells the process what to do."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def append(self, events: int, rate: int = 0) -> float:
        """How many seconds it took."""
        assert self._process.stdin is not None  # noqa: S101 (made so)
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(f"{events} {rate}\n".encode())
        await self._process.stdin.drain()
        return float(await self._process.stdout.readline())


@asynccontextmanager
async def producer(log: EventLog, strategies: int = 10_000) -> AsyncIterator[Producer]:
    """A running one, for a log of the embedded server that nobody else appends to."""
    redis_url = f"unix://{log.redis.connection_pool.connection_kwargs['path']}"
    command = (sys.executable, "-m", "bahi.bench.producer", redis_url, str(strategies))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        yield Producer(process)
    finally:
        assert process.stdin is not None  # noqa: S101
        process.stdin.close()
        await process.wait()


async def _fill(log: EventLog, events: Iterator[NewEvent], count: int, rate: int) -> None:
    if not rate:
        for start in range(0, count, AT_ONCE):
            await log.append_many(chunked(list(islice(events, min(AT_ONCE, count - start)))))
        return
    begun = time.perf_counter()
    done = 0
    while done < count:
        due = min(count, int((time.perf_counter() - begun) * rate) + rate // PER_SECOND)
        if due > done:
            await log.append_many(chunked(list(islice(events, due - done))))
            done = due
        await asyncio.sleep(1 / PER_SECOND)


async def _main(redis_url: str, strategies: int) -> None:
    log = await open_log(redis_url, clock=SystemClock(), defaults=DEFAULTS, allow_weak=True)
    events = trading_days(strategies=strategies)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            count, rate = map(int, line.split())
            begun = time.perf_counter()
            await _fill(log, events, count, rate)
            sys.stdout.write(f"{time.perf_counter() - begun}\n")
            sys.stdout.flush()
    finally:
        await log.aclose()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2])))
