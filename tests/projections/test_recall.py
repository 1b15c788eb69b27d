"""A follower that has just started recalls a strategy from the last snapshot and its own events since: the row is the
same as if it had seen all of them."""

from collections.abc import Sequence
from typing import Any

import pytest

from bahi.database.tables import order_logs, strategies
from domain.events import SchedulerResyncRequired
from domain.values import Exit, Kind
from eventstore.archive import PostgresArchive
from projections.snapshotter import take_snapshot
from projections.sql import recall
from tests.projections.world import World


async def rows(world: World) -> list[Sequence[Any]]:
    return [await world.rows(strategies, "id"), await world.rows(order_logs, "tag")]


async def days(world: World) -> None:
    """One that has ended, one under way, one that sleeps, and one of two runs."""
    await world.day(1, Kind.STOPLOSS)
    await world.create(2)
    await world.start(2)
    await world.create(3)
    await world.day(4)
    world.sleep_a_day()
    await world.start(4)


async def later(world: World) -> None:
    await world.order(2, Kind.BUY)
    await world.start(3)
    await world.order(4, Kind.BUY)
    await world.order(4, Kind.SELL)
    await world.end(4, Exit.SELL)
    await world.create(5)
    world.sleep_a_day()
    await world.start(1)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], int]]:
    """Whose histories were read, and from where on."""
    calls: list[tuple[list[int], int]] = []
    histories = PostgresArchive.histories

    async def noting(self: Any, connection: Any, ids: Any, until: int, *, after: int = 0) -> Any:
        calls.append((sorted(ids), after))
        return await histories(self, connection, ids, until, after=after)

    monkeypatch.setattr(PostgresArchive, "histories", noting)
    return calls


@pytest.mark.parametrize("snapshot", [False, True])
async def test_a_row_is_the_same_however_its_strategy_was_recalled(
    world: World, asked: list[tuple[list[int], int]], snapshot: bool
) -> None:
    await days(world)
    await world.projector.step()
    point = await take_snapshot(world.archive) if snapshot else 0
    await later(world)
    await world.new_projector(batch=1).step()
    assert {after for _, after in asked} == {point}
    recalled = await rows(world)

    for table in ("strategies", "order_logs", "checkpoint"):
        await world.execute(f"DELETE FROM {table} RETURNING 1")  # noqa: S608
    await world.execute("DELETE FROM events RETURNING 1")
    await world.new_projector().step()
    assert await rows(world) == recalled


async def test_what_was_realised_is_recalled_with_the_strategy(world: World) -> None:
    await days(world)
    await world.projector.step()
    await take_snapshot(world.archive)
    before = await world.rows(strategies, "id")
    assert [row.realised is None for row in before] == [False, True, True, True]
    for strategy_id in (1, 2, 3, 4):
        await world.append(strategy_id, SchedulerResyncRequired())  # of which nothing follows
    await world.new_projector().step()
    for row, past in zip(await world.rows(strategies, "id"), before, strict=True):
        assert row.version == past.version + 1
        assert (row.realised, row.created_at, row.status) == (past.realised, past.created_at, past.status)


async def test_another_programs_snapshot_is_not_used(world: World, asked: list[tuple[list[int], int]]) -> None:
    await days(world)
    await world.projector.step()
    await take_snapshot(world.archive)
    await world.execute("UPDATE snapshot_points SET fold = 'another' RETURNING 1")
    await later(world)
    await world.new_projector().step()
    assert {after for _, after in asked} == {0}
    assert (await world.rows(strategies, "id"))[3].version == (await world.state(4)).version


async def test_a_strategy_that_the_snapshot_cannot_tell_is_recalled_from_its_first_event(
    world: World, asked: list[tuple[list[int], int]]
) -> None:
    await days(world)
    await world.projector.step()
    point = await take_snapshot(world.archive)
    await world.execute("UPDATE snapshots SET state = '\\xc1' WHERE strategy_id = 2 RETURNING 1")
    await world.execute("DELETE FROM snapshots WHERE strategy_id = 4 RETURNING 1")
    await later(world)
    await world.new_projector().step()
    assert asked == [([1, 3], point), ([2, 4], 0)]
    for row in await world.rows(strategies, "id"):
        state = await world.state(row.id)
        assert (row.version, row.status, row.open_quantity) == (state.version, state.status, state.open_quantity)


async def test_many_are_recalled_some_at_a_time(
    world: World, asked: list[tuple[list[int], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.sql.projections.AT_ONCE", 2)
    assert recall.AT_ONCE > 2
    await days(world)
    await world.projector.step()
    await later(world)
    await world.new_projector().step()
    assert asked == [([2, 3], 0), ([1, 4], 0)]
