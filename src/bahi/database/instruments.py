"""What may be traded, as PostgreSQL keeps it: the newest dump of each exchange, and what was listed before it."""

import datetime as dt
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import IO, Any, Final

import anyio.to_thread
from msgspec import Struct
from sqlalchemy import bindparam as bind
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from bahi.database.dumps import Stored, store_dump
from bahi.database.tables import instrument_dumps, instruments
from brokers.instruments import Limits, Listing, Snapshot
from domain.calendar import wall
from domain.values import Instant

__all__ = ["ExchangeDump", "SqlInstruments", "StoredInstrument"]

CHUNK: Final = 1_000


class ExchangeDump(Struct, frozen=True, kw_only=True):
    """The newest dump of an exchange. `renamed` counts the symbols that are gone and whose new name is known."""

    exchange: str
    version: int
    downloaded_on: dt.date
    downloaded_at: dt.datetime
    listed: int
    left_out: int
    renamed: int


class StoredInstrument(Struct, frozen=True, kw_only=True):
    """A row of the table."""

    symbol: str
    token: int
    name: str
    kind: str
    segment: str
    tick_size: Decimal
    lot_size: int
    expiry: dt.date | None
    listed: bool
    renamed_to: str | None
    downloaded_on: dt.date
    lower_circuit: Decimal | None
    upper_circuit: Decimal | None
    quoted_on: dt.date | None


class SqlInstruments:
    """The instruments in PostgreSQL. Whoever reads sees a dump whole or not at all."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    # --- dumps -------------------------------------------------------------------------------------------------------

    async def store(
        self, source: bytes | IO[bytes], exchanges: Collection[str], *, day: dt.date, at: Instant, force: bool = False
    ) -> Stored:
        """See `store_dump`."""
        return await store_dump(self._engine, source, exchanges, day=day, at=at, force=force)

    async def dumps(self) -> list[ExchangeDump]:
        """The newest dump of each exchange, in the order of their names."""
        renamed = (
            select(func.count())
            .where(
                instruments.c.exchange == instrument_dumps.c.exchange,
                ~instruments.c.listed,
                instruments.c.renamed_to.is_not(None),
            )
            .scalar_subquery()
        )
        columns = [instrument_dumps.c[name] for name in ExchangeDump.__struct_fields__ if name != "renamed"]
        found = select(*columns, renamed.label("renamed")).order_by(instrument_dumps.c.exchange)
        async with self._engine.connect() as connection:
            return [ExchangeDump(**row._mapping) for row in await connection.execute(found)]

    @asynccontextmanager
    async def alone(self, lock: int) -> AsyncIterator[bool]:
        """Whether this process, and no other, does what the lock stands for: until the end of the block, or of the
        connection."""
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            got = bool(await connection.scalar(select(func.pg_try_advisory_lock(lock))))
            try:
                yield got
            finally:
                if got:
                    await connection.execute(select(func.pg_advisory_unlock(lock)))

    # --- copies in memory --------------------------------------------------------------------------------------------

    async def versions(self) -> dict[str, int]:
        """What tells a copy in memory that it is out of date: cheap enough to be asked every few seconds."""
        async with self._engine.connect() as connection:
            return await _versions(connection)

    async def snapshot(self) -> tuple[dict[str, int], Snapshot]:
        """Everything that is listed, with its version. Read in pieces, so that others have their turn."""
        columns = [instruments.c[name] for name in Listing.__struct_fields__]
        wanted = instruments.c.listed | instruments.c.renamed_to.is_not(None)
        snapshot = Snapshot()
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            versions = await _versions(connection)
            rows = await connection.stream(select(*columns).where(wanted), execution_options={"yield_per": CHUNK})
            async for part in rows.partitions():
                await anyio.to_thread.run_sync(_add, snapshot, part)
        await anyio.to_thread.run_sync(snapshot.finish)
        return versions, snapshot

    async def get(self, symbol: str) -> StoredInstrument | None:
        """The row of a symbol, also one that is not listed any more."""
        columns = [instruments.c[name] for name in StoredInstrument.__struct_fields__]
        async with self._engine.connect() as connection:
            row = (await connection.execute(select(*columns).where(instruments.c.symbol == symbol))).first()
        return None if row is None else StoredInstrument(**row._mapping)

    async def unlisted(self, symbols: Collection[str]) -> dict[str, str | None]:
        """Those of the symbols that were listed once and are not now, with their new name where it is known."""
        found = select(instruments.c.symbol, instruments.c.renamed_to).where(
            instruments.c.symbol.in_(symbols), ~instruments.c.listed
        )
        async with self._engine.connect() as connection:
            return {row.symbol: row.renamed_to for row in await connection.execute(found)}

    # --- circuit limits ----------------------------------------------------------------------------------------------

    async def limits(self, day: dt.date) -> dict[str, Limits]:
        """The circuit limits of this day that are known."""
        columns = (instruments.c.symbol, instruments.c.lower_circuit, instruments.c.upper_circuit)
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(*columns).where(instruments.c.quoted_on == day))
            return {symbol: Limits(lower, upper) for symbol, lower, upper in rows}

    async def quoted_since(self, symbols: Collection[str], at: Instant) -> set[str]:
        """Those of the symbols whose limits were stored at this instant or later."""
        found = select(instruments.c.symbol).where(
            instruments.c.symbol.in_(symbols), instruments.c.quoted_at >= wall(at)
        )
        async with self._engine.connect() as connection:
            return set((await connection.scalars(found)).all())

    async def set_limits(self, limits: Mapping[str, Limits], *, at: Instant) -> None:
        """These are the limits of the exchange's day of this instant."""
        if not limits:
            return
        seen = wall(at)
        changed = (
            update(instruments)
            .where(instruments.c.symbol == bind("of"))
            .values(lower_circuit=bind("lower"), upper_circuit=bind("upper"), quoted_on=seen.date(), quoted_at=seen)
        )
        rows = [{"of": symbol, "lower": each.lower, "upper": each.upper} for symbol, each in sorted(limits.items())]
        async with self._engine.begin() as connection:
            await connection.execute(changed, rows)


async def _versions(connection: AsyncConnection) -> dict[str, int]:
    rows = await connection.execute(select(instrument_dumps.c.exchange, instrument_dumps.c.version))
    return {row.exchange: row.version for row in rows}


def _add(snapshot: Snapshot, rows: Iterable[Any]) -> None:
    for row in rows:
        snapshot.add(Listing(**row._mapping))
