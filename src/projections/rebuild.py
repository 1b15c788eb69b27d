"""Rebuild: every projection made anew from the log, in Redis and in PostgreSQL.

Trading may go on. In Redis a strategy is written only if nobody appended to it since, else its newer events are read
first; in PostgreSQL what differs is put right in one transaction (`projections.tables`).
"""

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.strategy import State
from eventstore.archive import PostgresArchive
from eventstore.log import EventLog
from eventstore.members import all_strategies
from eventstore.restoring import Restorable, drop_strategies, restore_halts, restore_strategies
from projections.compare import has_expired
from projections.replay import Fault, Progress
from projections.restoration import advance, restore
from projections.runtime import encode_state
from projections.tables import rebuild_sql

__all__ = ["Rebuilt", "rebuild", "rebuild_redis", "rebuild_sql"]

_AT_ONCE = 128


class Rebuilt(Struct, frozen=True, kw_only=True):
    """How many strategies and halts were written, from how many events, and what was wrong with those. The first
    `since` of them were known from a snapshot."""

    events: int
    since: int
    strategies: int
    halts: int
    faults: tuple[Fault, ...] = ()


async def rebuild(log: EventLog, engine: AsyncEngine | None = None, progress: Progress | None = None) -> Rebuilt:
    """Redis from the whole log, then PostgreSQL from what is archived of it.

    Raises LogHole, LogUnavailable, LogLost.
    """
    done = await rebuild_redis(log, progress)
    if engine is not None:
        await rebuild_sql(PostgresArchive(engine, log.keys.partition), progress)
    return done


async def rebuild_redis(log: EventLog, progress: Progress | None = None, *, from_start: bool = False) -> Rebuilt:
    """The hashes, timers, sets and halt latches, from the last snapshot and what came after it; `from_start` from the
    first event on. Timers are set to now, so that a worker looks at every strategy that may have something to do and
    sets them right. Raises LogHole, LogUnavailable, LogLost."""
    faults: list[Fault] = []
    present = {strategy_id async for some in all_strategies(log) for strategy_id in some}
    replay = await restore(log, snapshots=not from_start, progress=progress, on_fault=faults.append)
    await drop_strategies(log, sorted(present - replay.states.keys()))
    left = dict.fromkeys(sorted(replay.states), 0)
    while left:
        ahead: dict[int, int] = {}
        ids = list(left)
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            ahead |= await restore_strategies(log, [restorable(log, replay.states[i], left[i]) for i in some])
        left = ahead
        if left:
            await advance(replay, log)
    while not await restore_halts(log, replay.halts, replay.position):
        await advance(replay, log)
    return Rebuilt(
        events=replay.position,
        since=replay.since,
        strategies=len(replay.states),
        halts=len(replay.halts),
        faults=tuple(faults),
    )


def restorable(log: EventLog, state: State, seen: int) -> Restorable:
    """`seen` is the version that Redis claimed before all events up to then were read: if it is more than what they
    give, it is wrong."""
    now = log.clock.now()
    write = encode_state(state, None)
    runtime: dict[str, str] = {}
    if not has_expired(state, now):
        runtime = {
            **write.runtime_set,
            "updated_at": str(state.updated_at),
            "position_in_log": str(state.position_in_log),
        }
    in_market = state.alive or state.open_quantity != 0 or state.surfaced != 0
    looked_at = in_market or state.unresolved or state.start_requested
    return Restorable(
        strategy_id=state.id,
        user_id=state.user_id,
        symbol=state.symbol,
        version=state.version,
        strategy=write.strategy_set,
        runtime=runtime,
        expire_seconds=write.expire_seconds,
        wake_at=now if looked_at else None,
        in_market=in_market,
        wrong=seen if seen > state.version else None,
    )
