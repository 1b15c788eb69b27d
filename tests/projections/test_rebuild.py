"""Rebuild: what was lost comes back exactly as it was, and nobody who trades meanwhile is overwritten."""

import pytest

from bahi.database.tables import order_logs, strategies
from domain.events import StrategyReady, UserHalted
from domain.values import Kind
from eventstore import restoring
from eventstore.envelope import NewEvent
from projections.fold import compare_live, rebuild, rebuild_redis
from projections.snapshotter import take_snapshot
from tests.projections.world import USER, World

VIEWS = ("strategy:", "runtime:", "symbol:", "user:", "halt:")


def _views(name: str) -> bool:
    return name.startswith(VIEWS)


async def _live(world: World) -> None:
    await world.day(1, Kind.STOPLOSS)
    await world.create(2)
    await world.start(2)
    await world.order(2, Kind.BUY)
    await world.create(3)
    await world.start(3)
    await world.intend(3, Kind.BUY, await world.trigger(3, Kind.BUY))
    await world.log.append([NewEvent(UserHalted(square_off=True), user_id=USER)])


async def test_everything_in_redis_comes_back_as_it_was(world: World) -> None:
    await _live(world)
    before = await world.dump(_views)
    assert len(before) == 3 + 3 + 1 + 1 + 1
    for name in before:
        await world.redis.delete(name)
    await world.redis.delete("timers")
    done = await rebuild_redis(world.log)
    assert (done.events, done.strategies, done.halts, done.faults) == (await world.log.last_position(), 3, 1, ())
    assert await world.dump(_views) == before
    assert await compare_live(world.log) == []
    # whoever may have something to do is looked at
    assert await world.redis.zrange("timers", 0, -1) == [b"2", b"3"]
    # what expires still does
    assert 0 < await world.redis.ttl("runtime:1") <= 86_400
    assert await world.redis.ttl("runtime:2") == -1


async def test_what_was_altered_or_invented_goes(world: World) -> None:
    await _live(world)
    before = await world.dump(_views)
    await world.redis.hset("runtime:2", "sold", "10")
    await world.redis.hset("strategy:1", "version", "1000")
    await world.redis.hset("strategy:77", "version", "5")
    await world.redis.set("halt:99", "{}")
    await world.redis.sadd("symbol:NSE:INFY:strategies", 1)
    await rebuild(world.log)
    assert await world.dump(_views) == before


async def test_an_expired_runtime_stays_away(world: World) -> None:
    await world.day(1)
    world.sleep_a_day()
    await world.redis.delete("runtime:1")
    await rebuild(world.log)
    assert not await world.redis.exists("runtime:1")
    assert await compare_live(world.log) == []


async def test_what_is_appended_meanwhile_is_not_overwritten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await _live(world)
    await world.redis.delete("runtime:2")
    restore = restoring.restore_strategies
    calls: list[int] = []

    async def meanwhile(log: object, states: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            await world.fill(3, (await world.state(3)).order.tag)  # type: ignore[union-attr]
            await world.blind(2, StrategyReady(run=99))
        return await restore(log, states)  # type: ignore[arg-type]

    monkeypatch.setattr("projections.rebuild.restore_strategies", meanwhile)
    await rebuild(world.log)
    assert len(calls) == 2
    assert (await world.state(3)).bought == 10
    assert await compare_live(world.log) == []


async def test_a_snapshot_makes_no_difference_to_what_is_rebuilt(world: World) -> None:
    await _live(world)
    await world.projector.step()
    point = await take_snapshot(world.archive)
    await world.fill(3, (await world.state(3)).order.tag)  # type: ignore[union-attr]
    before = await world.dump(_views)
    for from_start in (False, True):
        await world.redis.hset("runtime:2", "sold", "10")
        await world.redis.delete("runtime:3", f"halt:{USER}")
        done = await rebuild_redis(world.log, from_start=from_start)
        assert (done.events, done.since) == (await world.log.last_position(), 0 if from_start else point)
        assert await world.dump(_views) == before


async def test_both_are_rebuilt(world: World) -> None:
    await _live(world)
    await world.projector.step()
    before = [await world.rows(strategies, "id"), await world.rows(order_logs, "tag")]
    await world.execute("UPDATE strategies SET status = 'failed' RETURNING 1")
    await world.redis.delete("runtime:2")
    await rebuild(world.log, world.engine)
    assert [await world.rows(strategies, "id"), await world.rows(order_logs, "tag")] == before
    assert await compare_live(world.log) == []
