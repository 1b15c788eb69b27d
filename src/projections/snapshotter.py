"""The snapshotter: takes a snapshot of all states whenever enough has been archived since the last one.

Nothing depends on it but the time that a restart takes: whatever goes wrong here is logged, and tried again later.
"""

import asyncio
from contextlib import suppress

import structlog

from eventstore.archive import PostgresArchive
from eventstore.errors import LogHole
from projections.replay import Fault, Replay
from projections.restoration import advance
from projections.snapshots import newest_point, newest_snapshot, write_snapshot

__all__ = ["Snapshotter", "take_snapshot"]

PAUSE = 5.0
"""Seconds between two looks at how far the archive has come."""
AFTER_FAILURE = 60.0
_TURN = 128
_log = structlog.get_logger(__name__)


async def take_snapshot(archive: PostgresArchive) -> int:
    """Keep the states as they are at the archive's end, from its last snapshot and what was archived since. The
    position; 0 when there is nothing new, somebody else was faster, or the archive has a hole, over which no snapshot
    must pass. Raises LogUnavailable."""
    reached = await archive.last_position()
    replay, base = Replay(on_fault=_tolerate), 0
    if snapshot := await newest_snapshot(archive, reached):
        snapshot.begin(replay)
        base = snapshot.position
    try:
        await advance(replay, archive, reached)
        return reached if base < reached and await write_snapshot(archive, replay, base) else 0
    except LogHole as hole:
        _log.error("snapshot_refused", partition=archive.partition, why=str(hole))
        return 0
    finally:
        await _let_go(replay)


async def _let_go(replay: Replay) -> None:
    """A few states at a time: to free ten thousand at once would hold up an order for a tenth of a second."""
    while replay.states:
        for _ in range(min(_TURN, len(replay.states))):
            replay.states.popitem()
        await asyncio.sleep(0)


def _tolerate(_: Fault) -> None:
    """Whoever replays without a snapshot meets the same faults, and goes on as well as this."""


class Snapshotter:
    """Of one partition. A snapshot is due after `every` archived events; one more is taken at the end."""

    def __init__(self, archive: PostgresArchive, *, every: int, pause: float = PAUSE) -> None:
        self._archive = archive
        self._every = every
        self._pause = pause
        self._taken: int | None = None
        """The position of the last one, while we know it."""
        self._stopping = asyncio.Event()
        self._finished: asyncio.Event | None = None

    async def run(self) -> None:
        """Until `stop`."""
        self._finished = asyncio.Event()
        try:
            while not self._stopping.is_set():
                seconds = self._pause if await self._try() else AFTER_FAILURE
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), seconds)
            await self._try(last=True)
        finally:
            self._finished.set()

    async def stop(self) -> None:
        """Take the last one, then end. Whoever writes the archive ends before. Returns when `run` is over."""
        self._stopping.set()
        if self._finished is not None:
            await self._finished.wait()

    async def step(self, *, last: bool = False) -> int:
        """Take a snapshot if one is due; its position, or 0. The last one is due if it takes no longer than others.
        Raises LogUnavailable."""
        if self._taken is None:
            self._taken = await newest_point(self._archive)
        reached = await self._archive.last_position()
        new = reached - self._taken
        if not (0 < new <= self._every if last else new >= self._every):
            return 0
        taken = await take_snapshot(self._archive)
        self._taken = reached  # also when it was refused: the next one is due as much later
        if taken:
            _log.info("snapshot_taken", partition=self._archive.partition, position=taken)
        return taken

    async def _try(self, *, last: bool = False) -> bool:
        try:
            await self.step(last=last)
        except Exception as error:
            self._taken = None
            _log.warning("snapshot_failed", partition=self._archive.partition, why=f"{type(error).__name__}: {error}")
            return False
        return True
