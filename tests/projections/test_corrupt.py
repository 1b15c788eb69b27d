"""A runtime that is not what its events make of it: which strategies, and what differs, told at the start."""

import hashlib

import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from domain.events import StrategyReady
from domain.values import Kind
from eventstore.archive_tables import snapshots
from eventstore.errors import LogHole
from eventstore.loading import Loaded
from eventstore.log import EventLog
from projections import snapshots as module
from projections.compare import corrupt_strategies
from projections.snapshots import newest_point
from projections.snapshotter import take_snapshot
from tests.projections.world import World


@pytest.fixture
async def lived(world: World) -> World:
    """Three strategies, known from a snapshot but for the last events; one of those is not archived yet."""
    await world.day(1, Kind.STOPLOSS)
    await world.create(2)
    await world.start(2)
    await world.create(3)
    await world.projector.step()
    assert await take_snapshot(world.archive) == await world.log.last_position()
    await world.order(2, Kind.BUY)
    await world.projector.step()
    await world.start(3)
    return world


async def test_a_sound_system_has_none(lived: World) -> None:
    assert await corrupt_strategies(lived.log) == {}
    await lived.trim(await lived.archive.last_position())
    assert await corrupt_strategies(lived.log) == {}


async def test_each_is_told_with_what_differs(lived: World) -> None:
    await lived.redis.hset("runtime:2", mapping={"sold": "10", "open_quantity": "0"})
    await lived.redis.hset("strategy:1", "quantity", "11")
    await lived.redis.hset("runtime:3", "status", "sleeping")
    await lived.redis.delete("strategy:9")
    await lived.redis.hset("strategy:9", "version", "3")
    found = await corrupt_strategies(lived.log)
    assert found[1] == "quantity: the log says 10, Redis says 11"
    assert found[2] == "open_quantity: the log says 10, Redis says 0; sold: the log says 0, Redis says 10"
    assert found[3].startswith("the log says something readable, Redis says strategy 3: ")
    assert found[9] == "version: the log says nothing of it, Redis says 3"
    assert len(found) == 4


async def test_a_strategy_that_moves_meanwhile_is_compared_at_its_version(
    lived: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, moved = EventLog.load_many, []

    async def meanwhile(log: EventLog, ids: list[int]) -> list[Loaded]:
        if not moved:
            moved.append(await lived.blind(3, StrategyReady(run=99)))
            await lived.order(2, Kind.SELL)
            await lived.create(4)
        return await load(log, ids)

    monkeypatch.setattr(EventLog, "load_many", meanwhile)
    assert await corrupt_strategies(lived.log) == {}
    assert moved
    moved.clear()
    await lived.redis.hset("runtime:3", "ready", "0")
    assert list(await corrupt_strategies(lived.log)) == [3]


async def test_a_wrong_snapshot_makes_nobody_corrupt(lived: World) -> None:
    """Somebody who can write the database can make one that adds up. The events decide, and it is dropped."""
    async with lived.engine.begin() as connection:
        found = await connection.execute(select(snapshots.c.strategy_id, snapshots.c.state).order_by("strategy_id"))
        packed = {row.strategy_id: row.state for row in found}
        state = module._unpack_state(packed[1])
        state.quantity = 11
        packed[1] = module._pack(state)
        digest = hashlib.sha256()
        for strategy_id, each in packed.items():
            module._add(digest, strategy_id, each)
        await connection.execute(text("UPDATE snapshots SET state = :s WHERE strategy_id = 1"), {"s": packed[1]})
        await connection.execute(text("UPDATE snapshot_points SET digest = :d"), {"d": digest.digest()})
    await lived.redis.hset("runtime:2", "sold", "10")
    with capture_logs() as lines:
        assert list(await corrupt_strategies(lived.log)) == [2]
    assert [(line["event"], line["of"]) for line in lines] == [("snapshot_wrong", [1])]
    assert await newest_point(lived.archive) == 0


async def test_a_hole_is_no_state_to_judge_by(lived: World) -> None:
    await lived.execute("DELETE FROM snapshot_points RETURNING 1")
    await lived.trim(20)
    await lived.execute("DELETE FROM events WHERE position = 7 RETURNING 1")
    with pytest.raises(LogHole, match="7"):
        await corrupt_strategies(lived.log)
