"""Redis is killed and comes back on its file, whole or torn at any byte (architecture §7)."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy.ext.asyncio import AsyncEngine

from bahi.roles.process import report_restart
from bahi.servers.redis import EmbeddedRedis
from domain.events import OrderRecovered, StrategyRecovered, StrategyStartRequested, SystemRecovery
from domain.values import MINUTE, SECOND, Holding, Side
from eventstore.archive import PostgresArchive
from eventstore.envelope import NewEvent
from eventstore.errors import LogLost, LogUnavailable, NeedsRecovery
from eventstore.vouching import stopping_in_good_order
from eventstore.witness import bear_witness
from projections.recovery import Recovered
from tests.engine.dying import Died, die_before
from tests.engine.world import World
from tests.engine.world_of_witnesses import kill, on, size


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path) as running:
        yield running


@pytest.fixture
async def world(server: EmbeddedRedis, engine: AsyncEngine) -> AsyncIterator[World]:
    redis = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
    world = World(server.url, redis, archive=PostgresArchive(engine))
    await world.open("w1")
    yield world
    await world.check()
    await world.close()
    await redis.aclose()


async def start_again(world: World) -> Recovered | None:
    """Every process died; another system starts on what Redis has."""
    for process in list(world.processes):
        await world.kill(process)
    await world.redis.connection_pool.disconnect()
    try:
        await world.begin_anew("w2")
    except NeedsRecovery:
        return await world.recover("w2")
    return None


async def test_a_file_that_nobody_vouches_for_begins_an_epoch_and_keeps_what_it_has(
    world: World, server: EmbeddedRedis
) -> None:
    strategy = await world.bought()
    waiting = await world.running()
    last, before = await world.log.last_position(), world.log
    kill(server)
    done = await start_again(world)
    assert done is not None
    assert (done.why, done.held, done.in_doubt) == ("RESTARTED", last, 1)
    assert await start_again(world) is None  # once for each restart
    (report,) = await world.of_type(SystemRecovery)
    assert (report.old_epoch, report.new_epoch) == (before.epoch, world.log.epoch)
    assert [each.after for each in world.log.lineage] == [0, last]
    assert (await world.state(waiting)).settle_after == 0
    await world.stop_loss(strategy)
    await world.pass_time(30 * SECOND)
    assert (await world.state(strategy)).position is Holding.EXITED_BY_SL


async def test_a_process_that_was_there_vouches_for_the_log_and_nothing_is_held_up(
    world: World, server: EmbeddedRedis
) -> None:
    strategy = await world.bought()
    async with on(world.log, "w1") as witness:
        kill(server)
        await world.redis.connection_pool.disconnect()
        assert await witness.look()
        assert witness.vouched
        witness.vouched = False
        assert await witness.look()
        assert not witness.vouched  # once for each restart
    assert await start_again(world) is None
    await world.stop_loss(strategy)
    await world.settle()
    assert (await world.state(strategy)).position is Holding.EXITED_BY_SL


async def test_nobody_vouches_for_a_log_that_became_shorter(world: World, server: EmbeddedRedis) -> None:
    strategy = await world.bought()
    async with on(world.log, "w1") as witness:
        before = size(server)
        await world.archive_to(await world.log.last_position())
        await world.stop_loss(strategy)
        kill(server, cut=(size(server) - before) // 2)
        await world.redis.connection_pool.disconnect()
        with pytest.raises(LogUnavailable):
            await world.log.append([NewEvent(StrategyStartRequested(), strategy, 7)])
        with pytest.raises(LogLost, match="the log ended at"):
            await witness.look()
    assert await start_again(world) is not None


async def test_a_process_that_appends_nothing_does_not_vouch_for_what_others_lost(
    world: World, server: EmbeddedRedis
) -> None:
    """It has seen of the log what it looked at."""
    idle = await world.log_of("api")
    async with on(idle, "api") as witness:
        strategy = await world.bought()
        before = size(server)
        await world.archive_to(await world.log.last_position())
        await world.log.append([NewEvent(StrategyStartRequested(), strategy, 7)])
        looking = asyncio.create_task(bear_witness(witness, report_restart))
        while idle.seen < world.log.seen:  # noqa: ASYNC110 (what it does is look)
            await asyncio.sleep(0.01)
        looking.cancel()
        kill(server, cut=(size(server) - before) // 2)
        for redis in (world.redis, world.log.redis):
            await redis.connection_pool.disconnect()
        with pytest.raises(LogLost):
            await bear_witness(witness, report_restart)  # and does not go on with what it knows
    assert await start_again(world) is not None


async def test_a_stop_in_good_order_is_nothing_to_tell(world: World, server: EmbeddedRedis) -> None:
    await world.running()
    await stopping_in_good_order(world.log.redis, world.log.keys)
    server.stop()
    server.start()
    assert await start_again(world) is None
    assert not await world.of_type(SystemRecovery)


async def test_an_order_whose_intent_was_torn_off_is_adopted(world: World, server: EmbeddedRedis) -> None:
    strategy = await world.running()
    await world.archive_to(await world.log.last_position())
    await world.buy(strategy)
    before, old = size(server), world.log
    await world.settle()
    kill(server, cut=size(server) - before)  # exactly at the end of a command: nothing shows that anything is missing
    assert await start_again(world) is not None
    assert not await world.intents()
    await world.pass_time(MINUTE)
    (adopted,) = await world.of_type(OrderRecovered)
    assert adopted.tag.startswith(old.log_id)
    assert (await world.state(strategy)).position is Holding.BOUGHT
    assert [row.side for row in await world.rows()] == [Side.BUY]
    assert len(await world.of_type(StrategyRecovered)) == 1


@pytest.mark.parametrize("number", [3, 9, 14, 16, 18, 20, 22, 24, 26])
async def test_whoever_dies_over_it_loses_nothing_of_what_redis_has(
    world: World, server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It dies before its n-th call to Redis; what was not archived is still there."""
    strategy = await world.bought()
    last = await world.log.last_position()
    kill(server)

    for process in list(world.processes):
        await world.kill(process)
    with monkeypatch.context() as patch:
        die_before(patch, number)
        with suppress(Died, BaseExceptionGroup):
            await world.recover()
    done = await start_again(world)
    assert done is None or (done.why, done.archived) == ("RESTARTED", 0)
    assert (await world.state(strategy)).position is Holding.BOUGHT
    assert [each.position for each in await world.records()][: last + 1] == list(range(1, last + 2))


@pytest.mark.parametrize("seed", range(4))
async def test_a_file_torn_at_any_byte_loses_no_order(world: World, server: EmbeddedRedis, seed: int) -> None:
    """With an archive that is some events behind, or further than what is left of the file."""
    chance = random.Random(seed)
    strategies = [await world.running(stop="140") for _ in range(3)]
    begun = size(server)
    await world.buy(*strategies)
    await world.settle()
    await world.stop_loss(strategies[0])
    await world.settle()
    last = await world.log.last_position()
    await world.archive_to(last - chance.randrange(0, 25))
    kill(server, cut=chance.randrange(1, size(server) - begun))
    assert await start_again(world) is not None
    await world.tick("139")
    for strategy in strategies:
        if (await world.state(strategy)).alive:
            await world.buy(strategy)  # the scheduler fires again what it does not know to have fired
    await world.pass_time(5 * MINUTE)
    await world.stop_loss(*strategies)
    await world.finish()
    rows = await world.rows()
    bought = [row for row in rows if row.side is Side.BUY and row.filled]
    assert len(bought) == 3
    assert sum(row.filled for row in bought) == sum(row.filled for row in rows if row.side is Side.SELL)
