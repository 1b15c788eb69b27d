"""Heartbeats: which roles some process is running now. Readiness asks for them."""

import time
from collections.abc import Callable, Iterable

import structlog
from redis.asyncio import Redis

from domain.clock import Clock
from domain.values import SECOND
from eventstore.clients import command, commands
from eventstore.errors import LogUnavailable
from eventstore.keys import alive

__all__ = ["FEED", "NotAlive", "beat", "check_alive", "check_feed"]

EVERY = SECOND
LASTS = 4
"""Seconds after the last beat of a role until it counts as gone."""

log = structlog.get_logger(__name__)


class NotAlive(Exception):
    """No process runs the role."""


async def beat(redis: "Redis", roles: Iterable[str], clock: Clock, holds: Callable[[], bool] = lambda: True) -> None:
    """Until cancelled, while it `holds`. An outage of Redis is reported by readiness itself."""
    calls = [("SET", alive(role), str(time.time_ns()), "EX", LASTS) for role in roles]
    while True:
        try:
            if holds():
                await commands(redis, calls)
        except LogUnavailable as error:
            log.debug("no_heartbeat", why=str(error))
        await clock.sleep(EVERY)


FEED = "feed"
"""The part of the role `market` that beats only while ticks come, or none are to be expected."""


async def check_feed(redis: "Redis") -> None:
    """Raises NotAlive, LogUnavailable."""
    await check_alive(redis, "market")
    if not await command(redis, "EXISTS", alive(FEED)):
        raise NotAlive("the feed is silent: no tick came although the market is open and stops are armed")


async def check_alive(redis: "Redis", role: str) -> None:
    """Raises NotAlive, LogUnavailable."""
    if not await command(redis, "EXISTS", alive(role)):
        raise NotAlive(f"no process runs the role {role}: start one with `bahi run {role}`")
