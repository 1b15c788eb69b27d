"""What the paper broker does beyond the port: its checks, the session's end, latency, outages."""

import asyncio
import datetime as dt
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from brokers.instruments import InstrumentTable
from brokers.paper.broker import PaperBroker, PaperBrokers
from brokers.paper.plan import NEVER, NoFaults, Portion, Rejection, Script, ScriptedPlan
from brokers.port import Accepted, BookStatus, BrokerUnavailable, Done, Instrument, NotPlaced, Refused
from domain.calendar import instant
from domain.values import SECOND, Product, Side
from tests.brokers.conformance import PRICE, SBIN, TCS, found, placed, request
from tests.brokers.world import CLOSE, DAY, TEN, World, until

LOTS = InstrumentTable(
    [
        Instrument(
            symbol=SBIN, lot=5, freeze=100, lower_circuit=Decimal("330.00"), upper_circuit=Decimal("345.00")
        )
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"symbol": TCS}, "INSTRUMENT"),
        ({"quantity": 0}, "LOT_SIZE"),
        ({"quantity": -5}, "LOT_SIZE"),
        ({"quantity": 7}, "LOT_SIZE"),
        ({"quantity": 105}, "FREEZE_QUANTITY"),
        ({"tag": "WITH-DASH"}, "TAG"),
        ({"tag": "T" * 21}, "TAG"),
        ({"price": Decimal("340.02")}, "TICK_SIZE"),
        ({"price": Decimal(0)}, "PRICE"),
        ({"price": Decimal(-5)}, "PRICE"),
        ({"price": Decimal("NaN")}, "PRICE"),
        ({"price": Decimal("345.05")}, "CIRCUIT"),
        ({"price": Decimal("329.95")}, "CIRCUIT"),
    ],
)
async def test_a_request_that_breaks_a_rule_is_refused_with_its_reason(change: dict[str, object], reason: str) -> None:
    world = World(instruments=LOTS)
    await world.set_price(SBIN, PRICE)
    answer = await world.broker().place(request(**{"quantity": 10, **change}))  # type: ignore[arg-type]
    assert isinstance(answer, NotPlaced)
    assert (answer.reason, answer.curable) == (reason, False)
    assert await world.broker().orders() == []


@pytest.mark.parametrize("protection", [Decimal(0), Decimal("100.01"), Decimal(-2), Decimal("NaN")])
async def test_a_market_order_needs_a_market_protection(protection: Decimal) -> None:
    world = World()
    await world.set_price(SBIN, PRICE)
    answer = await world.broker().place(msgspec.structs.replace(request(), market_protection=protection))
    assert isinstance(answer, NotPlaced)
    assert answer.reason == "MARKET_PROTECTION"


async def test_a_market_order_without_a_price_may_be_tried_again() -> None:
    answer = await World().broker().place(request())
    assert isinstance(answer, NotPlaced)
    assert (answer.reason, answer.curable) == ("NO_PRICE", True)


async def test_protection_stays_within_the_circuit() -> None:
    world = World(instruments=LOTS)
    await world.set_price(SBIN, PRICE)
    await placed(world, request(tag="BUY"))
    await placed(world, request(Side.SELL, tag="SELL"))
    assert (await found(world, "BUY")).price == Decimal("345.00")
    assert (await found(world, "SELL")).price == Decimal("333.25")


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(CLOSE, id="at the close"),
        pytest.param(instant(DAY, dt.time(9, 14, 59)), id="before the open"),
        pytest.param(instant(dt.date(2021, 4, 14), dt.time(10)), id="on a holiday"),
        pytest.param(instant(dt.date(1999, 1, 4), dt.time(10)), id="in an unknown year"),
    ],
)
async def test_a_closed_market_takes_no_orders(at: int) -> None:
    world = World(at=at)
    await world.set_price(SBIN, PRICE)
    answer = await world.broker().place(request())
    assert isinstance(answer, NotPlaced)
    assert (answer.reason, answer.curable) == ("MARKET_CLOSED", False)


async def test_a_resting_order_lapses_with_its_session() -> None:
    world = World(at=CLOSE - SECOND)
    await world.set_price(SBIN, PRICE)
    order_id = await placed(world, request(price=Decimal("335.00"), tag="REST"))
    world.clock.set(CLOSE)
    await world.set_price(SBIN, Decimal("330.00"))
    order = await found(world, "REST")
    assert (order.status, order.filled) == (BookStatus.CANCELLED, 0)
    assert await world.broker().cancel(order_id) == Refused("ORDER_CANCELLED")


async def test_the_book_is_the_days_and_only_deliveries_stay() -> None:
    world = World()
    await world.set_price(SBIN, PRICE)
    await placed(world, request(quantity=4))
    await placed(world, request(quantity=3, product=Product.CNC))
    world.clock.set(instant(dt.date(2021, 4, 15), dt.time(10)))
    assert (await world.broker().orders(), await world.broker().trades()) == ([], [])
    assert [(row.product, row.quantity) for row in await world.broker().positions()] == [(Product.CNC, 3)]


async def test_latency_is_waited_for_and_the_fill_comes_after_it() -> None:
    world = World(plan=NoFaults(3 * SECOND))
    await world.set_price(SBIN, PRICE)
    broker, asked = world.broker(), request()
    assert isinstance(await world.answer(broker.place(asked)), Accepted)
    assert world.now() == TEN + 3 * SECOND
    (trade,) = await broker.trades()
    assert trade.at == TEN + 3 * SECOND


async def test_an_order_whose_sender_died_during_the_latency_is_in_the_book_and_fills(tmp_path: Path) -> None:
    world = World(tmp_path / "paper.db", plan=NoFaults(3 * SECOND))
    await world.set_price(SBIN, PRICE)
    asked = request()
    placing = asyncio.ensure_future(world.broker().place(asked))
    await until(lambda: world.clock.next_at() is not None, placing)
    placing.cancel()
    await world.restart()
    assert (await found(world, asked.tag)).status is BookStatus.OPEN
    await world.advance(3 * SECOND)
    assert (await found(world, asked.tag)).status is BookStatus.COMPLETE
    world.close()


async def test_what_a_script_releases_waits_for_the_price() -> None:
    script = Script(fills=(Portion(2, SECOND), Portion(3, 2 * SECOND)), rest=SECOND)
    world = World(plan=ScriptedPlan([(1, script)]))
    await world.set_price(SBIN, PRICE)
    asked = request(tag="P")
    await placed(world, asked)
    filled = []
    for price in ("340.05", "340.05", "360.00", "341.00"):
        await world.advance(SECOND)
        await world.set_price(SBIN, Decimal(price))
        filled.append((await found(world, "P")).filled)
    assert filled == [2, 5, 5, 10]
    assert (await found(world, "P")).average_price == (5 * PRICE + 5 * Decimal("341.00")) / 10


async def test_a_remainder_without_protection_rests_through_every_tick_until_modified() -> None:
    script = Script(fills=(Portion(Decimal("0.3")),), rest=NEVER)
    world = World(plan=ScriptedPlan([(1, script)]))
    await world.set_price(SBIN, PRICE)
    order_id = await placed(world, request(Side.SELL, tag="S"))
    for _ in range(5):
        await world.advance(60 * SECOND)
        await world.set_price(SBIN, PRICE)
    assert (await found(world, "S")).filled == 3
    assert await world.broker().modify(order_id, price=Decimal("341.00")) == Done()
    assert (await found(world, "S")).filled == 3
    await world.set_price(SBIN, Decimal("341.05"))
    assert (await found(world, "S")).status is BookStatus.COMPLETE


async def test_an_order_that_will_be_rejected_can_be_cancelled_before() -> None:
    world = World(plan=ScriptedPlan([(1, Script(reject=Rejection(reason="RMS", after=5 * SECOND)))]))
    await world.set_price(SBIN, PRICE)
    order_id = await placed(world, request(tag="R"))
    assert await world.broker().cancel(order_id) == Done()
    await world.advance(10 * SECOND)
    assert (await found(world, "R")).status is BookStatus.CANCELLED


async def test_readings_fail_between_two_instants() -> None:
    world = World()
    await world.exchange.fail_readings("ACCOUNT1", since=TEN + SECOND, until=TEN + 3 * SECOND)
    failed = []
    for _ in range(5):
        try:
            await world.broker().orders()
            failed.append(False)
        except BrokerUnavailable:
            failed.append(True)
        await world.advance(SECOND)
    assert failed == [False, True, True, False, False]
    assert await world.broker("ACCOUNT2").orders() == []


async def test_an_order_can_take_the_next_readings_down() -> None:
    world = World(plan=ScriptedPlan([(1, Script(failed_readings=2))]))
    await world.set_price(SBIN, PRICE)
    await placed(world, request(tag="D"))
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            await world.broker().orders()
    assert (await found(world, "D")).filled == 10


async def test_a_missing_price_feed_places_nothing_and_fails_readings_of_resting_orders() -> None:
    world = World()
    await world.set_price(SBIN, PRICE)
    order_id = await placed(world, request(price=Decimal("330.00")))
    world.lose_the_feed()
    answer = await world.broker().place(request())
    assert isinstance(answer, NotPlaced)
    assert (answer.reason, answer.curable) == ("NO_PRICE", True)
    with pytest.raises(BrokerUnavailable):
        await world.broker().orders()
    assert await world.broker().cancel(order_id) == Done()


async def test_average_cost_follows_the_shares_that_are_held() -> None:
    world = World()
    steps = [(Side.BUY, 10, "340.00"), (Side.BUY, 10, "341.00"), (Side.SELL, 5, "350.00"), (Side.SELL, 20, "345.00")]
    costs = []
    for side, quantity, price in steps:
        await world.set_price(SBIN, Decimal(price))
        await placed(world, request(side, quantity))
        (row,) = await world.broker().positions()
        costs.append((row.quantity, row.average_price))
    assert costs == [(10, Decimal(340)), (20, Decimal("340.5")), (15, Decimal("340.5")), (-5, Decimal(345))]
    await placed(world, request(Side.BUY, 5))
    (row,) = await world.broker().positions()
    assert (row.quantity, row.average_price) == (0, None)


async def test_every_connected_user_has_an_account() -> None:
    world = World()
    users = {7, 3}

    async def connected() -> set[int]:
        return users

    brokers = PaperBrokers(world.exchange, connected)
    assert await brokers.connected() == [3, 7]
    broker = await brokers.of(7)
    assert isinstance(broker, PaperBroker)
    assert broker.account == "PAPER-7"
    assert await brokers.of(7) is broker
    assert await brokers.of(8) is None
    users.discard(7)
    assert await brokers.of(7) is None
