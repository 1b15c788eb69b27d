"""What the worlds of many examples stand on: one event loop, one Redis, perhaps one PostgreSQL; emptied for each."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bahi.database.engine import create_engine
from bahi.database.tables import metadata
from bahi.testing.world import World
from eventstore.archive import PostgresArchive
from eventstore.keys import Keys

__all__ = ["Ground"]

T = TypeVar("T")


class Ground:
    """Hypothesis is synchronous and the engine is not: `run` brings the one to the other, always on the same loop, so
    that connections live as long as the ground. A context manager.

    `redis_url` is emptied again and again. With `database_url`, a PostgreSQL with bahi's schema, so is that one.
    """

    def __init__(self, redis_url: str, database_url: str | None = None) -> None:
        self.redis_url = redis_url
        self.engine: AsyncEngine | None = None if database_url is None else create_engine(database_url, size=8)
        self.redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0))
        self.archived = False
        """Something was written into PostgreSQL since it was emptied."""
        self._runner = asyncio.Runner()

    def __enter__(self) -> "Ground":
        # a worker that is killed leaves tasks behind of which nobody hears
        self._runner.get_loop().set_exception_handler(lambda loop, context: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run(self._close())
        finally:
            self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def fresh(self, **options: Any) -> World:
        """A world on empty servers; `options` are those of World. The same tags in every example."""
        await self.redis.flushall()
        await self.redis.set(Keys().log_id, "SEED")
        archive = None
        if self.engine is not None:
            if self.archived:
                tables = ", ".join(table.name for table in metadata.sorted_tables)
                async with self.engine.begin() as connection:
                    await connection.execute(text(f"TRUNCATE {tables} CASCADE"))
            self.archived = False
            archive = PostgresArchive(self.engine)
        return World(self.redis_url, self.redis, archive=archive, **options)

    async def _close(self) -> None:
        await self.redis.aclose()
        if self.engine is not None:
            await self.engine.dispose()
