"""What is in the account and not ours: exits are clipped to it, and a difference that stays is alerted."""

import pytest
from structlog.testing import capture_logs

from brokers.port import BrokerPosition, BrokerUnavailable
from domain.events import AlertTriggered, ExecuteSell, PositionSettled
from domain.values import SECOND, Code, OrderRequest, Product, Side, Tag
from handlers.decider import Wake, decided, take_turn
from tests.engine.world import INFY, USER, HookedBroker, World


async def _by_hand(world: World, side: Side, quantity: int) -> None:
    request = OrderRequest(symbol=INFY, side=side, quantity=quantity, product=Product.MIS, tag=Tag("BYHAND"))
    await world.exchange.place(f"PAPER-{USER}", request)


async def _alerts(world: World, code: Code) -> list[AlertTriggered]:
    return [alert for alert in await world.of_type(AlertTriggered) if alert.code is code]


async def test_an_exit_sells_no_more_than_a_sale_by_hand_has_left(world: World) -> None:
    strategy = await world.bought()
    await _by_hand(world, Side.SELL, 4)
    await world.watch()
    await world.sell(strategy)
    await world.settle()
    assert [intent.request.quantity for intent in await world.of_type(ExecuteSell)] == [6]
    assert [row.filled for row in await world.rows() if row.side is Side.SELL] == [4, 6]
    assert len(await _alerts(world, Code.POSITION_MISMATCH)) == 1
    settled = PositionSettled(quantity=4, how="by hand")
    await take_turn(world.desk, strategy, lambda state, _: decided(state, [settled]), Wake())
    await world.finish()
    state = await world.state(strategy)
    assert (state.open_quantity, state.alive) == (0, False)


async def test_shares_bought_by_hand_clip_nothing(world: World) -> None:
    strategy = await world.bought()
    await _by_hand(world, Side.BUY, 4)
    await world.watch()
    await world.sell(strategy)
    await world.finish()
    assert [intent.request.quantity for intent in await world.of_type(ExecuteSell)] == [10]


async def test_a_difference_that_stays_is_alerted_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def positions(broker: HookedBroker) -> list[BrokerPosition]:
        return [BrokerPosition(symbol=INFY, product=Product.MIS, quantity=7)]

    monkeypatch.setattr(HookedBroker, "positions", positions)
    await world.bought()
    for _ in range(4):
        await world.watch()
        await world.wait_until(world.clock.now() + 31 * SECOND)
    facts = [alert.facts for alert in await _alerts(world, Code.POSITION_MISMATCH)]
    assert [(each["expected"], each["at_the_broker"]) for each in facts] == [("10", "7")]


async def test_what_agrees_is_not_alerted(world: World) -> None:
    await world.bought()
    for _ in range(4):
        await world.watch()
        await world.wait_until(world.clock.now() + 31 * SECOND)
    assert await _alerts(world, Code.POSITION_MISMATCH) == []


async def test_what_was_sold_by_hand_and_settled_is_no_difference(world: World) -> None:
    strategy = await world.bought()
    await _by_hand(world, Side.SELL, 4)
    await world.watch()
    settled = PositionSettled(quantity=4, how="by hand")
    await take_turn(world.desk, strategy, lambda state, _: decided(state, [settled]), Wake())
    for _ in range(4):
        await world.watch()
        await world.wait_until(world.clock.now() + 31 * SECOND)
    assert await _alerts(world, Code.POSITION_MISMATCH) == []
    await world.sell(strategy)
    await world.finish()
    assert [intent.request.quantity for intent in await world.of_type(ExecuteSell)] == [6]


async def test_positions_that_cannot_be_read_are_told_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def positions(broker: HookedBroker) -> list[BrokerPosition]:
        raise BrokerUnavailable("a row that cannot be understood")

    await world.bought()
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(HookedBroker, "positions", positions)
        for _ in range(3):
            await world.wait_until(world.clock.now() + 31 * SECOND)
            await world.watch()
    assert [line["event"] for line in logs].count("positions_not_read") == 1
