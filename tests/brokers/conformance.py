"""What any adapter of the Broker port must do: subclass `BrokerConformance` and give it a `harness` fixture.

The tests own the time: nothing here sleeps, and a call that waits is driven on by `harness.answer`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from enum import StrEnum
from itertools import count
from typing import Protocol, TypeVar

import pytest

from brokers.port import (
    Accepted,
    BookOrder,
    BookStatus,
    Broker,
    BrokerUnavailable,
    Done,
    NotPlaced,
    Refused,
    SessionExpired,
    Unanswered,
)
from domain.values import MINUTE, SECOND, Duration, Instant, OrderRequest, Price, Product, Quantity, Side, Tag

T = TypeVar("T")

SBIN = "NSE:SBIN"
TCS = "NSE:TCS"
PRICE = Decimal("340.05")


class Fault(StrEnum):
    """What the harness makes of the next order, unless the fault says otherwise."""

    REJECTED_BEFORE = "rejected before acceptance: it never enters the book"
    THROTTLED = "rejected with a 429"
    REJECTED_AFTER = "accepted, and rejected within 2 s"
    LOST_EXISTS = "unanswered, in the book at once"
    LOST_SURFACES = "unanswered, in the book after 30 s"
    LOST_NEVER = "unanswered, never in the book"
    HALF_FILLS = "half of it fills, the other half within 5 s"
    HALF_RESTS = "half of it fills, the other half rests until it is modified"
    CANCEL_REFUSED = "its first cancel is refused"
    CANCEL_FILLED = "half of it fills; the rest just before the first cancel"
    CANCEL_LOST = "its first cancel is carried out, unanswered"
    CANCEL_IGNORED = "its first cancel is neither carried out nor answered"
    MODIFY_REFUSED = "its first modification is refused"
    MODIFY_LOST = "its first modification is carried out, unanswered"
    READING_FAILS = "the next reading of the account's book fails"
    SESSION_EXPIRED = "the account's session ends, until SESSION_RENEWED"
    SESSION_RENEWED = "the account has a session again"


class Harness(Protocol):
    """The world around an adapter: a market, a clock, and a broker that can be made to fail."""

    def broker(self, account: str = "ACCOUNT1") -> Broker:
        """The adapter for this account; the same account always means the same book."""
        ...

    def now(self) -> Instant: ...

    async def advance(self, duration: Duration) -> None: ...

    async def answer(self, call: Awaitable[T]) -> T:
        """Awaits a call, moving the clock on whenever the call waits for it."""
        ...

    async def set_price(self, symbol: str, price: Price) -> None: ...

    async def inject(self, fault: Fault, account: str = "ACCOUNT1") -> None: ...

    async def restart(self) -> None:
        """The engine's process ends and begins anew; the broker goes on. Adapters made before are dead."""
        ...


_numbers = count(1)


def request(
    side: Side = Side.BUY,
    quantity: Quantity = 10,
    *,
    symbol: str = SBIN,
    product: Product = Product.MIS,
    tag: str | None = None,
    price: Price | None = None,
) -> OrderRequest:
    return OrderRequest(
        symbol=symbol,
        side=side,
        quantity=quantity,
        product=product,
        tag=Tag(tag or f"TAG{next(_numbers):017}"),
        price=price,
    )


class BrokerConformance:
    @pytest.fixture(autouse=True)
    async def _market(self, harness: Harness) -> None:
        await harness.set_price(SBIN, PRICE)
        await harness.set_price(TCS, Decimal("3104.05"))

    # --- placing

    async def test_an_order_is_accepted_and_fills_at_the_markets_price(self, harness: Harness) -> None:
        asked = request(quantity=7)
        order_id = await placed(harness, asked)
        order = await found(harness, asked.tag)
        assert order.order_id == order_id
        assert (order.symbol, order.side, order.product, order.quantity) == (SBIN, Side.BUY, Product.MIS, 7)
        assert (order.status, order.filled, order.average_price) == (BookStatus.COMPLETE, 7, PRICE)

    async def test_the_book_shows_the_tag_as_it_was_sent(self, harness: Harness) -> None:
        await placed(harness, request(tag="B4H1XYZ0000000000042"))
        assert (await found(harness, "B4H1XYZ0000000000042")).tag == "B4H1XYZ0000000000042"

    async def test_two_orders_have_two_ids(self, harness: Harness) -> None:
        assert await placed(harness, request()) != await placed(harness, request())

    async def test_a_market_order_becomes_a_limit_within_its_protection(self, harness: Harness) -> None:
        asked = request()
        await placed(harness, asked)
        order = await found(harness, asked.tag)
        assert order.price is not None
        assert order.price >= PRICE
        assert order.price % Decimal("0.05") == 0

    async def test_an_unknown_instrument_is_not_placed(self, harness: Harness) -> None:
        answer = await harness.answer(harness.broker().place(request(symbol="NSE:NOSUCHTHING")))
        assert isinstance(answer, NotPlaced)
        assert not answer.curable
        assert await harness.broker().orders() == []

    async def test_a_limit_off_the_tick_grid_is_not_placed(self, harness: Harness) -> None:
        answer = await harness.answer(harness.broker().place(request(price=Decimal("340.01"))))
        assert isinstance(answer, NotPlaced)
        assert not answer.curable

    async def test_a_tag_of_more_than_20_characters_is_not_placed(self, harness: Harness) -> None:
        answer = await harness.answer(harness.broker().place(request(tag="T" * 21)))
        assert isinstance(answer, NotPlaced)
        assert not answer.curable

    async def test_a_rejection_before_acceptance_leaves_nothing_in_the_book(self, harness: Harness) -> None:
        await harness.inject(Fault.REJECTED_BEFORE)
        answer = await harness.answer(harness.broker().place(request()))
        assert isinstance(answer, NotPlaced)
        assert answer.counted
        assert answer.reason
        await harness.advance(2 * MINUTE)
        assert await harness.broker().orders() == []

    async def test_a_throttled_attempt_is_curable_and_does_not_count(self, harness: Harness) -> None:
        await harness.inject(Fault.THROTTLED)
        answer = await harness.answer(harness.broker().place(request()))
        assert isinstance(answer, NotPlaced)
        assert (answer.curable, answer.counted, answer.session) == (True, False, False)

    async def test_a_rejection_after_acceptance_shows_in_the_book(self, harness: Harness) -> None:
        await harness.inject(Fault.REJECTED_AFTER)
        asked = request()
        await placed(harness, asked)
        await harness.advance(2 * SECOND)
        order = await found(harness, asked.tag)
        assert (order.status, order.filled) == (BookStatus.REJECTED, 0)
        assert order.reason
        assert await harness.broker().trades() == []

    # --- outcomes that are not known

    async def test_an_unanswered_order_may_be_in_the_book_at_once(self, harness: Harness) -> None:
        await harness.inject(Fault.LOST_EXISTS)
        asked = request()
        assert isinstance(await harness.answer(harness.broker().place(asked)), Unanswered)
        assert (await found(harness, asked.tag)).filled == 10

    async def test_an_unanswered_order_may_surface_later(self, harness: Harness) -> None:
        await harness.inject(Fault.LOST_SURFACES)
        asked, before = request(), harness.now()
        assert isinstance(await harness.answer(harness.broker().place(asked)), Unanswered)
        assert await harness.broker().orders() == []
        assert await harness.broker().positions() == []
        await harness.advance(31 * SECOND)
        order = await found(harness, asked.tag)
        assert order.status is BookStatus.COMPLETE
        assert order.placed_at > before

    async def test_an_unanswered_order_may_never_have_existed(self, harness: Harness) -> None:
        await harness.inject(Fault.LOST_NEVER)
        assert isinstance(await harness.answer(harness.broker().place(request())), Unanswered)
        await harness.advance(3 * MINUTE)
        assert await harness.broker().orders() == []

    # --- filling

    async def test_fills_are_cumulative_and_never_go_back(self, harness: Harness) -> None:
        await harness.inject(Fault.HALF_FILLS)
        asked = request()
        await placed(harness, asked)
        seen = []
        for _ in range(6):
            order = await found(harness, asked.tag)
            seen.append(order.filled)
            assert order.status is (BookStatus.COMPLETE if order.filled == 10 else BookStatus.OPEN)
            await harness.advance(SECOND)
        assert seen == sorted(seen)
        assert (seen[0], seen[-1]) == (5, 10)

    async def test_the_average_price_is_exact(self, harness: Harness) -> None:
        await harness.inject(Fault.HALF_FILLS)
        asked = request(quantity=2)
        await placed(harness, asked)
        await harness.set_price(SBIN, Decimal("340.10"))
        await harness.advance(5 * SECOND)
        assert (await found(harness, asked.tag)).average_price == Decimal("340.075")

    async def test_the_average_price_covers_only_what_filled(self, harness: Harness) -> None:
        asked = request(price=Decimal("330.00"))
        await placed(harness, asked)
        assert (await found(harness, asked.tag)).average_price is None

    async def test_a_limit_order_rests_until_the_price_comes_to_it(self, harness: Harness) -> None:
        asked = request(price=Decimal("335.00"))
        await placed(harness, asked)
        assert (await found(harness, asked.tag)).status is BookStatus.OPEN
        await harness.set_price(SBIN, Decimal("335.05"))
        assert (await found(harness, asked.tag)).filled == 0
        await harness.set_price(SBIN, Decimal("334.90"))
        order = await found(harness, asked.tag)
        assert order.status is BookStatus.COMPLETE
        assert order.average_price is not None
        assert order.average_price <= Decimal("335.00")

    async def test_the_trades_sum_to_the_fills(self, harness: Harness) -> None:
        await harness.inject(Fault.HALF_FILLS)
        order_id = await placed(harness, request())
        await placed(harness, request(Side.SELL, 3, symbol=TCS))
        await harness.broker().orders()
        await harness.advance(5 * SECOND)
        trades = await harness.broker().trades()
        assert len({trade.trade_id for trade in trades}) == len(trades)
        for order in await harness.broker().orders():
            own = [trade for trade in trades if trade.order_id == order.order_id]
            assert sum(trade.quantity for trade in own) == order.filled
            assert order.average_price == sum(trade.quantity * trade.price for trade in own) / order.filled
            assert {(trade.symbol, trade.side) for trade in own} == {(order.symbol, order.side)}
        assert len([trade for trade in trades if trade.order_id == order_id]) == 2

    async def test_positions_are_net_of_trades_per_symbol_and_product(self, harness: Harness) -> None:
        await placed(harness, request(Side.BUY, 10))
        await placed(harness, request(Side.SELL, 4))
        await placed(harness, request(Side.BUY, 3, product=Product.CNC))
        await placed(harness, request(Side.BUY, 2, symbol=TCS))
        held = {(row.symbol, row.product): row.quantity for row in await harness.broker().positions()}
        assert held == {(SBIN, Product.MIS): 6, (SBIN, Product.CNC): 3, (TCS, Product.MIS): 2}

    # --- modify and cancel

    async def test_a_modified_order_fills_when_its_price_reaches_the_market(self, harness: Harness) -> None:
        await harness.inject(Fault.HALF_RESTS)
        asked = request(Side.SELL)
        order_id = await placed(harness, asked)
        await harness.advance(MINUTE)
        assert (await found(harness, asked.tag)).filled == 5
        assert await harness.answer(harness.broker().modify(order_id, price=Decimal("330.00"))) == Done()
        order = await found(harness, asked.tag)
        assert (order.status, order.filled) == (BookStatus.COMPLETE, 10)

    async def test_a_modification_shows_in_the_book(self, harness: Harness) -> None:
        asked = request(price=Decimal("330.00"))
        order_id = await placed(harness, asked)
        assert await harness.answer(harness.broker().modify(order_id, price=Decimal("331.00"))) == Done()
        order = await found(harness, asked.tag)
        assert (order.price, order.status) == (Decimal("331.00"), BookStatus.OPEN)

    async def test_a_modification_off_the_tick_grid_is_refused(self, harness: Harness) -> None:
        order_id = await placed(harness, request(price=Decimal("330.00")))
        assert isinstance(await harness.answer(harness.broker().modify(order_id, price=Decimal("331.01"))), Refused)

    async def test_an_order_is_modified_25_times_at_most(self, harness: Harness) -> None:
        order_id = await placed(harness, request(price=Decimal("330.00")))
        for n in range(25):
            price = Decimal("331.00") + n % 2
            assert await harness.answer(harness.broker().modify(order_id, price=price)) == Done()
            await harness.advance(SECOND)
        assert isinstance(await harness.answer(harness.broker().modify(order_id, price=Decimal("333.00"))), Refused)

    async def test_a_refused_modification_changes_nothing(self, harness: Harness) -> None:
        await harness.inject(Fault.MODIFY_REFUSED)
        asked = request(price=Decimal("330.00"))
        order_id = await placed(harness, asked)
        assert isinstance(await harness.answer(harness.broker().modify(order_id, price=Decimal("331.00"))), Refused)
        assert (await found(harness, asked.tag)).price == Decimal("330.00")

    async def test_an_unanswered_modification_may_be_carried_out(self, harness: Harness) -> None:
        await harness.inject(Fault.MODIFY_LOST)
        asked = request(price=Decimal("330.00"))
        order_id = await placed(harness, asked)
        answer = await harness.answer(harness.broker().modify(order_id, price=Decimal("331.00")))
        assert isinstance(answer, Unanswered)
        assert (await found(harness, asked.tag)).price == Decimal("331.00")

    async def test_a_cancelled_order_keeps_what_filled(self, harness: Harness) -> None:
        await harness.inject(Fault.HALF_RESTS)
        asked = request()
        order_id = await placed(harness, asked)
        await found(harness, asked.tag)
        assert await harness.answer(harness.broker().cancel(order_id)) == Done()
        order = await found(harness, asked.tag)
        assert (order.status, order.filled) == (BookStatus.CANCELLED, 5)
        await harness.set_price(SBIN, Decimal("300.00"))
        await harness.advance(MINUTE)
        assert await found(harness, asked.tag) == order

    async def test_a_terminal_order_cannot_be_cancelled_or_modified(self, harness: Harness) -> None:
        complete = await placed(harness, request())
        cancelled = await placed(harness, request(price=Decimal("330.00")))
        await harness.broker().orders()
        assert await harness.answer(harness.broker().cancel(cancelled)) == Done()
        before = await harness.broker().orders()
        for order_id in (complete, cancelled):
            assert isinstance(await harness.answer(harness.broker().cancel(order_id)), Refused)
            answer = await harness.answer(harness.broker().modify(order_id, price=Decimal("335.00")))
            assert isinstance(answer, Refused)
        assert await harness.broker().orders() == before

    async def test_an_unknown_order_cannot_be_cancelled_or_modified(self, harness: Harness) -> None:
        assert isinstance(await harness.answer(harness.broker().cancel("999999999999999")), Refused)
        answer = await harness.answer(harness.broker().modify("999999999999999", price=PRICE))
        assert isinstance(answer, Refused)

    async def test_a_refused_cancel_leaves_the_order_open(self, harness: Harness) -> None:
        await harness.inject(Fault.CANCEL_REFUSED)
        asked = request(price=Decimal("330.00"))
        order_id = await placed(harness, asked)
        assert isinstance(await harness.answer(harness.broker().cancel(order_id)), Refused)
        assert (await found(harness, asked.tag)).status is BookStatus.OPEN
        assert await harness.answer(harness.broker().cancel(order_id)) == Done()
        assert (await found(harness, asked.tag)).status is BookStatus.CANCELLED

    async def test_a_cancel_that_loses_to_a_fill_is_refused(self, harness: Harness) -> None:
        await harness.inject(Fault.CANCEL_FILLED)
        asked = request()
        order_id = await placed(harness, asked)
        await found(harness, asked.tag)
        assert isinstance(await harness.answer(harness.broker().cancel(order_id)), Refused)
        order = await found(harness, asked.tag)
        assert (order.status, order.filled) == (BookStatus.COMPLETE, 10)

    @pytest.mark.parametrize(
        ("fault", "status"),
        [(Fault.CANCEL_LOST, BookStatus.CANCELLED), (Fault.CANCEL_IGNORED, BookStatus.OPEN)],
        ids=["carried out", "not carried out"],
    )
    async def test_an_unanswered_cancel_is_told_by_the_book(
        self, harness: Harness, fault: Fault, status: BookStatus
    ) -> None:
        await harness.inject(fault)
        asked = request(price=Decimal("330.00"))
        order_id = await placed(harness, asked)
        assert isinstance(await harness.answer(harness.broker().cancel(order_id)), Unanswered)
        assert (await found(harness, asked.tag)).status is status

    # --- reading

    async def test_an_empty_book_is_empty(self, harness: Harness) -> None:
        broker = harness.broker()
        assert (await broker.orders(), await broker.trades(), await broker.positions()) == ([], [], [])

    @pytest.mark.parametrize("reading", ["orders", "trades", "positions"])
    async def test_a_failed_reading_is_no_reading(self, harness: Harness, reading: str) -> None:
        await placed(harness, request())
        read: Callable[[], Awaitable[list[object]]] = getattr(harness.broker(), reading)
        await harness.inject(Fault.READING_FAILS)
        with pytest.raises(BrokerUnavailable):
            await harness.answer(read())
        assert len(await harness.answer(read())) == 1

    async def test_without_a_session_nothing_is_done(self, harness: Harness) -> None:
        order_id = await placed(harness, request(price=Decimal("330.00")))
        await harness.inject(Fault.SESSION_EXPIRED)
        broker = harness.broker()
        answer = await harness.answer(broker.place(request()))
        assert isinstance(answer, NotPlaced)
        assert (answer.session, answer.curable) == (True, False)
        assert isinstance(await harness.answer(broker.cancel(order_id)), Refused)
        for read in (broker.orders, broker.trades, broker.positions):
            with pytest.raises(SessionExpired):
                await harness.answer(read())
        await harness.inject(Fault.SESSION_RENEWED)
        assert [order.status for order in await harness.broker().orders()] == [BookStatus.OPEN]

    async def test_another_account_sees_nothing_and_can_do_nothing(self, harness: Harness) -> None:
        order_id = await placed(harness, request(price=Decimal("330.00")))
        await placed(harness, request())
        other = harness.broker("ACCOUNT2")
        assert other.account != harness.broker().account
        assert (await other.orders(), await other.trades(), await other.positions()) == ([], [], [])
        assert isinstance(await harness.answer(other.cancel(order_id)), Refused)
        assert isinstance(await harness.answer(other.modify(order_id, price=PRICE)), Refused)

    async def test_everything_survives_a_restart(self, harness: Harness) -> None:
        await harness.inject(Fault.HALF_RESTS)
        asked = request()
        order_id = await placed(harness, asked)
        await placed(harness, request(Side.SELL, 3, symbol=TCS))
        before = (await harness.broker().orders(), await harness.broker().trades(), await harness.broker().positions())
        await harness.restart()
        broker = harness.broker()
        assert (await broker.orders(), await broker.trades(), await broker.positions()) == before
        assert await harness.answer(broker.cancel(order_id)) == Done()
        assert (await found(harness, asked.tag)).status is BookStatus.CANCELLED

    # --- hints

    async def test_updates_hint_at_changed_orders(self, harness: Harness) -> None:
        hints = harness.broker().updates()
        order_id = await placed(harness, request())
        assert await harness.answer(anext(hints)) == order_id

    async def test_updates_hint_at_a_fill_that_comes_later(self, harness: Harness) -> None:
        await harness.inject(Fault.HALF_FILLS)
        asked = request()
        order_id = await placed(harness, asked)
        assert (await found(harness, asked.tag)).filled == 5
        hints = harness.broker().updates()
        while (await found(harness, asked.tag)).filled < 10:
            assert await harness.answer(anext(hints)) == order_id

    async def test_updates_say_nothing_of_another_accounts_orders(self, harness: Harness) -> None:
        hints = harness.broker("ACCOUNT2").updates()
        await placed(harness, request())
        waiting: asyncio.Future[str] = asyncio.ensure_future(anext(hints))
        await harness.advance(5 * SECOND)
        assert not waiting.done()
        waiting.cancel()


async def placed(harness: Harness, asked: OrderRequest, account: str = "ACCOUNT1") -> str:
    """Places an order that must be accepted; its id."""
    answer = await harness.answer(harness.broker(account).place(asked))
    assert isinstance(answer, Accepted), answer
    return answer.order_id


async def found(harness: Harness, tag: str, account: str = "ACCOUNT1") -> BookOrder:
    """The one order in the book with this tag."""
    (order,) = [order for order in await harness.broker(account).orders() if order.tag == tag]
    return order
