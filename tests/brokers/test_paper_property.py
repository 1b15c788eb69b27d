"""Whatever is done to the paper broker, in whatever order: its book stays a book."""

import asyncio
from collections import defaultdict
from decimal import Decimal

import hypothesis.strategies as st
from hypothesis import given, settings

from brokers.paper.seeded import parse_plan
from brokers.port import Accepted, BookOrder, BookStatus, BrokerUnavailable, Trade
from domain.values import SECOND, Product, Quantity, Side
from tests.brokers.conformance import SBIN, TCS, request
from tests.brokers.world import World

PLANS = (
    "none",
    "latency=20ms",
    "seed={seed},partial=0.5,rests=0.3,cancel_filled=0.3,cancel_unanswered=0.2,modify_unanswered=0.2",
    "seed={seed},latency=5ms,throttled=0.1,rejected_after=0.2,timeout_exists=0.2,timeout_surfaces=0.2,timeout_never=0.1,"
    "partial=0.3,readings=0.2,cancel_refused=0.2,modify_refused=0.2",
)
SYMBOLS = st.sampled_from([SBIN, TCS])
PRICES = st.integers(6_600, 7_000).map(lambda ticks: ticks * Decimal("0.05"))
PLACE = st.tuples(
    st.just("place"), SYMBOLS, st.sampled_from(Side), st.integers(1, 50), st.sampled_from(Product), st.none() | PRICES
)  # fmt: skip
STEPS = st.one_of(
    PLACE,
    st.tuples(st.just("modify"), st.integers(0, 20), PRICES),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("tick"), SYMBOLS, PRICES),
    st.tuples(st.just("advance"), st.integers(1, 100 * SECOND)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=15, max_size=60), st.sampled_from(PLANS), st.integers(0, 1_000))
def test_any_sequence_of_requests_ticks_and_time_keeps_the_book_sound(
    steps: list[tuple[object, ...]], plan: str, seed: int
) -> None:
    asyncio.run(play(steps, plan.format(seed=seed)))


async def play(steps: list[tuple[object, ...]], plan: str) -> None:
    world = World(plan=parse_plan(plan))
    broker, accepted = world.broker(), list[str]()
    before: dict[str, BookOrder] = {}
    for symbol in (SBIN, TCS):
        await world.set_price(symbol, Decimal("340.00"))
    for n, step in enumerate(steps):
        match step:
            case ("place", str(symbol), Side() as side, int(quantity), Product() as product, Decimal() | None as price):
                asked = request(side, quantity, symbol=symbol, product=product, tag=f"T{n}", price=price)
                if isinstance(answer := await world.answer(broker.place(asked)), Accepted):
                    accepted.append(answer.order_id)
            case ("modify", int(which), Decimal() as price) if accepted:
                await world.answer(broker.modify(accepted[which % len(accepted)], price=price))
            case ("cancel", int(which)) if accepted:
                await world.answer(broker.cancel(accepted[which % len(accepted)]))
            case ("tick", str(symbol), Decimal() as price):
                await world.set_price(symbol, price)
            case ("advance", int(duration)):
                await world.advance(duration)
        before = await check(world, before, accepted)
    world.close()


async def check(world: World, before: dict[str, BookOrder], accepted: list[str]) -> dict[str, BookOrder]:
    orders, trades, held = await reading(world)
    now = {order.order_id: order for order in orders}
    assert set(accepted) <= now.keys()
    for order_id, earlier in before.items():
        assert now[order_id].filled >= earlier.filled
        if earlier.status.terminal:
            assert now[order_id] == earlier
    of_order: dict[str, list[Trade]] = defaultdict(list)
    net: dict[tuple[str, Product], Quantity] = defaultdict(int)
    for trade in trades:
        of_order[trade.order_id].append(trade)
        sign = 1 if trade.side is Side.BUY else -1
        net[trade.symbol, now[trade.order_id].product] += sign * trade.quantity
    for order in orders:
        assert 0 <= order.filled <= order.quantity
        assert (order.filled == order.quantity) == (order.status is BookStatus.COMPLETE)
        assert order.filled == sum(trade.quantity for trade in of_order[order.order_id])
        assert (order.average_price is None) == (order.filled == 0)
    assert held == net
    return now


async def reading(world: World) -> tuple[list[BookOrder], list[Trade], dict[tuple[str, Product], Quantity]]:
    """Orders, trades and positions of one instant, however many readings fail in between."""
    broker = world.broker()
    while True:
        try:
            orders = await broker.orders()
            trades = await broker.trades()
            held = {(row.symbol, row.product): row.quantity for row in await broker.positions()}
        except BrokerUnavailable:
            continue
        return orders, trades, held
