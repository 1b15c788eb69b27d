"""Order, number and delay of messages: what is independent may come in any order, what is repeated changes nothing."""

import asyncio
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from bahi.database.engine import create_engine
from bahi.database.tables import order_logs, strategies
from bahi.testing import Scene, World, facts, logs, reordered, scenes
from bahi.testing.ground import Ground
from domain.decide import decide_next
from domain.events import BuyTriggered, Event, SellTriggered, StoplossTriggered, StrategyStopRequested
from domain.facts import Facts
from domain.strategy import Order, State, fold, initial
from domain.values import SECOND, Exit, Holding, Side, Status, Tick
from eventstore.archive import PostgresArchive
from eventstore.clients import command
from eventstore.envelope import NewEvent, Raw, Recorded, encode
from eventstore.keys import GROUP
from projections.sql.projections import SqlProjections, open_entry
from projections.stop_index import StopIndex
from projections.timetable import Timetable
from sources.updates import OpenOrders
from tests.engine.world import INFY
from tests.one_database import one_database

__all__ = ["one_database"]

QUICK = settings(max_examples=60, deadline=None)
SLOW = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


# --- independent events ---------------------------------------------------------------------------------------------


def folded(log: list[Recorded]) -> dict[int, State]:
    """Every strategy by itself, as far as it does not name places in the log."""
    users = {it.strategy_id: it.user_id for it in log}
    return {
        strategy_id: fold(initial(strategy_id, user_id), [it.event for it in log if it.strategy_id == strategy_id])
        for strategy_id, user_id in sorted(users.items())
    }


def followed(log: list[Recorded]) -> dict[str, object]:
    """What the projections of scheduler, listener and updates have made of the log."""
    stops, times, orders = StopIndex(), Timetable(), OpenOrders()
    for it in log:
        stops.apply(it)
        times.apply(it)
        orders.apply(it)
    return {
        "stops": list(stops.armed()),
        "symbols": stops.symbols(),
        "due": times.due(2**62),
        "instants": times.instants(),
        "starting": times.starting(),
        "open": {user: tags for user, tags in orders.open.items() if tags},
        "given up": {user: sorted(tags) for user, tags in orders.given_up.items() if tags},
    }


def folded_in_turn(log: list[Recorded]) -> dict[int, State]:
    """All of them, event by event, as the log has them."""
    states: dict[int, State] = {}
    for it in log:
        state = states.setdefault(it.strategy_id, initial(it.strategy_id, it.user_id))
        states[it.strategy_id] = fold(state, [it.event])
    return dict(sorted(states.items()))


@QUICK
@given(st.data())
def test_events_of_different_strategies_may_change_places(data: st.DataObject) -> None:
    log = data.draw(logs())
    other = data.draw(reordered(log))
    assert folded_in_turn(other) == folded(log)
    assert followed(other) == followed(log)


@QUICK
@given(logs(), st.data())
def test_a_follower_that_reads_events_again_is_where_it_was(log: list[Recorded], data: st.DataObject) -> None:
    """A follower that starts from loaded states reads some of what they hold already."""
    twice = data.draw(st.integers(0, len(log)))
    stops, times = StopIndex(), Timetable()
    for it in [*log, *log[-twice:]]:
        stops.apply(it)
        times.apply(it)
    expected = followed(log)
    assert (list(stops.armed()), times.due(2**62)) == (expected["stops"], expected["due"])


@pytest.fixture(scope="module")
def engine(database_url: str) -> Iterator[tuple[asyncio.Runner, AsyncEngine]]:
    with asyncio.Runner() as runner:
        engine = create_engine(database_url, size=2)
        yield runner, engine
        runner.run(engine.dispose())


async def rows(engine: AsyncEngine, log: list[Recorded]) -> list[list[dict[str, Any]]]:
    """The tables that PostgreSQL has after the log."""
    projections = SqlProjections(PostgresArchive(engine))
    entries = [open_entry(raw_of(it)) for it in log]
    async with engine.begin() as connection:
        await projections.write(connection, await projections.fold(connection, entries))
    async with engine.begin() as connection:
        found = []
        for table, key in ((strategies, "id"), (order_logs, "tag")):
            read = (await connection.execute(select(table).order_by(table.c[key]))).mappings()
            found.append([{name: value for name, value in row.items() if not _is_place(name)} for row in read])
            await connection.execute(delete(table))
    return found


def _is_place(column: str) -> bool:
    """It names a place in the log, or its time."""
    return column.endswith(("_at", "position")) and column not in ("buy_at", "sell_at", "position")


def raw_of(it: Recorded) -> Raw:
    new = NewEvent(it.event, it.strategy_id, it.user_id, it.correlation_id, it.causation_id)
    return Raw(it.position, it.event.priority, it.version, it.recorded_at, encode(new, it.event_id, it.writer))


@SLOW
@given(data=st.data())
def test_the_sql_rows_are_the_same_in_any_order(
    engine: tuple[asyncio.Runner, AsyncEngine], data: st.DataObject
) -> None:
    log = data.draw(logs())
    other = data.draw(reordered(log))
    runner, server = engine
    assert runner.run(rows(server, other)) == runner.run(rows(server, log))


# --- decisions ------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(scenes())
def test_a_decision_that_is_folded_is_not_made_again(scene: Scene) -> None:
    assert_decided_once(scene.state, scene.facts)


@settings(max_examples=200, deadline=None)
@given(scenes(), facts())
def test_nor_is_it_when_the_world_is_another_than_the_history_knew(scene: Scene, found: Facts) -> None:
    """Another worker's clock, a price that moved, a session lost meanwhile."""
    assert_decided_once(scene.state, found)


def assert_decided_once(state: State, found: Facts) -> None:
    decision = decide_next(state, found)
    assert decision.state == fold(state, decision.events)
    assert decide_next(state, found) == decision, "it is a function"
    again = decide_next(decision.state, found)
    assert again.events == ()
    assert again.wake_at == decision.wake_at
    assert decision.wake_at is None or decision.wake_at > found.now


# --- wake-ups -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ground(redis_url: str) -> Iterator[Ground]:
    with Ground(redis_url) as made:
        yield made


async def four(world: World) -> list[int]:
    """Two that hold their shares, two whose buying time has come."""
    ids = [await world.running(user=user, quantity=quantity) for user, quantity in ((7, 4), (8, 3), (7, 5), (8, 5))]
    await world.buy(*ids[:2])
    await world.settle()
    return ids


async def arrivals(world: World, ids: list[int]) -> list[tuple[int, Event]]:
    """What becomes due of them, all at once: a stop and a sale, a square-off and a sale, a buy, a buy and a stop."""
    first, second, third, fourth = [await world.state(each) for each in ids]
    tick = Tick(INFY, first.stop_loss, world.clock.now())
    hit = StoplossTriggered(run=first.run, stop_revision=first.stop_revision, tick=tick, stop_loss=first.stop_loss)
    return [
        (first.id, hit),
        (first.id, SellTriggered(run=first.run, due_at=first.sell_at)),
        (second.id, StrategyStopRequested(square_off=True)),
        (second.id, SellTriggered(run=second.run, due_at=second.sell_at)),
        (third.id, BuyTriggered(run=third.run, due_at=third.buy_at)),
        (fourth.id, BuyTriggered(run=fourth.run, due_at=fourth.buy_at)),
        (fourth.id, StrategyStopRequested()),
    ]


ARRIVALS = 7
Turn = tuple[str, int]
TURNS = st.tuples(st.sampled_from(["w1", "w2", "book", "again", "late"]), st.integers(0, 30))


async def ended(world: World, order: list[int], turns: list[Turn]) -> list[object]:
    """Appends the arrivals in this order, lets workers take turns, and tells how everything ended."""
    await world.open("w1", "w2")
    ids = await four(world)
    due = await arrivals(world, ids)
    for each in order:
        await world.tell(*due[each])
    for what, how in turns:
        match what:
            case "book":
                await world.poll()
            case "late":
                world.clock.set(world.clock.now() + how * SECOND // 10)
            case "again":
                await deliver_again(world, how)
            case _:
                await world.step(next(each for each in world.processes if each.name == what))
    await world.settle()
    await world.check()
    found: list[object] = []
    for each in ids:
        state = await world.state(each)
        orders = [order.tag for order in orders_of(state)]
        mine = [row for row in await world.rows() if row.tag in orders]
        found.append((story_of(state), [(row.side, row.quantity, row.filled, row.status) for row in mine]))
    return found


async def deliver_again(world: World, back: int) -> None:
    """A message, finished or not, is given to a worker that has just started."""
    waking = [it for it in await world.records() if it.event.wakes]
    it = waking[-1 - back % len(waking)]
    stream = world.log.keys.streams[it.event.priority]
    name = f"again{it.position}"
    await command(world.log.redis, "XCLAIM", stream, GROUP, name, 0, f"{it.position}-0", "FORCE", "JUSTID")
    late = await world.hire(name)
    await world.step(late)
    await world.kill(late)


def orders_of(state: State) -> list[Order]:
    return [*state.past.values(), *([state.order] if state.order else [])]


def story_of(state: State) -> tuple[object, ...]:
    return (
        *(state.status, state.position, state.exit_reason, state.bought, state.sold, state.open_quantity),
        *(state.surfaced, state.buy_value, state.sell_value, state.last_exit, state.orders, state.stop_requested),
    )


@pytest.fixture(scope="module")
def plain(ground: Ground) -> list[object]:
    """How it ends when everything comes once and in the order of its writing."""
    found: Any = ground.run(_end(ground, list(range(ARRIVALS)), []))
    assert [story[:3] for story, _ in found] == [
        (Status.STOPPED, Holding.EXITED_BY_SL, Exit.STOPLOSS),
        (Status.STOPPED, Holding.SOLD, Exit.USER),
        (Status.RUNNING, Holding.BOUGHT, None),
        (Status.STOPPED, Holding.NONE, Exit.USER),
    ]
    both = [Side.BUY, Side.SELL]
    assert [[side for side, *_ in book] for _, book in found] == [both, both, [Side.BUY], []]
    return list(found)


async def _end(ground: Ground, order: list[int], turns: list[Turn]) -> list[object]:
    world = await ground.fresh(users=(7, 8))
    try:
        return await ended(world, order, turns)
    finally:
        await world.close()


@SLOW
@given(
    order=st.permutations(range(ARRIVALS)),
    repeated=st.lists(st.integers(0, ARRIVALS - 1), max_size=6),
    turns=st.lists(TURNS, max_size=8),
)
def test_wake_ups_repeated_delayed_and_in_any_order_end_the_same(
    ground: Ground, plain: list[object], order: list[int], repeated: list[int], turns: list[Turn]
) -> None:
    assert ground.run(_end(ground, [*order, *repeated], turns)) == plain
