"""A world: a log on a real Redis, an archive on a real PostgreSQL, and strategies that live through days."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.projections.world import World


@pytest.fixture
async def world(redis: Redis, redis_url: str, database_url: str) -> AsyncIterator[World]:
    made = await World.make(redis, redis_url, database_url)
    yield made
    await made.aclose()
