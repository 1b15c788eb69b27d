"""An archive follower at work, with a PostgreSQL of its own and seals that can be switched off."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import psutil
from sqlalchemy.ext.asyncio import AsyncConnection

from api.security.box import SecretBox
from api.security.keys import SecretKeys
from bahi.database.engine import create_engine
from bahi.database.migrate import migrate
from bahi.quiet import settle_memory
from bahi.seal_keys import SqlSealKeys
from bahi.servers import EmbeddedPostgres
from bahi.telemetry.event_lines import write_event_lines
from bahi.telemetry.logging import configure_logging
from domain.values import MINUTE, Instant
from eventstore.archive import PostgresArchive
from eventstore.archived import ArchiveWatch
from eventstore.envelope import Raw
from eventstore.log import EventLog
from eventstore.sealing import Sealing
from eventstore.seals import Seal
from projections.projector import Lag, Projector

__all__ = ["PATIENCE", "Follower", "follower"]

PATIENCE: Final = 600.0
"""Seconds after which it is not slow, but stuck."""
SECRET: Final = "the secret key of a benchmark, which keeps nothing"  # noqa: S105


class Sometimes:
    """Sealing that can be switched off."""

    def __init__(self, inner: Sealing) -> None:
        self._inner = inner
        self.on = True

    @property
    def head(self) -> Seal | None:
        return self._inner.head

    def due(self, now: Instant, *, rest: bool = False) -> bool:
        return self.on and self._inner.due(now, rest=rest)

    async def seal(self, connection: AsyncConnection, raws: Sequence[Raw], now: Instant, *, rest: bool = False) -> int:
        return await self._inner.seal(connection, raws, now, rest=rest) if self.on else 0

    def committed(self) -> None:
        self._inner.committed()

    def forget(self) -> None:
        self._inner.forget()


class Follower:
    """What is measured, and what there is to wait for."""

    def __init__(self, log: EventLog, archive: PostgresArchive, server: EmbeddedPostgres) -> None:
        self.log = log
        self.archive = archive
        self.watch = ArchiveWatch(log)
        self.lags: list[Lag] = []
        keys = SqlSealKeys(SecretBox(SecretKeys([SECRET])))
        self.sealing = Sometimes(Sealing(archive.partition, keys, events=1000, age=MINUTE))
        self.projector = Projector(
            log, archive.engine, log.clock, sealing=self.sealing, lines=write_event_lines, on_lag=self._note
        )
        self._server = server
        self._noting = False

    def note_lags(self, on: bool = True) -> None:
        """From now on, or no more."""
        self._noting = on

    def _note(self, lag: Lag) -> None:
        if self._noting:
            self.lags.append(lag)

    async def archived(self) -> None:
        """Until everything there is, is archived; and sealed, if it is to be."""
        if not await self.watch.reached(await self.log.last_position(), PATIENCE):
            raise TimeoutError("the archive does not come to the end of the log")
        async with asyncio.timeout(PATIENCE):
            while self.sealing.due(self.log.clock.now()):  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.001)

    async def seal(self, on: bool) -> None:
        """From now on, or no more; what was not sealed is."""
        self.sealing.on = True
        self.sealing.forget()
        await self.archived()
        self.sealing.on = on

    def processor_time(self) -> float:
        """Seconds that this process and PostgreSQL have worked."""
        server = psutil.Process(self._server.pid)
        each = [process.cpu_times() for process in (server, *server.children(recursive=True))]
        return time.process_time() + sum(times.user + times.system for times in each)


@contextmanager
def _lines() -> Iterator[None]:
    """Log lines are written, and go to the null device."""
    with Path(os.devnull).open("w") as nowhere:
        configure_logging("INFO", stream=nowhere)
        try:
            yield
        finally:
            configure_logging("ERROR")


@asynccontextmanager
async def follower(log: EventLog) -> AsyncIterator[Follower]:
    """It archives, projects, seals and writes its log lines as long as the block lasts."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bahi-bench-"))
        server = stack.enter_context(EmbeddedPostgres(Path(folder)))
        migrate(server.url)
        engine = create_engine(server.url)
        stack.push_async_callback(engine.dispose)
        log.archive = archive = PostgresArchive(engine)
        stack.enter_context(_lines())
        it = Follower(log, archive, server)
        stack.push_async_callback(it.watch.aclose)
        settle_memory()
        async with asyncio.TaskGroup() as group:
            group.create_task(it.projector.run())
            yield it
            it.sealing.on = False
            await it.projector.stop()
