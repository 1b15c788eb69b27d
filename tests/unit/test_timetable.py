"""What is due when, folded from events and from states."""

from hypothesis import given
from hypothesis import strategies as st

from domain.events import (
    BuyTriggered,
    Event,
    ForceStop,
    SchedulerResyncRequired,
    SellTriggered,
    StrategyCreated,
    StrategyReady,
    StrategyRunning,
    StrategyStopped,
    StrategyStopRequested,
    StrategyUpdated,
    TriggerMissed,
)
from domain.strategy import fold, initial
from domain.values import HOUR, MINUTE, Exit
from projections.timetable import Timer, Timetable
from tests.sources.world import TEN, config, recorded, started

SELL = TEN + HOUR


def follow(*events: Event, table: Timetable | None = None, first: int = 1) -> Timetable:
    table = Timetable() if table is None else table
    for version, event in enumerate(events, first):
        table.apply(recorded(1, version, event))
    return table


def due(table: Timetable, now: int = SELL + HOUR) -> list[tuple[int, Timer]]:
    return [(each.due_at, each.timer) for each in table.due(now)]


def test_a_started_run_has_both_timers_and_waits_to_be_announced() -> None:
    table = follow(started())
    assert due(table, TEN - 1) == []
    assert due(table, TEN) == [(TEN, Timer.BUY)]
    assert due(table) == [(TEN, Timer.BUY), (SELL, Timer.SELL)]
    assert table.instants() == (TEN, SELL)
    assert [(each.strategy_id, each.run, each.cause) for each in table.starting()] == [(1, 1, "e-1")]


def test_running_ends_the_waiting_of_its_run() -> None:
    assert follow(started(), StrategyReady(run=1), StrategyRunning(run=1)).starting() == []
    assert len(follow(started(), StrategyRunning(run=9)).starting()) == 1


def test_a_run_that_is_asked_to_stop_is_not_announced() -> None:
    assert follow(started(), StrategyStopRequested()).starting() == []
    assert follow(started(), ForceStop(reason="x")).starting() == []


def test_what_was_triggered_or_missed_is_not_due_again() -> None:
    assert due(follow(started(), BuyTriggered(run=1, due_at=TEN))) == [(SELL, Timer.SELL)]
    assert due(follow(started(), TriggerMissed(run=1, due_at=TEN, lateness=MINUTE))) == [(SELL, Timer.SELL)]
    assert due(follow(started(), SellTriggered(run=1, due_at=SELL))) == [(TEN, Timer.BUY)]


def test_a_trigger_of_another_run_or_time_changes_nothing() -> None:
    table = follow(started(), BuyTriggered(run=2, due_at=TEN), BuyTriggered(run=1, due_at=TEN + 1))
    assert due(table, TEN) == [(TEN, Timer.BUY)]


def test_an_update_moves_timers_also_those_that_were_triggered() -> None:
    later = TEN + MINUTE
    table = follow(
        started(),
        BuyTriggered(run=1, due_at=TEN),
        StrategyUpdated(stop_revision=1, buy_at=later, sell_at=SELL + 1),
        SchedulerResyncRequired(),
    )
    assert due(table) == [(later, Timer.BUY), (SELL + 1, Timer.SELL)]


def test_an_update_to_the_same_time_leaves_it_triggered() -> None:
    table = follow(started(), BuyTriggered(run=1, due_at=TEN), StrategyUpdated(stop_revision=1, buy_at=TEN))
    assert due(table) == [(SELL, Timer.SELL)]


def test_the_end_of_a_run_takes_its_timers() -> None:
    table = follow(started(), StrategyStopped(run=1, reason=Exit.USER, at=TEN))
    assert table.next_due() is None
    assert table.starting() == []


def test_exits_come_before_entries_of_the_same_instant() -> None:
    table = Timetable()
    table.apply(recorded(1, 1, started(TEN, SELL)))
    table.apply(recorded(2, 1, started(TEN - HOUR, TEN)))
    assert [(each.strategy_id, each.timer) for each in table.due(TEN)] == [
        (2, Timer.BUY),
        (2, Timer.SELL),
        (1, Timer.BUY),
    ]


def test_versions_that_the_states_hold_are_skipped() -> None:
    events = [StrategyCreated(config=config()), started(), StrategyStopped(run=2, reason=Exit.USER, at=TEN)]
    ended = fold(initial(1, 7), events)
    table = Timetable.from_states([ended])
    follow(*events, table=table)
    assert table.next_due() is None
    follow(started(), table=table, first=4)
    assert table.next_due() == TEN


_EVENTS = st.lists(
    st.sampled_from(
        [
            started(),
            started(TEN + 5, SELL + 5),
            BuyTriggered(run=1, due_at=TEN),
            BuyTriggered(run=2, due_at=TEN),
            SellTriggered(run=1, due_at=SELL),
            SellTriggered(run=3, due_at=SELL + 5),
            TriggerMissed(run=1, due_at=TEN, lateness=1),
            StrategyUpdated(stop_revision=1, buy_at=TEN + 5),
            StrategyUpdated(stop_revision=1, sell_at=SELL + 5, buy_at=TEN),
            StrategyReady(run=1),
            StrategyRunning(run=1),
            StrategyStopRequested(),
            StrategyStopped(run=1, reason=Exit.USER, at=TEN),
        ]
    ),
    max_size=12,
)


@given(_EVENTS, st.integers(0, 12))
def test_loading_and_following_gives_what_following_from_the_start_gives(events: list[Event], at: int) -> None:
    """Wherever the states were loaded; and it agrees with the flags of the state."""
    # a run begins only where none is alive
    state, valid = initial(1, 7), []
    for event in events:
        if state.alive and event.type == "STRATEGY_STARTED":
            continue
        valid.append(event)
        state = fold(state, [event])
    loaded = Timetable.from_states([fold(initial(1, 7), valid[:at])])
    follow(*valid, table=loaded)
    whole = follow(*valid)
    assert due(loaded) == due(whole)
    assert [each.run for each in loaded.starting()] == [each.run for each in whole.starting()]
    expected = []
    if state.alive:
        if not (state.buy_due or state.buy_missed):
            expected.append((state.buy_at, Timer.BUY))
        if not state.sell_due:
            expected.append((state.sell_at, Timer.SELL))
    assert due(whole) == expected
    assert len(whole) == len(expected)
