"""Memory, while events flow through without end: appended, archived, sealed, and trimmed when they are old enough."""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

import psutil
from msgspec import Struct

from bahi.bench.figures import Figure
from bahi.bench.follower import PATIENCE, Follower, follower
from bahi.bench.producer import Producer, producer
from bahi.bench.world import Fsync, bench_log
from domain.values import SECOND, Duration
from eventstore.clients import command, commands
from eventstore.keys import GROUP
from eventstore.trimming import trim

__all__ = ["HOT", "Sample", "flowing"]

HOT: Duration = 2 * SECOND
"""Stands for the hot hours."""
AHEAD: Final = 20_000
"""Events appended at a time, while as many may still have to be archived."""

MOST_STRATEGIES: Final = 10_000
"""Fewer in a short run: as many as have all lived through a day before its first quarter is over."""


class Sample(Struct, frozen=True, kw_only=True):
    """How things stood after so many events."""

    events: int
    seconds: float
    rate: int
    """Events a second since the sample before."""
    behind: int
    """Events not archived yet."""
    sealed: int
    trimmed: int
    streams: int
    """Entries that Redis holds."""
    redis: int
    """Bytes, by its own account."""
    follower: int
    """Bytes of this process, in which the follower works."""


async def flowing(
    fsync: Fsync, events: int, *, samples: int = 20, hot: Duration = HOT, tell: Callable[[Sample], None]
) -> list[Figure]:
    """So many events, as fast as the follower takes them; `tell` hears of each sample."""
    step = max(1, events // samples)
    taken: list[Sample] = []
    async with (
        bench_log(fsync) as log,
        producer(log, strategies=min(MOST_STRATEGIES, events // 100)) as source,
        follower(log) as it,
        asyncio.TaskGroup() as group,
    ):
        trimming = _Trimming(it, hot)
        running = group.create_task(trimming.run())
        begun = before = time.perf_counter()
        for done in range(step, step * samples + 1, step):
            await _flow(it, source, step)
            now = time.perf_counter()
            taken.append(await _sample(it, trimming, done, now - begun, step / (now - before)))
            before = now
            tell(taken[-1])
        running.cancel()
    settled = taken[len(taken) // 4 :]
    return [
        _growth("the follower's process", fsync, [each.follower for each in settled]),
        _growth("Redis", fsync, [each.redis for each in settled]),
        Figure(
            name="entries in the streams, at most",
            fsync=fsync,
            value=max(each.streams for each in taken),
            unit="",
            note=f"of {taken[-1].events:,}; the last {hot / SECOND:g} s stay",
        ),
        Figure(name="flow", fsync=fsync, value=round(taken[-1].events / taken[-1].seconds), unit="events/s"),
    ]


async def _flow(it: Follower, source: Producer, events: int) -> None:
    for start in range(0, events, AHEAD):
        await source.append(min(AHEAD, events - start))
        if not await it.watch.reached(await it.log.last_position() - AHEAD, PATIENCE):
            raise TimeoutError("the archive does not come on")


class _Trimming:
    """The archive role, a little more often than it does it; and the lanes, who have done with all that is archived."""

    def __init__(self, it: Follower, hot: Duration) -> None:
        self._it = it
        self._hot = hot
        self.upto = 0

    async def run(self) -> None:
        log = self._it.log
        while True:
            await asyncio.sleep(self._hot / SECOND / 5)
            done = f"{self._it.watch.position}-0"
            await commands(log.redis, [("XGROUP", "SETID", name, GROUP, done) for name in log.keys.streams.values()])
            self.upto = (await trim(log, self._it.archive, hot=self._hot, now=log.clock.now())).upto


async def _sample(it: Follower, trimming: _Trimming, events: int, seconds: float, rate: float) -> Sample:
    info = (await command(it.log.redis, "INFO", "memory")).decode()
    used = next(line.partition(":")[2] for line in info.splitlines() if line.startswith("used_memory:"))
    lengths = await commands(it.log.redis, [("XLEN", name) for name in it.log.keys.streams.values()])
    head = it.sealing.head
    return Sample(
        events=events,
        seconds=round(seconds, 1),
        rate=round(rate),
        behind=await it.log.last_position() - it.watch.position,
        sealed=0 if head is None else head.last,
        trimmed=trimming.upto,
        streams=sum(lengths),
        redis=int(used),
        follower=psutil.Process().memory_info().rss,
    )


def _growth(whose: str, fsync: Fsync, sizes: Sequence[int]) -> Figure:
    """The last quarter of the samples compared with the first."""
    quarter = max(1, len(sizes) // 4)
    early, late = statistics.mean(sizes[:quarter]), statistics.mean(sizes[-quarter:])
    growth = (late / early - 1) * 100
    return Figure(
        name=f"growth of the memory of {whose}",
        fsync=fsync,
        value=round(growth, 1),
        unit="%",
        goal="< 10",
        met=growth < 10,
        note=f"{early / 1e6:,.0f} to {late / 1e6:,.0f} MB",
    )
