"""Time travel: the state of one strategy or of all, as it was after any event or as it was known at any instant."""

from collections.abc import Callable, Collection
from contextlib import aclosing

from sqlalchemy import select

from domain.strategy import State
from domain.values import Instant
from eventstore.archive import PostgresArchive, archive_outages
from eventstore.archive_tables import events
from eventstore.entries import read_entries
from eventstore.envelope import owner_of
from eventstore.log import EventLog
from projections.replay import Fault, Progress, Replay
from projections.restoration import restore
from projections.snapshots import Postgres

__all__ = ["position_at", "state_at", "states_at", "states_of"]

_AT_ONCE = 256
"""Strategies whose histories are fetched together."""


async def states_at(
    log: EventLog,
    until: int | None = None,
    *,
    progress: Progress | None = None,
    on_fault: Callable[[Fault], None] | None = None,
) -> Replay:
    """Every state, and the halted users, after the event at `until` (the log's end): with the help of snapshots.

    Raises what `restore` raises.
    """
    return await restore(log, until, progress=progress, on_fault=on_fault)


async def state_at(
    log: EventLog, strategy_id: int, until: int | None = None, *, on_fault: Callable[[Fault], None] | None = None
) -> State | None:
    """One strategy's state after the event at `until` (the log's end); None if nothing had happened to it by then.

    Raises what `states_of` raises.
    """
    return (await states_of(log, [strategy_id], until, on_fault=on_fault)).states.get(strategy_id)


async def states_of(
    log: EventLog,
    strategy_ids: Collection[int],
    until: int | None = None,
    *,
    on_fault: Callable[[Fault], None] | None = None,
) -> Replay:
    """The states of these strategies after the event at `until` (the log's end), of those to which something had
    happened by then.

    Reads only their own events of the archive, and what is not archived yet; no snapshot is trusted for it. The first
    fault is raised as BrokenHistory, unless `on_fault` takes it. Raises LogHole, LogUnavailable, LogLost.
    """
    last = await log.last_position()
    until = last if until is None else min(until, last)
    replay = Replay(on_fault=on_fault)
    archived = 0
    postgres: object = log.archive
    if isinstance(postgres, Postgres):
        archive = PostgresArchive(postgres.engine, postgres.partition)
        wanted = sorted(strategy_ids)
        with archive_outages():
            async with postgres.engine.connect() as connection:
                archived = min(await archive.reached(connection), until)
                for start in range(0, len(wanted), _AT_ONCE):
                    some = wanted[start : start + _AT_ONCE]
                    await replay.feed_in_turns(await archive.histories(connection, some, archived))
    async with aclosing(read_entries(log, archived, until)) as pages:
        async for page in pages:
            await replay.feed_in_turns([raw for raw in page if owner_of(raw.envelope).strategy_id in strategy_ids])
    replay.position = until
    return replay


async def position_at(log: EventLog, instant: Instant) -> int:
    """The position of the last event that was recorded at or before this instant; 0: none was. By index, so it takes
    no time. Raises LogHole, LogUnavailable, LogLost."""
    low, high = 0, await log.last_position()
    postgres: object = log.archive
    if isinstance(postgres, Postgres):
        archive = PostgresArchive(postgres.engine, postgres.partition)
        with archive_outages():
            async with postgres.engine.connect() as connection:
                archived = await archive.reached(connection)
                found = await connection.execute(
                    select(events.c.position)
                    .where(events.c.partition == postgres.partition, events.c.recorded_at <= instant)
                    .order_by(events.c.recorded_at.desc(), events.c.position.desc())
                    .limit(1)
                )
                low = found.scalar_one_or_none() or 0
        if low < archived:
            return low
    while low < high:  # what is not archived yet: in the streams, where a position is found at once
        middle = (low + high + 1) // 2
        async with aclosing(read_entries(log, middle - 1, middle)) as pages:
            entry = (await anext(pages))[0]
        low, high = (middle, high) if entry.recorded_at <= instant else (low, middle - 1)
    return low
