"""The seals and their keys as PostgreSQL has them; what is private of these is not read here."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.archive_tables import seal_keys, seals
from eventstore.seal_trust import SealKey
from eventstore.seals import Seal

__all__ = ["newest_seal", "read_keys", "read_seals"]

_FIELDS = Seal.__struct_fields__
_COLUMNS = [seals.c[name] for name in _FIELDS]
_KEY = [seal_keys.c[name] for name in SealKey.__struct_fields__]


async def newest_seal(connection: AsyncConnection, partition: int) -> Seal | None:
    """The head of the chain; None before the first seal."""
    found = select(*_COLUMNS).where(seals.c.partition == partition).order_by(seals.c.number.desc()).limit(1)
    row = (await connection.execute(found)).one_or_none()
    return None if row is None else _seal(row)


async def read_seals(
    connection: AsyncConnection, partition: int, *, after: int | None = None, limit: int | None = None
) -> list[tuple[Seal, bytes]]:
    """The seals after number `after`, in order, each with the hints kept beside it (b"": none)."""
    found = select(*_COLUMNS, seals.c.hints).where(seals.c.partition == partition).order_by(seals.c.number)
    if after is not None:
        found = found.where(seals.c.number > after)
    return [(_seal(row), row.hints or b"") for row in await connection.execute(found.limit(limit))]


async def read_keys(connection: AsyncConnection) -> list[SealKey]:
    """The line of keys, oldest first, as others may see it."""
    rows = await connection.execute(select(*_KEY).order_by(seal_keys.c.number))
    return [SealKey(**row._mapping) for row in rows]


def _seal(row: Any) -> Seal:
    return Seal(**dict(zip(_FIELDS, row, strict=False)))
