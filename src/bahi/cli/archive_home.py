"""An installation's archive, opened without its log: what PostgreSQL holds must be within reach when Redis is lost."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from redis.asyncio import Redis

from bahi.cli.common import fail
from bahi.cli.reader import PATIENCE, ROLES, has_data
from bahi.database.engine import create_engine
from bahi.settings import Settings
from eventstore.clients import commands, log_client
from eventstore.errors import LogUnavailable
from eventstore.keys import alive

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from bahi.servers import Servers

__all__ = ["ArchiveHome", "open_archive"]


class ArchiveHome:
    """`redis` is None where there is none, or none that answers."""

    def __init__(self, settings: Settings, engine: "AsyncEngine", url: str, redis: "Redis | None") -> None:
        self.settings = settings
        self.engine = engine
        self.url = url
        self.redis = redis

    async def running(self) -> list[str]:
        """The roles that some process runs now."""
        return [] if self.redis is None else await _running(self.redis)


@asynccontextmanager
async def open_archive(settings: Settings, *, create: bool = False) -> AsyncGenerator[ArchiveHome, None]:
    """The archive of these settings; with `create` one that may be new. Exits with 2 and says so when there is none.
    Servers of another process of the same HOME are used, otherwise they run for as long as the command does."""
    home = settings.home.expanduser()
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    database_url = settings.database_url.get_secret_value() if settings.database_url else None
    own_postgres, own_redis = database_url is None, redis_url is None and has_data(home, "redis")
    if own_postgres and not create and not has_data(home, "postgres"):
        demo = f", but one of a demo: --home {home / 'demo'}" if has_data(home / "demo", "postgres") else ""
        fail(f"there is no archive in {home}{demo or ': `bahi run` or `bahi demo` begins one, --home names another'}")
    async with AsyncExitStack() as stack:
        servers: Servers | None = None
        if own_postgres or own_redis:
            from bahi.servers import attach_or_start

            servers = await asyncio.to_thread(
                attach_or_start, home, redis=own_redis, postgres=own_postgres, timeout=PATIENCE
            )
            redis_url = servers.redis_url if own_redis else redis_url
            database_url = servers.database_url if own_postgres else database_url
        redis = None if redis_url is None else log_client(redis_url)
        if servers is not None:
            stack.push_async_callback(_leave, servers, redis)
        if redis is not None:
            stack.push_async_callback(redis.aclose)
        assert database_url is not None  # noqa: S101 (given, or of the servers)
        engine = create_engine(database_url, size=3, application="bahi-cli")
        stack.push_async_callback(engine.dispose)
        yield ArchiveHome(settings, engine, database_url, redis if await _answers(redis) else None)


async def _answers(redis: "Redis | None") -> bool:
    if redis is None:
        return False
    try:
        await _running(redis)
    except LogUnavailable:
        return False
    return True


async def _running(redis: "Redis") -> list[str]:
    found = await commands(redis, [("EXISTS", alive(role)) for role in ROLES])
    for answer in found:
        if isinstance(answer, Exception):
            raise answer
    return [role for role, there in zip(ROLES, found, strict=True) if there]


async def _leave(servers: "Servers", redis: "Redis | None") -> None:
    """Stops the servers that we started; but not under an engine that has begun to work on them meanwhile."""
    if servers.owned and redis is not None:
        client = redis
        try:
            if await _running(client):
                return
        except LogUnavailable:
            pass  # it does not answer: nobody works on it
        finally:
            await client.aclose()
    await asyncio.to_thread(servers.close)
