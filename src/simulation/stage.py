"""Where simulated lives take place: a real Redis and a real PostgreSQL, emptied between two lives."""

import asyncio
import random
import selectors
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from redis import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from bahi.database.engine import create_engine
from bahi.database.migrate import migrate
from bahi.database.tables import metadata
from bahi.drill.damage import tear
from bahi.quiet import settled_memory
from bahi.servers import EmbeddedPostgres, EmbeddedRedis
from bahi.servers.append_only import append_only_file
from bahi.servers.core import on_one_core
from eventstore.envelope import Raw
from eventstore.keys import Keys

__all__ = ["Stage", "open_stage"]

HASTY: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""Nobody pulls the plug on a simulation; what a crash of the server may lose is torn off on purpose."""
GROWN: Final = 16 * 1024 * 1024
"""Bytes of the append-only file after which it is begun anew."""
TURNS: Final = 8
"""Of the event loop, with something to do in each, after which it looks for what came from outside."""
LOG_ID: Final = "SIML"
"""What the tags of every life's orders begin with: upon the tags depends what the broker does."""


class Stage:
    """Use `open_stage`. One life at a time."""

    def __init__(self, redis: EmbeddedRedis, postgres_url: str, engine: AsyncEngine) -> None:
        self.redis = redis
        self.engine = engine
        self._postgres_url = postgres_url.replace("+psycopg", "", 1)
        tables = [table.name for table in reversed(metadata.sorted_tables) if table.name != "seal_keys"]
        # with few rows faster than to truncate them; all in one go
        self._empty = sql.SQL(";").join(sql.SQL("DELETE FROM {}").format(sql.Identifier(name)) for name in tables)
        self._began = 0
        """Bytes of the append-only file that lives before this one have written."""
        self._connection: psycopg.Connection | None = None
        self._runner = asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Selector()))

    @property
    def redis_url(self) -> str:
        return self.redis.url

    def client(self) -> "Redis":
        """A blocking client for looking at Redis from outside of the simulation."""
        return self.redis.client()

    def clear(self) -> None:
        """As new."""
        if not self.redis.is_running:
            self.redis.start()
        self._begin_file_anew()
        with self.client() as client:
            client.flushall()
            client.script_flush()
            client.set(Keys().log_id, LOG_ID)
        self._began = append_only_file(self.redis.folder).stat().st_size
        self._postgres().execute(self._empty)

    def _begin_file_anew(self) -> None:
        # up to Redis 6 one file, since Redis 7 a folder of them with a manifest
        files = [*self.redis.folder.glob("appendonlydir/*"), *self.redis.folder.glob("appendonly.aof")]
        if sum(file.stat().st_size for file in files) > GROWN:
            self.redis.kill()
            for file in files:
                file.unlink()
            (self.redis.folder / "dump.rdb").unlink(missing_ok=True)
            self.redis.start()

    def archived(self) -> list[Raw]:
        """What the archive holds, in the order of the positions."""
        found = self._postgres().execute(
            "SELECT position, stream, version, recorded_at, envelope FROM events ORDER BY position"
        )
        return [Raw(*row) for row in found]

    def _postgres(self) -> "psycopg.Connection":
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._postgres_url, autocommit=True)
        return self._connection

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """To its end, and nothing of it is left over. All of it in one event loop, whose connections to PostgreSQL are
        kept from life to life: to make one takes longer than what most of them do."""
        self._runner.run(_alone(work), context=copy_context())

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._runner.run(self.engine.dispose())
        self._runner.close()

    # --- what happens to Redis ---------------------------------------------------------------------------------------

    def restart_redis(self) -> None:
        self.redis.kill()
        self.redis.start()

    def tear_redis(self, chance: random.Random) -> int:
        """Killed, the end of its file torn off, started again; how many bytes are gone. What lives before this one
        have left in the file stays out of it."""
        self.redis.kill()
        torn = tear(self.redis.folder, chance, keep=self._began)
        self.redis.start()
        return torn

    def empty_redis(self) -> None:
        with self.client() as client:
            client.flushall()


class _Selector(selectors.DefaultSelector):
    """Asks the system for news seldom while there is work to be done: of a life's turns of the event loop only some
    hundred wait for a server."""

    _turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._turns += 1
        if timeout == 0 and self._turns % TURNS:
            return []
        return super().select(timeout)


async def _alone(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    finally:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def open_stage(home: Path) -> Iterator[Stage]:
    """Servers of its own in `home`, on one core with whoever lives there."""
    with (
        settled_memory(),
        on_one_core(),
        EmbeddedRedis(home, appendfsync="no", config={"save": ""}) as redis,
        EmbeddedPostgres(home, config=HASTY) as postgres,
    ):
        migrate(postgres.url)
        engine = create_engine(postgres.url, size=20)
        stage = Stage(redis, postgres.url, engine)
        try:
            yield stage
        finally:
            stage.close()
