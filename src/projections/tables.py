"""The SQL projections made anew beside those that are read, compared with them row by row, and put in their place.

1. The tables are made a second time as temporary ones of one connection. There they hide the real ones, so what the
   projector does to a table is done to these, from the first archived event on. Nobody else sees them, the old rows
   serve, the projector goes on; should this process die, the server drops them.
2. Both are compared at one position, as of one moment. Where they agree, that is all.
3. Where they do not, the checkpoint is locked, the last events are folded too, and every row that differs is written,
   in one transaction.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.archive import PostgresArchive
from projections.projector import is_unfit
from projections.replay import Fault, Kind, Progress
from projections.sql.projections import Entry, SqlProjections, open_entry
from projections.sql.tables import order_logs, parked, strategies

__all__ = ["RowDifference", "TablesRebuilt", "rebuild_sql"]

_BATCH = 20_000
"""Events folded in one transaction."""
_READ = 1_000
_PAGE = 5_000
"""Rows compared at a time: no statement takes long, however many there are."""
_REMEMBERED = 1_000_000
_MOST = 20
"""Differences that are told: the first ones are what matters."""


class RowDifference(Struct, frozen=True):
    """A value that is not what the log makes of it; without a field a row that only one side has."""

    table: str
    key: str
    field: str
    served: str | None
    rebuilt: str | None

    def __str__(self) -> str:
        where = f"{self.table} {self.key}"
        if self.field:
            return f"{where}: {self.field} is {self.served}, the log makes it {self.rebuilt}"
        return f"{where} is missing" if self.served is None else f"{where} is there, and the log makes no such row"


class TablesRebuilt(Struct, frozen=True, kw_only=True):
    """What came of it: from how many archived events, how many rows, how many of them differed and the first of those,
    whether they were put right, and what could not be projected."""

    events: int
    rows: int
    differences: int
    first: tuple[RowDifference, ...]
    switched: bool
    faults: tuple[Fault, ...]


async def rebuild_sql(
    archive: PostgresArchive, progress: Progress | None = None, *, compare_only: bool = False
) -> TablesRebuilt:
    """`strategies`, `order_logs` and `parked` of a partition from its archived events; with `compare_only` nothing is
    changed, whatever differs. Trading may go on. Raises what outages raise."""
    async with _hidden_tables(archive) as (connection, schema):
        shadow = _Shadow(archive, connection, progress)
        while shadow.position < await archive.last_position() - _BATCH:
            async with connection.begin():
                await shadow.follow(shadow.position + _BATCH)
        async with connection.begin():  # without statistics every page of a table might read all of it
            for name in _KEYS:
                await connection.execute(text(f'ANALYZE "{schema}"."{name}", pg_temp."{name}"'))
        async with connection.begin():
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            await shadow.follow(await archive.reached(connection))
            tables = [_Compared(str(each.name), schema, archive.partition, connection) for each in _TABLES]
            differing = [await each.compare() for each in tables]
        switch = any(differing) and not compare_only
        if switch:
            async with connection.begin():
                await shadow.follow(await archive.reached(connection, lock=True))
                differing = [await each.compare(switch=True) for each in tables]
    return TablesRebuilt(
        events=shadow.position,
        rows=sum(each.rows for each in tables),
        differences=sum(differing),
        first=tuple(first for each in tables for first in each.first)[:_MOST],
        switched=switch,
        faults=tuple(shadow.faults),
    )


_TABLES = (strategies, order_logs, parked)
_KEYS: dict[str, tuple[str, ...]] = {"strategies": ("id",), "order_logs": ("tag",), "parked": ("position", "group")}
"""Of a row within its partition."""


@asynccontextmanager
async def _hidden_tables(archive: PostgresArchive) -> AsyncIterator[tuple[AsyncConnection, str]]:
    """A connection for which empty tables of its own hide the real ones, and the schema of those. It never goes back
    to the pool: nobody else may ever take the one for the other."""
    async with archive.engine.connect() as connection:
        try:
            async with connection.begin():
                schema = await connection.scalar(text("SELECT current_schema()"))
                for table in _TABLES:
                    await connection.execute(
                        text(f'CREATE TEMP TABLE "{table.name}" (LIKE "{schema}"."{table.name}" INCLUDING ALL)')
                    )
            yield connection, str(schema)
        finally:
            await connection.invalidate()


class _Shadow:
    """The projections as the log makes them, in the tables of this connection."""

    def __init__(self, archive: PostgresArchive, connection: AsyncConnection, progress: Progress | None) -> None:
        self.position = 0
        self.faults: list[Fault] = []
        self._archive = archive
        self._connection = connection
        self._progress = progress
        self._projections = SqlProjections(archive, remembered=_REMEMBERED)

    async def follow(self, until: int) -> None:
        """Fold what is archived up to `until`, in the transaction of the connection."""
        entries: list[Entry] = []
        while self.position < until:
            upto = min(self.position + _READ, until)
            entries += [open_entry(raw) for raw in await self._archive.entries(self.position, upto)]
            self.position = upto
        if entries:
            await self._fold(entries)
        if self._progress is not None:
            self._progress(self.position, max(self.position, await self._archive.last_position()))

    async def _fold(self, entries: Sequence[Entry]) -> None:
        """As the projector does: what a single event's projection spoils goes without it."""
        try:
            async with self._connection.begin_nested():
                changes = await self._projections.fold(self._connection, entries)
                await self._projections.write(self._connection, changes)
        except Exception as error:
            if not is_unfit(error):
                raise
            self._projections.forget()
            if len(entries) == 1:
                why = f"it cannot be projected: {type(error).__name__}: {error}"
                self.faults.append(Fault(entries[0].raw.position, entries[0].strategy_id, Kind.ILLEGAL, why))
                return
            for half in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
                await self._fold(half)
            return
        self._projections.keep(changes)
        self.faults += changes.faults


class _Compared:
    """A table that is read, and the one that was made of the log."""

    def __init__(self, name: str, schema: str, partition: int, connection: AsyncConnection) -> None:
        self.rows = 0
        self.first: list[RowDifference] = []
        self._name = name
        self._served, self._made = f'"{schema}"."{name}"', f'pg_temp."{name}"'
        self._keys = _KEYS[name]
        self._partition = partition
        self._connection = connection

    async def compare(self, *, switch: bool = False) -> int:
        """How many rows differ; with `switch` they are put right, in the transaction of the connection."""
        self.first.clear()
        self.rows = await self._connection.scalar(text(f"SELECT count(*) FROM {self._made}")) or 0  # noqa: S608
        differing, after = 0, None
        while True:
            until = await self._page(after)
            rows = (await self._connection.execute(*self._differing(after, until))).all()
            for row in rows[: _MOST - len(self.first)]:
                self.first += self._tell(row)
            if rows and switch:
                await self._switch(after, until)
            differing += len(rows)
            if until is None:
                return differing
            after = until

    async def _page(self, after: Sequence[Any] | None) -> Sequence[Any] | None:
        """The key that ends the next page, None if that is the last."""
        where, values = self._range(after, None)
        keys = _names(self._keys)
        some = f"ORDER BY {keys} LIMIT :page"
        statement = f"""
            SELECT {keys} FROM (
                (SELECT {keys} FROM {self._served} WHERE partition = :partition AND {where} {some})
                UNION (SELECT {keys} FROM {self._made} WHERE {where} {some})
            ) AS either ORDER BY {keys} LIMIT 1 OFFSET :page - 1
        """  # noqa: S608 (names of ours)
        return (await self._connection.execute(text(statement), values | {"page": _PAGE})).first()

    def _differing(self, after: Sequence[Any] | None, until: Sequence[Any] | None) -> tuple[Any, dict[str, Any]]:
        where, values = self._range(after, until)
        keys = _names(self._keys)
        statement = f"""
            SELECT {keys}, to_jsonb(served)::text AS served, to_jsonb(made)::text AS made
            FROM (SELECT * FROM {self._served} WHERE partition = :partition AND {where}) AS served
            FULL JOIN (SELECT * FROM {self._made} WHERE {where}) AS made USING ({keys})
            WHERE served IS DISTINCT FROM made ORDER BY {keys}
        """  # noqa: S608
        return text(statement), values

    async def _switch(self, after: Sequence[Any] | None, until: Sequence[Any] | None) -> None:
        where, values = self._range(after, until)
        same = " AND ".join(f'made."{key}" = served."{key}"' for key in self._keys)
        gone = f"""
            DELETE FROM {self._served} AS served WHERE partition = :partition AND {where}
            AND NOT EXISTS (SELECT FROM {self._made} AS made WHERE {same})
        """  # noqa: S608
        table = next(each for each in _TABLES if each.name == self._name)
        key = _names([column.name for column in table.primary_key])
        columns = ", ".join(f'"{column.name}" = excluded."{column.name}"' for column in table.columns)
        right = f"""
            INSERT INTO {self._served} AS served SELECT * FROM {self._made} WHERE {where}
            ON CONFLICT ({key}) DO UPDATE SET {columns} WHERE served IS DISTINCT FROM excluded
        """  # noqa: S608
        await self._connection.execute(text(gone), values)
        await self._connection.execute(text(right), values)

    def _range(self, after: Sequence[Any] | None, until: Sequence[Any] | None) -> tuple[str, dict[str, Any]]:
        """The condition for the keys after `after` up to `until`, and its values."""
        values: dict[str, Any] = {"partition": self._partition}
        conditions = ["TRUE"]
        for name, sign, bound in (("after", ">", after), ("until", "<=", until)):
            if bound is not None:
                values |= {f"{name}{number}": value for number, value in enumerate(bound)}
                places = ", ".join(f":{name}{number}" for number in range(len(bound)))
                conditions.append(f"({_names(self._keys)}) {sign} ({places})")
        return " AND ".join(conditions), values

    def _tell(self, row: Any) -> list[RowDifference]:
        key = "/".join(str(each) for each in row[: len(self._keys)])
        if row.served is None or row.made is None:
            return [RowDifference(self._name, key, "", row.served, row.made)]
        served, made = (json.loads(each, parse_float=Decimal) for each in (row.served, row.made))
        return [
            RowDifference(self._name, key, field, str(served[field]), str(made[field]))
            for field in made
            if served[field] != made[field]
        ]


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)
