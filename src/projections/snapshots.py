"""Snapshots: every strategy's state at some positions of the archive, so that nobody folds the whole log again.

They are worth no more than the fold that made them: each carries a digest of its program, and another program's are
ignored. So are those whose states do not add up to what was written. Without any, everything works, only slower.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import msgspec
import structlog
from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder
from sqlalchemy import delete, func, insert, select, text
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
from domain.values import DAY, Instant
from eventstore.archive import archive_outages
from eventstore.archive_tables import snapshot_points, snapshots
from projections.replay import Replay

__all__ = ["FOLD", "Postgres", "Snapshot", "drop_snapshots", "newest_point", "newest_snapshot", "write_snapshot"]

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

    def begin(self, replay: Replay) -> None:
        """Let the replay go on from here."""
        replay.states, replay.halts = self.states, self.halts
        replay.position, replay.recorded_at = self.position, self.recorded_at
        replay.since = self.position


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

_pack = Encoder().encode
_unpack_state = Decoder(State).decode
_unpack_halts = Decoder(dict[int, UserHalted]).decode
_TURN = 128
"""States packed or unpacked before others have their turn: about a millisecond."""
_LOCK = 0x62616873
"""Of PostgreSQL's advisory locks, with the partition: one process at a time takes a snapshot."""


# --- reading --------------------------------------------------------------------------------------------------------


async def newest_point(postgres: Postgres) -> int:
    """The position of this program's last snapshot; 0: there is none. Raises LogUnavailable."""
    with archive_outages():
        async with postgres.engine.connect() as connection:
            return await _newest(connection, postgres.partition)


async def _newest(connection: AsyncConnection, partition: int) -> int:
    mine = (snapshot_points.c.partition == partition) & (snapshot_points.c.fold == FOLD)
    return await connection.scalar(select(func.max(snapshot_points.c.position)).where(mine)) or 0


async def newest_snapshot(postgres: Postgres, until: int) -> Snapshot | None:
    """The last one of this program's at or before the position `until`. One that cannot be used is passed over, and
    the log says why. Raises LogUnavailable."""
    points = (
        select(snapshot_points)
        .where(
            snapshot_points.c.partition == postgres.partition,
            snapshot_points.c.position <= until,
            snapshot_points.c.fold == FOLD,
        )
        .order_by(snapshot_points.c.position.desc())
    )
    with archive_outages():
        async with postgres.engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")  # points and states of one moment
            for point in (await connection.execute(points)).all():
                try:
                    return await _read(connection, postgres.partition, point)
                except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
                    _log.warning(
                        "snapshot_ignored", partition=postgres.partition, position=point.position, why=str(error)
                    )
    return None


async def _read(connection: AsyncConnection, partition: int, point: Any) -> Snapshot:
    found = await connection.stream(
        text(_STATES),
        {"partition": partition, "position": point.position},
        execution_options={"yield_per": _TURN},
    )
    states: dict[int, State] = {}
    digest = hashlib.sha256()
    try:
        async for row in found:
            _add(digest, row.strategy_id, row.state)
            states[row.strategy_id] = _unpack_state(row.state)
    finally:
        await found.close()
    if digest.digest() != point.digest:
        raise ValueError(f"its {len(states)} states are not those that were written")
    return Snapshot(point.position, point.recorded_at, states, _unpack_halts(point.halts))


def _add(digest: "hashlib._Hash", strategy_id: int, state: bytes) -> None:
    """A state to the digest of a point, in the order of the strategies."""
    digest.update(b"%d %d " % (strategy_id, len(state)))
    digest.update(state)


_STATES = """
    WITH RECURSIVE each AS (
        (SELECT strategy_id FROM snapshots WHERE partition = :partition ORDER BY strategy_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT strategy_id FROM snapshots
            WHERE partition = :partition AND strategy_id > each.strategy_id ORDER BY strategy_id LIMIT 1
        ) FROM each WHERE each.strategy_id IS NOT NULL
    )
    SELECT each.strategy_id, newest.state FROM each CROSS JOIN LATERAL (
        SELECT state FROM snapshots
        WHERE partition = :partition AND strategy_id = each.strategy_id AND position <= :position
        ORDER BY position DESC LIMIT 1
    ) AS newest
"""
"""Of every strategy the last state at or before a position: by index, whatever number of older ones there is, and in
their order, for each is found from the one before it."""


# --- writing --------------------------------------------------------------------------------------------------------


async def write_snapshot(postgres: Postgres, replay: Replay, base: int) -> bool:
    """Keep these states: those that changed since the point `base`, all of them when that is 0. In one transaction.

    Of a day (UTC) one point is kept. What there is after `base` is dropped: it could not be used, or this replaces it.
    False, and nothing is written, when somebody else has come as far, or is at it. Raises LogUnavailable.
    """
    digest, changed = hashlib.sha256(), {}
    for number, (strategy_id, state) in enumerate(sorted(replay.states.items())):
        packed = _pack(state)
        _add(digest, strategy_id, packed)
        if state.position_in_log > base:
            changed[strategy_id] = packed
        if number % _TURN == 0:
            await asyncio.sleep(0)
    point = {
        "partition": postgres.partition,
        "position": replay.position,
        "recorded_at": replay.recorded_at,
        "fold": FOLD,
        "halts": _pack(replay.halts),
        "digest": digest.digest(),
    }
    with archive_outages():
        async with postgres.engine.begin() as connection:
            lock = select(func.pg_try_advisory_xact_lock(_LOCK, postgres.partition))
            if not await connection.scalar(lock):
                return False
            if await _newest(connection, postgres.partition) >= replay.position:
                return False
            await _drop_after(connection, postgres.partition, base)
            await _copy(connection, point, changed)
            await _drop_the_day(connection, point)
            await connection.execute(insert(snapshot_points).values(point))
    return True


async def drop_snapshots(postgres: Postgres) -> None:
    """Trust none of them any more: whoever restores folds everything, and the next one is taken afresh. Raises
    LogUnavailable."""
    with archive_outages():
        async with postgres.engine.begin() as connection:
            await connection.execute(delete(snapshot_points).where(snapshot_points.c.partition == postgres.partition))


async def _drop_after(connection: AsyncConnection, partition: int, base: int) -> None:
    points = snapshot_points.c
    useless = (points.position > base) | (points.fold != FOLD)
    await connection.execute(delete(snapshot_points).where(points.partition == partition, useless))
    while (await connection.execute(text(_DROP), {"partition": partition, "base": base})).rowcount:
        pass


_DROP = """
    DELETE FROM snapshots WHERE ctid IN (
        SELECT ctid FROM snapshots WHERE partition = :partition AND position > :base LIMIT 20000
    )
"""
"""A part at a time: another program may have left a year of states, and a statement may not take for ever."""


async def _drop_the_day(connection: AsyncConnection, point: Mapping[str, Any]) -> None:
    """The earlier points of the same day, and the states that they alone need."""
    points, midnight = snapshot_points.c, point["recorded_at"] - point["recorded_at"] % DAY
    here = points.partition == point["partition"]
    await connection.execute(delete(snapshot_points).where(here, points.recorded_at >= midnight))
    kept = await connection.scalar(select(func.max(points.position)).where(here)) or 0
    new, old = snapshots.alias("new"), snapshots
    await connection.execute(
        delete(old).where(
            *(new.c.partition == point["partition"], new.c.position == point["position"]),
            *(old.c.partition == new.c.partition, old.c.strategy_id == new.c.strategy_id),
            *(old.c.position > kept, old.c.position < new.c.position),
        )
    )


async def _copy(connection: AsyncConnection, point: Mapping[str, Any], changed: Mapping[int, bytes]) -> None:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    async with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(["int2", "int8", "int8", "bytea"])
        for number, (strategy_id, state) in enumerate(changed.items()):
            await copy.write_row((point["partition"], strategy_id, point["position"], state))
            if number % _TURN == 0:
                await asyncio.sleep(0)


_COPY = "COPY snapshots (partition, strategy_id, position, state) FROM STDIN (FORMAT BINARY)"
