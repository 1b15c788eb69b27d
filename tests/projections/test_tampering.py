"""Whatever is done to the history behind our back, at whichever position: it is found, and the position is named."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from bahi.seal_keys import open_keys
from projections.sealed import Trusted
from tests.conftest import HasUrl, _execute, with_database
from tests.projections.sealed import BOX
from tests.projections.tampering import TAMPERINGS, Tampered, Tampering, keep, live_through
from tests.projections.world import World

TIMES = 2
"""Random positions for each kind."""


@pytest.fixture(scope="module")
def history(
    redis_url: str, postgres_server: HasUrl, database_template: str
) -> Iterator[tuple[str, dict[bytes, bytes]]]:
    """Lived through once: its database, and what Redis held."""
    name = "test_tampering"
    _execute(postgres_server.url, f"DROP DATABASE IF EXISTS {name}")
    _execute(postgres_server.url, f"CREATE DATABASE {name} TEMPLATE {database_template}")
    url = with_database(postgres_server.url, name)

    async def live() -> dict[bytes, bytes]:
        redis: Any = Redis.from_url(redis_url)
        await redis.flushall()
        world = await World.make(redis, redis_url, url)
        try:
            await live_through(world)
            return await keep(world)
        finally:
            await world.aclose()
            await redis.aclose()

    yield url, asyncio.run(live())
    _execute(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def tampered(redis: Redis, redis_url: str, history: tuple[str, dict[bytes, bytes]]) -> AsyncIterator[Tampered]:
    url, kept = history
    for name, dump in kept.items():
        await redis.restore(name, 0, dump)
    world = await World.make(redis, redis_url, url)
    async with world.engine.connect() as connection:
        opened = await open_keys(connection, BOX)
    it = Tampered(world, kept, Trusted(opened.keys, opened.trusted, opened.closed))
    await it.restore()
    yield it
    await world.aclose()


async def test_an_untouched_history_is_all_right(tampered: Tampered) -> None:
    report = await tampered.verify()
    assert report.faults == ()
    assert report.events == report.archived == tampered.last
    assert report.unsealed_since > 0
    assert report.sealed > tampered.last - 60


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda each: each.__name__)
async def test_it_is_found_at_its_position(tampered: Tampered, tamper: Tampering) -> None:
    for _ in range(TIMES):
        seed = random.SystemRandom().randrange(10**6)
        await tampered.restore()
        position = await tamper(tampered, random.Random(seed))
        report = await tampered.verify()
        first = report.first
        assert first is not None, f"seed {seed}: nothing was found, it is at {position} of {tampered.last}"
        assert first.position == position, f"seed {seed}: of {tampered.last}, {report.faults[:5]}"
