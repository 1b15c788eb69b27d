"""A dump into the database: what is listed, what is gone, and what was renamed, all at once or not at all."""

import datetime as dt
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import IO, Any, Final

import anyio.to_thread
from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from brokers.kite.dump import BadRow, Dump, DumpError, DumpRow
from domain.calendar import wall
from domain.values import Instant

__all__ = ["Noted", "Stored", "store_dump"]

LOCK: Final = 0x6261_6864
"""One dump is stored at a time, whoever brings it."""
CHUNK: Final = 1_000
"""Rows read at a time, on another thread."""
NAMED: Final = 50
"""So many of what changed are named; the others are counted."""
RENAMED_WITHIN: Final = dt.timedelta(days=30)
"""A token that comes back under another symbol within this time was renamed; later it was given to somebody else."""


class Noted(Struct, frozen=True):
    """How many, and the first of them."""

    count: int = 0
    first: tuple[str, ...] = ()


class Stored(Struct, frozen=True, kw_only=True):
    """A dump that was stored, and what it changed. `listed` is by exchange."""

    day: dt.date
    listed: dict[str, int]
    left_out: int
    bad: tuple[BadRow, ...]
    odd_tokens: int
    added: Noted
    gone: Noted
    renamed: Noted
    changed: Noted


async def store_dump(
    engine: AsyncEngine,
    source: bytes | IO[bytes],
    exchanges: Collection[str],
    *,
    day: dt.date,
    at: Instant,
    force: bool = False,
) -> Stored:
    """Replace what is listed at those of `exchanges` that the dump has, in one transaction.

    1. The rows are read on another thread and copied into a temporary table; damaged ones are left out.
    2. A symbol, or a token, that has several rows which differ is left out with all of them: which one is true
       cannot be known, and a wrong token would be a stop that watches another share's price.
    3. A dump with less than half of what an exchange has listed is refused, unless `force`.
    4. A symbol that is gone and whose token a new stock of its exchange has is `renamed_to` that one. A token that
       goes to a symbol that was listed before, or between derivatives, is reuse and no renaming.
    5. What is in the dump is listed, what is not is listed no more; rows are never deleted.

    Raises DumpError when the dump is refused, which leaves everything as it was.
    """
    wanted = frozenset(exchanges)
    dump = Dump(source)
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        await connection.execute(text("SET LOCAL statement_timeout = '60s'"))
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        await connection.execute(text(_INCOMING))
        await _copy(connection, dump, wanted)
        await connection.execute(text("ANALYZE incoming"))
        doubtful = await _leave_out_doubtful(connection)
        listed = await _count(connection, dump, wanted, force)
        here = {"exchanges": list(listed), "day": day, "since": day - RENAMED_WITHIN}
        added = await _noted(connection, _ADDED, here)
        gone = await _noted(connection, _GONE, here)
        changed = await _noted(connection, _CHANGED, here)
        renamed = await _noted(connection, _RENAME, here)
        await connection.execute(text(_UNLIST), here)
        await connection.execute(text(_LIST), here)
        bad = (*doubtful, *dump.bad)[:NAMED]
        left_out = dump.bad_count + len(doubtful)
        for exchange, count in listed.items():
            row = {"exchange": exchange, "day": day, "at": wall(at), "listed": count, "left_out": left_out}
            await connection.execute(text(_NOTE), row)
    return Stored(
        day=day,
        listed=listed,
        left_out=left_out,
        bad=bad,
        odd_tokens=dump.odd_tokens,
        added=added,
        gone=gone,
        renamed=renamed,
        changed=changed,
    )


_INCOMING = """
CREATE TEMPORARY TABLE incoming (
    line integer, symbol text, exchange text, token bigint, name text, kind text, segment text, tick_size numeric,
    lot_size bigint, expiry date
) ON COMMIT DROP
"""
_INTO = "COPY incoming (line, symbol, exchange, token, name, kind, segment, tick_size, lot_size, expiry) FROM STDIN"

_TWINS = """
DELETE FROM incoming twin USING incoming first
WHERE twin.symbol = first.symbol AND twin.line > first.line
  AND (twin.token, twin.name, twin.kind, twin.segment, twin.tick_size, twin.lot_size)
    = (first.token, first.name, first.kind, first.segment, first.tick_size, first.lot_size)
  AND twin.expiry IS NOT DISTINCT FROM first.expiry
"""
_TWICE = """
DELETE FROM incoming WHERE symbol IN (SELECT symbol FROM incoming GROUP BY symbol HAVING count(*) > 1)
RETURNING line, symbol || ' has several rows that differ'
"""
_AMBIGUOUS = """
DELETE FROM incoming
WHERE (exchange, token) IN (SELECT exchange, token FROM incoming GROUP BY exchange, token HAVING count(*) > 1)
RETURNING line, symbol || ' has its token ' || token || ' in common with another'
"""
_COUNT = """
SELECT wanted.exchange,
       (SELECT count(*) FROM incoming WHERE incoming.exchange = wanted.exchange),
       (SELECT count(*) FROM instruments WHERE instruments.exchange = wanted.exchange AND listed)
FROM unnest(CAST(:exchanges AS text[])) AS wanted (exchange) ORDER BY 1
"""

_ADDED = """
SELECT incoming.symbol FROM incoming LEFT JOIN instruments known USING (symbol)
WHERE known.listed IS NOT TRUE
"""
_GONE = """
SELECT symbol FROM instruments old
WHERE listed AND exchange = ANY(:exchanges) AND NOT EXISTS (SELECT FROM incoming WHERE incoming.symbol = old.symbol)
"""
_CHANGED = """
SELECT symbol || ' ' || concat_ws(', ',
    CASE WHEN known.tick_size <> incoming.tick_size THEN 'tick ' || known.tick_size || ' to ' || incoming.tick_size END,
    CASE WHEN known.lot_size <> incoming.lot_size THEN 'lot ' || known.lot_size || ' to ' || incoming.lot_size END,
    CASE WHEN known.token <> incoming.token THEN 'token ' || known.token || ' to ' || incoming.token END)
FROM incoming JOIN instruments known USING (symbol)
WHERE known.listed
  AND (known.tick_size, known.lot_size, known.token) <> (incoming.tick_size, incoming.lot_size, incoming.token)
"""
_RENAME = """
UPDATE instruments old SET renamed_to = new.symbol
FROM incoming new LEFT JOIN instruments known ON known.symbol = new.symbol
WHERE old.exchange = new.exchange AND old.token = new.token AND old.segment = new.segment
  AND old.kind = 'EQ' AND new.kind = 'EQ' AND old.renamed_to IS NULL AND old.downloaded_on >= :since
  AND NOT EXISTS (SELECT FROM incoming WHERE incoming.symbol = old.symbol) AND known.listed IS NOT TRUE
RETURNING old.symbol || ' to ' || new.symbol
"""
_UNLIST = """
UPDATE instruments old SET listed = false
WHERE listed AND exchange = ANY(:exchanges) AND NOT EXISTS (SELECT FROM incoming WHERE incoming.symbol = old.symbol)
"""
_LIST = """
INSERT INTO instruments AS it
    (symbol, exchange, token, name, kind, segment, tick_size, lot_size, expiry, listed, renamed_to, downloaded_on)
SELECT symbol, exchange, token, name, kind, segment, tick_size, lot_size, expiry, true, NULL, :day FROM incoming
ON CONFLICT (symbol) DO UPDATE SET
    (exchange, token, name, kind, segment, tick_size, lot_size, expiry, listed, renamed_to, downloaded_on)
  = (excluded.exchange, excluded.token, excluded.name, excluded.kind, excluded.segment, excluded.tick_size,
     excluded.lot_size, excluded.expiry, true, NULL, excluded.downloaded_on)
"""
_NOTE = """
INSERT INTO instrument_dumps AS it (exchange, version, downloaded_on, downloaded_at, listed, left_out)
VALUES (:exchange, 1, :day, :at, :listed, :left_out)
ON CONFLICT (exchange) DO UPDATE SET version = it.version + 1, downloaded_on = excluded.downloaded_on,
    downloaded_at = excluded.downloaded_at, listed = excluded.listed, left_out = excluded.left_out
"""


async def _copy(connection: AsyncConnection, dump: Dump, wanted: frozenset[str]) -> None:
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    rows = iter(dump)
    take: Callable[[], bytes | None] = lambda: _take(rows, wanted)  # noqa: E731 (its type is what matters)
    async with driver.cursor() as cursor, cursor.copy(_INTO) as copying:
        while (chunk := await anyio.to_thread.run_sync(take)) is not None:
            if chunk:
                await copying.write(chunk)


def _take(rows: Iterator[DumpRow], wanted: frozenset[str]) -> bytes | None:
    """The next rows in the form that COPY reads, those of other exchanges left away; None at the end."""
    part = list(islice(rows, CHUNK))
    if not part:
        return None
    return "".join(_copied(row) for row in part if row.exchange in wanted).encode()


def _copied(row: DumpRow) -> str:
    name = row.name.replace("\\", "\\\\")  # of what is printable, the only character that COPY reads otherwise
    expiry = r"\N" if row.expiry is None else row.expiry.isoformat()
    return (
        f"{row.line}\t{row.symbol}\t{row.exchange}\t{row.token}\t{name}\t{row.kind}\t{row.segment}\t{row.tick_size}"
        f"\t{row.lot}\t{expiry}\n"
    )


async def _leave_out_doubtful(connection: AsyncConnection) -> list[BadRow]:
    """Removes what cannot be told apart, and names it. Rows that are the same in everything count once."""
    await connection.execute(text(_TWINS))
    doubtful = [*await connection.execute(text(_TWICE)), *await connection.execute(text(_AMBIGUOUS))]
    return sorted(BadRow(line, reason) for line, reason in doubtful)


async def _count(connection: AsyncConnection, dump: Dump, wanted: frozenset[str], force: bool) -> dict[str, int]:
    """How many rows the dump has of each exchange that it has rows of. Raises DumpError when those are too few."""
    listed = {}
    for exchange, now, before in await connection.execute(text(_COUNT), {"exchanges": sorted(wanted)}):
        if now == 0:
            continue
        if 2 * now < before and not force:
            raise DumpError(
                f"the dump has {now} instruments of {exchange}, where {before} are listed: too few to be whole"
            )
        listed[exchange] = now
    if not listed:
        first = f", the first damaged one is line {dump.bad[0].line}: {dump.bad[0].reason}" if dump.bad else ""
        of = ", ".join(sorted(wanted))
        raise DumpError(f"the dump has no instrument of {of} ({dump.rows} good rows, {dump.bad_count} damaged{first})")
    return listed


async def _noted(connection: AsyncConnection, statement: str, values: dict[str, Any]) -> Noted:
    """How many rows of text the statement has, and the first of them; the others stay in the database."""
    first = f"(array_agg(what ORDER BY what))[1\\:{NAMED}]"
    counted = f"WITH found (what) AS ({statement}) SELECT count(*), {first} FROM found"  # noqa: S608 (constants)
    count, named = (await connection.execute(text(counted), values)).one()
    return Noted(count, tuple(named or ()))
