"""What an append costs, next to a bare XADD in the same run; and how many events a second batches take."""

import time

from bahi.bench.figures import Figure, at, latency
from bahi.bench.world import Fsync, bench_log
from domain.events import SchedulerResyncRequired, SellTriggered
from eventstore.clients import command
from eventstore.envelope import NewEvent, encode
from eventstore.log import chunked

__all__ = ["appends", "batches"]


async def appends(fsync: Fsync, samples: int) -> list[Figure]:
    """One client, one event after the other, alternating with XADD of an entry of the same size."""
    async with bench_log(fsync) as log:
        ours: list[float] = []
        bare: list[float] = []
        new = NewEvent(SellTriggered(run=2, due_at=1_795_146_600_000_000), 42, 7)
        envelope = encode(new, "bench-12345", "bench")
        for n in range(samples):
            begun = time.perf_counter()
            await command(log.redis, "XADD", "bare", f"{n + 1}-0", "v", "7", "t", "1795146600000000", "e", envelope)
            between = time.perf_counter()
            await log.append([new])
            bare.append(between - begun)
            ours.append(time.perf_counter() - between)
    ratio = at(ours, 0.5) / at(bare, 0.5)
    return [
        latency("append of one event", fsync, ours),
        latency("bare XADD", fsync, bare),
        Figure(
            name="append to bare XADD, p50", fsync=fsync, value=round(ratio, 2), unit="×", goal="≤ 2", met=ratio <= 2
        ),
    ]


async def batches(fsync: Fsync, events: int) -> list[Figure]:
    """Blind batches of 64, four to a round trip, as the scheduler sends them."""
    async with bench_log(fsync) as log:
        new = [NewEvent(SchedulerResyncRequired(), n % 1000 + 1, 7) for n in range(events)]
        begun = time.perf_counter()
        for start in range(0, events, 256):
            await log.append_many(chunked(new[start : start + 256]))
        took = time.perf_counter() - begun
    return [Figure(name="batched append", fsync=fsync, value=round(events / took), unit="events/s", note=f"{events:,}")]
