"""The projector: follows the log into PostgreSQL. Events, SQL projections, seals and checkpoint are one transaction.

Whatever it finds it goes on: an entry that cannot be read is archived as its bytes, an event that cannot be projected
is archived without its projection, both are logged. Before a hole in the log it waits until somebody fills it. Only a
log that is not the one it was ends it (LogLost). While PostgreSQL or Redis is away it tries again and again.

Others share its process, and an order may be waiting for one of them: it works for a millisecond at a time.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import psycopg
import sqlalchemy.exc
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.clock import Clock
from domain.values import MINUTE, SECOND, Duration, Instant
from eventstore.archive import OUTAGES, PostgresArchive
from eventstore.archived import announce
from eventstore.clients import reader_client
from eventstore.entries import check_log, stream_entries, wait_for_more
from eventstore.envelope import Raw
from eventstore.epochs import newest_epoch, record
from eventstore.errors import LogHole, LogLost, LogUnavailable
from eventstore.log import EventLog
from eventstore.seals import Seal
from projections.gaps import tell_gap
from projections.log_lines import LineWriter, log_corrupt, log_fault, log_outage, write_lines
from projections.replay import Fault, Kind
from projections.sql.projections import TURN, Changes, Entry, SqlProjections, open_entry

__all__ = ["Lag", "Projector", "Seals", "is_unfit"]

BATCH = 1024
"""More would save nothing: a transaction's own cost is lost in it."""
READ = 256
"""Entries asked of Redis at a time: parsing more at once would keep others waiting."""
LINGER: Duration = 5_000
PATIENCE: Duration = MINUTE
_BACK_OFF = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Lag(Struct, frozen=True):
    """How far the archive is behind: events, and microseconds since the oldest of them was recorded."""

    positions: int
    behind: Duration

    @property
    def seconds(self) -> float:
        return self.behind / SECOND


class Seals(Protocol):
    """What seals the archive as it is written: `eventstore.sealing.Sealing`."""

    @property
    def head(self) -> Seal | None: ...

    def due(self, now: Instant, *, rest: bool = False) -> bool: ...

    async def seal(
        self, connection: AsyncConnection, raws: Sequence[Raw], now: Instant, *, rest: bool = False
    ) -> int: ...

    def committed(self) -> None: ...

    def forget(self) -> None: ...


def is_unfit(error: Exception) -> bool:
    """It is a row that PostgreSQL, or its driver, does not take; nothing that passes by itself."""
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        return isinstance(error.orig, psycopg.DataError | psycopg.IntegrityError)
    unfit = (psycopg.DataError, psycopg.IntegrityError, sqlalchemy.exc.StatementError)
    return isinstance(error, (*unfit, ArithmeticError, ValueError, TypeError))


def _gapless(raws: list[Raw], after: int) -> list[Raw]:
    """Those that follow `after` without a hole."""
    for i, raw in enumerate(raws):
        if raw.position != after + 1 + i:
            return raws[:i]
    return raws


def _ignore(_: Any) -> None:
    """Nobody wants to know."""


class Projector:
    """The archive follower of one partition. Any number may run; one at a time writes.

    A batch holds at most `batch` events; when little happens, events are collected for `linger` microseconds. Before
    a hole it waits `patience` microseconds, again and again.
    `on_lag` hears how far behind it is after every batch and every failure, `on_trouble` of every outage and hole.
    """

    def __init__(
        self,
        log: EventLog,
        engine: AsyncEngine,
        clock: Clock,
        *,
        sealing: Seals | None = None,
        batch: int = BATCH,
        linger: Duration = LINGER,
        patience: Duration = PATIENCE,
        lines: LineWriter = write_lines,
        on_lag: Callable[[Lag], None] = _ignore,
        on_trouble: Callable[[Exception], None] = _ignore,
    ) -> None:
        self.archive = PostgresArchive(engine, log.keys.partition)
        self._log = log
        self._engine = engine
        self._clock = clock
        self._sealing = sealing
        self._batch = batch
        self._linger = linger
        self._patience = patience
        self._lines = lines
        self._on_lag = on_lag
        self._on_trouble = on_trouble
        self._projections = SqlProjections(self.archive)
        self._position: int | None = None
        """The checkpoint, while we know it."""
        self._oldest: Instant = 0
        """recorded_at of the first event that is not archived; 0: there is none, or it was not seen yet."""
        self._unsure: tuple[Sequence[Entry], Sequence[Fault]] | None = None
        """A batch whose commit was not answered."""
        self._missing = 0
        """The position that the log lacked when it was read last."""
        self._is_announced = True
        self._reader: Redis | None = None
        self._stopping = asyncio.Event()
        self._finished: asyncio.Event | None = None

    @property
    def position(self) -> int | None:
        """How far the archive reaches, if that is known just now."""
        return self._position

    # --- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`, and then until everything there is archived, and sealed if that is quick. Raises LogLost."""
        self._finished = asyncio.Event()
        failures = 0
        try:
            while not self._stopping.is_set():
                try:
                    await self._turn()
                    failures = 0
                except LogHole as hole:
                    await self._before(hole)
                except (LogUnavailable, *OUTAGES) as error:
                    self._troubled(error, first=failures == 0)
                    await self._pause(_BACK_OFF[min(failures, len(_BACK_OFF) - 1)])
                    failures += 1
            try:
                await self.step()
                await self.seal(rest=True)
            except (LogHole, LogUnavailable, *OUTAGES) as error:
                self._troubled(error, first=failures == 0)  # what is left is archived at the next start
        finally:
            await self._close_reader()
            self._finished.set()

    async def _turn(self) -> None:
        """Archive what is there, or wait for it; meanwhile seal what has become old enough."""
        if await self.step() or await self.seal() or self._is_behind_with_seals:
            return
        if await self._more():
            await self._pause(self._linger / SECOND)

    @property
    def _is_behind_with_seals(self) -> bool:
        return self._sealing is not None and self._sealing.due(self._clock.now())

    async def _before(self, hole: LogHole) -> None:
        """The log lacks what is to be archived next, and so does the archive."""
        if hole.position != self._missing:
            self._missing = hole.position  # another one may have archived it, and it was trimmed: look again
            return
        try:
            await tell_gap(self._log, hole.position, self._clock.now())
        except LogUnavailable as error:
            self._troubled(error, first=True)
        self._on_trouble(hole)
        await self._pause(self._patience / SECOND)

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
            self._forget()
            raise
        return archived

    async def seal(self, *, rest: bool = False) -> int:
        """Make the seals that are due though nothing new was archived; with `rest`, over everything. How many."""
        if self._sealing is None or self._position is None or not self._sealing.due(self._clock.now(), rest=rest):
            return 0
        before = self._sealing.head
        try:
            async with self._engine.begin() as connection:
                if await self.archive.reached(connection, lock=True) != self._position:
                    self._forget()  # another one was here, or the archive was restored
                    return 0
                made = await self._sealing.seal(connection, [], self._clock.now(), rest=rest)
        except BaseException:
            self._forget()
            raise
        self._sealing.committed()
        if self._sealing.head is not before:
            await self._announce(self._position)
        return made

    def _forget(self) -> None:
        """What was committed is not known: ask, next time."""
        self._position = None
        self._projections.forget()
        if self._sealing is not None:
            self._sealing.forget()

    async def _more(self) -> bool:
        """Wait for something to archive. False when stopped, or when nothing came for a while."""
        assert self._position is not None  # noqa: S101 (set by the step before)
        if self._reader is None:
            self._reader = reader_client(self._log.redis)
        waiting = asyncio.ensure_future(wait_for_more(self._log, self._position, self._reader))
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((waiting, stopped), return_when=asyncio.FIRST_COMPLETED)
            return waiting.done() and waiting.result()
        finally:
            for each in (waiting, stopped):
                each.cancel()
            await asyncio.gather(waiting, stopped, return_exceptions=True)
            if waiting.cancelled() or waiting.exception() is not None:
                await self._close_reader()  # an answer may still be on its way

    async def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.aclose()

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
        until = min(last, after + self._batch)
        raws: list[Raw] = []
        while (reached := after + len(raws)) < until:
            upto = min(until, reached + READ)
            page = _gapless(await stream_entries(self._log, reached, upto), reached)
            raws += page
            if len(page) < upto - reached:
                break
        self._oldest = raws[0].recorded_at if raws else self._oldest if last > after else 0
        self._tell_lag(last)
        if last > after and not raws:
            await check_log(self._log, after)  # it may have been lost since the first look
            raise LogHole(after + 1)
        return raws

    def _tell_lag(self, last: int) -> None:
        positions = last - (self._position or 0)
        self._on_lag(Lag(positions, max(0, self._clock.now() - self._oldest) if positions and self._oldest else 0))

    async def _begin(self) -> int:
        """Where the archive ends, after making sure that it is this log's."""
        async with self._engine.begin() as connection:
            await record(connection, self.archive.partition, self._log.lineage)
            reached = await self.archive.reached(connection)
        if self._unsure is not None:
            (entries, faults), self._unsure = self._unsure, None
            if entries[-1].raw.position <= reached:
                await self._write_lines(entries, faults)
        await self._announce(reached)
        return reached

    async def _announce(self, position: int) -> None:
        """Tell everybody. Archiving does not depend on it: whoever waits gives up in time, or hears the next one."""
        try:
            await announce(self._log, position, None if self._sealing is None else self._sealing.head)
        except (LogUnavailable, RedisError) as error:
            if self._is_announced:
                log_outage(self.archive.partition, "announcing", error)
            self._is_announced = False
        else:
            self._is_announced = True

    async def _archive(self, raws: Sequence[Raw]) -> int:
        """Archive and project a batch. What a single event's projection spoils, is archived without it."""
        entries: list[Entry] = []
        for start in range(0, len(raws), TURN):
            entries += [open_entry(raw) for raw in raws[start : start + TURN]]
            await asyncio.sleep(0)
        try:
            return await self._commit(entries)
        except Exception as error:
            if not is_unfit(error):
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
        """One transaction: events, projections, seals, checkpoint."""
        raws = [entry.raw for entry in entries]
        async with self._engine.begin() as connection:
            reached = await self.archive.reached(connection, lock=True)
            if reached != self._position:  # another one was here: go on from there
                self._forget()
                self._position = reached
                return 0
            await self._check_epoch(connection)
            changes = Changes(faults=[spoiled] if spoiled else [])
            if spoiled is None:
                changes = await self._projections.fold(connection, entries)
            stored = await self.archive.store(connection, raws, reached=reached)
            await self._projections.write(connection, changes)
            await self._seal(connection, raws)
            self._unsure = (entries, changes.faults)
        self._unsure = None
        self._position = raws[-1].position
        self.archive.committed()
        if self._sealing is not None:
            self._sealing.committed()
        if spoiled is None:
            self._projections.keep(changes)
        else:
            self._projections.forget()
        await self._announce(self._position)
        await self._write_lines(entries, changes.faults)
        return stored

    async def _check_epoch(self, connection: AsyncConnection) -> None:
        """What was read before the log was lost is not archived once the log has gone on without it. Raises LogLost."""
        newest = await newest_epoch(connection, self.archive.partition)
        if newest not in (None, self._log.epoch):
            raise LogLost(f"the archive is at epoch {newest}, this process at {self._log.epoch}")

    async def _seal(self, connection: AsyncConnection, raws: Sequence[Raw]) -> None:
        if self._sealing is not None:
            for start in range(0, len(raws), READ):
                await self._sealing.seal(connection, raws[start : start + READ], self._clock.now())
                await asyncio.sleep(0)

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
