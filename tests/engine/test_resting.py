"""Orders that rest at the broker: cancelled entries, chased exits, partial fills."""

from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from brokers.paper.plan import NEVER, ChangeFault, Portion, Script, ScriptedPlan
from domain.events import (
    AlertTriggered,
    CancelRejected,
    CancelRequested,
    ModifyRejected,
    ModifyRequested,
    OrderCancelled,
    StrategyExited,
)
from domain.values import MINUTE, SECOND, Exit, Kind, Status
from tests.engine.conftest import OpenWorld
from tests.engine.world import World

RESTS = Script(fills=(Portion(4),), rest=NEVER)
NOTHING_FILLS = Script(fills=(Portion(1, after=NEVER),))


async def _resting_entry(open_world: OpenWorld, script: Script = RESTS) -> tuple[World, int]:
    world = await open_world(plan=ScriptedPlan([(1, script)]))
    return world, await world.bought()


async def test_an_entry_that_rests_too_long_is_cancelled_and_what_filled_is_held(open_world: OpenWorld) -> None:
    world, strategy = await _resting_entry(open_world)
    assert (await world.state(strategy)).open_quantity == 4
    await world.pass_time(world.policy.entry_patience + 2 * SECOND)
    assert [event.why for event in await world.of_type(CancelRequested)] == ["it rests too long"]
    state = await world.state(strategy)
    assert (state.open_quantity, state.unresolved, state.status) == (4, False, Status.RUNNING)
    await world.sell(strategy)
    await world.finish()
    assert [intent.request.quantity for intent in await world.intents(strategy)] == [10, 4]


async def test_an_entry_of_which_nothing_filled_ends_the_run(open_world: OpenWorld) -> None:
    world, strategy = await _resting_entry(open_world, NOTHING_FILLS)
    await world.finish()
    assert (await world.state(strategy)).exit_reason is Exit.REJECTED
    assert len(world.hooks.placed) == 1


Interrupt = Callable[[World, int], Awaitable[None]]


async def _stop_loss(world: World, strategy: int) -> None:
    await world.stop_loss(strategy)


async def _sell(world: World, strategy: int) -> None:
    await world.sell(strategy)


async def _square_off(world: World, strategy: int) -> None:
    await world.stop(strategy, square_off=True)


async def _halt_and_square_off(world: World, strategy: int) -> None:
    await world.halt(square_off=True)


@pytest.mark.parametrize("interrupt", [_stop_loss, _sell, _square_off, _halt_and_square_off])
async def test_what_ends_a_position_cancels_the_entrys_rest_and_sells_what_filled(
    open_world: OpenWorld, interrupt: Interrupt
) -> None:
    world, strategy = await _resting_entry(open_world)
    await interrupt(world, strategy)
    await world.settle()
    state = await world.state(strategy)
    assert len(await world.of_type(CancelRequested)) == 1
    assert [event.filled for event in await world.of_type(OrderCancelled)] == [4]
    assert [intent.request.quantity for intent in await world.intents(strategy)] == [10, 4]
    assert (state.status, state.open_quantity) == (Status.STOPPED, 0)


async def test_a_plain_stop_cancels_the_entry_and_leaves_what_filled(open_world: OpenWorld) -> None:
    world, strategy = await _resting_entry(open_world)
    await world.stop(strategy)
    await world.settle()
    state = await world.state(strategy)
    assert (state.status, state.open_quantity, state.exit_reason) == (Status.STOPPED, 4, Exit.USER)


async def test_a_cancel_that_is_refused_is_asked_again_after_its_deadline(open_world: OpenWorld) -> None:
    script = Script(fills=(Portion(4),), rest=NEVER, cancels=(ChangeFault.REFUSED, ChangeFault.REFUSED))
    world, strategy = await _resting_entry(open_world, script)
    await world.stop_loss(strategy)
    await world.settle()
    assert len(await world.of_type(CancelRejected)) == 1
    await world.finish(MINUTE)
    asked = [event.at for event in await world.of_type(CancelRequested)]
    assert [later - earlier for earlier, later in pairwise(asked)] == [2 * SECOND, 3 * SECOND]
    assert (await world.state(strategy)).exit_reason is Exit.STOPLOSS


@pytest.mark.parametrize("fault", [ChangeFault.LOST_DONE, ChangeFault.LOST_IGNORED])
async def test_of_a_cancel_without_an_answer_the_book_knows_the_end(open_world: OpenWorld, fault: ChangeFault) -> None:
    world, strategy = await _resting_entry(open_world, Script(fills=(Portion(4),), rest=NEVER, cancels=(fault,)))
    await world.stop_loss(strategy)
    await world.finish(MINUTE)
    assert (await world.state(strategy)).exit_reason is Exit.STOPLOSS
    assert [intent.request.quantity for intent in await world.intents(strategy)] == [10, 4]


async def test_a_cancel_that_loses_to_the_last_fill_sells_everything(open_world: OpenWorld) -> None:
    script = Script(fills=(Portion(4),), rest=NEVER, cancels=(ChangeFault.FILLED,))
    world, strategy = await _resting_entry(open_world, script)
    await world.stop_loss(strategy)
    await world.finish(MINUTE)
    assert [intent.request.quantity for intent in await world.intents(strategy)] == [10, 10]
    assert (await world.state(strategy)).open_quantity == 0


async def test_fills_that_come_bit_by_bit_add_up(open_world: OpenWorld) -> None:
    bits = Script(fills=(Portion(1), Portion(2, after=SECOND), Portion(3, after=2 * SECOND)), rest=SECOND)
    world = await open_world(plan=ScriptedPlan([], otherwise=bits))
    strategy = await world.bought()
    await world.pass_time(5 * SECOND)
    assert (await world.state(strategy)).open_quantity == 10
    await world.stop_loss(strategy)
    await world.pass_time(5 * SECOND)
    state = await world.state(strategy)
    assert (state.open_quantity, state.exit_reason) == (0, Exit.STOPLOSS)
    filled = [event.filled for event in await world.history(strategy) if event.type == "ORDER_FILLED"]  # type: ignore[attr-defined]
    assert filled == [1, 3, 6, 10, 1, 3, 6, 10]


# --- exits ----------------------------------------------------------------------------------------------------------


async def test_a_resting_exit_is_moved_toward_the_market(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(2, RESTS)]))
    strategy = await world.bought()
    await world.sell(strategy)
    await world.settle()
    assert (await world.state(strategy)).open_quantity == 6
    await world.pass_time(world.policy.exit_patience + SECOND)
    (modify,) = await world.of_type(ModifyRequested)
    assert modify.price < 150
    assert (await world.state(strategy)).exit_reason is Exit.SELL
    assert "EXIT_NOT_FILLING" in [alert.code for alert in await world.of_type(AlertTriggered)]


async def test_a_falling_market_is_followed_down(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(2, RESTS)]))
    strategy = await world.bought()
    await world.stop_loss(strategy)
    for price in ("130", "120", "110", "100"):
        await world.settle()
        await world.tick(price)
        await world.pass_time(2 * SECOND)
    await world.finish(5 * MINUTE)
    prices = [modify.price for modify in await world.of_type(ModifyRequested)]
    assert prices == sorted(prices, reverse=True)
    assert (await world.state(strategy)).exit_reason is Exit.STOPLOSS


async def test_after_25_changes_the_exit_is_replaced(open_world: OpenWorld) -> None:
    stubborn = Script(fills=(Portion(4),), rest=NEVER, modifies=(ChangeFault.REFUSED,) * 30)
    world = await open_world(plan=ScriptedPlan([(2, stubborn)]))
    strategy = await world.bought()
    await world.sell(strategy)
    await world.finish(10 * MINUTE)
    assert len(await world.of_type(ModifyRequested)) == 25
    assert len(await world.of_type(ModifyRejected)) == 25
    assert [event.why for event in await world.of_type(CancelRequested)] == ["its changes are used up"]
    assert [intent.request.quantity for intent in await world.intents(strategy)] == [10, 10, 6]
    assert (await world.state(strategy)).exit_reason is Exit.SELL


@pytest.mark.parametrize("fault", [ChangeFault.LOST_DONE, ChangeFault.LOST_IGNORED])
async def test_a_change_without_an_answer_is_followed_by_another(open_world: OpenWorld, fault: ChangeFault) -> None:
    stubborn = Script(fills=(Portion(4),), rest=NEVER, modifies=(fault,))
    world = await open_world(plan=ScriptedPlan([(2, stubborn)]))
    strategy = await world.bought()
    await world.sell(strategy)
    await world.finish(MINUTE)
    assert (await world.state(strategy)).exit_reason is Exit.SELL
    assert [intent.kind for intent in await world.intents(strategy)] == [Kind.BUY, Kind.SELL]


async def test_a_stop_loss_that_comes_while_the_sell_rests_places_nothing_beside_it(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(2, RESTS)]))
    strategy = await world.bought()
    await world.sell(strategy)
    await world.settle()
    await world.stop_loss(strategy)
    await world.finish(5 * MINUTE)
    assert len([row for row in await world.rows() if row.side == "SELL"]) == 1
    assert len(await world.of_type(StrategyExited)) == 1


async def test_an_exit_that_somebody_else_cancelled_is_placed_again(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(2, RESTS)]))
    strategy = await world.bought()
    await world.sell(strategy)
    await world.settle()
    order = (await world.rows())[-1]
    await world.exchange.cancel(order.account, str(order.order_id))
    await world.finish(MINUTE)
    assert [intent.request.quantity for intent in await world.intents(strategy)] == [10, 10, 6]
