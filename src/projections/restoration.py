"""Restoration: the states at any position, from the snapshot before it and the entries since."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from eventstore.archive import PostgresArchive
from eventstore.entries import PAGE, holes, read_entries
from eventstore.envelope import Raw
from eventstore.errors import LogHole
from eventstore.log import EventLog
from projections.replay import Fault, Kind, Progress, Replay
from projections.snapshots import Postgres, newest_snapshot

__all__ = ["advance", "restore"]


async def restore(
    source: EventLog | PostgresArchive,
    until: int | None = None,
    *,
    snapshots: bool = True,
    progress: Progress | None = None,
    on_fault: Callable[[Fault], None] | None = None,
) -> Replay:
    """The states, halted users and position after the event at `until`, or at the end of the source: a log with its
    archive, or an archive alone, for when Redis is lost. The replay may be fed on from there.

    Without `snapshots` everything is folded from the first event on: slower, and the same. Faults are those of the
    entries that are read: the first is raised as BrokenHistory or, for an entry that nobody holds, LogHole; with
    `on_fault` they are told instead, and the fold goes on as well as it can. Raises LogUnavailable, LogLost.
    """
    last = await source.last_position()
    until = last if until is None else min(until, last)
    replay = Replay(on_fault=on_fault)
    postgres: object = source.archive if isinstance(source, EventLog) else source
    if snapshots and isinstance(postgres, Postgres) and (snapshot := await newest_snapshot(postgres, until)):
        snapshot.begin(replay)
    await advance(replay, source, until, progress=progress, on_fault=on_fault)
    return replay


async def advance(
    replay: Replay,
    source: EventLog | PostgresArchive,
    until: int | None = None,
    *,
    progress: Progress | None = None,
    on_fault: Callable[[Fault], None] | None = None,
) -> None:
    """Feed the replay on, to `until` or the source's end. An entry that nobody holds is told to `on_fault`, else
    LogHole is raised. Others of this process have their turn meanwhile. Raises what the replay and reading raise."""
    last = await source.last_position()
    until = last if until is None else min(until, last)

    def missing(position: int) -> None:
        if on_fault is None:
            raise LogHole(position)
        on_fault(Fault(position, 0, Kind.HOLE, "neither the streams nor the archive hold it"))

    if isinstance(source, EventLog):
        reading = read_entries(source, replay.position, until, on_hole=missing)
    else:
        reading = _archived(source, replay.position, until, missing)
    async with aclosing(reading) as pages:
        async for page in pages:
            await replay.feed_in_turns(page)
            if progress is not None:
                progress(replay.position, until)
    replay.position = max(replay.position, until)


async def _archived(
    archive: PostgresArchive, after: int, until: int, missing: Callable[[int], None]
) -> AsyncGenerator[list[Raw], None]:
    """Pages of what the archive holds."""
    for start in range(after, until, PAGE):
        upto = min(start + PAGE, until)
        page = await archive.entries(start, upto)
        for position in holes(page, start, upto):
            missing(position)
        yield page
