"""Snapshots: they change how long it takes to know every state, and never what is known."""

import asyncio
import random
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from bahi.database.engine import create_engine
from domain.events import Event
from domain.strategy import State, fold, initial
from domain.values import DAY
from eventstore.archive import PostgresArchive
from eventstore.archive_tables import snapshot_points, snapshots
from eventstore.envelope import Raw
from eventstore.errors import LogHole
from projections import snapshots as module
from projections.replay import Fault, Replay
from projections.restoration import restore
from projections.snapshots import newest_snapshot
from projections.snapshotter import Snapshotter, take_snapshot
from tests.projections.histories import archive, history
from tests.property.test_totality import HISTORIES

EVENTS = 600


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(database_url)
    yield made
    await made.dispose()


async def _points(here: PostgresArchive) -> list[tuple[int, int]]:
    """Positions and times."""
    async with here.engine.connect() as connection:
        found = select(snapshot_points.c.position, snapshot_points.c.recorded_at).where(
            snapshot_points.c.partition == here.partition
        )
        return [tuple(row) for row in await connection.execute(found.order_by("position"))]


async def _rows(here: PostgresArchive) -> int:
    async with here.engine.connect() as connection:
        found = select(func.count()).where(snapshots.c.partition == here.partition)
        return await connection.scalar(found) or 0


async def _execute(here: PostgresArchive, statement: str) -> None:
    async with here.engine.begin() as connection:
        await connection.execute(text(statement))


def _ignore(_: Fault) -> None:
    """There are some, on purpose."""


def _folded(raws: list[Raw]) -> Replay:
    replay = Replay(on_fault=_ignore)
    replay.feed(raws)
    return replay


async def _assert_same(here: PostgresArchive, raws: list[Raw], until: int) -> int:
    """With snapshots it is as it is without. The point that was begun with."""
    found = await restore(here, until, on_fault=_ignore)
    expected = _folded(raws[:until])
    assert found.states == expected.states
    assert found.halts == expected.halts
    assert (found.position, found.recorded_at) == (expected.position, expected.recorded_at)
    assert (await restore(here, until, snapshots=False, on_fault=_ignore)).states == expected.states
    return found.since


@given(HISTORIES)
def test_a_state_comes_back_from_its_bytes_exactly_as_it_was(events: list[Event]) -> None:
    state = fold(initial(7, 1), events)
    state.updated_at, state.position_in_log = 1_795_000_000_000_001, 99
    packed = msgspec.msgpack.encode(state)
    again = msgspec.msgpack.decode(packed, type=State)
    assert again == state
    assert msgspec.msgpack.encode(again) == packed  # a Decimal to the last zero


async def test_with_snapshots_every_state_is_what_it_is_without(engine: AsyncEngine) -> None:
    """At any position, whenever snapshots were taken, with damaged entries and halted users."""
    for seed in range(4):
        rng = random.Random(seed)
        here, raws = PostgresArchive(engine, seed), history(seed, EVENTS)
        stored, taken = 0, []
        while stored < EVENTS:
            more = rng.randrange(1, 120)
            await archive(here, raws[stored : stored + more])
            stored = min(stored + more, EVENTS)
            if rng.random() < 0.8:
                assert await take_snapshot(here) == stored
                taken.append(stored)
            await _assert_same(here, raws, stored)
        begun = {await _assert_same(here, raws, until) for until in {0, 1, *rng.sample(range(EVENTS), 25), *taken}}
        # those that were not dropped were used
        assert begun == {0, *(position for position, _ in await _points(here))}


async def test_of_a_day_one_point_is_kept_and_only_what_it_needs(engine: AsyncEngine) -> None:
    here, raws = PostgresArchive(engine), history(9, EVENTS, days=3)
    for stored in range(0, EVENTS, 50):
        await archive(here, raws[stored : stored + 50])
        await take_snapshot(here)
    points = await _points(here)
    days = [at // DAY for _, at in points]
    assert len(days) == len(set(days)) >= 3
    assert points[-1][0] == EVENTS
    # every strategy once for each day, unless nothing happened to it
    assert await _rows(here) <= len(points) * len(_folded(raws).states)
    for position, _ in points:
        assert await _assert_same(here, raws, position) == position


async def test_there_is_nothing_to_take_twice(engine: AsyncEngine) -> None:
    here, raws = PostgresArchive(engine), history(1, 40)
    assert await take_snapshot(here) == 0
    await archive(here, raws)
    assert await take_snapshot(here) == 40
    assert await take_snapshot(here) == 0


async def test_another_programs_are_ignored_and_replaced(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    here, raws = PostgresArchive(engine), history(2, EVENTS)
    await archive(here, raws[:300])
    await take_snapshot(here)
    rows = await _rows(here)
    await archive(here, raws[300:])
    monkeypatch.setattr(module, "FOLD", "of tomorrow")
    assert await _assert_same(here, raws, EVENTS) == 0
    assert await take_snapshot(here) == EVENTS
    assert [position for position, _ in await _points(here)] == [EVENTS]
    assert await _rows(here) == len(_folded(raws).states) >= rows
    assert await _assert_same(here, raws, EVENTS) == EVENTS


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE snapshots SET state = '\\xc1' WHERE strategy_id = 3 AND position = 600",
        "UPDATE snapshots SET state = state || '\\x00' WHERE strategy_id = 3 AND position = 600",
        "DELETE FROM snapshots WHERE strategy_id = 3 AND position = 600",
        "INSERT INTO snapshots SELECT partition, 99, position, state FROM snapshots WHERE position = 600 LIMIT 1",
        "UPDATE snapshot_points SET halts = '\\xc1' WHERE position = 600",
    ],
)
async def test_one_that_does_not_add_up_is_ignored_and_replaced(engine: AsyncEngine, damage: str) -> None:
    here, raws = PostgresArchive(engine), history(3, 700, days=6)
    await archive(here, raws[:200])
    await take_snapshot(here)
    await archive(here, raws[200:600])
    await take_snapshot(here)
    await _execute(here, damage)
    with capture_logs() as lines:
        assert await _assert_same(here, raws, 600) == 200
    assert lines[0]["event"] == "snapshot_ignored"
    assert lines[0]["position"] == 600
    await archive(here, raws[600:])
    assert await take_snapshot(here) == 700
    assert await _assert_same(here, raws, 700) == 700
    assert await _assert_same(here, raws, 650) == 200


async def test_a_state_that_cannot_be_read_is_no_crash(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    here, raws = PostgresArchive(engine), history(4, 200)
    await archive(here, raws)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_pack", lambda _: b"\x93 not a state")
        await take_snapshot(here)
    assert await newest_snapshot(here, 200) is None
    assert await _assert_same(here, raws, 200) == 0


async def test_no_snapshot_passes_over_a_hole(engine: AsyncEngine) -> None:
    here, raws = PostgresArchive(engine), history(5, 200)
    await archive(here, raws)
    await _execute(here, "DELETE FROM events WHERE position = 117")
    with capture_logs() as lines:
        assert await take_snapshot(here) == 0
    assert lines[0]["event"] == "snapshot_refused"
    assert "117" in lines[0]["why"]
    with pytest.raises(LogHole, match="117"):
        await restore(here)
    assert (await restore(here, 116, on_fault=_ignore)).position == 116


async def test_whoever_comes_late_writes_nothing(engine: AsyncEngine) -> None:
    here, raws = PostgresArchive(engine), history(6, 300)
    await archive(here, raws[:200])
    late = await restore(here, on_fault=_ignore)
    await archive(here, raws[200:])
    await take_snapshot(here)
    assert not await module.write_snapshot(here, late, 0)
    assert await _assert_same(here, raws, 300) == 300


async def test_whoever_began_earlier_and_comes_further_is_right_all_the_same(engine: AsyncEngine) -> None:
    here, raws = PostgresArchive(engine), history(7, 300)
    await archive(here, raws[:100])
    await take_snapshot(here)
    await archive(here, raws[100:200])
    await take_snapshot(here)
    await archive(here, raws[200:])
    assert await module.write_snapshot(here, _folded(raws), 100)
    assert await _assert_same(here, raws, 300) == 300


async def test_one_is_due_after_so_many_events_and_at_the_end(engine: AsyncEngine) -> None:
    here, raws = PostgresArchive(engine), history(8, 400)
    taking = Snapshotter(here, every=100)
    await archive(here, raws[:99])
    assert await taking.step() == 0
    await archive(here, raws[99:100])
    assert await taking.step() == 100
    await archive(here, raws[100:150])
    assert await taking.step() == 0
    assert await taking.step(last=True) == 150
    assert await taking.step(last=True) == 0
    # so many that nobody who stops should wait for it
    await archive(here, raws[150:])
    assert await Snapshotter(here, every=100).step(last=True) == 0
    assert await Snapshotter(here, every=100).step() == 400


async def test_it_takes_the_last_one_when_it_is_stopped_and_survives_what_fails(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, raws = PostgresArchive(engine), history(10, 90)
    await archive(here, raws)
    taking = Snapshotter(here, every=100)
    running = asyncio.create_task(taking.run())
    await asyncio.sleep(0)
    await taking.stop()
    await running
    assert [position for position, _ in await _points(here)] == [90]
    monkeypatch.setattr("projections.snapshotter.newest_point", None)
    failing = Snapshotter(here, every=1)
    running = asyncio.create_task(failing.run())
    await asyncio.sleep(0)
    with capture_logs() as lines:
        await failing.stop()
        await running
    assert {line["event"] for line in lines} == {"snapshot_failed"}
