"""What the streams and the archive hold of a stretch of the log, with everything about it that no writer of ours does.

Nothing is hidden here for the sake of reading on: a position that is there twice is there twice.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from psycopg.rows import args_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.values import Priority
from eventstore.archive import CHECKPOINT
from eventstore.clients import command, commands
from eventstore.entries import check_log
from eventstore.envelope import Raw
from eventstore.epochs import held
from eventstore.errors import CorruptEvent
from eventstore.keys import CLASSES
from eventstore.log import EventLog
from eventstore.reading import parse

__all__ = ["Announced", "Hot", "Outline", "Row", "announced", "first_beyond", "hot_entries", "outline", "rows"]


class Row(Raw, frozen=True, gc=False):
    """An archived entry, and the columns that only find it."""

    type: str
    strategy_id: int | None
    user_id: int | None


class Hot(Struct, frozen=True):
    """Of a stretch: the entries of the streams, one for each position; positions of which there is another one; and
    the oldest position of each stream, looked up after the entries were."""

    entries: dict[int, Raw]
    again: list[int]
    oldest: dict[str, int]


class Announced(Struct, frozen=True):
    """What Redis knows of itself and of the archive: the last position before its epoch; how far the archive reached,
    and the number and the hash of its newest seal, when that was told last."""

    before_epoch: int
    archived: int
    seal: tuple[int, bytes] | None


class Outline(Struct, frozen=True):
    """The archive of a partition as of one moment: checkpoint, number of the newest seal; and the first position, and
    partition, of rows where there should be none: after the checkpoint, before the first position, of no partition."""

    reached: int = 0
    seals: int = 0
    beyond: int | None = None
    before: int | None = None
    stray: tuple[int, int] | None = None


async def announced(log: EventLog) -> Announced:
    """Raises LogUnavailable."""
    known = await held(log.redis, log.keys)
    archived = await command(log.redis, "GET", log.keys.archived)
    seal = await command(log.redis, "GET", log.keys.sealed)
    after = known.lineage[-1].after if known.lineage else 0
    number, _, digest = (seal or b"").partition(b":")
    try:
        told = (int(number), bytes.fromhex(digest.decode())) if seal else None
    except ValueError:
        told = (0, b"")
    return Announced(after, int(archived) if archived and archived.isdigit() else 0, told)


async def hot_entries(log: EventLog, after: int, until: int) -> Hot:
    """The positions after + 1 … until of the streams. Raises LogUnavailable."""
    streams = log.keys.streams
    found = [("XRANGE", streams[each], str(after + 1), str(until)) for each in CLASSES]
    oldest = [("XRANGE", streams[each], "-", "+", "COUNT", 1) for each in CLASSES]
    replies = await commands(log.redis, [*found, *oldest])
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    entries: dict[int, Raw] = {}
    again: list[int] = []
    for each, reply in zip(CLASSES, replies, strict=False):
        for entry in reply:
            raw = _entry(entry, each)
            if raw.position in entries:
                again.append(raw.position)
            else:
                entries[raw.position] = raw
    ends = zip(CLASSES, replies[len(CLASSES) :], strict=True)
    firsts = {str(each): _position(reply[0][0]) for each, reply in ends if reply}
    return Hot(entries, again, firsts)


def _entry(entry: Any, stream: Priority) -> Raw:
    """Whatever it is: one that no append wrote cannot be decoded."""
    try:
        return parse(entry, stream)
    except CorruptEvent as error:
        return Raw(error.position, stream, 0, 0, msgspec.msgpack.encode(entry[1]))


def _position(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


async def first_beyond(log: EventLog) -> tuple[int, int] | None:
    """The first entry after the end of the log, which no append wrote, and that end; None if there is none."""
    last = await check_log(log)
    for _ in range(_ATTEMPTS):
        calls = [("XRANGE", log.keys.streams[each], str(last + 1), "+", "COUNT", 1) for each in CLASSES]
        replies = await commands(log.redis, calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        before, last = last, await check_log(log)
        beyond = [position for reply in replies if reply and (position := _position(reply[0][0])) > last]
        if beyond:
            return min(beyond), last
        if before == last:
            break
    return None


_ATTEMPTS = 10
"""Looks at a log that grows meanwhile."""


# --- the archive -----------------------------------------------------------------------------------------------------


async def outline(connection: AsyncConnection, partition: int, partitions: int | None) -> Outline:
    """All of it from one statement: from one moment. Strays are looked for if it is known how many partitions are."""
    values = {"partition": partition, "partitions": partitions or _MOST, "name": CHECKPOINT}
    row = (await connection.execute(_OUTLINE, values)).one()
    stray = None if row.stray_partition is None else (row.stray_partition, row.stray_position)
    return Outline(row.reached or 0, row.seals or 0, row.beyond, row.before, stray)


_MOST = 2**15 - 1
_OUTLINE = text(
    """
    WITH reached AS (SELECT position FROM checkpoint WHERE name = :name AND partition = :partition),
    stray AS (
        (SELECT partition, position FROM events WHERE partition >= :partitions ORDER BY partition, position LIMIT 1)
        UNION ALL
        (SELECT partition, position FROM events WHERE partition < 0 ORDER BY partition, position LIMIT 1)
        LIMIT 1
    )
    SELECT (SELECT position FROM reached) AS reached,
        (SELECT max(number) FROM seals WHERE partition = :partition) AS seals,
        (SELECT min(position) FROM events
            WHERE partition = :partition AND position > COALESCE((SELECT position FROM reached), 0)) AS beyond,
        (SELECT min(position) FROM events WHERE partition = :partition AND position < 1) AS before,
        (SELECT partition FROM stray) AS stray_partition,
        (SELECT position FROM stray) AS stray_position
    """
)


async def rows(connection: AsyncConnection, partition: int, after: int, until: int) -> Sequence[Row]:
    """Every row of the positions after + 1 … until, in order."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    async with driver.cursor(binary=True, row_factory=args_row(Row)) as cursor:
        await cursor.execute(_ROWS, (partition, after, until))
        found: list[Row] = await cursor.fetchall()
        return found


_ROWS = """
    SELECT position, stream, version, recorded_at, envelope, type, strategy_id, user_id FROM events
    WHERE partition = %s AND position > %s AND position <= %s ORDER BY position, recorded_at
"""
