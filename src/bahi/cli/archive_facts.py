"""What `bahi archive status` tells: of each partition, of each month, of the seal keys."""

import re
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bahi.cli.archive_home import ArchiveHome
from bahi.cli.keys import box_of
from bahi.cli.places import Places
from bahi.clock import SystemClock
from bahi.seal_keys import open_keys
from domain.values import SECOND
from eventstore.archive import CHECKPOINT
from eventstore.archive_tables import checkpoint, epochs, seals, snapshot_points
from eventstore.clients import commands
from eventstore.epochs import held
from eventstore.keys import CLASSES, Keys
from eventstore.seal_rows import newest_seal

__all__ = ["facts_of"]

_FEW = 50_000
"""Rows that are counted; more are estimated."""


async def facts_of(home: ArchiveHome) -> dict[str, Any]:
    """All of it, as `--json` prints it. Raises LogUnavailable, and what the database raises."""
    async with home.engine.connect() as connection:
        found = await connection.execute(select(epochs.c.partition).distinct().order_by(epochs.c.partition))
        partitions = [row.partition for row in found]
        opened = await open_keys(connection, box_of(home.settings))
        newest = opened.keys[-1] if opened.keys else None
        return {
            "partitions": [await _partition(home, connection, each, len(partitions)) for each in partitions],
            "months": await _months(connection),
            "seal_keys": [
                {"number": key.number, "id": key.id, "opens": key.id not in opened.closed} for key in opened.keys
            ],
            "sealing_stopped": opened.closed.get(newest.id) if newest is not None else None,
            "redis": home.redis is not None,
        }


async def _partition(home: ArchiveHome, connection: AsyncConnection, partition: int, partitions: int) -> dict[str, Any]:
    now = SystemClock().now()
    reached = await connection.scalar(
        select(checkpoint.c.position).where(checkpoint.c.name == CHECKPOINT, checkpoint.c.partition == partition)
    )
    lineage = (
        await connection.execute(select(epochs).where(epochs.c.partition == partition).order_by(epochs.c.number))
    ).all()
    head = await newest_seal(connection, partition)
    points = (
        await connection.execute(
            select(func.count(), func.max(snapshot_points.c.position)).where(snapshot_points.c.partition == partition)
        )
    ).one()
    counted = await connection.scalar(select(func.count()).where(seals.c.partition == partition))
    archived, places = reached or 0, Places(partitions)
    return {
        "partition": partition,
        "log": f"/bahi/{lineage[0].log_id}/{partition}",
        "epochs": [
            {"number": each.number, "epoch": each.epoch, "after": each.after_position, "reason": each.reason}
            for each in lineage
        ],
        "archived": archived,
        "sealed": 0 if head is None else head.last,
        "unsealed": archived - (0 if head is None else head.last),
        "seals": counted,
        "newest_seal": None if head is None else f"{places.show(partition, head.number)}:{head.hash.hex()}",
        "newest_seal_seconds": None if head is None else round((now - head.sealed_at) / SECOND, 3),
        "snapshots": {"points": points[0], "newest": points[1]},
        **await _in_redis(home, partition, partitions, archived, now),
    }


async def _in_redis(home: ArchiveHome, partition: int, partitions: int, archived: int, now: int) -> dict[str, Any]:
    """How far the log is ahead of the archive, and what the streams hold."""
    unknown = {"log_position": None, "behind": None, "behind_seconds": None, "streams": None}
    if home.redis is None:
        return unknown
    keys = Keys(partition, hashtag=partitions > 1)
    here = await held(home.redis, keys)
    if not here.lineage:
        return unknown
    calls = [
        call
        for each in CLASSES
        for name in (keys.streams[each],)
        for call in (("XLEN", name), ("XRANGE", name, "-", "+", "COUNT", 1), ("XREVRANGE", name, "+", "-", "COUNT", 1))
    ]
    answers = await commands(home.redis, calls)
    streams = {
        each: {
            "events": _number(answers[3 * i]),
            "first": _position(answers[3 * i + 1]),
            "last": _position(answers[3 * i + 2]),
        }
        for i, each in enumerate(CLASSES)
    }
    behind = max(here.position - archived, 0)
    waits = await _recorded_at(home, keys, archived + 1) if behind else None
    return {
        "log_position": here.position,
        "behind": behind,
        "behind_seconds": 0.0 if waits is None else round(max(now - waits, 0) / SECOND, 3),
        "streams": streams,
    }


async def _recorded_at(home: ArchiveHome, keys: Keys, position: int) -> int | None:
    assert home.redis is not None  # noqa: S101 (the caller looked)
    names = [keys.streams[each] for each in CLASSES]
    answers = await commands(home.redis, [("XRANGE", name, f"{position}-0", f"{position}-0") for name in names])
    for answer in answers:
        if not isinstance(answer, Exception) and answer:
            fields = dict(zip(answer[0][1][::2], answer[0][1][1::2], strict=False))
            return int(fields.get(b"t", 0)) or None
    return None


def _number(answer: Any) -> int:
    if isinstance(answer, Exception):
        raise answer
    return int(answer)


def _position(answer: Any) -> int | None:
    """Of the entry in the answer; None if there is none."""
    if isinstance(answer, Exception):
        raise answer
    return int(answer[0][0].partition(b"-")[0]) if answer else None


_MONTHS = """
    SELECT relname, pg_total_relation_size(pg_class.oid) AS bytes, reltuples::bigint AS estimate
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'events'::regclass ORDER BY relname
"""


async def _months(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Of all partitions together: the parts of the table `events`."""
    told: list[dict[str, Any]] = []
    for row in (await connection.execute(text(_MONTHS))).all():
        month = re.fullmatch(r"events_y(\d{4})m(\d{2})", row.relname)
        name = f"{month[1]}-{month[2]}" if month else row.relname.removeprefix("events_")
        events, exact = row.estimate, False
        if events < _FEW:
            few = f"SELECT count(*) FROM (SELECT FROM {row.relname} LIMIT {_FEW}) few"  # noqa: S608 (a table's name)
            counted = await connection.scalar(text(few))
            exact = counted < _FEW
            events = counted if exact else max(counted, events)
        if events or month:
            told.append({"month": name, "events": events, "exact": exact, "bytes": row.bytes})
    return told
