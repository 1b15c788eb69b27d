"""The `Broker` and `Brokers` ports over the paper exchange."""

import asyncio
import datetime as dt
import sqlite3
from asyncio import FIRST_COMPLETED, Event, create_task, wait
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import TypeVar

from msgspec.structs import replace

from brokers.paper.exchange import Exchange
from brokers.paper.matching import Order
from brokers.paper.positions import positions
from brokers.paper.rows import Rows
from brokers.port import (
    BookOrder,
    BrokerPosition,
    BrokerUnavailable,
    Changing,
    OrderLimits,
    Placing,
    SessionExpired,
    Trade,
    Unanswered,
)
from domain.calendar import instant, wall
from domain.values import Duration, Instant, OrderRequest, Price

__all__ = ["PaperBroker", "PaperBrokers"]

T = TypeVar("T")

POLL: Duration = 200_000
"""How often `updates` looks for changes made by other processes."""


class PaperBroker:
    """One account. Several of them, in any number of processes, may serve the same account."""

    def __init__(
        self, account: str, exchange: Exchange, *, poll: Duration | None = POLL, limits: OrderLimits | None = None
    ) -> None:
        """`poll=None`: `updates` wakes for this process's changes and for what is due by time, and never polls."""
        self._account = account
        self._exchange = exchange
        self._poll = poll
        self._limits = limits

    @property
    def account(self) -> str:
        return self._account

    @property
    def limits(self) -> OrderLimits | None:
        return self._limits

    async def place(self, request: OrderRequest) -> Placing:
        try:
            return await self._exchange.place(self._account, request)
        except (sqlite3.Error, BrokerUnavailable) as error:
            return Unanswered(f"order book: {error}")

    async def modify(self, order_id: str, *, price: Price) -> Changing:
        try:
            return await self._exchange.modify(self._account, order_id, price)
        except sqlite3.Error as error:
            return Unanswered(f"order book: {error}")

    async def cancel(self, order_id: str) -> Changing:
        try:
            return await self._exchange.cancel(self._account, order_id)
        except sqlite3.Error as error:
            return Unanswered(f"order book: {error}")

    async def orders(self) -> list[BookOrder]:
        def read(rows: Rows, now: Instant) -> list[BookOrder]:
            return [_shown(order) for order in rows.between(self._account, _day_of(now), now)]

        return await self._reading(read)

    async def trades(self) -> list[Trade]:
        return await self._reading(lambda rows, now: rows.trades(self._account, _day_of(now)))

    async def positions(self) -> list[BrokerPosition]:
        """Intraday positions are those of the day: the broker squares them off. Deliveries stay."""
        return await self._reading(lambda rows, now: positions(rows.movements(self._account, _day_of(now))))

    def updates(self) -> AsyncIterator[str]:
        """Begins with the changes after this call. Raises BrokerUnavailable when the book cannot be read."""
        try:
            return self._follow(self._exchange.book.changes(), self._exchange.book.listen(self._account))
        except sqlite3.Error as error:
            raise BrokerUnavailable(f"order book: {error}") from error

    async def _follow(self, cursor: int, changed: Event) -> AsyncIterator[str]:
        exchange, looked, live = self._exchange, -1, True
        while True:
            changed.clear()
            due: Instant | None = None
            try:
                if live or exchange.book.changes() != looked:
                    looked = exchange.book.changes()
                    news = await exchange.news(self._account, cursor)
                    cursor, live, due = news.cursor, news.live, news.due
                    for order_id in news.order_ids:
                        yield order_id
            except sqlite3.Error as error:
                raise BrokerUnavailable(f"order book: {error}") from error
            await self._wait(changed, due)

    async def _wait(self, changed: Event, due: Instant | None) -> None:
        """Until this process changed something, something is due, or it is time to poll."""
        pauses = [pause for pause in (self._poll, due and due - self._exchange.clock.now()) if pause is not None]
        if not pauses:
            await changed.wait()
            return
        waiting = {create_task(changed.wait()), create_task(self._pause(min(pauses)))}
        try:
            await wait(waiting, return_when=FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _pause(self, duration: Duration) -> bool:
        await self._exchange.clock.sleep(duration)
        return True

    async def _reading(self, read: Callable[[Rows, Instant], T]) -> T:
        """A reading of the book, with everything settled that is due. Fails when it is meant to."""
        exchange = self._exchange
        try:
            await self._admit()
            await exchange.settle(self._account)
            now = exchange.clock.now()
            return await exchange.book.read(lambda rows: read(rows, now))
        except sqlite3.Error as error:
            raise BrokerUnavailable(f"order book: {error}") from error

    async def _admit(self) -> None:
        account, book, now = self._account, self._exchange.book, self._exchange.clock.now()
        state = await book.read(lambda rows: rows.account(account))
        if state.expired:
            raise SessionExpired(f"{account} has no valid session")
        if state.dark_from <= now < state.dark_until:
            raise BrokerUnavailable(f"{account}: the book cannot be read until {state.dark_until}")
        if state.failing > 0:
            await book.write(lambda rows: _one_less(rows, account))
            raise BrokerUnavailable(f"{account}: this reading of the book failed")


class PaperBrokers:
    """Every connected user has the account `PAPER-<user id>`."""

    def __init__(
        self,
        exchange: Exchange,
        connected: Callable[[], Awaitable[Collection[int]]],
        *,
        poll: Duration | None = POLL,
        limits: OrderLimits | None = None,
    ) -> None:
        """`connected` says which users have a broker session now; paper has no limits unless they are given."""
        self._exchange = exchange
        self._connected = connected
        self._poll = poll
        self._limits = limits
        self._brokers: dict[int, PaperBroker] = {}

    async def of(self, user_id: int) -> PaperBroker | None:
        if user_id not in await self._connected():
            self._brokers.pop(user_id, None)
            return None
        if user_id not in self._brokers:
            self._brokers[user_id] = PaperBroker(
                f"PAPER-{user_id}", self._exchange, poll=self._poll, limits=self._limits
            )
        return self._brokers[user_id]

    async def connected(self) -> list[int]:
        return sorted(await self._connected())


def _shown(order: Order) -> BookOrder:
    return BookOrder(
        order_id=str(order.order_id),
        tag=order.tag or None,
        symbol=order.symbol,
        side=order.side,
        product=order.product,
        quantity=order.quantity,
        filled=order.filled,
        average_price=order.average_price,
        price=order.limit,
        status=order.status,
        placed_at=order.placed_at,
        text=order.text,
        reason=order.reason,
        curable=order.curable,
    )


def _one_less(rows: Rows, account: str) -> None:
    state = rows.account(account)
    rows.keep_account(account, replace(state, failing=max(0, state.failing - 1)))


def _day_of(now: Instant) -> Instant:
    """Midnight of the exchange's day: the book is that of one day."""
    return instant(wall(now).date(), dt.time.min)
