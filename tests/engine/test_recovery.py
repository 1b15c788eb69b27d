"""Redis is lost, or an older copy of it comes back: nothing that anybody was told is forgotten, nothing is done twice
(architecture §7)."""

import asyncio
import datetime as dt
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bahi.database.engine import create_engine
from bahi.database.tables import metadata
from brokers.paper.plan import Lost, Script, ScriptedPlan
from brokers.port import BookOrder, Broker, PartialReading, Unread
from domain.commands import Changes, decide_update
from domain.events import (
    AlertTriggered,
    ExecuteBuy,
    Intent,
    OrderRecovered,
    RecoverySettled,
    SchedulerResyncRequired,
    StrategyRecovered,
    StrategyStartRequested,
    SystemRecovery,
)
from domain.facts import Policy
from domain.tags import TagParts, parse_tag
from domain.values import DAY, MINUTE, SECOND, Code, Exit, Holding, Kind, Side, Status, Tag
from eventstore import clients
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
from handlers.decider import Wake, decided, take_turn
from handlers.outcomes import OF_ANOTHER_DAY
from handlers.poller import Poller
from projections import recovery
from projections.projector import Projector
from projections.recovery import recover
from projections.runtime import DEFAULTS, CorruptState
from simulation.clock import VirtualClock
from tests.engine.conftest import OpenWorld
from tests.engine.test_evidence import reading
from tests.engine.test_random import ACTIONS, PER_USER, USERS, HealingPlan, Nemesis, _heal
from tests.engine.world import OPENING, USER, World

OpenArchived = Callable[..., Awaitable[World]]


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


async def since(world: World, kind: type[Intent]) -> int:
    """How many events there are from the first intent of this kind on."""
    first = next(each.position for each in await world.records() if isinstance(each.event, kind))
    return await world.log.last_position() - first + 1


async def copy_of(redis: "Redis") -> dict[bytes, bytes]:
    """All keys of a server, as a backup of it has them."""
    return {name: await redis.dump(name) async for name in redis.scan_iter(count=1000)}


async def put_back(redis: "Redis", copy: dict[bytes, bytes]) -> None:
    await redis.flushall()
    for name, value in copy.items():
        await redis.restore(name, 0, value)


# --- what was lost is found in the book -----------------------------------------------------------------------------


async def test_an_entry_whose_intent_was_lost_is_adopted_and_not_placed_again(archived: OpenArchived) -> None:
    world = await archived()
    strategy = await world.bought()
    lost = await since(world, ExecuteBuy)
    done = await world.lose(lost)
    assert (done.why, done.strategies, done.in_doubt) == ("EMPTY", 1, 1)
    assert (await world.state(strategy)).position is Holding.NONE

    await world.settle()
    assert (await world.state(strategy)).position is Holding.BOUGHT
    (adopted,) = await world.of_type(OrderRecovered)
    assert (adopted.kind, adopted.number, adopted.run) == (Kind.BUY, 1, (await world.state(strategy)).run)
    assert parse_tag(adopted.tag).log_id != world.log.log_id  # type: ignore[union-attr]

    await world.stop_loss(strategy)
    await world.settle()
    assert not await world.intents()  # the stop waits until it is sure that nobody exits already
    await world.pass_time(30 * SECOND)
    assert (await world.state(strategy)).exit_reason is Exit.STOPLOSS
    assert [row.side for row in await world.rows()] == [Side.BUY, Side.SELL]
    assert len(await world.of_type(RecoverySettled)) == 1


@pytest.mark.parametrize("surfaces", [8 * SECOND, 90 * SECOND])
async def test_a_lost_entry_that_surfaces_late_is_still_the_only_one(archived: OpenArchived, surfaces: int) -> None:
    world = await archived(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=surfaces)))]))
    strategy = await world.running()
    await world.buy(strategy)
    await world.step(world.processes[0])
    await world.lose(await since(world, ExecuteBuy))
    await world.pass_time(surfaces + 20 * SECOND)
    assert (await world.state(strategy)).position is Holding.BOUGHT
    await world.pass_time(5 * MINUTE)
    assert [row.side for row in await world.rows()] == [Side.BUY]


async def test_an_exit_whose_intent_was_lost_is_not_sold_again(archived: OpenArchived) -> None:
    world = await archived()
    strategy = await world.bought()
    await world.archive_to(await world.log.last_position())
    await world.stop_loss(strategy)
    await world.settle()
    before = [event.type for event in await world.history(strategy)]
    await world.lose(len(before) - before.index("STOPLOSS_TRIGGERED"))
    assert (await world.state(strategy)).position is Holding.BOUGHT
    await world.stop_loss(strategy)  # the listener sees it again
    await world.pass_time(MINUTE)
    state = await world.state(strategy)
    assert (state.status, state.position) == (Status.STOPPED, Holding.EXITED_BY_SL)
    assert [row.side for row in await world.rows()] == [Side.BUY, Side.SELL]


async def test_shares_of_a_run_that_was_lost_are_sold(archived: OpenArchived) -> None:
    world = await archived()
    strategy = await world.create()
    await world.archive_to(await world.log.last_position())
    await world.start(strategy)
    await world.buy(strategy)
    await world.settle()
    started = next(r.position for r in await world.records() if isinstance(r.event, StrategyStartRequested))
    await world.lose(await world.log.last_position() - started + 1)
    assert (await world.state(strategy)).status is Status.CREATED
    await world.watch()
    await world.pass_time(MINUTE)
    (adopted,) = await world.of_type(OrderRecovered)
    assert adopted.run == 0
    state = await world.state(strategy)
    assert (state.surfaced, state.bought) == (0, 0)
    assert [(row.side, row.filled) for row in await world.rows()] == [(Side.BUY, 10), (Side.SELL, 10)]


async def test_a_lost_run_does_not_lend_its_order_to_the_next_of_the_same_number(archived: OpenArchived) -> None:
    world = await archived(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=80 * SECOND)))]))
    strategy = await world.create()
    await world.archive_to(await world.log.last_position())
    lost_run = (await world.start(strategy)).run
    await world.buy(strategy)
    await world.step(world.processes[0])
    started = next(r.position for r in await world.records() if isinstance(r.event, StrategyStartRequested))
    await world.lose(await world.log.last_position() - started + 1)
    soon = world.calendar.wall(world.clock.now() + 30 * SECOND).time().replace(microsecond=0)
    await take_turn(
        world.desk,
        strategy,
        lambda s, f: decided(s, decide_update(s, Changes(buy_time=soon), f)),
        Wake(),  # type: ignore[arg-type]
    )
    assert (await world.start(strategy)).run == lost_run + 1  # an update came between
    await world.wait_until((await world.state(strategy)).buy_at)
    await world.tick("150")
    await world.buy(strategy)
    await world.pass_time(MINUTE)
    await world.watch()
    await world.pass_time(MINUTE)
    state = await world.state(strategy)
    assert state.bought == 10, (lost_run, state)
    assert (await world.of_type(OrderRecovered))[0].run == 0
    assert state.surfaced == 0


async def test_an_order_of_an_epoch_that_no_backup_knows_is_adopted(
    archived: OpenArchived, engine: AsyncEngine
) -> None:
    world = await archived()
    strategy = await world.running()
    await world.lose(0)  # a backup of PostgreSQL is made, and then another epoch begins
    last, epochs_then = world.log.lineage[-1].after, len(world.log.lineage) - 1
    await world.buy(strategy)
    await world.settle()
    placed_in = world.log.log_id
    async with engine.begin() as connection:  # everything is destroyed, and the backup put back
        for statement in (
            "DELETE FROM epochs WHERE number > :epochs",
            "DELETE FROM events WHERE position > :last",
            "UPDATE checkpoint SET position = :last",
        ):
            known = {"epochs": epochs_then} if ":epochs" in statement else {"last": last}
            await connection.execute(text(statement), known)
    for process in list(world.processes):
        await world.kill(process)
    await world.redis.flushall()
    await world.recover("w2")
    assert placed_in not in world.log.log_ids
    assert world.log.is_ours(placed_in)
    await world.watch()
    await world.pass_time(MINUTE)
    assert (await world.state(strategy)).position is Holding.BOUGHT
    assert [row.side for row in await world.rows()] == [Side.BUY]


# --- what was not lost goes on --------------------------------------------------------------------------------------


async def test_what_merely_waits_for_its_time_is_not_held_up(archived: OpenArchived) -> None:
    world = await archived()
    strategy = await world.running()
    await world.halt(8)
    done = await world.lose(0)
    assert (done.strategies, done.halts, done.in_doubt) == (1, 1, 0)
    assert await world.log.halt(8) is not None
    assert await world.log.halt(USER) is None
    await world.buy(strategy)
    await world.settle()
    assert (await world.state(strategy)).position is Holding.BOUGHT
    assert not await world.of_type(StrategyRecovered)


async def test_it_is_told_and_the_numbers_go_on(archived: OpenArchived) -> None:
    world = await archived()
    await world.bought()
    old, last = world.log, await world.log.last_position()
    await world.lose(3)
    (report,) = await world.of_type(SystemRecovery)
    assert (report.old_epoch, report.new_epoch) == (old.epoch, world.log.epoch)
    assert report.lost == {"redis": "EMPTY", "held": "0"}
    assert report.restored["archived"] == str(last - 3)
    assert [each.after for each in world.log.lineage] == [0, last - 3]
    assert world.log.log_ids == {old.log_id, world.log.log_id}
    records = await world.records()
    assert [each.position for each in records] == list(range(1, len(records) + 1))
    assert isinstance(await old.append([NewEvent(StrategyStartRequested(), 42, USER)]), WrongEpoch)


async def test_a_strategy_whose_history_lacks_something_is_named(archived: OpenArchived) -> None:
    world = await archived()
    sound, strategy = await world.bought(), await world.bought()
    await world.archive_to(await world.log.last_position())
    assert world.archive is not None
    async with world.archive.engine.begin() as connection:
        garbled = "UPDATE events SET envelope = '\\x00' WHERE strategy_id = :id AND type = 'ORDER_FILLED'"
        await connection.execute(text(garbled), {"id": strategy})
    done = await world.lose(0)
    assert strategy in done.unsound
    assert sound not in done.unsound
    after = [each async for each in world.log.read(done.archived)]
    (alert,) = [each.event for each in after if isinstance(each.event, AlertTriggered)]
    assert str(strategy) in alert.facts["unsound"].split(", ")
    world.checked = False


# --- what keeps the book from settling it ---------------------------------------------------------------------------


async def test_a_row_of_somebody_else_that_nobody_understands_holds_up_no_exit(archived: OpenArchived) -> None:
    theirs = Unread(order_id="9", tag="theirs", why="no filled_quantity", foreign=True)

    def with_their_row(rows: list[BookOrder]) -> list[BookOrder]:
        raise PartialReading(rows, (theirs,))

    world = await archived()
    strategy = await world.bought()
    await world.lose(0)
    with reading(with_their_row):
        await world.stop_loss(strategy)
        await world.pass_time(30 * SECOND)
        assert (await world.state(strategy)).exit_reason is Exit.STOPLOSS


async def test_what_is_wrong_with_one_strategy_holds_up_no_exit_of_another(
    archived: OpenArchived, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await archived()
    strategy, broken = await world.bought(), await world.bought()
    await world.lose(0)
    booking = Poller._book

    async def failing(self: Poller, broker: Broker, parts: TagParts, tag: Tag, row: BookOrder) -> int:
        if parts.strategy_id == broken:
            raise CorruptState("nothing tells what it is")
        return await booking(self, broker, parts, tag, row)

    with monkeypatch.context() as patch:
        patch.setattr(Poller, "_book", failing)
        await world.pass_time(30 * SECOND)
    assert not (await world.state(strategy)).settle_after
    assert (await world.state(broken)).settle_after
    await world.pass_time(30 * SECOND)
    assert not (await world.state(broken)).settle_after


async def test_shares_that_nobody_can_sell_because_the_book_is_not_read_are_alerted(archived: OpenArchived) -> None:
    world = await archived()
    strategy = await world.bought()
    world.connected.clear()
    await world.lose(0)
    await world.stop_loss(strategy)
    await world.pass_time(25 * SECOND)
    assert Code.UNPROTECTED_POSITION not in (await world.state(strategy)).alerted
    await world.pass_time(10 * MINUTE)
    told = [each for each in await world.of_type(AlertTriggered) if each.code is Code.UNPROTECTED_POSITION]
    assert len(told) == 2
    assert told[0].facts["cure"] == "connect the broker"
    world.connected.add(USER)
    await world.pass_time(MINUTE)
    assert (await world.state(strategy)).exit_reason is Exit.STOPLOSS


async def test_what_was_lost_on_an_earlier_day_is_alerted_since_no_book_shows_it_any_more(
    archived: OpenArchived,
) -> None:
    world = await archived()
    strategy = await world.bought()
    lost = await since(world, ExecuteBuy)
    world.clock.set(world.clock.now() + DAY)
    await world.lose(lost)
    await world.pass_time(MINUTE)
    state = await world.state(strategy)
    assert (state.exit_reason, state.open_quantity) == (Exit.MISSED, 0)
    (told,) = [each for each in await world.of_type(AlertTriggered) if each.code is Code.OUTCOME_UNKNOWN]
    assert told.facts["cure"] == OF_ANOTHER_DAY
    world.checked = False  # the broker has what nobody here knows of


# --- who may restore, and from what ---------------------------------------------------------------------------------


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
    """It dies before its n-th command to Redis."""
    world = await archived()
    strategy = await world.bought()
    await world.archive_to(await world.log.last_position() - 2)
    for process in list(world.processes):
        await world.kill(process)
    await redis.flushall()
    assert world.archive is not None

    class Died(BaseException):
        pass

    calls = 0
    real_ask = clients._ask

    async def dying(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls > number:
            raise Died
        return await real_ask(*args)  # type: ignore[arg-type]

    again = {"keys": world.log.keys, "clock": world.clock, "defaults": DEFAULTS, "policy": world.policy}
    with monkeypatch.context() as patch:
        patch.setattr(clients, "_ask", dying)
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


# --- whatever happens -----------------------------------------------------------------------------------------------


async def _live_through(redis_url: str, redis: "Redis", engine: AsyncEngine, seed: int) -> Counter[str]:
    chance = random.Random(f"lost {seed}")
    plan = HealingPlan(seed, latency=chance.choice([0, 50_000, 1_500_000]))
    await redis.flushall()
    await redis.set(Keys().log_id, "SEED")  # the broker's faults follow from the tags, which begin so
    async with engine.begin() as connection:
        await connection.execute(text(f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)} CASCADE"))
    world = World(redis_url, redis, plan=plan, users=USERS, at=OPENING + MINUTE, archive=PostgresArchive(engine))
    try:
        await world.open("w1", "w2")
        strategies = [
            await world.running(user=each, buy_time=dt.time(9, 17), quantity=10)
            for each in USERS
            for _ in range(PER_USER)
        ]
        await world.pass_time(MINUTE)
        nemesis = Nemesis(world, strategies, seed)
        for _ in range(3):
            for _ in range(ACTIONS // 3):
                await nemesis.act()
            lost = min(chance.choice([0, 1, 3, 8, 20, 40, 60]), await world.log.last_position() - 40)
            nemesis.did.append(f"LOSE {lost}")
            await world.lose(max(0, lost))
        await _heal(world, plan)
        (await world.check()).all_final()
        for state in (await world.states()).values():
            assert state.open_quantity <= 0, state
            assert state.surfaced <= 0, state
            assert not state.settle_after, state
        return Counter(record.event.type for record in await world.records())
    except BaseException as error:
        error.add_note(f"seed {seed}, after {' '.join(nemesis.did)}")
        raise
    finally:
        await world.close()


SEEDS = 4


async def test_whatever_is_lost_the_invariants_hold_and_everything_ends(
    redis_url: str, redis: Redis, engine: AsyncEngine
) -> None:
    """Three losses in each life, of up to sixty events each."""
    # a process that dies leaves tasks behind of which nobody hears
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        seen += await _live_through(redis_url, redis, engine, seed)
    for each in ("ORDER_RECOVERED", "RECOVERY_SETTLED", "STRATEGY_RECOVERED", "SYSTEM_RECOVERY"):
        assert seen[each], f"never seen, so not tested: {each}"
