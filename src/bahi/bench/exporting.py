"""How fast the history goes into a file, is checked there without a server, and is imported into an empty archive."""

import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct, field
from sqlalchemy import text

from api.security.box import SecretBox
from api.security.keys import SecretKeys
from bahi.bench.figures import Figure
from bahi.bench.verifying import SEAL, empty_archive, entries_of_days, store_sealed
from bahi.bench.world import Fsync
from bahi.cli.offline import examine
from bahi.clock import SystemClock
from bahi.database.tables import metadata
from bahi.seal_keys import SqlSealKeys
from eventstore.archive import PostgresArchive
from eventstore.epochs import Epoch, record
from eventstore.export.files import Compressed, NewFile, read_lines
from eventstore.export.lines import Filters
from eventstore.export.writing import Wish, lines, plan
from eventstore.seal_trust import public_bytes
from eventstore.sealing import Sealing
from projections.importing import import_contents

__all__ = ["exporting"]

_LOOK_EVERY = 0.02


class _Taken(Struct):
    """Seconds of each run, and the most that the process held meanwhile, in bytes."""

    seconds: list[float] = field(default_factory=list)
    memory: int = 0


async def exporting(fsync: Fsync, events: int, strategies: int, runs: int = 3) -> list[Figure]:
    """Two sizes of one history: what memory grows by between them, it grows by with every event."""
    keys = SqlSealKeys(SecretBox(SecretKeys([SecretKeys.generate()])))
    entries = entries_of_days(strategies)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="bahi-bench-") as folder:
        async with empty_archive() as archive, empty_archive() as other:
            sealing = Sealing(0, keys, events=SEAL)
            async with archive.engine.begin() as connection:
                await record(connection, 0, [Epoch(number=1, epoch="BENCH", log_id="BNCH")])
            stored = 0
            for upto in (events // 5, events):
                await store_sealed(archive, sealing, entries, upto - stored)
                stored = upto
                async with archive.engine.begin() as connection:
                    private = await keys.newest(connection)
                figures += await _measure(archive, other, Path(folder), private, fsync, upto, runs)
    return figures


async def _measure(
    archive: PostgresArchive,
    other: PostgresArchive,
    folder: Path,
    private: Ed25519PrivateKey,
    fsync: Fsync,
    events: int,
    runs: int,
) -> list[Figure]:
    whole, one = folder / "whole.jsonl.gz", folder / "one.jsonl.gz"
    key = public_bytes(private)

    async def check(path: Path) -> None:
        if not (it := await asyncio.to_thread(examine, path, [key], quiet=True)).ok:
            raise RuntimeError(f"the benchmark's file is not right: {it.faults}")

    async def restore() -> None:
        await _empty(other)
        digest = (await asyncio.to_thread(examine, whole, [key], quiet=True)).checker.sha256
        with whole.open("rb") as file:
            await import_contents(other.engine, read_lines(file), sha256=digest)

    work: dict[str, Callable[[], Awaitable[None]]] = {
        "exporting": lambda: _export(archive, whole, Wish(), private),
        "exporting one user of": lambda: _export(archive, one, Wish(told=Filters(users=(1,))), private),
        "verifying offline": lambda: check(whole),
        "verifying and importing": restore,
    }
    figures: list[Figure] = []
    for name, act in work.items():
        taken = await _times(runs, act)
        middle = statistics.median(taken.seconds)
        spread = f"median of {runs}, {min(taken.seconds):.1f}–{max(taken.seconds):.1f} s"
        size = f", {whole.stat().st_size / events:.0f} bytes an event" if name == "exporting" else ""
        figures += [
            Figure(
                name=f"{name} {events:,} events",
                fsync=fsync,
                value=round(events / middle),
                unit="events/s",
                note=spread + size,
            ),
            Figure(
                name=f"memory while {name} {events:,} events",
                fsync=fsync,
                value=round(taken.memory / 2**20),
                unit="MB",
                note="at most, of the whole process",
            ),
        ]
    return figures


async def _export(archive: PostgresArchive, path: Path, wish: Wish, private: Ed25519PrivateKey) -> None:
    manifest = await plan(archive.engine, wish, now=SystemClock().now(), private=private)
    with NewFile(path, replace=True) as new:
        packed = Compressed(new.file)
        async for chunk in lines(archive.engine, manifest, private):
            packed.write(chunk)
        packed.close()
        new.commit()


async def _empty(archive: PostgresArchive) -> None:
    names = ", ".join(table.name for table in metadata.sorted_tables)
    async with archive.engine.begin() as connection:
        await connection.execute(text(f"TRUNCATE {names}"))


async def _times(runs: int, act: Callable[[], Awaitable[None]]) -> _Taken:
    taken, process, over = _Taken(), psutil.Process(), threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_EVERY):
            taken.memory = max(taken.memory, process.memory_info().rss)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(runs):
            begun = time.perf_counter()
            await act()
            taken.seconds.append(time.perf_counter() - begun)
    finally:
        over.set()
        looking.join()
    return taken
