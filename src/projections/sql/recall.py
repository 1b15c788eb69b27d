"""Strategies as the archive has them: from the last snapshot, and what happened to them since.

So a follower that has just started needs neither a replay of the whole log, nor the whole history of each strategy.
"""

import asyncio
from collections.abc import Sequence

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.strategy import State
from eventstore.archive import PostgresArchive
from eventstore.envelope import Raw, decode
from eventstore.errors import CorruptEvent
from projections.snapshots import FOLD
from projections.sql.strategies import Strategy

__all__ = ["AT_ONCE", "snapshotted"]

AT_ONCE = 64
"""Strategies asked for in one statement: it must not take too long, and nor must its answer."""

_decode = msgspec.msgpack.Decoder(State).decode


async def snapshotted(
    connection: AsyncConnection, archive: PostgresArchive, strategy_ids: Sequence[int], until: int
) -> tuple[int, dict[int, Strategy]]:
    """The position of this program's last snapshot at or before `until`, and those of the strategies that it holds, as
    they were then; 0 when it holds none. One statement: meanwhile the next snapshot may be taken."""
    found: dict[int, Strategy] = {}
    values = {"partition": archive.partition, "until": until, "fold": FOLD, "ids": list(strategy_ids)}
    rows = (await connection.execute(_SNAPSHOTTED, values)).all()
    for _, strategy_id, packed, created_at, *last in rows:
        try:
            found[strategy_id] = Strategy(_decode(packed), created_at)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue  # its whole history tells the same
        if last[0] is not None:
            _realise(found[strategy_id], Raw(*last))
    await asyncio.sleep(0)
    return rows[0][0] if rows else 0, found


def _realise(strategy: Strategy, last: Raw) -> None:
    """What its last run had realised, by the last event that began or ended one."""
    try:
        strategy.realise(decode(last).event)
    except CorruptEvent:
        return  # nor could it be folded when it came


_SNAPSHOTTED = text(
    """
    WITH point AS (
        SELECT max(position) AS at FROM snapshot_points
        WHERE partition = :partition AND fold = :fold AND position <= :until
    )
    SELECT point.at, wanted.id, snapshot.state, first.recorded_at,
        last.position, last.stream, last.version, last.recorded_at, last.envelope
    FROM point CROSS JOIN unnest(CAST(:ids AS bigint[])) AS wanted (id)
    CROSS JOIN LATERAL (
        SELECT state FROM snapshots
        WHERE partition = :partition AND strategy_id = wanted.id AND position <= point.at
        ORDER BY position DESC LIMIT 1
    ) AS snapshot
    CROSS JOIN LATERAL (
        SELECT recorded_at FROM events
        WHERE partition = :partition AND strategy_id = wanted.id AND version > 0 AND position <= point.at
        ORDER BY position LIMIT 1
    ) AS first
    LEFT JOIN LATERAL (
        SELECT position, stream, version, recorded_at, envelope FROM events
        WHERE partition = :partition AND strategy_id = wanted.id AND version > 0 AND position <= point.at
            AND type IN ('STRATEGY_STARTED', 'STRATEGY_EXITED')
        ORDER BY position DESC LIMIT 1
    ) AS last ON true
    """
)
