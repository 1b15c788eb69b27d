"""What was answered outlives the loss of Redis or of PostgreSQL: both have it by then."""

import asyncio

import pytest
from structlog.testing import capture_logs

from domain.events import StrategyCreated
from eventstore.archived import announce
from tests.api.conftest import OpenWorld
from tests.api.world import STRATEGY, World, problem

LONG = 60.0
"""Longer than any test: who waits for this has failed."""


async def archived(world: World) -> None:
    await announce(world.log, await world.log.last_position())


async def logged(world: World, count: int) -> None:
    """Once so many strategies are in the log."""
    async for recorded in world.log.follow():
        count -= isinstance(recorded.event, StrategyCreated)
        if not count:
            return


@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_write_is_answered_once_the_archive_has_it(opened: OpenWorld, partitions: int) -> None:
    async with opened(archive_patience=LONG, partitions=partitions) as world:
        arriving = asyncio.create_task(world.trader())
        while not arriving.done():
            for desk in world.desks:
                await announce(desk.log, await desk.log.last_position())
        trader = await arriving
        log = world.deps.log_of(trader.user_id)
        creating = asyncio.create_task(trader.post("/strategy/create", STRATEGY))
        async for recorded in log.follow():
            if isinstance(recorded.event, StrategyCreated):
                break
        assert (await trader.get("/halt")).status_code == 200, "what only reads does not wait"
        assert not creating.done()
        await announce(log, recorded.position)
        assert (await creating).status_code == 201


async def test_what_appends_nothing_waits_for_nothing(opened: OpenWorld) -> None:
    async with opened(archive_patience=0.01) as world:
        trader = await world.trader()
        world.deps.acknowledge._patience = LONG  # type: ignore[union-attr]
        assert (await trader.post("/strategy/create", STRATEGY | {"quantity": 0})).status_code == 422
        problem(await trader.post("/strategy/start", {"strategy_id": 999}), 404, "NOT_FOUND")


async def test_without_an_archive_it_is_answered_all_the_same_and_that_is_counted(opened: OpenWorld) -> None:
    async with opened(archive_patience=0.01) as world:
        trader = await world.trader()
        registry = world.deps.registry
        before = registry.get_sample_value("bahi_answers_before_archive_total")
        with capture_logs() as lines:
            assert (await trader.post("/strategy/create", STRATEGY)).status_code == 201
        assert registry.get_sample_value("bahi_answers_before_archive_total") == (before or 0) + 1
        (said,) = [line for line in lines if line["event"] == "answered_before_archive"]
        assert said["log_level"] == "warning"
        assert said["appended"] == {0: await world.log.last_position()}


async def test_an_answer_is_kept_for_repetition_only_once_the_archive_has_it(opened: OpenWorld) -> None:
    async with opened(archive_patience=LONG) as world:
        arriving = asyncio.create_task(world.trader())
        while not arriving.done():
            await archived(world)
        trader = await arriving
        first = asyncio.create_task(trader.post("/strategy/create", STRATEGY, key="one"))
        await logged(world, 1)
        problem(await trader.post("/strategy/create", STRATEGY, key="one"), 409, "IDEMPOTENCY_KEY_BUSY")
        await archived(world)
        answer = await first
        again = await trader.post("/strategy/create", STRATEGY, key="one")
        assert again.json() == answer.json()
        assert again.headers["Idempotency-Replayed"] == "true"
