"""The months of the archive: a part of the table `events` for each, made before its first event is written."""

import datetime as dt
from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.values import DAY, SECOND, Instant

__all__ = ["Months"]

_EARLIEST = int(dt.datetime(2000, 1, 1, tzinfo=dt.UTC).timestamp()) * SECOND
_LATEST = int(dt.datetime(2200, 1, 1, tzinfo=dt.UTC).timestamp()) * SECOND
_LOCK = 0x62616869_6D6F6E74
"""Of PostgreSQL's advisory locks: one process at a time makes a month."""
_AHEAD = 3 * DAY
"""How long before it begins a month is made, if all goes well."""

Month = tuple[int, int]
"""Year and month, UTC."""


class Months:
    """Knows the months that are there already."""

    def __init__(self) -> None:
        self._sure: set[Month] = set()
        self._made: set[Month] = set()
        """In a transaction that is going on."""

    async def ensure(self, connection: AsyncConnection, instants: Iterable[Instant]) -> None:
        """The months of these exist. A time that no clock shows needs none: `events_other` takes it.

        DDL in the caller's transaction: what is rolled back is made anew, for only `committed` months are remembered.
        Everybody who reads the archive is waited for, and waits.
        """
        self._made = _months(instants) - self._sure
        if not self._made:
            return
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        for year, month in sorted(self._made):
            name = f"events_y{year}m{month:02}"
            begin, end = _instant(year, month), _instant(year + month // 12, month % 12 + 1)
            taken = await connection.execute(text(_TAKEN), {"at": begin, "name": name})
            if taken.scalar_one():
                continue
            await connection.execute(
                text(f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF events FOR VALUES FROM ({begin}) TO ({end})")
            )

    async def prepare(self, connection: AsyncConnection, now: Instant) -> None:
        """This month and, near its end, the next: well before they are needed, so that whoever is in the way can be
        left alone. Raises sqlalchemy's OperationalError when somebody reads the archive for longer than a moment."""
        await connection.execute(text("SET LOCAL lock_timeout = '200ms'"))
        await self.ensure(connection, (now, now + _AHEAD))

    def committed(self) -> None:
        """The transaction of the last `ensure` was committed."""
        self._sure |= self._made
        self._made = set()


_TAKEN = """
    SELECT to_regclass(:name) IS NOT NULL OR EXISTS (
        SELECT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'events'::regclass AND relname = 'events_first'
          AND substring(pg_get_expr(relpartbound, pg_class.oid) FROM 'TO \\(''?(-?[0-9]+)''?\\)')::bigint > :at
    )
"""
"""Whether it is there, or what was archived before there were months takes this one, too."""


def _months(instants: Iterable[Instant]) -> set[Month]:
    """Those of the instants that a clock may show."""
    months: set[Month] = set()
    begin = end = 0
    for at in instants:
        if begin <= at < end or not _EARLIEST <= at < _LATEST:
            continue
        moment = dt.datetime.fromtimestamp(at // SECOND, dt.UTC)
        year, month = moment.year, moment.month
        months.add((year, month))
        begin, end = _instant(year, month), _instant(year + month // 12, month % 12 + 1)
    return months


def _instant(year: int, month: int) -> Instant:
    return int(dt.datetime(year, month, 1, tzinfo=dt.UTC).timestamp()) * SECOND
