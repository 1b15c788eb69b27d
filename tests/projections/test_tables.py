"""The SQL projections made anew beside those that are read: what differs is told, and put right at once or not."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import delete, text

from bahi.database.tables import order_logs, parked, strategies
from domain.events import EventParked, ParkedRetried, StrategyCreated
from domain.values import Kind
from eventstore.envelope import NewEvent
from projections import tables as module
from projections.tables import RowDifference, rebuild_sql
from tests.projections.world import CONFIG, USER, World

TABLES = ((strategies, "id"), (order_logs, "tag"), (parked, "position"))


@pytest.fixture
async def lived(world: World) -> World:
    """Three strategies with their orders, and a parked event; all archived."""
    await world.day(1, Kind.STOPLOSS)
    await world.create(2)
    await world.start(2)
    await world.order(2, Kind.BUY)
    await world.create(3)
    await world.log.append([NewEvent(EventParked(parked="high/7", group="workers", error="why"), 0, USER)])
    await world.log.append([NewEvent(ParkedRetried(parked="high/7", who="me", why="again"), 0, USER)])
    await world.projector.step()
    return world


async def _rows(world: World) -> list[Any]:
    return [list(await world.rows(table, order)) for table, order in TABLES]


async def _nothing_is_left(world: World) -> None:
    """The server drops what a connection made once it sees that it has gone."""
    async with asyncio.timeout(60), world.engine.connect() as connection:
        while await connection.scalar(text("SELECT count(*) FROM pg_class WHERE relpersistence = 't'")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_where_both_agree_nothing_is_written(lived: World) -> None:
    before = await lived.execute("SELECT ctid, xmin, id FROM strategies ORDER BY id")
    told: list[tuple[int, int]] = []
    done = await rebuild_sql(lived.archive, lambda *now: told.append(now))
    last = await lived.archive.last_position()
    assert (done.events, done.rows, done.differences, done.first, done.switched) == (last, 3 + 3 + 1, 0, (), False)
    assert told[-1] == (last, last)
    assert await lived.execute("SELECT ctid, xmin, id FROM strategies ORDER BY id") == before


@pytest.mark.parametrize("page", [1, 2, 5000])
async def test_every_row_that_differs_is_told_and_put_right(
    lived: World, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGE", page)
    monkeypatch.setattr(module, "_BATCH", 3 * page)
    before = await _rows(lived)
    sold = next(row.tag for row in before[1] if row.kind == "STOPLOSS")
    await lived.execute("UPDATE strategies SET quantity = 11, stop_loss = 1480.51 WHERE id = 2 RETURNING 1")
    await lived.execute("DELETE FROM strategies WHERE id = 3 RETURNING 1")
    await lived.execute(
        "INSERT INTO strategies"
        " (SELECT (jsonb_populate_record(s, :id)).* FROM strategies AS s WHERE id = 1) RETURNING 1",
        id='{"id": 9}',
    )
    await lived.execute("UPDATE order_logs SET average_price = NULL WHERE tag = :tag RETURNING 1", tag=sold)
    await lived.execute("UPDATE parked SET state = 'parked' RETURNING 1")
    altered = await _rows(lived)

    found = await rebuild_sql(lived.archive, compare_only=True)
    assert [str(each) for each in found.first] == [
        "strategies 2: quantity is 11, the log makes it 10",
        "strategies 2: stop_loss is 1480.51, the log makes it 1480.50",
        "strategies 3 is missing",
        "strategies 9 is there, and the log makes no such row",
        f"order_logs {sold}: average_price is None, the log makes it 1500.35",
        "parked 7/workers: state is parked, the log makes it retried",
    ]
    assert (found.differences, found.switched) == (5, False)
    assert await _rows(lived) == altered

    done = await rebuild_sql(lived.archive)
    assert (done.differences, done.first, done.switched) == (5, found.first, True)
    assert await _rows(lived) == before
    assert (await rebuild_sql(lived.archive)).differences == 0
    await _nothing_is_left(lived)


async def test_a_table_that_was_emptied_comes_back(lived: World) -> None:
    before = await _rows(lived)
    async with lived.engine.begin() as connection:
        for table, _ in TABLES:
            await connection.execute(delete(table))
    done = await rebuild_sql(lived.archive)
    assert done.differences == done.rows == 7
    assert await _rows(lived) == before


async def test_the_old_rows_serve_and_the_projector_goes_on_meanwhile(
    lived: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is archived while the tables are made, compared or about to be switched is in them too."""
    await lived.execute("UPDATE strategies SET quantity = 11 WHERE id = 2 RETURNING 1")
    compare, seen = module._Compared.compare, []

    async def meanwhile(self: Any, *, switch: bool = False) -> int:
        if self._name == "strategies" and not switch:
            seen.append(await lived.rows(strategies, "id"))
            await lived.create(4 + len(seen))
            await lived.order(2, Kind.SELL)
            await lived.projector.step()
        return await compare(self, switch=switch)

    monkeypatch.setattr(module._Compared, "compare", meanwhile)
    done = await rebuild_sql(lived.archive)
    assert [row.quantity for row in seen[0]] == [10, 11, 10]
    assert done.switched
    assert done.events == await lived.archive.last_position()
    assert [row.quantity for row in await lived.rows(strategies, "id")] == [10, 10, 10, 10]
    assert (await rebuild_sql(lived.archive)).differences == 0


async def test_the_projector_waits_while_rows_are_put_right(lived: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await lived.execute("UPDATE strategies SET quantity = 11 WHERE id = 2 RETURNING 1")
    switch, archiving = module._Compared._switch, []

    async def meanwhile(self: Any, *given: Any) -> None:
        archiving.append(asyncio.create_task(lived.projector.step()))
        await switch(self, *given)
        assert not archiving[0].done()

    await lived.create(4)
    monkeypatch.setattr(module._Compared, "_switch", meanwhile)
    await rebuild_sql(lived.archive)
    await archiving[0]
    assert [row.id for row in await lived.rows(strategies, "id")] == [1, 2, 3, 4]
    assert (await rebuild_sql(lived.archive)).differences == 0


@pytest.mark.parametrize("where", ["follow", "compare", "_switch"])
async def test_a_crash_leaves_the_old_rows(lived: World, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await lived.execute("UPDATE strategies SET quantity = 11 WHERE id = 2 RETURNING 1")
    await lived.execute("DELETE FROM order_logs RETURNING 1")
    before = await _rows(lived)
    owner = module._Shadow if where == "follow" else module._Compared
    act = getattr(owner, where)

    async def crash(self: Any, *given: Any, **named: Any) -> Any:
        await act(self, *given, **named)
        if where == "follow" or self._name == "order_logs":
            raise OSError("the machine went down")
        return 1

    with monkeypatch.context() as patch:
        patch.setattr(owner, where, crash)
        with pytest.raises(OSError, match="went down"):
            await rebuild_sql(lived.archive)
    assert await _rows(lived) == before
    await _nothing_is_left(lived)
    done = await rebuild_sql(lived.archive)
    assert (done.differences, done.switched) == (4, True)
    assert (await rebuild_sql(lived.archive)).differences == 0


async def test_what_cannot_be_projected_is_left_out_as_by_the_projector(lived: World) -> None:
    await lived.create(4)
    unfit = StrategyCreated(config=replace(CONFIG, quantity=2**63))
    await lived.append(5, unfit)
    await lived.create(6)
    await lived.projector.step()
    assert [row.id for row in await lived.rows(strategies, "id")] == [1, 2, 3, 4, 6]
    done = await rebuild_sql(lived.archive)
    assert done.differences == 0
    assert [(fault.strategy_id, fault.kind) for fault in done.faults] == [(5, "illegal")]


def test_a_difference_says_what_is_there_and_what_should_be() -> None:
    assert str(RowDifference("parked", "7/w", "who", "None", "me")) == "parked 7/w: who is None, the log makes it me"
