"""Several processes on a log whose Redis is killed and comes back under them: on a shorter log none of them acts, on a
whole one all go on at once (architecture §7)."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy.ext.asyncio import AsyncEngine

from bahi.clock import SystemClock
from bahi.roles.process import report_restart
from bahi.servers.redis import EmbeddedRedis
from domain.events import SystemRecovery, UserRegistered
from eventstore import vouching, witness
from eventstore.archive import PostgresArchive
from eventstore.batch import Appended, WrongEpoch
from eventstore.clients import command
from eventstore.envelope import NewEvent
from eventstore.errors import LogLost, LogUnavailable, NeedsRecovery
from eventstore.log import EventLog
from eventstore.vouching import stopping_in_good_order
from eventstore.witness import Witness, bear_witness
from handlers.decider import persist
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
    await world.open()
    yield world
    await world.close()
    await redis.aclose()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hangs is given up on at once."""
    monkeypatch.setattr(witness, "PATIENCE", 0.0)
    monkeypatch.setattr(vouching, "PATIENCE", 0.0)


async def append(log: EventLog) -> int:
    """Something; its position."""
    result = await log.append([NewEvent(UserRegistered(), user_id=7)])
    assert isinstance(result, Appended), result
    return result.positions[-1]


async def is_lost(log: EventLog) -> None:
    with pytest.raises(LogLost, match="it was restarted"):
        await append(log)


async def killed(server: EmbeddedRedis, *processes: Witness, cut: int = 0) -> None:
    """Redis was killed and is back, and these have noticed that their connections broke."""
    kill(server, cut)
    for each in processes:
        await each.log.redis.connection_pool.disconnect()
        await each._redis.connection_pool.disconnect()


async def members(log: EventLog) -> set[str]:
    return {name.decode() for name in await command(log.redis, "HKEYS", log.keys.members)} - {"#"}


async def refuses(log: EventLog) -> None:
    with pytest.raises(LogUnavailable, match="it was restarted"):
        await append(log)
    with pytest.raises(LogUnavailable, match="it was restarted"):
        await log.last_position()


async def test_who_knows_less_waits_for_who_knows_more(world: World, server: EmbeddedRedis) -> None:
    less, more = await world.log_of("a"), await world.log_of("b")
    await append(less)
    async with on(less, "a") as knows_less, on(more, "b", knows_less) as knows_more:
        assert await knows_less.look()
        whole = size(server)
        await append(more)
        # exactly at the end of a command: nothing shows that anything is missing
        await killed(server, knows_less, knows_more, cut=size(server) - whole)
        await refuses(less)
        assert not await knows_less.look()  # what it knows is all there; but it is not the only one
        await refuses(less)
        with pytest.raises(LogLost, match="the log ended at"):
            await knows_more.look()
        with pytest.raises(LogLost, match="a process knows of more"):
            await knows_less.look()
        await refuses(less)
    with pytest.raises(NeedsRecovery, match="RESTARTED"):
        await world.log_of("c")
    done = await world.recover()
    assert (done.why, done.epoch.number) == ("RESTARTED", 2)
    assert await members(world.log) == set()
    async with on(await world.log_of("c"), "a") as anew:
        assert await anew.look()


async def test_a_whole_log_goes_on_in_its_epoch_when_everybody_has_looked(world: World, server: EmbeddedRedis) -> None:
    logs = [await world.log_of(name) for name in "ab"]
    async with on(logs[0], "a") as first, on(logs[1], "b", first) as second:
        for _ in range(2):
            await append(logs[0])
            await killed(server, first, second)
            await refuses(logs[0])
            await refuses(logs[1])
            assert not await first.look()
            assert await second.look()
            assert await first.look()
            assert (first.vouched, second.vouched) == (False, True)  # one of them tells of it
            second.vouched = False
            await append(logs[0])
            await append(logs[1])
    assert (await world.log_of("c")).epoch == logs[0].epoch


async def test_they_do_so_by_themselves_and_one_of_them_reports_it(world: World, server: EmbeddedRedis) -> None:
    logs = [await world.log_of(name) for name in "ab"]
    async with on(logs[0], "a") as first, on(logs[1], "b", first) as second, asyncio.TaskGroup() as group:
        looking = [group.create_task(bear_witness(each, report_restart)) for each in (first, second)]
        kill(server)
        found = await world.log_of("c")  # a start waits for their word
        assert found.epoch == logs[0].epoch
        await world.redis.connection_pool.disconnect()
        while not (told := await world.of_type(SystemRecovery)):  # noqa: ASYNC110 (what it does is look)
            await asyncio.sleep(0.01)
        for task in looking:
            task.cancel()
    assert [(each.old_epoch, each.lost) for each in told] == [(found.epoch, {"redis": "RESTARTED"})]


@pytest.mark.usefixtures("impatient")
async def test_one_that_does_not_answer_may_have_known_more(world: World, server: EmbeddedRedis) -> None:
    log, hangs = await world.log_of("a"), await world.log_of("b")
    async with on(log, "a") as looks, on(hangs, "b") as slow:
        await killed(server, looks, slow)
        assert not await looks.look()
        with pytest.raises(LogLost, match="no answer from b"):
            await looks.look()
        with pytest.raises(LogLost, match="a process knows of more"):
            await slow.look()
        await refuses(hangs)
    assert (await world.recover()).why == "RESTARTED"


@pytest.mark.usefixtures("impatient")
async def test_whoever_was_given_up_on_finds_another_epoch(world: World, server: EmbeddedRedis) -> None:
    log, hangs = await world.log_of("a"), await world.log_of("b")
    async with on(log, "a"), on(hangs, "b") as slow:
        await killed(server, slow)
        assert (await world.recover()).why == "RESTARTED"
        with pytest.raises(LogLost, match="the epoch was"):
            await slow.look()
        await refuses(hangs)


async def test_what_waits_for_a_log_that_nobody_looks_at_any_more_has_lost_it(
    world: World, server: EmbeddedRedis
) -> None:
    """A worker that ends with its log still has to write down what the broker answered: it cannot, and ends."""
    log, hangs = await world.log_of("a"), await world.log_of("b")
    async with on(log, "a") as witness, on(hangs, "b", witness):
        looking = asyncio.create_task(bear_witness(witness, report_restart))
        await killed(server)
        await log.redis.connection_pool.disconnect()
        waiting = asyncio.create_task(persist(lambda: append(log), SystemClock()))
        await log.guard.refused.wait()
        assert not waiting.done()
        looking.cancel()
        async with asyncio.timeout(10):
            with pytest.raises(LogLost, match="it was restarted"):
                await waiting
        await is_lost(log)
        await refuses(hangs)  # whose process has not given it up


async def test_a_joining_that_was_lost_is_noticed_by_who_had_joined(world: World, server: EmbeddedRedis) -> None:
    log, other = await world.log_of("a"), await world.log_of("b")
    async with on(log, "a") as there:
        whole = size(server)
        async with on(other, "b", there) as forgotten:
            await killed(server, forgotten, cut=size(server) - whole)
            with pytest.raises(LogLost, match="is forgotten"):
                await forgotten.look()
    assert (await world.recover()).why == "RESTARTED"


async def test_a_joining_that_was_lost_is_noticed_by_who_was_there(world: World, server: EmbeddedRedis) -> None:
    """The one who joined returns only when the others know of it: they do not take each other for everybody."""
    log, other = await world.log_of("a"), await world.log_of("b")
    async with on(log, "a") as there:
        whole = size(server)
        async with on(other, "b", there):
            await killed(server, there, cut=size(server) - whole)
            with pytest.raises(LogLost, match="a process is forgotten that had joined"):
                await there.look()


async def test_a_process_in_the_place_of_a_dead_one_takes_its_name(world: World, server: EmbeddedRedis) -> None:
    log, dead = await world.log_of("a"), await world.log_of("b")
    async with on(log, "a") as lives, on(dead, "b", lives), on(await world.log_of("b2"), "b", lives) as heir:
        assert await members(log) == {"a", "b"}
        await killed(server, lives, heir)
        assert not await lives.look()
        assert await heir.look()
        assert await lives.look()


async def test_whoever_left_in_good_order_is_not_waited_for(world: World, server: EmbeddedRedis) -> None:
    log, left = await world.log_of("a"), await world.log_of("b")
    async with on(log, "a") as stays:
        async with on(left, "b", stays) as leaves:
            await leaves.leave()
        await killed(server, stays)
        assert await stays.look()


@pytest.mark.usefixtures("impatient")
async def test_whoever_is_silent_for_long_is_gone_and_joins_anew_if_it_is_not(
    world: World, server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, silent = await world.log_of("a"), await world.log_of("b")
    async with on(log, "a") as looks, on(silent, "b") as sleeps:
        monkeypatch.setattr(witness, "_GONE_MS", -1)
        assert await looks.look()
        monkeypatch.undo()
        assert await members(log) == {"a"}
        assert await sleeps.look()  # the server is the one that it was, so nothing was lost
        assert await members(log) == {"a", "b"}
        await append(silent)
        await killed(server, looks, sleeps)
        assert not await looks.look()
        assert await sleeps.look()


async def test_a_server_that_was_restarted_before_a_process_joined_is_looked_at_anew(
    world: World, server: EmbeddedRedis
) -> None:
    log = await world.log_of("a")
    late = Witness(await world.log_of("b"), "b")
    async with on(log, "a") as looks:
        await killed(server, looks)
        with pytest.raises(LogLost, match="before this process had joined"):
            await late.join()
        assert await looks.look()  # it had done nothing, so nothing is in doubt
    await late.aclose()


async def test_a_server_that_was_stopped_in_good_order_needs_nobodys_word(world: World, server: EmbeddedRedis) -> None:
    log, gone = await world.log_of("a"), await world.log_of("b")
    async with on(log, "a") as looks, on(gone, "b", looks):
        await append(log)
        await stopping_in_good_order(log.redis, log.keys)
        server.stop()
        server.start()
        await log.redis.connection_pool.disconnect()
        await refuses(log)
        assert await looks.look()
        await append(log)


async def test_of_an_older_epoch_nobody_appends(world: World, server: EmbeddedRedis) -> None:
    log = await world.log_of("a")
    async with on(log, "a"):
        await command(log.redis, "SET", log.keys.epoch, "another")
        assert isinstance(await log.append([NewEvent(UserRegistered(), user_id=7)]), WrongEpoch)
