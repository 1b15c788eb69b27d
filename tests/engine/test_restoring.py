"""Who may restore a log, and from what: any number of processes, any of which may die at it (architecture §7)."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.events import (
    SchedulerResyncRequired,
    StrategyStartRequested,
)
from domain.facts import Policy
from domain.values import MINUTE, Holding, Side
from eventstore.archive import PostgresArchive
from eventstore.batch import Appended, WrongEpoch
from eventstore.entries import read_entries
from eventstore.envelope import NewEvent, Raw
from eventstore.epochs import RESTORING, Epoch, Held, judge
from eventstore.errors import LogLost, LogUnavailable, NeedsRecovery
from eventstore.fencing import KEPT, begin, fence
from eventstore.keys import Keys
from eventstore.log import EventLog
from eventstore.open import open_log
from projections import recovery
from projections.projector import Projector
from projections.recovery import recover
from projections.runtime import DEFAULTS
from simulation.clock import VirtualClock
from tests.engine.conftest import OpenArchived
from tests.engine.dying import Died, die_before
from tests.engine.world import OPENING, USER


async def copy_of(redis: "Redis") -> dict[bytes, bytes]:
    """All keys of a server, as a backup of it has them."""
    return {name: await redis.dump(name) async for name in redis.scan_iter(count=1000)}


async def put_back(redis: "Redis", copy: dict[bytes, bytes]) -> None:
    await redis.flushall()
    for name, value in copy.items():
        await redis.restore(name, 0, value)


async def test_an_older_copy_of_redis_is_restored_as_well(archived: OpenArchived, redis: Redis) -> None:
    world = await archived()
    strategy = await world.running()
    copy = await copy_of(redis)
    await world.buy(strategy)
    await world.settle()
    last = await world.log.last_position()
    await world.archive_to(last)
    await put_back(redis, copy)
    with pytest.raises(NeedsRecovery, match="OLDER"):
        await world.log_of("late")
    assert isinstance(await world.log.append([NewEvent(StrategyStartRequested(), strategy, USER)]), WrongEpoch)
    for process in list(world.processes):
        await world.kill(process)
    done = await world.recover("w2")
    assert (done.why, done.archived) == ("OLDER", last)
    assert (await world.state(strategy)).position is Holding.BOUGHT


async def test_a_copy_of_an_earlier_epoch_is_set_aside_and_not_lost(archived: OpenArchived, redis: Redis) -> None:
    world = await archived()
    await world.running()
    copy = await copy_of(redis)
    earlier = world.log
    await world.lose(2)
    await world.archive_to(await world.log.last_position())
    await put_back(redis, copy)
    with pytest.raises(NeedsRecovery, match="EARLIER_EPOCH"):
        await world.log_of("late")
    for process in list(world.processes):
        await world.kill(process)
    assert (await world.recover("w2")).why == "EARLIER_EPOCH"
    kept = [name for name in await redis.keys("lost:*") if earlier.epoch in name.decode()]
    assert kept
    assert all([0 < await redis.ttl(name) <= KEPT for name in kept])  # and not for ever
    assert {await redis.ttl(name) for name in world.log.keys.streams.values()} == {-1}


async def test_a_redis_of_another_installation_is_refused_and_left_alone(
    archived: OpenArchived, redis: Redis, redis_url: str
) -> None:
    world = await archived()
    await world.running()
    await world.archive_to(await world.log.last_position())
    await redis.flushall()
    stranger = await open_log(redis_url, clock=world.clock, defaults=DEFAULTS, allow_weak=True)
    await stranger.append([NewEvent(StrategyStartRequested(), 1, USER)])
    with pytest.raises(LogLost, match="not of one installation"):
        await world.log_of("late")
    assert await stranger.last_position() == 1
    await stranger.aclose()
    world.checked = False


async def test_any_number_of_processes_restore_once(archived: OpenArchived, redis: Redis) -> None:
    world = await archived()
    await world.bought()
    await world.archive_to(await world.log.last_position())
    for process in list(world.processes):
        await world.kill(process)
    await redis.flushall()
    assert world.archive is not None
    archive = world.archive
    done = await asyncio.gather(
        *(
            recover(
                world.redis_url, archive, keys=world.log.keys, clock=world.clock, defaults=DEFAULTS, policy=world.policy
            )
            for _ in range(3)
        )
    )
    assert sum(each is not None for each in done) == 1
    await world.begin_anew("w1")
    assert len(world.log.lineage) == 2


@pytest.mark.parametrize("number", range(0, 40, 3))
async def test_a_restorer_that_dies_anywhere_is_followed_by_the_next(
    archived: OpenArchived, redis: Redis, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It dies before its n-th call to Redis."""
    world = await archived()
    strategy = await world.bought()
    await world.archive_to(await world.log.last_position() - 2)
    for process in list(world.processes):
        await world.kill(process)
    await redis.flushall()
    assert world.archive is not None

    again = {"keys": world.log.keys, "clock": world.clock, "defaults": DEFAULTS, "policy": world.policy}
    with monkeypatch.context() as patch:
        die_before(patch, number)
        try:
            await recover(world.redis_url, world.archive, **again)  # type: ignore[arg-type]
            died = False
        except (Died, BaseExceptionGroup):
            died = True
    done = await recover(world.redis_url, world.archive, **again)  # type: ignore[arg-type]
    assert (done is not None) == died
    await world.begin_anew("w1")
    await world.pass_time(MINUTE)
    assert (await world.state(strategy)).position is Holding.BOUGHT
    assert [row.side for row in await world.rows()] == [Side.BUY]


async def test_two_that_restore_at_once_because_the_lock_was_lost_do_not_open_half_a_log(
    archived: OpenArchived, redis: Redis
) -> None:
    world = await archived()
    await world.running()
    keys, lineage = world.log.keys, world.log.lineage
    await fence(world.log.redis, keys, RESTORING + "ONE")
    await fence(world.log.redis, keys, RESTORING + "OTHER")
    later = (*lineage, Epoch(number=2, epoch="NEXT", log_id="NEXT"))
    with pytest.raises(LogLost, match="another process"):
        await begin(world.log.redis, keys, RESTORING + "ONE", later, [b"{}"])
    assert await redis.get(keys.epoch) == b"restoring:OTHER"
    assert await redis.get(keys.log_id) == world.log.log_id.encode()
    assert not await redis.exists(keys.epochs)
    world.checked = False


async def test_a_follower_that_read_on_before_the_loss_archives_nothing_under_the_new_epoch(
    archived: OpenArchived, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await archived()
    await world.bought()
    assert world.archive is not None
    follower = Projector(world.log, world.archive.engine, world.clock, lines=lambda *_: None)
    taken: list[Raw] = await follower._next()  # and now PostgreSQL is slow
    await redis.flushall()
    for process in list(world.processes):
        await world.kill(process)
    with pytest.raises(NeedsRecovery):
        await world.log_of("late")
    await world.recover("w1")
    with pytest.raises(LogLost, match="the archive is at epoch"):
        await follower._archive(taken)
    assert await world.archive.last_position() == 0
    world.checked = False  # nothing of it was archived


async def test_what_a_follower_archives_while_the_log_is_restored_is_restored_as_well(
    archived: OpenArchived, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await archived()
    strategy = await world.bought()
    last, archive = await world.log.last_position(), world.archive
    assert archive is not None
    await world.archive_to(last - 3)
    raws = [raw async for page in read_entries(world.log, last - 3, last) for raw in page]
    for process in list(world.processes):
        await world.kill(process)
    await redis.flushall()
    restoring_it = recovery._restore

    async def late(*args: Any) -> recovery.Recovered:
        done = await restoring_it(*args)
        async with archive.engine.begin() as connection:
            await archive.store(connection, raws)
        return done

    again = {"keys": world.log.keys, "clock": world.clock, "defaults": DEFAULTS, "policy": world.policy}
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "_restore", late)
        assert await recover(world.redis_url, archive, **again) is None  # type: ignore[arg-type]
    done = await world.recover("w1")
    assert done.archived == last
    assert (await world.state(strategy)).position is Holding.BOUGHT


def test_a_log_that_was_to_rejoin_and_became_shorter_than_the_archive_is_not_kept() -> None:
    lineage = (Epoch(number=1, epoch="E", log_id="LOGS"),)
    for position, why in ((9, "OLDER"), (10, "RESTARTED"), (11, "RESTARTED")):
        with pytest.raises(NeedsRecovery) as needed:
            judge(Held(lineage, position, rejoining=True), lineage, 10)
        assert needed.value.why == why


@pytest.mark.parametrize("part", ["position", "fence"])
async def test_a_log_of_which_a_part_was_lost_before_the_archive_had_any_begins_anew(
    engine: AsyncEngine, redis: Redis, redis_url: str, part: str
) -> None:
    clock, archive = VirtualClock(OPENING), PostgresArchive(engine)

    async def open_it() -> EventLog:
        return await open_log(redis_url, clock=clock, defaults=DEFAULTS, allow_weak=True, archive=archive)

    await (await open_it()).aclose()
    keys = Keys()
    if part == "fence":  # whoever restored it did not come to finish
        await redis.set(keys.epoch, f"{RESTORING}ABC")
    else:
        await redis.delete(keys.position)
    with pytest.raises(NeedsRecovery):
        await open_it()
    done = await recover(redis_url, archive, keys=keys, clock=clock, defaults=DEFAULTS, policy=Policy())
    assert done is not None
    log = await open_it()
    assert log.epoch == done.epoch.epoch
    await log.aclose()


async def test_a_log_that_is_lost_while_it_is_opened_is_not_begun_anew(
    engine: AsyncEngine, redis: Redis, redis_url: str
) -> None:
    class Losing(PostgresArchive):
        async def identity(self) -> tuple[tuple[Epoch, ...], int]:
            await redis.flushall()
            return await super().identity()

    again: Any = {"clock": VirtualClock(OPENING), "defaults": DEFAULTS, "allow_weak": True}
    await (await open_log(redis_url, archive=PostgresArchive(engine), **again)).aclose()
    with pytest.raises(LogUnavailable, match="being restored"):
        await open_log(redis_url, archive=Losing(engine), **again)
    assert await redis.get(Keys().epoch) is None


async def test_a_log_is_not_begun_beside_one_that_lived_and_died_meanwhile(
    engine: AsyncEngine, redis: Redis, redis_url: str
) -> None:
    """A process stands still at its very first start, after it saw that there is nothing anywhere; the log begins
    without it, and Redis is emptied before it goes on."""
    again: Any = {"clock": VirtualClock(OPENING), "defaults": DEFAULTS, "allow_weak": True}

    class Late(PostgresArchive):
        async def identity(self) -> tuple[Sequence[Epoch], int]:
            seen = await super().identity()
            log = await open_log(redis_url, archive=PostgresArchive(engine), **again)
            assert isinstance(await log.append([NewEvent(SchedulerResyncRequired(), 1, 1)]), Appended)
            await log.aclose()
            await redis.flushall()
            return seen

    with pytest.raises(LogUnavailable, match="being restored"):
        await open_log(redis_url, archive=Late(engine), **again)
    with pytest.raises(NeedsRecovery, match="EMPTY"):  # nor does whoever comes afterwards go on with it
        await open_log(redis_url, archive=PostgresArchive(engine), **again)


async def test_a_log_is_known_to_the_archive_before_its_first_event(
    engine: AsyncEngine, redis: Redis, redis_url: str
) -> None:
    """Or orders could be placed on it that nobody knows of, once Redis was emptied before anything was archived."""
    again: Any = {"clock": VirtualClock(OPENING), "defaults": DEFAULTS, "allow_weak": True}
    log = await open_log(redis_url, archive=PostgresArchive(engine), **again)
    assert await PostgresArchive(engine).identity() == (log.lineage, 0)
    await log.aclose()
    await redis.flushall()
    with pytest.raises(NeedsRecovery, match="EMPTY"):
        await open_log(redis_url, archive=PostgresArchive(engine), **again)
    await redis.flushall()
    await (await open_log(redis_url, **again)).aclose()  # of another installation
    with pytest.raises(LogLost, match="not of one installation"):
        await open_log(redis_url, archive=PostgresArchive(engine), **again)


async def test_of_two_logs_that_begin_at_once_one_has_the_archive(engine: AsyncEngine) -> None:
    logs = [(Epoch(number=1, epoch=name * 16, log_id=name * 4),) for name in "ABCDEFGH"]
    done = await asyncio.gather(*(PostgresArchive(engine).claim(each) for each in logs), return_exceptions=True)
    known, _ = await PostgresArchive(engine).identity()
    for lineage, outcome in zip(logs, done, strict=True):
        assert (outcome is None) == (lineage == known)
        assert outcome is None or isinstance(outcome, LogLost)
