"""What verification says of seals besides single changes (`test_tampering`): ranges, anchors, partitions, waiting."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from bahi.database.engine import create_engine
from bahi.seal_keys import open_keys, rotate_key
from domain.events import UserRegistered
from domain.values import HOUR, MINUTE
from eventstore.archive import PostgresArchive
from eventstore.envelope import NewEvent
from eventstore.log import EventLog
from eventstore.open import open_log
from eventstore.seal_chain import Anchor
from eventstore.seals import hints_of, leaf
from projections.fold import Report, verify
from projections.projector import Projector
from projections.runtime import DEFAULTS
from projections.sealed import Trusted
from simulation.clock import VirtualClock
from tests.projections.sealed import BOX, chain, sealing
from tests.projections.world import MORNING, World


@pytest.fixture
async def sealed(world: World) -> World:
    """Three strategies, archived and sealed ten by ten, the last few not yet; the streams hold the newer half."""
    for strategy_id in (1, 2, 3):
        await world.day(strategy_id)
    world.projector = world.new_projector(sealing=sealing())
    await world.projector.step()
    await world.trim(await world.log.last_position() // 2)
    return world


def _told(report: Report) -> list[tuple[int, str]]:
    return [(fault.position, fault.kind) for fault in report.faults]


async def _change(world: World, position: int) -> None:
    """The last byte of the envelope, which can still be read."""
    await world.execute(
        "UPDATE events SET envelope = set_byte(envelope, length(envelope) - 1, get_byte(envelope, length(envelope) - 1)"
        " # 1) WHERE position = :position RETURNING 1",
        position=position,
    )


async def test_without_hints_a_change_that_shows_nowhere_else_leaves_the_range_of_its_seal(sealed: World) -> None:
    await sealed.execute("UPDATE seals SET hints = NULL RETURNING 1")
    await sealed.execute("UPDATE events SET version = 0 WHERE position = 13 RETURNING 1")
    await _change(sealed, 4)
    report = await verify(sealed.log)
    assert (4, "seal_cover") in _told(report) or (1, "seal_cover") in _told(report)
    assert (13, "seal_cover") not in _told(report)
    # the version that is missing shows at the next event of the strategy, and the seal's fault is told there
    where = next(fault.position for fault in report.faults if fault.kind == "version")
    assert (where, "seal_cover") in _told(report)
    assert any("which of them, it does not tell" in fault.text for fault in report.faults)


async def test_both_the_event_and_its_hint_changed_are_still_found_in_their_seal(sealed: World) -> None:
    await _change(sealed, 13)
    leaves = [leaf(raw) for raw in await sealed.archive.entries(10, 20)]
    await sealed.execute("UPDATE seals SET hints = :hints WHERE number = 2 RETURNING 1", hints=hints_of(leaves))
    report = await verify(sealed.log)
    assert report.first is not None
    assert 11 <= report.first.position <= 20
    assert not report.holds("seal_cover")


async def test_what_redis_was_told_of_the_newest_seal_is_an_anchor(sealed: World) -> None:
    newest = (await chain(sealed.engine))[-1]
    assert await sealed.redis.get("sealed") == f"{newest.number}:{newest.hash.hex()}".encode()
    await sealed.redis.set("sealed", f"{newest.number}:{'ab' * 32}")
    assert _told(await verify(sealed.log)) == [(newest.first, "seal_chain")]
    # what somebody wrote down himself comes before what Redis says
    mine = Anchor(0, newest.number, newest.hash)
    assert _told(await verify(sealed.log, anchors=[mine])) == []
    assert _told(await verify(sealed.log, anchors=[Anchor(1, 1, bytes(32)), mine])) == []
    await sealed.redis.set("sealed", "nonsense")
    assert _told(await verify(sealed.log)) == [(newest.last + 1, "seal_chain")]


async def test_what_is_not_sealed_yet_is_told_and_no_fault_until_it_is_overdue(sealed: World) -> None:
    report = await verify(sealed.log)
    assert report.ok
    assert report.sealed < report.archived
    first = (await sealed.archive.entries(report.sealed, report.sealed + 1))[0]
    assert report.unsealed_since == first.recorded_at
    assert (await verify(sealed.log, overdue=MINUTE)).ok
    sealed.time.set(sealed.time.now() + HOUR)
    assert (await verify(sealed.log)).ok
    assert _told(await verify(sealed.log, overdue=MINUTE)) == [(report.sealed + 1, "unsealed")]
    await sealed.projector.seal()
    report = await verify(sealed.log, overdue=MINUTE)
    assert (report.ok, report.unsealed_since, report.sealed) == (True, 0, report.archived)


async def test_seals_of_before_and_after_a_rotation_are_trusted(sealed: World) -> None:
    await rotate_key(sealed.engine, BOX)
    await sealed.day(4)
    await sealed.projector.step()
    async with sealed.engine.connect() as connection:
        opened = await open_keys(connection, BOX)
    assert len({seal.key_id for seal in await chain(sealed.engine)}) == 2
    for public in opened.trusted:
        assert (await verify(sealed.log, trusted=Trusted(opened.keys, [public]))).ok
    report = await verify(sealed.log, trusted=Trusted(opened.keys, [], {opened.keys[0].id: "it was lost"}))
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (1, "seal_signature")
    assert "it was lost" in report.first.text
    assert report.kinds == {"seal_signature"}
    assert report.fault_count == report.seals


async def test_trading_and_sealing_may_go_on_meanwhile(sealed: World) -> None:
    load_many = sealed.log.load_many

    async def meanwhile(ids: list[int]) -> object:
        sealed.log.load_many = load_many  # type: ignore[method-assign]
        await sealed.day(4)
        await sealed.projector.step()
        await sealed.projector.seal(rest=True)
        await sealed.trim(await sealed.log.last_position() - 5)
        return await load_many(ids)

    sealed.log.load_many = meanwhile  # type: ignore[method-assign, assignment]
    assert _told(await verify(sealed.log)) == []
    assert _told(await verify(sealed.log)) == []


async def test_after_a_recovery_the_streams_need_not_hold_what_was_before(sealed: World) -> None:
    """Nothing is called deleted that a new epoch never had."""
    keys = sealed.log.keys
    last = await sealed.log.last_position()
    await sealed.redis.xdel(keys.streams["medium"], f"{last}-0")  # type: ignore[index]
    assert not (await verify(sealed.log)).ok
    lineage = [
        {"number": 1, "epoch": "before", "log_id": "AAAA", "after": 0, "reason": "FIRST_START"},
        {"number": 2, "epoch": sealed.log.epoch, "log_id": sealed.log.log_id, "after": last, "reason": "RECOVERY"},
    ]
    await sealed.redis.rpush(keys.epochs, *(json.dumps(each) for each in lineage))
    assert _told(await verify(sealed.log)) == []


@pytest.fixture
async def two(redis: Redis, redis_url: str, database_url: str) -> AsyncIterator[list[EventLog]]:
    """Two partitions, archived and sealed."""
    clock = VirtualClock(MORNING)
    async with AsyncExitStack() as stack:
        engine = create_engine(database_url)
        stack.push_async_callback(engine.dispose)
        logs = []
        for partition in range(2):
            options = {"partition": partition, "partitions": 2, "archive": PostgresArchive(engine, partition)}
            log = await open_log(redis_url, clock=clock, defaults=DEFAULTS, allow_weak=True, **options)  # type: ignore[arg-type]
            stack.push_async_callback(log.aclose)
            await log.append([NewEvent(UserRegistered(), user_id=2 * n + partition) for n in range(12)])
            await Projector(log, engine, clock, sealing=sealing(events=5, partition=partition)).step()
            logs.append(log)
        yield logs


async def test_each_partition_is_verified_by_its_own_chain(two: list[EventLog]) -> None:
    reports = [await verify(log, partitions=2) for log in two]
    assert [(report.ok, report.sealed) for report in reports] == [(True, 10), (True, 10)]
    heads = [report.head for report in reports]
    assert heads[0] is not None
    assert heads[1] is not None
    anchors = [Anchor(partition, 2, head.hash) for partition, head in enumerate(heads) if head]
    assert all([(await verify(log, anchors=anchors)).ok for log in two])
    crossed = [Anchor(0, 2, heads[1].hash)]
    assert [(await verify(log, anchors=crossed)).ok for log in two] == [False, True]


async def test_what_is_archived_of_a_partition_that_is_not_is_found(two: list[EventLog]) -> None:
    engine = two[0].archive.engine  # type: ignore[union-attr]
    for stray in (2, -1):
        async with engine.begin() as connection:
            await connection.exec_driver_sql(
                f"UPDATE events SET partition = {stray} WHERE partition = 1 AND position = 7"  # noqa: S608
            )
        report = await verify(two[0], partitions=2)
        assert _told(report) == [(7, "archive")]
        assert f"partition {stray}, which does not exist" in report.faults[0].text
        assert (7, "archive") in _told(await verify(two[1], partitions=2))
        async with engine.begin() as connection:
            await connection.exec_driver_sql("UPDATE events SET partition = 1 WHERE partition NOT IN (0, 1)")
    assert (await verify(two[0], partitions=2)).ok
