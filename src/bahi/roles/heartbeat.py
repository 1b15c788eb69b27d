"""Heartbeats: which roles some process is running now. Readiness asks for them."""

import time
from collections.abc import Iterable

import structlog
from redis.asyncio import Redis

from domain.clock import Clock
from domain.values import SECOND
from eventstore.clients import command, commands
from eventstore.errors import LogUnavailable
from eventstore.keys import alive

__all__ = ["NotAlive", "beat", "check_alive"]

EVERY = SECOND
LASTS = 4
"""Seconds after the last beat of a role until it counts as gone."""

log = structlog.get_logger(__name__)


class NotAlive(Exception):
    """No process runs the role."""


async def beat(redis: "Redis", roles: Iterable[str], clock: Clock) -> None:
    """Until cancelled. An outage of Redis is reported by readiness itself."""
    calls = [("SET", alive(role), str(time.time_ns()), "EX", LASTS) for role in roles]
    while True:
        try:
            await commands(redis, calls)
        except LogUnavailable as error:
            log.debug("no_heartbeat", why=str(error))
        await clock.sleep(EVERY)


async def check_alive(redis: "Redis", role: str) -> None:
    """Raises NotAlive, LogUnavailable."""
    if not await command(redis, "EXISTS", alive(role)):
        raise NotAlive(f"no process runs the role {role}: start one with `bahi run {role}`")
