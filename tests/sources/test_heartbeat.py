"""Readiness knows whether a role runs, and whether the feed is heard."""

import asyncio

import pytest
from redis.asyncio import Redis

from bahi.clock import SystemClock
from bahi.roles.heartbeat import FEED, NotAlive, beat, check_alive, check_feed
from eventstore.clients import log_client
from eventstore.keys import alive


async def beating(redis_url: str, *roles: str, holds: bool = True) -> None:
    """One beat of these roles."""
    client = log_client(redis_url)
    beaten = asyncio.Event()

    class Clock(SystemClock):
        async def sleep(self, duration: int) -> None:
            beaten.set()
            await asyncio.Event().wait()

    heart = asyncio.create_task(beat(client, roles, Clock(), lambda: holds))
    await beaten.wait()
    heart.cancel()
    await asyncio.gather(heart, return_exceptions=True)
    await client.aclose()


async def test_a_role_counts_as_alive_for_a_few_seconds_after_a_beat(redis: Redis, redis_url: str) -> None:
    with pytest.raises(NotAlive, match="no process runs the role scheduler: start one with `bahi run scheduler`"):
        await check_alive(redis, "scheduler")
    await beating(redis_url, "scheduler")
    await check_alive(redis, "scheduler")
    assert 0 < await redis.ttl(alive("scheduler")) <= 4


async def test_a_silent_feed_is_not_ready_although_its_role_runs(redis: Redis, redis_url: str) -> None:
    await beating(redis_url, "market")
    await beating(redis_url, FEED, holds=False)
    with pytest.raises(NotAlive, match="the feed is silent"):
        await check_feed(redis)
    await beating(redis_url, FEED)
    await check_feed(redis)
