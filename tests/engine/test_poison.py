"""What cannot be read or decided: parked, its strategy aborted once, and everybody else goes on."""

import asyncio
import datetime as dt
from contextvars import ContextVar
from typing import Any

import pytest

import handlers.advance
from brokers.paper.plan import Lost, Script, ScriptedPlan
from domain.decide import Decision
from domain.events import AlertTriggered, EventParked, SafetyAbort, SellTriggered, StrategyExited, StrategyStopRequested
from domain.facts import Facts
from domain.strategy import State
from domain.values import MINUTE, SECOND, Abort, Exit, Status
from eventstore.envelope import NewEvent, encode
from handlers.advance import DecideNext
from handlers.repair import repair
from projections.runtime import CorruptState, differences
from projections.time_travel import state_at
from tests.engine.conftest import OpenWorld
from tests.engine.world import USER, World


async def _damage(world: World, strategy: int, *, owner: bool = True) -> None:
    """The next entry of the log is damaged."""
    state = await world.state(strategy)
    whole = encode(NewEvent(SellTriggered(run=state.run, due_at=1), strategy, USER), "x-1", "x")
    damaged = whole[:-6] + b"\xc1" * 6 if owner else b"\xc1garbage"
    position = await world.log.last_position() + 1
    stream = world.log.keys.streams[SellTriggered.stream]
    await world.redis.xadd(stream, {"v": 0, "t": world.clock.now(), "e": damaged}, id=f"{position}-0")
    await world.redis.hset(world.log.keys.position, "position", position)


@pytest.mark.parametrize("owner", [True, False])
async def test_a_damaged_entry_is_parked_and_the_engine_goes_on(open_world: OpenWorld, owner: bool) -> None:
    world = await open_world()
    strategy, other = await world.bought(), await world.running(buy_time=dt.time(9, 25))
    await _damage(world, strategy, owner=owner)
    await world.settle()
    assert len(await world.of_type(EventParked)) == 1
    assert "EVENT_PARKED" in [alert.code for alert in await world.of_type(AlertTriggered)]
    assert await world.pending() == 0
    await world.buy(other)
    await world.settle()
    await world.sell(other)
    await world.settle()
    assert (await world.state(other)).exit_reason is Exit.SELL


def _broken_for(strategy: int, monkeypatch: pytest.MonkeyPatch, *, times: int = 10**9) -> list[int]:
    seen: list[int] = []

    def around(decide: DecideNext) -> DecideNext:
        def breaks(state: State, facts: Facts) -> Decision:
            if state.id == strategy and len(seen) < times:
                seen.append(state.version)
                raise ZeroDivisionError("a defect")
            return decide(state, facts)

        return breaks

    monkeypatch.setattr(handlers.advance, "AROUND", ContextVar("broken", default=around))
    return seen


async def test_what_cannot_be_decided_is_parked_and_aborted_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, other = await world.bought(), await world.bought(buy_time=dt.time(9, 21))
    _broken_for(strategy, monkeypatch)
    await world.sell(strategy)
    await world.stop_loss(strategy)
    await world.pass_time(10 * MINUTE)
    aborts = await world.of_type(SafetyAbort)
    assert [abort.reason for abort in aborts] == [Abort.POISON_EVENT]
    assert len(await world.of_type(EventParked)) == 3, "the two triggers and the abort"
    assert len(await world.of_type(AlertTriggered)) == 1
    await world.sell(other)
    await world.settle()
    assert (await world.state(other)).exit_reason is Exit.SELL
    monkeypatch.undo()
    await world.pass_time(6 * MINUTE)
    assert (await world.state(strategy)).exit_reason is Exit.ABORT, "once the program is mended, it is looked at again"


async def test_what_cannot_be_decided_twice_is_decided_the_third_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = await world.bought()
    _broken_for(strategy, monkeypatch, times=2)
    await world.sell(strategy)
    await world.settle()
    assert (await world.state(strategy)).exit_reason is Exit.SELL
    assert await world.of_type(EventParked) == []


async def test_a_timer_whose_strategy_cannot_be_decided_does_not_come_back_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = await world.bought()
    await world.redis.zadd(world.log.keys.timers, {str(strategy): world.clock.now()})
    seen = _broken_for(strategy, monkeypatch)
    await world.pass_time(MINUTE)
    # once for the timer, three times for the abort's own wake-up, and then now and then
    assert len(seen) <= 4 + 6
    assert len(await world.of_type(AlertTriggered)) == 1
    assert {record.user_id for record in await world.records() if record.strategy_id == strategy} == {USER}
    monkeypatch.undo()
    await world.pass_time(10 * MINUTE)


async def test_a_halt_reaches_everybody_beside_one_that_cannot_be_decided(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = [await world.running() for _ in range(3)]
    _broken_for(two, monkeypatch)
    await world.halt()
    await world.settle()
    assert [(await world.state(each)).status for each in (one, three)] == [Status.STOPPED] * 2
    assert await world.pending() == 0
    monkeypatch.undo()
    await world.pass_time(6 * MINUTE)


# --- a runtime that cannot be read ----------------------------------------------------------------------------------

RUNTIME: list[dict[str, Any]] = [
    {"run": "x"},
    {"status": "sleeping"},
    {"order": "{"},
    {"order": '{"tag": 7}'},
    {"bought": "many"},
    {"tries": "[1]"},
    {"stop_loss": b"\xff\xfe"},
    {"nonsense": "1", "open_quantity": "ten", "run": ""},
]


@pytest.mark.parametrize("damage", RUNTIME, ids=str)
async def test_a_corrupt_runtime_is_folded_from_the_log_and_the_run_aborted(world: World, damage: Any) -> None:
    strategy, other = await world.bought(), await world.bought(buy_time=dt.time(9, 21))
    sound = await world.state(strategy)
    await world.redis.hset(world.log.keys.runtime(strategy), mapping=damage)
    with pytest.raises(CorruptState):
        await world.state(strategy)
    await world.log.append([NewEvent(_sell_of(sound), strategy, USER)])
    await world.settle()
    state = await world.state(strategy)
    assert (state.status, state.exit_reason, state.open_quantity) == (Status.FAILED, Exit.ABORT, 10)
    assert [abort.reason for abort in await world.of_type(SafetyAbort)] == [Abort.RUNTIME_CORRUPTED]
    assert "UNPROTECTED_POSITION" in state.alerted
    assert await world.of_type(EventParked) == []
    await world.sell(other)
    await world.settle()
    assert (await world.state(other)).exit_reason is Exit.SELL
    await world.stop(strategy, square_off=True)
    await world.settle()
    assert (await world.state(strategy)).open_quantity == 0


def _sell_of(state: State) -> Any:
    return SellTriggered(run=state.run, due_at=state.sell_at)


@pytest.mark.parametrize("damage", [{"past": "{"}, {"buy_time": "noon"}, {"quantity": "x", "product": "ABC"}], ids=str)
async def test_a_corrupt_strategy_is_folded_from_the_log_too(world: World, damage: Any) -> None:
    strategy = await world.bought()
    sound = await world.state(strategy)
    await world.redis.hset(world.log.keys.strategy(strategy), mapping=damage)
    await world.log.append([NewEvent(_sell_of(sound), strategy, USER)])
    await world.settle()
    state = await world.state(strategy)
    assert (state.status, state.open_quantity, state.quantity) == (Status.FAILED, 10, 10)
    assert "past" in differences(sound, state) or state.past == sound.past


async def test_a_corrupt_runtime_of_an_order_in_flight_is_repaired_by_the_outcome(world: World) -> None:
    strategy = await world.running()

    async def damage(request: object, answer: object) -> None:
        await world.redis.hset(world.log.keys.runtime(strategy), "order", "{")

    world.hooks.after_place = damage
    await world.buy(strategy)
    await world.settle()
    state = await world.state(strategy)
    assert (state.status, state.open_quantity) == (Status.FAILED, 10)
    assert (await world.types(strategy)).count("ORDER_ACCEPTED") == 1
    assert [abort.reason for abort in await world.of_type(SafetyAbort)] == [Abort.RUNTIME_CORRUPTED]


async def test_a_corrupt_runtime_is_repaired_by_the_poller_when_it_comes_first(world: World) -> None:
    strategy = await world.running()
    process = world.processes.pop()
    await world.buy(strategy)
    await process.worker.step()
    await world.redis.hset(world.log.keys.runtime(strategy), "order", "{")
    await world.settle()
    assert (await world.state(strategy)).open_quantity == 10
    world.processes.append(process)
    await world.settle()
    assert (await world.state(strategy)).status is Status.FAILED


async def test_one_that_cannot_be_read_keeps_no_other_of_its_account_in_doubt(open_world: OpenWorld) -> None:
    never = Script(lost=Lost(surfaces=None))
    world = await open_world(plan=ScriptedPlan([(1, never), (2, never)]))
    damaged, other = await world.running(), await world.running()
    for strategy in (damaged, other):
        await world.buy(strategy)
    await world.pass_time(10 * SECOND)
    assert (await world.state(other)).unresolved
    await world.redis.hset(world.log.keys.runtime(damaged), "order", "{")

    async def given_up() -> bool:
        return (await world.state(other)).status is Status.STOPPED

    assert await world.pass_time(5 * MINUTE, until=given_up)
    assert (await world.state(other)).exit_reason is Exit.REJECTED
    assert (await world.state(damaged)).exit_reason is Exit.ABORT


async def test_two_workers_repair_a_corrupt_runtime_once(open_world: OpenWorld) -> None:
    world = await open_world(workers=("w1", "w2"))
    strategy = await world.bought()
    sound = await world.state(strategy)
    await world.redis.hset(world.log.keys.runtime(strategy), "order", "{")
    await world.log.append([NewEvent(_sell_of(sound), strategy, USER)])
    await world.log.append([NewEvent(_stop_of(), strategy, USER)])
    await asyncio.gather(*(process.worker.step() for process in world.processes))
    await world.settle()
    assert len(await world.of_type(SafetyAbort)) == 1
    assert len(await world.of_type(StrategyExited)) == 1


def _stop_of() -> Any:
    return StrategyStopRequested()


async def test_a_strategy_that_has_ended_is_repaired_without_an_abort(world: World) -> None:
    strategy = await world.bought()
    await world.sell(strategy)
    await world.settle()
    sound = await world.state(strategy)
    await world.redis.hset(world.log.keys.runtime(strategy), "tries", "{")
    await world.log.append([NewEvent(_sell_of(sound), strategy, USER)])
    await world.settle()
    assert (await world.state(strategy)).exit_reason is Exit.SELL
    assert await world.of_type(SafetyAbort) == []


@pytest.mark.parametrize("claimed", ["x", "1", "999"])
async def test_a_version_that_no_event_has_is_written_anew_and_the_run_aborted(world: World, claimed: str) -> None:
    strategy, other = await world.bought(), await world.bought(buy_time=dt.time(9, 21))
    await world.redis.hset(world.log.keys.strategy(strategy), "version", claimed)
    state = await state_at(world.log, strategy)
    assert state is not None
    assert await repair(world.desk, strategy, CorruptState("its version is not that of its events"))
    await world.settle()
    assert [abort.reason for abort in await world.of_type(SafetyAbort, strategy)] == [Abort.RUNTIME_CORRUPTED]
    repaired = await world.state(strategy)
    assert (repaired.status, repaired.open_quantity) == (Status.FAILED, 10)
    assert repaired.version > state.version
    await world.sell(other)
    await world.settle()
    assert (await world.state(other)).exit_reason is Exit.SELL
