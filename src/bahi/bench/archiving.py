"""The archive follower: whether it keeps up, what its seals cost, and how long one waits for it."""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from bahi.bench.figures import Figure, at, latency
from bahi.bench.follower import PATIENCE, Follower, follower
from bahi.bench.producer import Producer, producer
from bahi.bench.world import Fsync, bench_log
from domain.events import SchedulerResyncRequired
from eventstore.batch import Appended
from eventstore.envelope import NewEvent

__all__ = ["archiving"]

RATE: Final = 10_000
"""Events a second that the follower has to keep up with."""
TICK: Final = 0.001
APART: Final = 0.02
"""Seconds between the events of a quiet hour."""


class _Round(Struct, frozen=True):
    """Events a second, and the processor's microseconds for each."""

    rate: float
    cost: float


async def archiving(fsync: Fsync, events: int, *, seal: bool | None = None, rounds: int = 8) -> list[Figure]:
    """A process of its own appends trading days as fast as Redis takes them, while the follower archives, projects,
    seals and writes its log lines. With and without seals in turns, unless `seal` says which."""
    sealing = (True, False) if seal is None else (seal,)
    each = max(1, events // (rounds * len(sealing)))
    taken: dict[bool, list[_Round]] = {sealed: [] for sealed in sealing}
    async with bench_log(fsync) as log, producer(log) as source, follower(log) as it:
        await _round(it, source, min(events, 5_000), sealed=True)  # everything is loaded and compiled
        for _ in range(rounds):
            for sealed in sealing:
                taken[sealed].append(await _round(it, source, each, sealed=sealed))
        await it.seal(seal is not False)
        paced = await _paced(it, source, fsync, seconds=max(1, events // 40_000))
        alone = await _one_by_one(it, fsync, samples=max(20, events // 1_000))
    figures = [_rate(fsync, [it.rate for it in rounds], sealed) for sealed, rounds in taken.items()]
    if seal is None:
        figures += [
            _share(fsync, "time", [1 / it.rate for it in taken[True]], [1 / it.rate for it in taken[False]]),
            _share(fsync, "processor time", [it.cost for it in taken[True]], [it.cost for it in taken[False]]),
        ]
    return [*figures, *paced, alone]


async def _round(it: Follower, source: Producer, events: int, *, sealed: bool) -> _Round:
    """From the first appended to the last archived."""
    await it.seal(sealed)
    begun, worked = time.perf_counter(), it.processor_time()
    await source.append(events)
    await it.archived()
    return _Round(events / (time.perf_counter() - begun), (it.processor_time() - worked) / events * 1e6)


async def _paced(it: Follower, source: Producer, fsync: Fsync, seconds: int) -> list[Figure]:
    """How far behind it is while so many events come as it must keep up with; and what others of its process feel,
    who want to do something every millisecond."""
    it.note_lags()
    late: list[float] = []
    ticking = asyncio.create_task(_tick(late.append))
    await source.append(RATE * seconds, RATE)
    ticking.cancel()
    it.note_lags(False)
    await it.archived()
    lags = [lag.seconds for lag in it.lags if lag.positions]
    behind = max(lag.positions for lag in it.lags)
    return [
        Figure(
            name=f"lag at {RATE:,} events/s",
            fsync=fsync,
            value=round(at(lags, 0.5) * 1000, 1),
            p99=round(at(lags, 0.99) * 1000, 1),
            unit="ms",
            note=f"{seconds} s; at most {behind:,} events behind",
        ),
        latency("others of its process wait meanwhile", fsync, late),
    ]


async def _one_by_one(it: Follower, fsync: Fsync, samples: int) -> Figure:
    """What a user waits for who does something while nobody else does."""
    taken: list[float] = []
    for number in range(samples):
        begun = time.perf_counter()
        appended = await it.log.append([NewEvent(SchedulerResyncRequired(), number % 100 + 1, 1)])
        assert isinstance(appended, Appended)  # noqa: S101
        await it.watch.reached(appended.positions[-1], PATIENCE)
        taken.append(time.perf_counter() - begun)
    return latency("one event, from append to archived", fsync, taken)


async def _tick(late: Callable[[float], None]) -> None:
    while True:
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        late(max(0.0, time.perf_counter() - due))


def _rate(fsync: Fsync, rates: list[float], sealed: bool) -> Figure:
    middle = statistics.median(rates)
    return Figure(
        name=f"archive follower, {'with' if sealed else 'without'} seals",
        fsync=fsync,
        value=round(middle),
        unit="events/s",
        goal=f"≥ {RATE:,}",
        met=middle >= RATE,
        note=f"median of {len(rates)}, {min(rates):,.0f}–{max(rates):,.0f}, while another process appends",
    )


def _share(fsync: Fsync, what: str, sealed: Sequence[float], bare: Sequence[float]) -> Figure:
    """Of neighbouring rounds each, for the machine has its moods."""
    shares = [(1 - other / one) * 100 for one, other in zip(sealed, bare, strict=True)]
    share = statistics.median(shares)
    return Figure(
        name=f"share of its {what} that sealing takes",
        fsync=fsync,
        value=round(share, 1),
        unit="%",
        goal="< 5",
        met=share < 5,
        note=f"median of {len(shares)}, {min(shares):.1f}–{max(shares):.1f}",
    )
