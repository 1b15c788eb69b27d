"""A world for each test: an empty log, a database of its own, and the application on both."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest
from redis.asyncio import Redis

from tests.api.world import Trader, World, open_world

OpenWorld = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def opened(redis: Redis, redis_url: str, database_url: str) -> OpenWorld:
    """Opens a world with settings of the test's own."""
    return partial(open_world, redis_url, database_url)


@pytest.fixture
async def world(opened: OpenWorld) -> AsyncIterator[World]:
    async with opened() as world:
        yield world


@pytest.fixture
async def alice(world: World) -> Trader:
    return await world.trader("alice@example.com")


@pytest.fixture
async def bob(world: World) -> Trader:
    return await world.trader("bob@example.com")
