"""Verify: silent on what is right, and on each kind of damage the right kind and position."""

import pytest

from domain.events import CancelRequested, StrategyReady, StrategyStopRequested, StrategyUpdated
from domain.values import Exit, Kind
from eventstore.clients import command
from eventstore.envelope import NewEvent, encode
from projections.fold import Difference, Report, compare_live, verify
from tests.projections.world import USER, World


@pytest.fixture
async def lived(world: World) -> World:
    """Three strategies: one done, one bought, one running."""
    await world.day(1)
    await world.create(2)
    await world.start(2)
    await world.order(2, Kind.BUY)
    await world.create(3)
    await world.start(3)
    return world


def _told(report: Report) -> list[tuple[int, str]]:
    return [(fault.position, fault.kind) for fault in report.faults]


async def test_an_untouched_log_has_no_fault(lived: World) -> None:
    report = await verify(lived.log)
    assert _told(report) == []
    assert (report.ok, report.first, report.strategies) == (True, None, 3)
    await lived.projector.step()
    await lived.trim(20)
    told: list[tuple[int, int]] = []
    report = await verify(lived.log, progress=lambda *done: told.append(done))
    assert _told(report) == []
    assert report.archived == report.events == told[-1][0]


async def test_a_deleted_entry_is_a_hole(lived: World) -> None:
    await lived.redis.xdel("events:high", "6-0")
    report = await verify(lived.log)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (6, "hole")
    assert not report.holds("hole")
    assert report.holds("time", "corrupt")


@pytest.mark.parametrize(
    ("key", "field", "value", "name"),
    [
        ("runtime:2", "sold", "4", "sold"),
        ("runtime:2", "status", "stopped", "status"),
        ("runtime:3", "stop_loss", "1480.51", "stop_loss"),
        ("strategy:3", "quantity", "11", "quantity"),
        ("strategy:3", "version", "99", "version"),
        ("runtime:2", "order", '{"tag":"x"}', ""),
    ],
)
async def test_an_altered_field_is_named(lived: World, key: str, field: str, value: str, name: str) -> None:
    await lived.redis.hset(key, field, value)
    strategy_id = int(key[-1])
    found = await compare_live(lived.log)
    if field == "version":
        assert found == [Difference(3, "version", "5", "99", found[0].position)]
    else:
        assert [(each.strategy_id, each.field) for each in found] == [(strategy_id, name)]
    report = await verify(lived.log)
    assert [(fault.strategy_id, fault.kind) for fault in report.faults] == [(strategy_id, "live")]


@pytest.mark.parametrize("key", ["strategy:2", "runtime:2"])
async def test_a_deleted_hash_is_found(lived: World, key: str) -> None:
    await lived.redis.delete(key)
    assert {each.strategy_id for each in await compare_live(lived.log)} == {2}


async def test_a_strategy_that_no_event_speaks_of_is_found(lived: World) -> None:
    await lived.redis.hset("strategy:9", "version", "3")
    assert await compare_live(lived.log) == [Difference(9, "version", "nothing of it", "3", 0)]


async def test_a_version_gap_is_found(lived: World) -> None:
    envelope = encode(NewEvent(StrategyReady(run=99), 3, USER), "x-1", "x")
    position = await lived.foreign("medium", envelope, strategy_id=3, version=8)
    report = await verify(lived.log)
    assert (position, "version") in _told(report)


async def test_a_corrupt_entry_is_found(lived: World) -> None:
    position = await lived.foreign("low", b"\xc1")
    assert _told(await verify(lived.log)) == [(position, "corrupt")]


async def test_an_archive_that_says_something_else_is_found(lived: World) -> None:
    await lived.projector.step()
    await lived.execute("UPDATE events SET envelope = envelope || '\\x00' WHERE position = 12 RETURNING 1")
    await lived.execute("DELETE FROM events WHERE position = 14 RETURNING 1")
    assert _told(await verify(lived.log)) == [(12, "archive"), (14, "archive")]
    await lived.trim(20)
    report = await verify(lived.log)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (12, "corrupt")
    assert (14, "hole") in _told(report)


async def test_an_entry_beyond_the_end_is_found(lived: World) -> None:
    await lived.redis.xadd("events:low", {"v": "0", "t": "0", "e": "x"}, id="1000-0")
    assert _told(await verify(lived.log)) == [(1000, "corrupt")]


async def test_time_that_runs_backwards_is_found(lived: World) -> None:
    envelope = encode(NewEvent(StrategyReady(run=99), 0, USER), "x-1", "x")
    position = int(await command(lived.log.redis, "HINCRBY", "position", "position", 1))
    await lived.redis.xadd("events:medium", {"v": "0", "t": "5", "e": envelope}, id=f"{position}-0")
    assert (position, "time") in _told(await verify(lived.log))


async def test_an_effect_must_name_what_caused_it(lived: World) -> None:
    tag = await lived.intend(3, Kind.BUY, cause="nobody-1")
    position = await lived.log.last_position()
    assert _told(await verify(lived.log)) == [(position, "cause")]
    cancel = CancelRequested(tag=tag, order_id="7", why="", at=0, deadline=0)
    await lived.append(3, cancel)  # time, for which a strategy with an open order waits
    assert _told(await verify(lived.log)) == [(position, "cause")]
    await lived.create(4)
    unfounded = (await lived.append(4, cancel)).positions[0]
    assert _told(await verify(lived.log)) == [(position, "cause"), (unfounded, "cause")]


async def test_a_square_off_may_wait_for_a_session_after_the_run_has_ended(lived: World) -> None:
    await lived.end(2, Exit.ABORT)
    await lived.blind(2, StrategyStopRequested(square_off=True))
    await lived.intend(2, Kind.SELL, cause="")  # time, for which it waited with shares that nobody could sell
    assert _told(await verify(lived.log)) == []


async def test_a_runtime_that_expired_is_not_missed(lived: World) -> None:
    await lived.redis.delete("runtime:1")
    assert {each.strategy_id for each in await compare_live(lived.log)} == {1}
    lived.sleep_a_day()
    assert await compare_live(lived.log) == []
    await lived.append(1, StrategyUpdated(stop_revision=2, quantity=12))  # a hash again, of the changed fields only
    assert await compare_live(lived.log) == []
    await lived.redis.hset("strategy:1", "quantity", "13")
    assert [each.field for each in await compare_live(lived.log)] == ["quantity"]


async def test_trading_may_go_on_meanwhile(lived: World) -> None:
    """What is appended between the replay and the look is read before it is judged."""
    load_many = lived.log.load_many

    async def meanwhile(ids: list[int]) -> object:
        await lived.order(3, Kind.BUY)
        await lived.create(5)
        return await load_many(ids)

    lived.log.load_many = meanwhile  # type: ignore[method-assign, assignment]
    assert await compare_live(lived.log) == []
