"""Many archived entries at once, straight from the driver in PostgreSQL's binary form: a third of the time of rows that
pass through SQLAlchemy, and replaying a long history is mostly this."""

from typing import Any

from psycopg.rows import args_row
from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.envelope import Raw

__all__ = ["fetch_entries", "fetch_histories"]

_ENTRIES = """
    SELECT position, stream, version, recorded_at, envelope FROM events
    WHERE partition = %s AND position > %s AND position <= %s ORDER BY position
"""
# No LIMIT: with one PostgreSQL may sort all that follows for each page, as long as it has no statistics.
# Strategy by strategy (OFFSET 0 keeps it so): with ANY, and no statistics yet, PostgreSQL reads the whole range.
_HISTORIES = """
    SELECT its.position, its.stream, its.version, its.recorded_at, its.envelope FROM unnest(%s::bigint[]) AS wanted (id)
    CROSS JOIN LATERAL (
        SELECT position, stream, version, recorded_at, envelope FROM events
        WHERE strategy_id = wanted.id AND partition = %s AND version > 0 AND position > %s AND position <= %s OFFSET 0
    ) AS its
    ORDER BY its.position
"""


async def fetch_entries(connection: AsyncConnection, partition: int, after: int, until: int) -> list[Raw]:
    """The entries at the positions after + 1 … until that are there, in order."""
    return await _fetch(connection, _ENTRIES, partition, after, until)


async def fetch_histories(
    connection: AsyncConnection, partition: int, strategy_ids: list[int], after: int, until: int
) -> list[Raw]:
    """The versioned entries of these strategies at the positions after + 1 … until, in order."""
    return await _fetch(connection, _HISTORIES, strategy_ids, partition, after, until)


async def _fetch(connection: AsyncConnection, statement: str, *values: object) -> list[Raw]:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    async with driver.cursor(binary=True, row_factory=args_row(Raw)) as cursor:
        await cursor.execute(statement, values)
        raws: list[Raw] = await cursor.fetchall()
        return raws
