"""An archive on a real PostgreSQL, filled and sealed without a log, and the files that come out of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.security.box import SecretBox
from api.security.keys import SecretKeys
from bahi.cli.offline import Examined, examine
from bahi.database.engine import create_engine
from bahi.seal_keys import SqlSealKeys, rotate_key, succeed_lost_key
from domain.values import SECOND
from eventstore.archive import PostgresArchive
from eventstore.envelope import Raw
from eventstore.epochs import Epoch, archived_lineage, record
from eventstore.export.checking import Checker
from eventstore.export.faults import FileFault
from eventstore.export.files import Compressed, NewFile, read_lines
from eventstore.export.lines import Manifest
from eventstore.export.parquet import Rows, proof_of
from eventstore.export.writing import Wish, lines, plan
from eventstore.seal_chain import Anchor
from eventstore.seal_trust import public_bytes
from eventstore.sealing import Sealing
from projections.importing import Imported, import_contents
from projections.sql.projections import SqlProjections, open_entry
from tests.export.history import EPOCH, LOG_ID, MORNING, history

__all__ = ["TABLES", "Archived", "check", "read_file"]

TABLES = {
    "events": "SELECT partition, position, stream, version, recorded_at, type, strategy_id, user_id, envelope"
    " FROM events ORDER BY partition, position",
    "seals": "SELECT * FROM seals ORDER BY partition, number",
    "epochs": "SELECT * FROM epochs ORDER BY partition, number",
    "keys": "SELECT number, id, public_key, endorsement, acceptance, created_at FROM seal_keys ORDER BY number",
    "checkpoint": "SELECT name, partition, position FROM checkpoint ORDER BY name, partition",
    "strategies": "SELECT * FROM strategies ORDER BY id",
    "order_logs": "SELECT * FROM order_logs ORDER BY tag",
    "parked": "SELECT * FROM parked ORDER BY partition, position",
}
"""All that a file restores."""


class Archived:
    """One installation's archive."""

    def __init__(self, url: str) -> None:
        self.engine: AsyncEngine = create_engine(url, size=3)
        self.box = SecretBox(SecretKeys(["x" * 40]))
        self._keys = SqlSealKeys(self.box)
        self._filled: dict[int, int] = {}

    async def fill(
        self, count: int, *, seal: int = 100, rest: bool = False, partition: int = 0, partitions: int = 1
    ) -> list[Raw]:
        """The history goes on up to `count` entries; a seal after each `seal`, with `rest` over all of them."""
        raws = history(count, partition=partition, partitions=partitions)
        await self.store(raws[self._filled.get(partition, 0) :], seal=seal, rest=rest, partition=partition)
        return raws

    async def store(
        self, raws: Sequence[Raw], *, seal: int = 100, rest: bool = False, partition: int = 0, project: bool = True
    ) -> None:
        """As the archive's writer does it: entries, projections and seals in one transaction, some at a time."""
        archive = PostgresArchive(self.engine, partition)
        projections = SqlProjections(archive)
        sealing = Sealing(partition, self._keys, events=seal, age=10**15)
        async with self.engine.begin() as connection:
            lineage = [Epoch(number=1, epoch=f"{EPOCH}{partition}", log_id=LOG_ID)]
            if not await archived_lineage(connection, partition):
                await record(connection, partition, lineage)
        for start in range(0, len(raws), 2_000):
            page = raws[start : start + 2_000]
            async with self.engine.begin() as connection:
                changes = await projections.fold(connection, [open_entry(raw) for raw in page if project])
                await archive.store(connection, page)
                await projections.write(connection, changes)
                await sealing.seal(connection, page, page[-1].recorded_at)
            projections.keep(changes)
            sealing.committed()
        if rest:
            async with self.engine.begin() as connection:
                await sealing.seal(connection, [], raws[-1].recorded_at + SECOND, rest=True)
            sealing.committed()
        self._filled[partition] = raws[-1].position

    async def private(self) -> Ed25519PrivateKey:
        async with self.engine.begin() as connection:
            return await self._keys.newest(connection)

    async def public(self) -> bytes:
        return public_bytes(await self.private())

    async def rotate(self) -> None:
        await rotate_key(self.engine, self.box)

    # --- files --------------------------------------------------------------------------------------------------------

    async def export(
        self, path: Path, wish: Wish | None = None, *, signed: bool = True, parquet: bool = False
    ) -> Manifest:
        private = await self.private() if signed else None
        manifest = await plan(self.engine, wish or Wish(), now=MORNING, private=private)
        await self.write(path, manifest, private, parquet=parquet)
        return manifest

    async def write(
        self, path: Path, manifest: Manifest, private: Ed25519PrivateKey | None, *, parquet: bool = False
    ) -> None:
        with NewFile(path) as new:
            if not parquet:
                packed = Compressed(new.file)
                async for chunk in lines(self.engine, manifest, private):
                    packed.write(chunk)
                packed.close()
                new.commit()
                return
            with NewFile(proof_of(path)) as beside:
                packed = Compressed(beside.file)
                rows = Rows(new.file, packed.write)
                async for chunk in lines(self.engine, manifest, private):
                    rows.write(chunk.split(b"\n")[:-1])
                rows.close()
                packed.close()
                beside.commit()
                new.commit()

    async def import_file(self, path: Path, *, trusted: Sequence[bytes] | None = None) -> list[Imported]:
        it = await asyncio.to_thread(examine, path, trusted, quiet=True)
        assert it.ok, it.faults

        async def go_on(connection: Any) -> None:
            await succeed_lost_key(connection, self.box)

        with path.open("rb") as file:
            return await import_contents(self.engine, read_lines(file), sha256=it.checker.sha256, on_keys=go_on)

    # --- looking ------------------------------------------------------------------------------------------------------

    async def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        return {name: await self.rows(query) for name, query in TABLES.items()}

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        async with self.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(text(statement))]

    async def execute(self, *statements: str) -> None:
        async with self.engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))


def read_file(path: Path) -> list[bytes]:
    """All lines."""
    with path.open("rb") as file:
        return list(read_lines(file))


def check(
    found: Sequence[bytes], trusted: Sequence[bytes] | None, anchors: Sequence[Anchor] = ()
) -> tuple[Checker, list[FileFault]]:
    """What is wrong with these lines."""
    faults: list[FileFault] = []
    checker = Checker(trusted, faults.append, anchors)
    for line in found:
        checker.take(line)
    checker.finish()
    return checker, faults


def look(path: Path, trusted: Sequence[bytes] | None, anchors: Sequence[Anchor] = ()) -> Examined:
    return examine(path, trusted, anchors, quiet=True)
