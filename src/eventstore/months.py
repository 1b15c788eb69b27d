"""The months of the archive: a part of the table `events` for each, made before its first event is written."""

import datetime as dt
from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.values import SECOND, Instant

__all__ = ["Months"]

_EARLIEST = int(dt.datetime(2000, 1, 1, tzinfo=dt.UTC).timestamp()) * SECOND
_LATEST = int(dt.datetime(2200, 1, 1, tzinfo=dt.UTC).timestamp()) * SECOND
_LOCK = 0x62616869_6D6F6E74
"""Of PostgreSQL's advisory locks: one process at a time makes a month."""


class Months:
    """Knows the months that are there already."""

    def __init__(self) -> None:
        self._sure: set[tuple[int, int]] = set()

    async def ensure(self, connection: AsyncConnection, first: Instant, last: Instant) -> None:
        """The months from `first` to `last` exist. A time that no clock shows needs none: `events_other` takes it.

        DDL in the caller's transaction: what is rolled back is made anew, for only `committed` months are remembered.
        """
        wanted = [month for month in _months(first, last) if month not in self._sure]
        if not wanted:
            return
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        for year, month in wanted:
            name = f"events_y{year}m{month:02}"
            begin, end = _instant(year, month), _instant(year + month // 12, month % 12 + 1)
            taken = await connection.execute(text(_TAKEN), {"at": begin})
            if taken.scalar_one():
                continue
            await connection.execute(
                text(f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF events FOR VALUES FROM ({begin}) TO ({end})")
            )

    def committed(self, first: Instant, last: Instant) -> None:
        """A transaction that ensured these months was committed."""
        self._sure.update(_months(first, last))


_TAKEN = """
    SELECT EXISTS (
        SELECT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'events'::regclass AND relname = 'events_first'
          AND substring(pg_get_expr(relpartbound, pg_class.oid) FROM 'TO \\(''?(-?[0-9]+)''?\\)')::bigint > :at
    )
"""
"""Whether what was archived before there were months takes this one too."""


def _months(first: Instant, last: Instant) -> Iterator[tuple[int, int]]:
    if not _EARLIEST <= first <= last < _LATEST:
        first, last = max(first, _EARLIEST), min(last, _LATEST - 1)
        if first > last:
            return
    at, end = _month(first), _month(last)
    while at <= end:
        yield at
        at = (at[0] + at[1] // 12, at[1] % 12 + 1)


def _month(at: Instant) -> tuple[int, int]:
    moment = dt.datetime.fromtimestamp(at // SECOND, dt.UTC)
    return moment.year, moment.month


def _instant(year: int, month: int) -> Instant:
    return int(dt.datetime(year, month, 1, tzinfo=dt.UTC).timestamp()) * SECOND
