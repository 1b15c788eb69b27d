"""Worlds for the tests of the engine; each is checked for the invariants when its test ends."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from bahi.database.engine import create_engine
from eventstore.archive import PostgresArchive
from tests.engine.world import World

OpenWorld = Callable[..., Awaitable[World]]
OpenArchived = Callable[..., Awaitable[World]]


@pytest.fixture
async def open_world(redis: Redis, redis_url: str) -> AsyncIterator[OpenWorld]:
    """`await open_world(plan=…)`; `workers` names the worker processes."""
    worlds: list[World] = []

    async def open_it(*, workers: tuple[str, ...] = ("w1",), **options: Any) -> World:
        worlds.append(World(redis_url, redis, **options))
        return await worlds[-1].open(*workers)

    yield open_it
    try:
        for world in worlds:
            if world.checked:
                await world.check()
    finally:
        for world in worlds:
            await world.close()


@pytest.fixture
async def world(open_world: OpenWorld) -> World:
    """A world without faults."""
    return await open_world()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, size=8)
    yield engine
    await engine.dispose()


@pytest.fixture
async def archived(engine: AsyncEngine, open_world: OpenWorld) -> OpenArchived:
    """`await archived(plan=…)`: a world whose log has an archive."""

    async def open_it(**options: object) -> World:
        return await open_world(archive=PostgresArchive(engine), **options)

    return open_it
