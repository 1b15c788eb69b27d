"""An installation opened for looking at it: nothing is made, nothing is migrated, and it opens fast.

Servers of another process of the same HOME are used; otherwise they run for as long as the command does.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis

from bahi.cli.common import fail
from bahi.cli.places import BadPlace, Place, Places
from bahi.cli.times import BadMoment, Times
from bahi.clock import SystemClock
from bahi.settings import Settings
from domain.values import Instant
from eventstore.clients import commands, log_client
from eventstore.entries import read_entries
from eventstore.envelope import Ids, Raw, Recorded
from eventstore.errors import LogUnavailable
from eventstore.keys import PARTITIONS, Keys, alive
from eventstore.log import EventLog
from eventstore.open import check_server
from projections.runtime import DEFAULTS

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from bahi.servers import Servers
    from eventstore.archive import PostgresArchive

__all__ = ["ROLES", "Reader", "open_reader"]

ROLES: Final = ("archive", "worker", "updates", "market", "scheduler", "api")
AUDIT_READ: Final = b"AUDIT_READ"
"""In the envelope of an event that tells of a reading."""
MOST_READINGS: Final = 200
"""Events looked through, at the log's end, for the last one that is no such event."""
PATIENCE = 60.0
"""Seconds to wait for servers to start, ours or those of the process that has the folder."""


class Reader:
    """What a command looks at. `logs` are by partition."""

    def __init__(self, settings: Settings, redis: "Redis", database: "_Database | None", servers: "Servers | None"):
        self.settings = settings
        self.redis = redis
        self.servers = servers
        self.times = Times(settings.zone)
        self.clock = SystemClock()
        self.logs: list[EventLog] = []
        self._database = database

    @property
    def places(self) -> Places:
        return Places(len(self.logs))

    @property
    def database(self) -> "AsyncEngine":
        """The database, connected to when it is first used. Exits when there is none."""
        if self._database is None:
            fail(f"there is no database in {self.settings.home}: `bahi run` makes one")
        return self._database.engine

    @property
    def database_url(self) -> str | None:
        return None if self._database is None else self._database.url

    async def open_logs(self, stack: AsyncExitStack) -> None:
        """Opens what is there. Exits when nothing is."""
        await check_server(self.redis, allow_weak=True)
        (stored,) = await _answers(self.redis, [("GET", PARTITIONS)])
        if stored is None:
            fail(f"there is no log in {self._where()}: `bahi run` begins one, or restores the one that is archived")
        writer = f"cli{secrets.token_hex(3)}"
        for partition in range(int(stored)):
            keys = Keys(partition, hashtag=int(stored) > 1)
            epoch, position, log_id = await _answers(
                self.redis, [("GET", keys.epoch), ("HGET", keys.position, "position"), ("GET", keys.log_id)]
            )
            if epoch is None or position is None or log_id is None:
                fail(f"the log in {self._where()} was lost: its epoch is gone. `bahi run` recovers it")
            log = EventLog(
                self.redis,
                keys=keys,
                clock=self.clock,
                ids=Ids(writer),
                epoch=epoch.decode(),
                defaults=DEFAULTS,
                archive=None if self._database is None else _Archive(self._database, partition),
                log_id=log_id.decode(),
            )
            stack.push_async_callback(log.aclose)
            self.logs.append(log)

    def _where(self) -> str:
        return "this Redis" if self.settings.redis_url else str(self.settings.home)

    # --- strategies -------------------------------------------------------------------------------------------------

    async def logs_of(self, strategy_id: int) -> list[EventLog]:
        """The log that has this strategy; all of them if none says so."""
        calls = [("EXISTS", log.keys.strategy(strategy_id)) for log in self.logs]
        found = await _answers(self.redis, calls)
        having = [log for log, there in zip(self.logs, found, strict=True) if there]
        return having or self.logs

    async def running(self) -> list[str]:
        """The roles that some process runs now."""
        found = await _answers(self.redis, [("EXISTS", alive(role)) for role in ROLES])
        return [role for role, there in zip(ROLES, found, strict=True) if there]

    # --- points in the log ------------------------------------------------------------------------------------------

    async def point(self, text: str) -> "Place | Instant":
        """What a person means by `57`, `2-57`, `09:20` or `2026-06-15T09:20:00+05:30`. A time without a date is of the
        last day that the log tells of. Exits when it means nothing."""
        try:
            if self.places.looks_like(text):
                return self.places.read(text)
            return self.times.read(text, self.times.wall(await self._latest() or self.clock.now()).date())
        except (BadPlace, BadMoment) as error:
            fail(f"{error}; or a position, 57" if isinstance(error, BadMoment) else str(error))

    async def _latest(self) -> Instant:
        """When the last event was recorded, those that only tell of readings aside: looking at a day of last week does
        not make it today."""
        return max([await self._latest_of(log) for log in self.logs])

    async def _latest_of(self, log: EventLog) -> Instant:
        position = last = await log.last_position()
        while position > max(0, last - MOST_READINGS):
            entry = await entry_at(log, position)
            if entry is not None and AUDIT_READ not in entry.envelope:
                return entry.recorded_at
            position -= 1
        (recorded_at,) = await _answers(self.redis, [("HGET", log.keys.position, "recorded_at")])
        return int(recorded_at or 0)

    async def position_at(self, log: EventLog, at: Instant) -> int:
        """The position of the last event that was recorded at or before this instant; 0: none was."""
        low, high = 0, await log.last_position()
        while low < high:
            middle = (low + high + 1) // 2
            entry = await entry_at(log, middle)
            if entry is not None and entry.recorded_at <= at:
                low = middle
            else:
                high = middle - 1
        return low


async def entry_at(log: EventLog, position: int) -> Raw | None:
    """The entry at this position, None if nobody holds it."""
    async for page in read_entries(log, position - 1, position, on_hole=lambda _: None):
        return page[0]
    return None


class _Database:
    """A database that is connected to when somebody asks."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine: AsyncEngine | None = None

    @property
    def engine(self) -> "AsyncEngine":
        if self._engine is None:
            from bahi.database.engine import create_engine

            self._engine = create_engine(self.url, size=2, application="bahi-cli")
        return self._engine

    async def aclose(self) -> None:
        if self._engine is not None:
            await self._engine.dispose()


class _Archive:
    """The archive of a partition, connected to when the streams do not hold what is asked for."""

    def __init__(self, database: _Database, partition: int) -> None:
        self._database = database
        self.partition = partition
        self._archive: PostgresArchive | None = None

    @property
    def engine(self) -> "AsyncEngine":
        return self._database.engine

    @property
    def _opened(self) -> "PostgresArchive":
        if self._archive is None:
            from eventstore.archive import PostgresArchive

            self._archive = PostgresArchive(self.engine, self.partition)
        return self._archive

    async def entries(self, after: int, until: int) -> list[Raw]:
        return await self._opened.entries(after, until)

    async def last_position(self) -> int:
        return await self._opened.last_position()

    async def read(self, after: int, until: int | None) -> AsyncIterator[Recorded]:
        async for recorded in self._opened.read(after, until):
            yield recorded


@asynccontextmanager
async def open_reader(settings: Settings) -> AsyncGenerator[Reader, None]:
    """The installation of these settings. Exits with 2 and says so when there is none."""
    async with AsyncExitStack() as stack:
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
        database_url = settings.database_url.get_secret_value() if settings.database_url else None
        home = settings.home.expanduser()
        servers = None
        if redis_url is None and not has_data(home, "redis"):
            fail(nothing_in(home))
        own_redis, own_postgres = redis_url is None, database_url is None and has_data(home, "postgres")
        if own_redis or own_postgres:
            from bahi.servers import attach_or_start

            servers = await asyncio.to_thread(
                attach_or_start, home, redis=own_redis, postgres=own_postgres, timeout=PATIENCE
            )
            redis_url = redis_url or servers.redis_url
            database_url = database_url or (servers.database_url if own_postgres else None)
        assert redis_url is not None  # noqa: S101 (given, or of the servers)
        redis = log_client(redis_url)
        if servers is not None:
            stack.push_async_callback(_leave, servers, redis)
        stack.push_async_callback(redis.aclose)
        database = None
        if database_url is not None:
            database = _Database(database_url)
            stack.push_async_callback(database.aclose)
        reader = Reader(settings, redis, database, servers)
        await reader.open_logs(stack)
        yield reader


def has_data(home: Path, server: str) -> bool:
    """Whether an embedded server ever kept data in this folder."""
    folder = home / server
    return folder.is_dir() and any(folder.iterdir())


def nothing_in(home: Path) -> str:
    """What to say when there is no installation."""
    if has_data(home / "demo", "redis"):
        return f"there is no log in {home}, but one of a demo: --home {home / 'demo'}"
    return f"there is no log in {home}: `bahi run` or `bahi demo` begins one, --home names another folder"


async def _leave(servers: "Servers", redis: "Redis") -> None:
    """Stops the servers that we started; but not under an engine that has begun to work on them meanwhile: whoever
    comes next takes them over."""
    if servers.owned:
        try:
            found = await _answers(redis, [("EXISTS", alive(role)) for role in ROLES])
        except LogUnavailable:
            found = []
        finally:
            await redis.aclose()
        if any(found):
            return
    await asyncio.to_thread(servers.close)


async def _answers(redis: "Redis", calls: Sequence[tuple[str, ...]]) -> list[bytes | None]:
    """The answers to several commands. Raises LogUnavailable."""
    answers = await commands(redis, calls)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
