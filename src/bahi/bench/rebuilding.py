"""How long it takes to have every state again from PostgreSQL: in memory and in Redis, with a snapshot and without."""

import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

from bahi.bench.figures import Figure
from bahi.bench.trading_days import trading_days
from bahi.bench.world import Fsync, bench_log
from bahi.database.engine import create_engine
from bahi.database.migrate import migrate
from bahi.servers import EmbeddedPostgres
from eventstore.archive import PostgresArchive
from eventstore.clients import command
from eventstore.envelope import Ids, Raw, encode
from projections.compare import corrupt_strategies
from projections.rebuild import rebuild_redis
from projections.restoration import restore
from projections.snapshotter import take_snapshot
from projections.tables import rebuild_sql

__all__ = ["rebuilding"]

TAIL = 100_000
"""Events since the last snapshot: as many as there are before the next one is taken."""
_BATCH = 20_000
Taken = tuple[float, float]
"""Seconds, and how many of them this process was at work: the rest it waited for PostgreSQL, Redis or a processor."""
_PACE = 1_000
"""Microseconds between two events."""


async def rebuilding(fsync: Fsync, events: int, strategies: int, runs: int = 5) -> list[Figure]:
    """From PostgreSQL to states in memory and to the runtime in Redis."""
    entries = _entries(strategies)
    tail = min(TAIL, events // 10)
    async with _archive() as archive, bench_log(fsync) as log:
        await _store(archive, islice(entries, events - tail))
        taking = await _times(1, lambda: take_snapshot(archive))
        await _store(archive, islice(entries, tail))
        await command(log.redis, "HSET", log.keys.position, "position", events)  # as if it had been trimmed
        log.archive = archive
        folding = await _times(runs, lambda: restore(archive, snapshots=False))
        restoring = await _times(runs, lambda: restore(archive))
        states = len((await restore(archive)).states)
        slow = await _times(runs, lambda: rebuild_redis(log, from_start=True))
        quick = await _times(runs, lambda: rebuild_redis(log))
        comparing = await _times(runs, lambda: corrupt_strategies(log))
        tables = await _times(1, lambda: rebuild_sql(archive, compare_only=True))

    def seconds(name: str, taken: list[Taken], *, limit: float | None = None, note: str = "") -> Figure:
        times = [each for each, _ in taken]
        middle, work = statistics.median(times), statistics.median(work for _, work in taken)
        spread = f"median of {len(times)}, {min(times):.2f}–{max(times):.2f}, this process worked {work:.2f} of it"
        return Figure(
            name=name,
            fsync=fsync,
            value=round(middle, 3),
            unit="s",
            goal="" if limit is None else f"< {limit:g}",
            met=None if limit is None else middle < limit,
            note="; ".join(each for each in (spread, note) if each),
        )

    rate = events / statistics.median(each for each, _ in folding)
    since = f"{states:,} strategies, {tail:,} events since the snapshot"
    return [
        Figure(
            name="PostgreSQL to states, every event",
            fsync=fsync,
            value=round(rate),
            unit="events/s",
            goal="≥ 150,000",
            met=rate >= 150_000,
            note=f"{events:,} events, {states:,} strategies",
        ),
        seconds("PostgreSQL to states, every event", folding),
        seconds("PostgreSQL to states, from a snapshot", restoring, limit=2.0, note=since),
        seconds("PostgreSQL to Redis, every event", slow),
        seconds("PostgreSQL to Redis, from a snapshot", quick, limit=2.0, note=since),
        seconds("comparing Redis with a snapshot and its tail", comparing, limit=2.0, note=since),
        seconds("taking the first snapshot", taking, note=f"{events - tail:,} events"),
        seconds("making the SQL projections anew", tables, note=f"{events:,} events, compared row by row"),
    ]


async def _times(runs: int, act: Callable[[], Awaitable[object]]) -> list[Taken]:
    taken = []
    for _ in range(runs):
        begun, worked = time.perf_counter(), time.process_time()
        await act()
        taken.append((time.perf_counter() - begun, time.process_time() - worked))
    return taken


@asynccontextmanager
async def _archive() -> AsyncIterator[PostgresArchive]:
    """An empty one in a PostgreSQL of its own."""
    with tempfile.TemporaryDirectory(prefix="bahi-bench-") as folder, EmbeddedPostgres(Path(folder)) as server:
        migrate(server.url)
        engine = create_engine(server.url)
        try:
            yield PostgresArchive(engine)
        finally:
            await engine.dispose()


def _entries(strategies: int) -> Iterator[Raw]:
    """What the log holds after trading days on which all strategies live at the same time."""
    ids = Ids("bench")
    versions: dict[int, int] = {}
    begin = 1_795_146_300_000_000
    for position, new in enumerate(trading_days(strategies=strategies, at_once=strategies), 1):
        version = 0
        if new.strategy_id and new.event.versioned:
            version = versions[new.strategy_id] = versions.get(new.strategy_id, 0) + 1
        envelope = encode(new, ids.next(), "bench")
        yield Raw(position, new.event.priority, version, begin + position * _PACE, envelope)


async def _store(archive: PostgresArchive, entries: Iterator[Raw]) -> None:
    while batch := list(islice(entries, _BATCH)):
        async with archive.engine.begin() as connection:
            await archive.store(connection, batch)
