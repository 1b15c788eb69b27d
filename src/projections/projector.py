"""The projector: follows the log into PostgreSQL. Events, SQL projections and checkpoint are one transaction.

Whatever it finds it goes on: an entry that cannot be read is archived as its bytes, an event that cannot be projected
is archived without its projection, both are logged. Only a log that is not the one it was stops it (LogLost), or one
with a hole (LogHole). While PostgreSQL or Redis is away it tries again and again; nothing else waits for it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import sqlalchemy.exc
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.clock import Clock
from domain.values import SECOND, Duration
from eventstore.archive import OUTAGES, PostgresArchive
from eventstore.entries import check_log, stream_entries, wait_for_more
from eventstore.envelope import Raw
from eventstore.epochs import record
from eventstore.errors import LogHole, LogUnavailable
from eventstore.log import EventLog
from projections.log_lines import LineWriter, log_corrupt, log_fault, log_outage, write_lines
from projections.replay import Fault, Kind
from projections.sql.projections import TURN, Changes, Entry, SqlProjections, open_entry

__all__ = ["Lag", "Projector"]

BATCH = 256
"""More would keep a worker of the same process waiting for longer than an order may take."""
LINGER: Duration = 20_000
_BACK_OFF = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Lag(Struct, frozen=True):
    """How far the archive is behind: events, and microseconds since the last one that is archived was recorded."""

    positions: int
    behind: Duration

    @property
    def seconds(self) -> float:
        return self.behind / SECOND


def _is_unfit(error: Exception) -> bool:
    """It is a row that PostgreSQL, or its driver, does not take; nothing that passes by itself."""
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        return isinstance(error.orig, psycopg.DataError | psycopg.IntegrityError)
    unfit = (psycopg.DataError, psycopg.IntegrityError, sqlalchemy.exc.StatementError)
    return isinstance(error, (*unfit, ArithmeticError, ValueError, TypeError))


def _ignore(_: Any) -> None:
    """Nobody wants to know."""


class Projector:
    """The archive follower of one partition. Any number may run; one at a time writes.

    A batch holds at most `batch` events; when little happens, events are collected for `linger` microseconds.
    `on_lag` hears how far behind it is after every batch and every failure, `on_trouble` of every outage.
    """

    def __init__(
        self,
        log: EventLog,
        engine: AsyncEngine,
        clock: Clock,
        *,
        batch: int = BATCH,
        linger: Duration = LINGER,
        lines: LineWriter = write_lines,
        on_lag: Callable[[Lag], None] = _ignore,
        on_trouble: Callable[[Exception], None] = _ignore,
    ) -> None:
        self.archive = PostgresArchive(engine, log.keys.partition)
        self._log = log
        self._engine = engine
        self._clock = clock
        self._batch = batch
        self._linger = linger
        self._lines = lines
        self._on_lag = on_lag
        self._on_trouble = on_trouble
        self._projections = SqlProjections(self.archive)
        self._position: int | None = None
        """The checkpoint, while we know it."""
        self._seen_at = 0
        """recorded_at of the last event that is archived."""
        self._unsure: tuple[Sequence[Entry], Sequence[Fault]] | None = None
        """A batch whose commit was not answered."""
        self._stopping = asyncio.Event()
        self._finished: asyncio.Event | None = None

    @property
    def position(self) -> int | None:
        """How far the archive reaches, if that is known just now."""
        return self._position

    # --- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`, and then until everything there is archived. Raises LogLost, LogHole."""
        self._finished = asyncio.Event()
        failures = 0
        try:
            while not self._stopping.is_set():
                try:
                    if await self.step() == 0 and await self._more():
                        await self._pause(self._linger / SECOND)
                    failures = 0
                except (LogUnavailable, *OUTAGES) as error:
                    self._troubled(error, first=failures == 0)
                    await self._pause(_BACK_OFF[min(failures, len(_BACK_OFF) - 1)])
                    failures += 1
            try:
                await self.step()
            except (LogUnavailable, *OUTAGES) as error:
                self._troubled(error, first=failures == 0)  # what is left is archived at the next start
        finally:
            self._finished.set()

    async def stop(self) -> None:
        """Archive what is there, then end. Returns when `run` is over."""
        self._stopping.set()
        if self._finished is not None:
            await self._finished.wait()

    async def step(self) -> int:
        """Archive what is there now; how many events that was. Raises what outages raise, LogLost, LogHole."""
        archived = 0
        try:
            while (raws := await self._next()) or self._position is None:
                archived += await self._archive(raws)
        except BaseException:
            # What was committed is not known: ask, next time.
            self._position = None
            self._projections.forget()
            raise
        return archived

    async def _more(self) -> bool:
        """Wait for something to archive. False when stopped, or when nothing came for a while."""
        assert self._position is not None  # noqa: S101 (set by the step before)
        waiting = asyncio.ensure_future(wait_for_more(self._log, self._position))
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((waiting, stopped), return_when=asyncio.FIRST_COMPLETED)
            return waiting.done() and waiting.result()
        finally:
            for each in (waiting, stopped):
                each.cancel()
            await asyncio.gather(waiting, stopped, return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        """A stop ends it."""
        if seconds <= 0:
            return
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def _troubled(self, error: Exception, *, first: bool) -> None:
        if first:
            what = "redis" if isinstance(error, LogUnavailable) else "postgresql"
            log_outage(self.archive.partition, what, error)
        self._on_trouble(error)

    # --- a batch ----------------------------------------------------------------------------------------------------

    async def _next(self) -> list[Raw]:
        """The next entries, gapless. Raises LogHole when the very next one is missing."""
        if self._position is None:
            self._position = await self._begin()
        after = self._position
        last = await check_log(self._log, after)
        if last == after:
            self._tell_lag(last)
            return []
        raws = await stream_entries(self._log, after, min(last, after + self._batch))
        for i, raw in enumerate(raws):
            if raw.position != after + 1 + i:
                raws = raws[:i]
                break
        if not raws:
            raise LogHole(after + 1)
        self._seen_at = self._seen_at or raws[0].recorded_at
        self._tell_lag(last)
        return raws

    def _tell_lag(self, last: int) -> None:
        positions = last - (self._position or 0)
        self._on_lag(Lag(positions, max(0, self._clock.now() - self._seen_at) if positions else 0))

    async def _begin(self) -> int:
        """Where the archive ends, after making sure that it is this log's."""
        async with self._engine.begin() as connection:
            await record(connection, self.archive.partition, self._log.lineage)
            reached = await self.archive.reached(connection)
        if self._unsure is not None:
            (entries, faults), self._unsure = self._unsure, None
            if entries[-1].raw.position <= reached:
                await self._write_lines(entries, faults)
        return reached

    async def _archive(self, raws: Sequence[Raw]) -> int:
        """Archive and project a batch. What a single event's projection spoils, is archived without it."""
        entries = [open_entry(raw) for raw in raws]
        try:
            return await self._commit(entries)
        except Exception as error:
            if not _is_unfit(error):
                raise
            self._unsure = None
            if len(raws) > 1:
                archived = 0
                for half in (raws[: len(raws) // 2], raws[len(raws) // 2 :]):
                    archived += await self._archive(half)
                return archived
            text = f"it cannot be projected: {type(error).__name__}: {error}"
            fault = Fault(raws[0].position, entries[0].strategy_id, Kind.ILLEGAL, text)
            return await self._commit(entries, spoiled=fault)

    async def _commit(self, entries: Sequence[Entry], *, spoiled: Fault | None = None) -> int:
        """One transaction: events, projections, checkpoint."""
        async with self._engine.begin() as connection:
            reached = await self.archive.reached(connection, lock=True)
            if reached != self._position:  # another one was here: go on from there
                self._position = reached
                self._projections.forget()
                return 0
            changes = Changes(faults=[spoiled] if spoiled else [])
            if spoiled is None:
                changes = await self._projections.fold(connection, entries)
            stored = await self.archive.store(connection, [entry.raw for entry in entries])
            await self._projections.write(connection, changes)
            self._unsure = (entries, changes.faults)
        self._unsure = None
        self.archive.committed([entry.raw for entry in entries])
        if spoiled is None:
            self._projections.keep(changes)
        else:
            self._projections.forget()
        self._position = entries[-1].raw.position
        self._seen_at = entries[-1].raw.recorded_at
        await self._write_lines(entries, changes.faults)
        return stored

    async def _write_lines(self, entries: Sequence[Entry], faults: Sequence[Fault]) -> None:
        partition = self.archive.partition
        for start in range(0, len(entries), TURN):
            await asyncio.sleep(0)
            some = entries[start : start + TURN]
            self._lines(partition, [entry.recorded for entry in some if entry.recorded is not None])
            for entry in some:
                if entry.error is not None:
                    log_corrupt(partition, entry.error, entry.strategy_id)
        for fault in faults:
            log_fault(partition, fault)
