"""Restoration: the states at any position, from the snapshot before it and the entries since."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from eventstore.archive import PostgresArchive
from eventstore.entries import PAGE, holes, read_entries
from eventstore.envelope import Raw
from eventstore.errors import LogHole
from eventstore.log import EventLog
from projections.replay import Fault, Progress, Replay
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

    Without `snapshots` everything is folded from the first event on: slower, and the same. The first fault of the
    entries that are read is raised as BrokenHistory; with `on_fault` faults are told instead, and the fold goes on as
    well as it can. Raises LogHole for an entry that nobody holds, LogUnavailable, LogLost.
    """
    last = await source.last_position()
    until = last if until is None else min(until, last)
    replay = Replay(on_fault=on_fault)
    postgres: object = source.archive if isinstance(source, EventLog) else source
    if snapshots and isinstance(postgres, Postgres) and (snapshot := await newest_snapshot(postgres, until)):
        snapshot.begin(replay)
    await advance(replay, source, until, progress=progress)
    return replay


async def advance(
    replay: Replay, source: EventLog | PostgresArchive, until: int | None = None, *, progress: Progress | None = None
) -> None:
    """Feed the replay on, to `until` or the source's end. Others of this process have their turn meanwhile.

    Raises BrokenHistory unless the replay tells its faults, LogHole, LogUnavailable, LogLost.
    """
    last = await source.last_position()
    until = last if until is None else min(until, last)
    if isinstance(source, EventLog):
        reading = read_entries(source, replay.position, until)
    else:
        reading = _archived(source, replay.position, until)
    async with aclosing(reading) as pages:
        async for page in pages:
            await replay.feed_in_turns(page)
            if progress is not None:
                progress(replay.position, until)


async def _archived(archive: PostgresArchive, after: int, until: int) -> AsyncGenerator[list[Raw], None]:
    """Pages of what the archive holds."""
    for start in range(after, until, PAGE):
        upto = min(start + PAGE, until)
        page = await archive.entries(start, upto)
        if missing := holes(page, start, upto):
            raise LogHole(missing[0])
        yield page
