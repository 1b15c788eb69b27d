"""What seals cost and how fast a whole history is checked, and whether memory stays flat meanwhile."""

import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from api.security.box import SecretBox
from api.security.keys import SecretKeys
from bahi.bench.figures import Figure
from bahi.bench.trading_days import trading_days
from bahi.bench.world import Fsync, bench_log
from bahi.database.engine import create_engine
from bahi.database.migrate import migrate
from bahi.seal_keys import SqlSealKeys
from bahi.servers import EmbeddedPostgres
from domain.values import Instant
from eventstore.archive import PostgresArchive
from eventstore.clients import command
from eventstore.envelope import Ids, Raw, encode
from eventstore.seal_trust import sign
from eventstore.sealing import Sealing
from eventstore.seals import GENESIS, Seal, hints_of, leaf, merkle_root
from projections.rebuild import rebuild_redis
from projections.verify import Report, verify

__all__ = ["empty_archive", "entries_of_days", "seals", "store_sealed", "verifying"]

SEAL = 1000
_BEGIN: Instant = 1_795_146_300_000_000
_PACE = 1_000
"""Microseconds between two events."""
_BATCH = 10_000


async def seals(fsync: Fsync, events: int) -> list[Figure]:
    """The processor's time that a seal takes of the archive's writer, for each event: leaves, tree, signature."""
    raws = list(islice(entries_of_days(1_000), events))
    key = Ed25519PrivateKey.generate()
    runs = [_seal_all(raws, key) / len(raws) * 1e6 for _ in range(7)]
    middle = statistics.median(runs)
    return [
        Figure(
            name="sealing an event, hashes and signature",
            fsync=fsync,
            value=round(middle, 3),
            unit="µs",
            goal="< 5",
            met=middle < 5,
            note=f"processor time, seals of {SEAL:,}; median of {len(runs)}, {min(runs):.2f}–{max(runs):.2f}; "
            "5 µs are 5 % of one core at 10,000 events/s",
        )
    ]


def _seal_all(raws: list[Raw], key: Ed25519PrivateKey) -> float:
    begun = time.process_time()
    for start in range(0, len(raws), SEAL):
        some = raws[start : start + SEAL]
        leaves = [leaf(raw) for raw in some]
        hints_of(leaves)
        seal = Seal(
            partition=0,
            number=1,
            first=some[0].position,
            last=some[-1].position,
            until=some[-1].recorded_at,
            previous=GENESIS,
            root=merkle_root(leaves),
            sealed_at=some[-1].recorded_at,
            key_id="",
        )
        sign(key, seal)
    return time.process_time() - begun


async def verifying(fsync: Fsync, events: int, strategies: int, runs: int = 3) -> list[Figure]:
    """`bahi verify` of so many archived and sealed events: decoding, folding, hashing, every check."""
    entries = entries_of_days(strategies)
    process = psutil.Process()
    async with empty_archive() as archive, bench_log(fsync) as log:
        log.archive = archive
        sealing = Sealing(0, SqlSealKeys(SecretBox(SecretKeys([SecretKeys.generate()]))), events=SEAL)
        figures = []
        stored = 0
        # two sizes with as many strategies: what memory grows by between them, it grows by with every event
        for upto in (events // 5, events):
            await store_sealed(archive, sealing, entries, upto - stored)
            stored = upto
            await command(log.redis, "HSET", log.keys.position, "position", upto)
            await rebuild_redis(log)
            times: list[float] = []
            most = 0

            def look(_done: int, _of: int) -> None:
                nonlocal most
                most = max(most, process.memory_info().rss)

            for _ in range(runs):
                begun = time.perf_counter()
                report = await verify(log, progress=look)
                times.append(time.perf_counter() - begun)
                _expect(report, upto)
            middle = statistics.median(times)
            figures += [
                Figure(
                    name=f"verifying {upto:,} events",
                    fsync=fsync,
                    value=round(upto / middle),
                    unit="events/s",
                    note=f"{report.seals:,} seals, {report.strategies:,} strategies; median of {len(times)}, "
                    f"{min(times):.1f}–{max(times):.1f} s",
                ),
                Figure(
                    name=f"memory while verifying {upto:,} events",
                    fsync=fsync,
                    value=round(most / 2**20),
                    unit="MB",
                    note="at most, of the whole process",
                ),
            ]
    return figures


def _expect(report: Report, events: int) -> None:
    """Of this history the table of strategies was not written, and its causes are made up."""
    if not report.kinds <= {"cause", "table"} or report.sealed != events:
        raise RuntimeError(f"the benchmark's history is not right: {report.first}, sealed up to {report.sealed}")


@asynccontextmanager
async def empty_archive() -> AsyncIterator[PostgresArchive]:
    """An empty one in a PostgreSQL of its own."""
    with tempfile.TemporaryDirectory(prefix="bahi-bench-") as folder, EmbeddedPostgres(Path(folder)) as server:
        migrate(server.url)
        engine = create_engine(server.url)
        try:
            yield PostgresArchive(engine)
        finally:
            await engine.dispose()


def entries_of_days(strategies: int) -> Iterator[Raw]:
    """What the log holds after trading days on which all strategies live at the same time."""
    ids = Ids("bench")
    versions: dict[int, int] = {}
    for position, new in enumerate(trading_days(strategies=strategies, at_once=strategies), 1):
        version = 0
        if new.strategy_id and new.event.versioned:
            version = versions[new.strategy_id] = versions.get(new.strategy_id, 0) + 1
        yield Raw(position, new.event.priority, version, _BEGIN + position * _PACE, encode(new, ids.next(), "bench"))


async def store_sealed(archive: PostgresArchive, sealing: Sealing, entries: Iterator[Raw], count: int) -> None:
    """The next so many entries, all of them under seals."""
    while batch := list(islice(entries, min(_BATCH, count))):
        count -= len(batch)
        async with archive.engine.begin() as connection:
            await archive.store(connection, batch)
            await sealing.seal(connection, batch, batch[-1].recorded_at, rest=count == 0)
        archive.committed()
        sealing.committed()
