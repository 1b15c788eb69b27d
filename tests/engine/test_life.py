"""Start, stop, halt and the end of the session; and that nobody touches anybody else."""

import datetime as dt

import pytest

from domain.commands import decide_settle
from domain.decide import Decision
from domain.events import (
    AlertTriggered,
    ForceStop,
    PositionSettled,
    SafetyAbort,
    StrategyExited,
    StrategyStarted,
    StrategyStartRefused,
    TriggerMissed,
)
from domain.facts import Facts
from domain.strategy import State
from domain.values import HOUR, MINUTE, SECOND, Abort, Exit, Status
from handlers.decider import Wake, decided, take_turn
from tests.engine.conftest import OpenWorld
from tests.engine.world import CLOSE, USER, World


async def test_a_start_arms_the_next_session_and_says_which(world: World) -> None:
    strategy = await world.running()
    (started,) = await world.of_type(StrategyStarted)
    assert started.session_date == dt.date(2026, 11, 20)
    state = await world.state(strategy)
    assert (state.status, state.run) == (Status.RUNNING, 3)


async def test_a_start_after_the_buy_time_arms_the_next_day(world: World) -> None:
    await world.pass_time(HOUR)
    strategy = await world.running()
    assert (await world.state(strategy)).session_date == dt.date(2026, 11, 23)


async def test_a_halted_user_cannot_start(world: World) -> None:
    await world.halt()
    strategy = await world.create()
    assert (await world.start(strategy)).status is Status.CREATED
    assert [event.reason for event in await world.of_type(StrategyStartRefused)] == ["HALTED"]
    await world.resume()
    assert (await world.start(strategy)).status is Status.RUNNING


async def test_a_stop_before_the_entry_ends_the_run(world: World) -> None:
    strategy = await world.running()
    await world.stop(strategy)
    await world.settle()
    assert (await world.state(strategy)).exit_reason is Exit.USER


async def test_a_stop_with_square_off_sells(world: World) -> None:
    strategy = await world.bought()
    await world.stop(strategy, square_off=True)
    await world.settle()
    state = await world.state(strategy)
    assert (state.exit_reason, state.open_quantity) == (Exit.USER, 0)


async def test_a_plain_stop_keeps_the_shares_alerts_and_can_still_be_squared_off(world: World) -> None:
    strategy = await world.bought()
    await world.stop(strategy)
    await world.settle()
    state = await world.state(strategy)
    assert (state.status, state.open_quantity) == (Status.STOPPED, 10)
    await world.pass_time(11 * MINUTE)
    alerts = [alert.code for alert in await world.of_type(AlertTriggered)]
    assert alerts == ["UNPROTECTED_POSITION"] * 3, "repeated every five minutes"
    await world.tick("151")
    await world.stop(strategy, square_off=True)
    await world.settle()
    assert (await world.state(strategy)).open_quantity == 0
    await world.pass_time(11 * MINUTE)
    assert len(await world.of_type(AlertTriggered)) == 3


async def test_stopping_twice_is_stopping_once(world: World) -> None:
    strategy = await world.bought()
    for _ in range(3):
        await world.stop(strategy, square_off=True)
    await world.settle()
    assert len(await world.of_type(StrategyExited)) == 1


async def test_a_forced_stop_ends_the_run_at_once(world: World) -> None:
    strategy = await world.running()
    await world.tell(strategy, ForceStop(reason="operator"))
    await world.settle()
    assert (await world.state(strategy)).status is Status.STOPPED


async def test_an_operators_abort_fails_the_run(world: World) -> None:
    strategy = await world.bought()
    state = await world.state(strategy)
    await world.tell(strategy, SafetyAbort(run=state.run, reason=Abort.OPERATOR))
    await world.settle()
    state = await world.state(strategy)
    assert (state.status, state.open_quantity) == (Status.FAILED, 10)


async def test_a_position_closed_elsewhere_is_settled(world: World) -> None:
    strategy = await world.bought()

    def settle(state: State, facts: Facts) -> Decision:
        events = decide_settle(state, 10, "at the user's word")
        assert isinstance(events, tuple)
        return decided(state, events)

    await take_turn(world.desk, strategy, settle, Wake())
    await world.settle()
    assert len(await world.of_type(PositionSettled)) == 1
    assert (await world.state(strategy)).status is Status.STOPPED
    await world.stop_loss(strategy)
    await world.settle()
    assert len(world.hooks.placed) == 1


async def test_a_missed_entry_ends_the_run(world: World) -> None:
    strategy = await world.running()
    state = await world.state(strategy)
    await world.tell(strategy, TriggerMissed(run=state.run, due_at=state.buy_at, lateness=MINUTE))
    await world.settle()
    assert (await world.state(strategy)).exit_reason is Exit.MISSED


async def test_the_end_of_the_session_ends_every_run(world: World) -> None:
    holder, waiter = await world.bought(), await world.running(buy_time=dt.time(14))
    await world.wait_until(CLOSE)
    holding, waiting = await world.state(holder), await world.state(waiter)
    assert (holding.status, holding.exit_reason, holding.open_quantity) == (Status.FAILED, Exit.SESSION_END, 10)
    assert (waiting.status, waiting.exit_reason) == (Status.STOPPED, Exit.MISSED)


async def test_a_strategy_may_run_again_the_same_day(world: World) -> None:
    strategy = await world.running()
    await world.stop(strategy)
    await world.settle()
    await world.start(strategy)
    await world.buy(strategy)
    await world.settle()
    await world.sell(strategy)
    await world.settle()
    state = await world.state(strategy)
    assert state.exit_reason is Exit.SELL
    assert [started.config.quantity for started in await world.of_type(StrategyStarted)] == [10, 10]


# --- the halt -------------------------------------------------------------------------------------------------------


async def test_a_halt_stops_who_is_flat_and_leaves_holders_their_stop(world: World) -> None:
    waiter, holder = await world.running(buy_time=dt.time(9, 30)), await world.bought()
    await world.halt()
    await world.settle()
    assert (await world.state(waiter)).exit_reason is Exit.HALTED
    assert (await world.state(holder)).status is Status.RUNNING
    await world.stop_loss(holder)
    await world.settle()
    assert (await world.state(holder)).exit_reason is Exit.STOPLOSS


async def test_a_halt_with_square_off_sells_everything_now(world: World) -> None:
    strategies = [await world.bought(buy_time=dt.time(9, 20 + n)) for n in range(5)]
    await world.halt(square_off=True)
    await world.settle()
    assert {(await world.state(each)).open_quantity for each in strategies} == {0}
    assert {(await world.state(each)).status for each in strategies} == {Status.STOPPED}


async def test_a_halt_is_acknowledged_after_the_last_strategy(world: World) -> None:
    strategies = [await world.running() for _ in range(4)]
    process = world.processes[0]
    seen = 0

    def cut_off_at_the_third(number: int, name: str) -> str:
        nonlocal seen
        seen += name == "append"
        return "call lost" if seen == 3 and name == "append" else ""

    await world.halt()
    process.wire.fault = cut_off_at_the_third
    await world.run(process.worker.step())
    process.wire.fault = None
    statuses = [(await world.state(each)).status for each in strategies]
    assert statuses == [Status.STOPPED, Status.STOPPED, Status.RUNNING, Status.RUNNING]
    assert await world.pending() == 1
    await world.kill(process)
    other = await world.hire("w2")
    await world.inherit(other)
    await world.settle()
    assert {(await world.state(each)).status for each in strategies} == {Status.STOPPED}
    assert len(await world.of_type(StrategyExited)) == 4


@pytest.mark.parametrize("square_off", [False, True])
async def test_a_halt_of_one_user_is_nothing_to_another(open_world: OpenWorld, square_off: bool) -> None:
    world = await open_world(users=(7, 8))
    mine, other = await world.bought(), await world.bought(user=8, buy_time=dt.time(9, 25))
    before = await world.history(other)
    await world.halt(USER, square_off=square_off)
    await world.settle()
    assert await world.history(other) == before
    await world.stop_loss(other)
    await world.settle()
    assert (await world.state(other)).exit_reason is Exit.STOPLOSS
    assert (await world.state(mine)).open_quantity == (0 if square_off else 10)
    assert [row.quantity for row in await world.rows(8)] == [10, 10]


async def test_two_users_with_the_same_symbol_never_touch_each_other(open_world: OpenWorld) -> None:
    world = await open_world(users=(7, 8))
    mine, other = await world.running(quantity=3), await world.running(user=8, quantity=5)
    await world.buy(mine, other)
    await world.settle()
    await world.sell(mine)
    await world.settle()
    assert [row.quantity for row in await world.rows(7)] == [3, 3]
    assert [row.quantity for row in await world.rows(8)] == [5]
    assert (await world.state(other)).open_quantity == 5
    for record in await world.records():
        assert record.user_id == (7 if record.strategy_id == mine else 8)


async def test_a_timer_that_has_nothing_to_wait_for_is_taken_off(world: World) -> None:
    strategy = await world.create()
    await world.redis.zadd(world.log.keys.timers, {str(strategy): world.clock.now(), "999": world.clock.now()})
    await world.pass_time(10 * SECOND)
    assert await world.redis.zcard(world.log.keys.timers) == 0
