"""What an append writes besides events: the inline projection and the effects of blind events."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.events import (
    BuyTriggered,
    Event,
    ForceStop,
    SafetyAbort,
    SellTriggered,
    StoplossTriggered,
    StrategyReady,
    StrategyRunning,
    StrategyStopRequested,
    TriggerMissed,
)
from domain.strategy import State, fold
from domain.values import Abort, Decimal, Status, Tick
from eventstore.batch import RuntimeWrite
from eventstore.envelope import NewEvent
from eventstore.fields import encode_condition, encode_field
from projections.runtime import decode_state, differences, encode_state


def of(event: Event, strategy_id: int = 42) -> NewEvent:
    return NewEvent(event, strategy_id=strategy_id, user_id=7)


BUY = BuyTriggered(run=2, due_at=5)
ARMED = {"status": "running", "run": "2", "buy_at": "5"}


# --- the inline projection -------------------------------------------------------------------------------------------


async def test_an_append_writes_hashes_timers_and_sets_together(log, redis, clock):
    write = RuntimeWrite(
        strategy_set={"symbol": "NSE:INFY", "quantity": "5"},
        runtime_set=ARMED,
        wake_at=77,
        symbol_add="NSE:INFY",
        user_add=True,
    )
    await log.append([of(BUY)], expected=0, runtime=write)
    loaded = await log.load(42)
    assert loaded.strategy == {"symbol": "NSE:INFY", "quantity": "5", "version": "1"}
    assert loaded.runtime == ARMED | {"updated_at": str(clock.time), "position_in_log": "1"}
    assert await redis.zscore(log.keys.timers, "42") == 77
    assert await redis.smembers(log.keys.symbol_strategies("NSE:INFY")) == {b"42"}
    assert await redis.smembers(log.keys.user_strategies(7)) == {b"42"}

    write = RuntimeWrite(strategy_delete=("quantity",), runtime_delete=("run",), wake_at=None, symbol_remove="NSE:INFY")
    await log.append([of(BUY)], expected=1, runtime=write)
    loaded = await log.load(42)
    assert loaded.strategy == {"symbol": "NSE:INFY", "version": "2"}
    assert "run" not in loaded.runtime
    assert loaded.runtime["position_in_log"] == "2"
    assert await redis.zscore(log.keys.timers, "42") is None
    assert await redis.exists(log.keys.symbol_strategies("NSE:INFY")) == 0


async def test_a_write_that_says_nothing_of_the_timer_leaves_it(log, redis):
    await log.append([], runtime=RuntimeWrite(wake_at=77), strategy_id=42)
    await log.append([of(BUY)], expected=0, runtime=RuntimeWrite(runtime_set=ARMED))
    assert await redis.zscore(log.keys.timers, "42") == 77


async def test_a_new_run_replaces_the_runtime(log):
    await log.append([of(BUY)], expected=0, runtime=RuntimeWrite(runtime_set=ARMED | {"order": "old"}))
    await log.append([of(BUY)], expected=1, runtime=RuntimeWrite(runtime_set=ARMED, replace=True))
    assert "order" not in (await log.load(42)).runtime


async def test_a_runtime_expires_when_told_and_stays_when_written_again(log, redis):
    write = RuntimeWrite(runtime_set=ARMED, expire_seconds=50)
    await log.append([of(BUY)], expected=0, runtime=write)
    assert 49 <= await redis.ttl(log.keys.runtime(42)) <= 50
    await log.append([of(BUY)])
    assert 49 <= await redis.ttl(log.keys.runtime(42)) <= 50
    await log.append([of(BUY)], expected=2, runtime=RuntimeWrite(runtime_set=ARMED))
    assert await redis.ttl(log.keys.runtime(42)) == -1


# --- blind events ----------------------------------------------------------------------------------------------------


async def test_a_blind_event_sets_its_flag_when_its_condition_holds(log, clock):
    await log.append([], runtime=RuntimeWrite(runtime_set=ARMED), strategy_id=42)
    clock.time += 9
    await log.append([of(BUY)])
    flags = {"buy_due": "1", "updated_at": str(clock.time), "position_in_log": "1"}
    assert (await log.load(42)).runtime == ARMED | flags


async def test_a_blind_event_whose_condition_fails_takes_its_version_and_nothing_else(log, clock):
    await log.append([], runtime=RuntimeWrite(runtime_set=ARMED), strategy_id=42)
    await log.append([of(BuyTriggered(run=1, due_at=5))])
    loaded = await log.load(42)
    assert loaded.runtime == ARMED | {"updated_at": str(clock.time), "position_in_log": "1"}
    assert loaded.version == 1


async def test_a_blind_event_never_creates_a_runtime(log):
    await log.append([of(StrategyStopRequested()), of(BUY)])
    loaded = await log.load(42)
    assert loaded.runtime == {}
    assert loaded.version == 2


async def test_an_event_at_an_expected_version_leaves_the_runtime_to_its_author(log):
    await log.append([], runtime=RuntimeWrite(runtime_set=ARMED), strategy_id=42)
    await log.append([of(BUY)], expected=0, runtime=RuntimeWrite())
    assert "buy_due" not in (await log.load(42)).runtime


async def test_a_flag_that_returns_to_its_default_vanishes(log):
    await log.append([], runtime=RuntimeWrite(runtime_set={"run": "2", "start_requested": "1"}), strategy_id=42)
    await log.append([of(StrategyStopRequested())])
    assert "start_requested" not in (await log.load(42)).runtime


async def test_a_field_that_is_no_number_is_not_above_zero_and_breaks_nothing(log):
    odd = {"status": "stopped", "open_quantity": "many"}
    await log.append([], runtime=RuntimeWrite(runtime_set=odd), strategy_id=42)
    await log.append([of(StrategyStopRequested())])
    assert "stop_requested" not in (await log.load(42)).runtime


small = st.integers(0, 2)
states = st.builds(
    State,
    id=st.just(42),
    user_id=st.just(7),
    status=st.sampled_from(Status),
    run=small,
    buy_at=small,
    sell_at=small,
    stop_revision=small,
    open_quantity=st.integers(-1, 2),
    start_requested=st.booleans(),
    stop_requested=st.booleans(),
    square_off=st.booleans(),
    stop_reason=st.sampled_from(["", "USER", "OTHER"]),
    buy_due=st.booleans(),
    ready=st.booleans(),
    stop_price=st.sampled_from([None, Decimal("9.50")]),
)
blind_events = st.one_of(
    st.builds(BuyTriggered, run=small, due_at=small),
    st.builds(SellTriggered, run=small, due_at=small),
    st.builds(TriggerMissed, run=small, due_at=small, lateness=small),
    st.builds(
        StoplossTriggered,
        run=small,
        stop_revision=small,
        tick=st.builds(Tick, st.just("NSE:INFY"), st.sampled_from([Decimal("9.50"), Decimal("9.4")]), small),
        stop_loss=st.just(Decimal(10)),
    ),
    st.builds(StrategyReady, run=small),
    st.builds(StrategyRunning, run=small),
    st.builds(StrategyStopRequested, square_off=st.booleans(), reason=st.sampled_from(["USER", "OTHER"])),
    st.builds(ForceStop, reason=st.sampled_from(["USER", "OPERATOR"])),
    st.builds(SafetyAbort, run=small, reason=st.sampled_from(Abort)),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states, events=st.lists(blind_events, min_size=1, max_size=5), together=st.booleans())
async def test_the_script_and_the_fold_agree_on_every_blind_event(log, redis, state, events, together):
    await redis.delete(log.keys.strategy(42), log.keys.runtime(42))
    await log.append([], runtime=encode_state(state, None), strategy_id=42, user_id=7)
    exists = bool((await log.load(42)).runtime)
    batches = [events] if together else [[event] for event in events]
    results = [await log.append([of(event) for event in batch]) for batch in batches]
    loaded = await log.load(42)
    if not exists:
        assert loaded.runtime == {}
        return
    expected = fold(state, events)
    expected.updated_at = results[-1].recorded_at
    expected.position_in_log = results[-1].positions[-1]
    assert differences(decode_state(42, loaded.strategy, loaded.runtime), expected) == {}


# --- fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "1"), (False, "0"), (7, "7"), (Decimal("9.50"), "9.50"), (Status.RUNNING, "running"), (None, None)],
)
def test_values_have_one_spelling(value, text):
    assert encode_field(value) == text


def test_a_value_that_has_no_spelling_is_refused():
    with pytest.raises(TypeError, match="float"):
        encode_field(1.5)


def test_a_condition_that_allows_the_default_allows_a_missing_field():
    assert encode_condition((0,), 0) == ["0", ""]
    assert encode_condition((Status.CREATED, Status.RUNNING), Status.CREATED) == ["created", "", "running"]
    assert encode_condition((None,), None) == [""]
    assert encode_condition((3,), 0) == ["3"]
