"""Replay: the same states as the domain's own fold, whatever way the entries come."""

import copy
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahi.testing import near_events
from domain.events import (
    BuyTriggered,
    Event,
    LockAcquired,
    SchedulerResyncRequired,
    SellTriggered,
    StoplossTriggered,
    StrategyReady,
    StrategyRunning,
    UserHalted,
    UserResumed,
)
from domain.strategy import State, apply, evolve, fold, initial
from domain.values import Kind, Status, Tag, Tick
from eventstore.entries import read_entries
from eventstore.envelope import NewEvent, Raw, encode
from eventstore.keys import CLASSES
from projections.replay import BrokenHistory, Fault, Replay, replay_states
from tests.projections.world import USER, World

RUNS = st.sampled_from([0, 3, 5])
AT = st.sampled_from([100, 200])
CONSTANT: st.SearchStrategy[Event] = st.one_of(
    st.builds(LockAcquired, tag=st.just(Tag("T")), kind=st.sampled_from(Kind)),
    st.builds(SchedulerResyncRequired),
    st.builds(BuyTriggered, run=RUNS, due_at=AT),
    st.builds(SellTriggered, run=RUNS, due_at=AT),
    st.builds(
        StoplossTriggered,
        run=RUNS,
        stop_revision=st.sampled_from([1, 2]),
        tick=st.just(Tick("NSE:INFY", Decimal("1.05"), 5)),
        stop_loss=st.just(Decimal(2)),
    ),
    st.builds(StrategyReady, run=RUNS),
    st.builds(StrategyRunning, run=RUNS),
)
STATES = st.builds(
    State,
    id=st.just(1),
    user_id=st.just(USER),
    version=st.integers(0, 9),
    status=st.sampled_from(Status),
    run=RUNS,
    stop_revision=st.sampled_from([1, 2]),
    buy_at=AT,
    sell_at=AT,
)


def _raw(position: int, version: int, event: Event, strategy_id: int = 1) -> Raw:
    envelope = encode(NewEvent(event, strategy_id, USER), f"e-{position}", "w")
    return Raw(position, event.priority, version, 1000 + position, envelope)


@given(STATES, CONSTANT)
def test_the_shortcuts_do_what_apply_does(state: State, event: Event) -> None:
    replay = Replay()
    replay.states[1] = copy.copy(state)
    replay.feed([_raw(9, state.version + 1, event)])
    expected = evolve(state, event)
    expected.updated_at, expected.position_in_log = 1009, 9
    assert replay.states[1] == expected


@given(st.lists(near_events().filter(lambda event: event.versioned), min_size=1, max_size=25))
def test_a_page_is_folded_as_apply_folds_its_events(events: list[Event]) -> None:
    replay = Replay()
    replay.feed([_raw(number, number, event) for number, event in enumerate(events, 1)])
    expected = fold(initial(1, USER), events)
    expected.updated_at, expected.position_in_log = 1000 + len(events), len(events)
    assert replay.states[1] == expected


async def test_replay_is_the_fold_of_each_strategys_events(world: World) -> None:
    for strategy_id in range(1, 5):
        await world.day(strategy_id, Kind.STOPLOSS if strategy_id % 2 else Kind.SELL)
    world.sleep_a_day()
    await world.start(1)
    folded: dict[int, State] = {}
    async for it in world.log.read():
        state = folded.setdefault(it.strategy_id, initial(it.strategy_id, it.user_id))
        apply(state, it.event)
        state.updated_at, state.position_in_log = it.recorded_at, it.position
    told: list[tuple[int, int]] = []
    assert await replay_states(world.log, progress=lambda *done: told.append(done)) == folded
    last = await world.log.last_position()
    assert told[-1] == (last, last)
    assert await replay_states(world.log, strategy_id=3) == {3: folded[3]}
    assert folded[1] == await world.state(1)


async def test_the_state_as_it_was(world: World) -> None:
    await world.create(1)
    await world.start(1)
    then, position, at = await world.state(1), await world.log.last_position(), world.time.now()
    await world.order(1, Kind.BUY)
    assert await replay_states(world.log, until=position) == {1: then}
    assert await replay_states(world.log, at=at) == {1: then}
    assert await replay_states(world.log, at=at - 1) != {1: then}
    assert await replay_states(world.log, until=0) == {}


async def test_it_makes_no_difference_whether_the_archive_holds_it(world: World) -> None:
    await world.day(1)
    await world.projector.step()
    before = await replay_states(world.log)
    await world.trim(17)
    assert await replay_states(world.log) == before


async def test_redis_is_not_asked_for_what_it_has_forgotten(world: World) -> None:
    await world.day(1)
    await world.day(2)
    await world.projector.step()
    before = await replay_states(world.log)
    await world.trim(await world.log.last_position() - 3)
    await world.redis.config_resetstat()
    pages = [page async for page in read_entries(world.log, page=4)]
    asked = (await world.redis.info("commandstats"))["cmdstat_xrange"]["calls"]
    assert asked == len(CLASSES) * (1 + 2)  # what each stream begins with, and the pages that hold the last three
    replay = Replay()
    for page in pages:
        replay.feed(page)
    assert replay.states == before


def test_a_version_that_is_missing_is_named() -> None:
    entries = [_raw(1, 1, SchedulerResyncRequired()), _raw(2, 3, SchedulerResyncRequired())]
    with pytest.raises(BrokenHistory, match=r"position 2: strategy 1 goes from version 1 to 3"):
        Replay().feed(entries)
    faults: list[Fault] = []
    tolerant = Replay(on_fault=faults.append)
    tolerant.feed(entries)
    assert tolerant.states[1].version == 3
    assert [(fault.position, fault.kind) for fault in faults] == [(2, "version")]


def test_a_damaged_page_is_folded_one_by_one() -> None:
    entries = [_raw(1, 1, SchedulerResyncRequired()), Raw(2, "low", 2, 5, b"\xc1"), _raw(3, 2, StrategyReady(run=0))]
    faults: list[Fault] = []
    replay = Replay(on_fault=faults.append)
    replay.feed(entries)
    assert [(fault.position, fault.kind) for fault in faults] == [(2, "corrupt"), (2, "version")]
    assert (replay.states[1].version, replay.position) == (2, 3)


def test_halts_are_folded() -> None:
    replay = Replay()
    replay.feed([_raw(1, 0, UserHalted(square_off=True), 0)])
    assert replay.halts == {USER: UserHalted(square_off=True)}
    replay.feed([_raw(2, 0, UserResumed(), 0)])
    assert replay.halts == {}
