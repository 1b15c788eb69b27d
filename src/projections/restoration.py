"""Restoration: the states at any position, from the snapshot before it and the entries since."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from eventstore.archive import PostgresArchive
from eventstore.entries import read_entries
from eventstore.envelope import Raw
from eventstore.errors import LogHole
from eventstore.log import EventLog
from projections.replay import Fault, Kind, Progress, Replay
from projections.snapshots import Postgres, newest_snapshot

__all__ = ["restore"]

_PAGE = 5000


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
    if snapshots and isinstance(postgres, Postgres):
        snapshot = await newest_snapshot(postgres, until)
        if snapshot is not None:
            replay.states, replay.halts, replay.position = snapshot.states, snapshot.halts, snapshot.position

    def missing(position: int) -> None:
        if on_fault is None:
            raise LogHole(position)
        on_fault(Fault(position, 0, Kind.HOLE, "nobody holds it"))

    async with aclosing(_pages(source, replay.position, until, missing)) as pages:
        async for page in pages:
            replay.feed(page)
            if progress is not None:
                progress(replay.position, until)
    return replay


async def _pages(
    source: EventLog | PostgresArchive, after: int, until: int, missing: Callable[[int], None]
) -> AsyncGenerator[list[Raw], None]:
    if isinstance(source, EventLog):
        async with aclosing(read_entries(source, after, until, on_hole=missing)) as pages:
            async for page in pages:
                yield page
        return
    for start in range(after, until, _PAGE):
        upto = min(start + _PAGE, until)
        page = await source.entries(start, upto)
        if len(page) < upto - start:
            held = {raw.position for raw in page}
            for position in range(start + 1, upto + 1):
                if position not in held:
                    missing(position)
        yield page
