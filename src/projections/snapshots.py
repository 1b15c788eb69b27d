"""Snapshots: every strategy's state at some positions of the archive, so that nobody folds the whole log again.

They are worth no more than the fold that made them: each carries a digest of its program, and another program's are
ignored. So are those whose states do not add up to what was written. Without any, everything works, only slower.
"""

import hashlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import msgspec
import structlog
from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import domain.blind
import domain.events
import domain.order_fold
import domain.state
import domain.strategy
import domain.values
import eventstore.envelope
import eventstore.upcasts
import projections.replay
from domain.events import UserHalted
from domain.strategy import State
from domain.values import Instant
from eventstore.archive import archive_outages
from eventstore.archive_tables import snapshot_points

__all__ = ["FOLD", "Postgres", "Snapshot", "newest_snapshot", "pack_halts", "pack_state"]

_log = structlog.get_logger(__name__)


@runtime_checkable
class Postgres(Protocol):
    """Where the archive of a partition lies, and its snapshots."""

    @property
    def engine(self) -> AsyncEngine: ...

    @property
    def partition(self) -> int: ...


class Snapshot(Struct, frozen=True):
    """All states after the event at `position`, which was recorded at `recorded_at`, and the halted users."""

    position: int
    recorded_at: Instant
    states: dict[int, State]
    halts: dict[int, UserHalted]


def _digest_of(*modules: ModuleType) -> str:
    digest = hashlib.sha256()
    for module in modules:
        loader: Any = module.__loader__
        digest.update(loader.get_data(module.__file__))
    return digest.hexdigest()


FOLD = _digest_of(
    *(domain.values, domain.events, domain.blind, domain.state, domain.strategy, domain.order_fold),
    *(eventstore.envelope, eventstore.upcasts, projections.replay),
)
"""The program that makes states from entries."""

pack_state = Encoder().encode
"""A state as bytes, exactly."""
pack_halts = Encoder().encode
_unpack_state = Decoder(State).decode
_unpack_halts = Decoder(dict[int, UserHalted]).decode


async def newest_snapshot(postgres: Postgres, until: int) -> Snapshot | None:
    """The last one of this program's at or before the position `until`. One that cannot be used is passed over, and
    the log says why. Raises LogUnavailable."""
    with archive_outages():
        async with postgres.engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")  # points and states of one moment
            points = await connection.execute(
                select(snapshot_points)
                .where(
                    snapshot_points.c.partition == postgres.partition,
                    snapshot_points.c.position <= until,
                    snapshot_points.c.fold == FOLD,
                )
                .order_by(snapshot_points.c.position.desc())
            )
            for point in points.all():
                try:
                    return await _read(connection, postgres.partition, point)
                except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
                    _log.warning(
                        "snapshot_ignored", partition=postgres.partition, position=point.position, why=str(error)
                    )
    return None


async def _read(connection: AsyncConnection, partition: int, point: Any) -> Snapshot:
    rows = await connection.execute(text(_NEWEST), {"partition": partition, "position": point.position})
    packed: dict[int, bytes] = dict(rows.tuples())
    if digest_of(packed) != point.digest:
        raise ValueError(f"its {len(packed)} states are not those that were written")
    states = {strategy_id: _unpack_state(state) for strategy_id, state in packed.items()}
    return Snapshot(point.position, point.recorded_at, states, _unpack_halts(point.halts))


def digest_of(packed: Mapping[int, bytes]) -> bytes:
    """Of all states of a point."""
    digest = hashlib.sha256()
    for strategy_id in sorted(packed):
        state = packed[strategy_id]
        digest.update(b"%d %d " % (strategy_id, len(state)))
        digest.update(state)
    return digest.digest()


_NEWEST = """
    WITH RECURSIVE of AS (
        (SELECT strategy_id FROM snapshots WHERE partition = :partition ORDER BY strategy_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT strategy_id FROM snapshots
            WHERE partition = :partition AND strategy_id > of.strategy_id ORDER BY strategy_id LIMIT 1
        ) FROM of WHERE of.strategy_id IS NOT NULL
    )
    SELECT of.strategy_id, newest.state FROM of CROSS JOIN LATERAL (
        SELECT state FROM snapshots
        WHERE partition = :partition AND strategy_id = of.strategy_id AND position <= :position
        ORDER BY position DESC LIMIT 1
    ) AS newest
"""
"""Of every strategy the last state at or before a position: by index, whatever number of older ones there is."""
