"""The `Broker` port over Kite: one adapter for one session of one account."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, Final, TypeVar

import structlog

from brokers.kite import book, classify
from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.book import Quote
from brokers.kite.client import Ask, KiteClients
from brokers.kite.reasons import Reason
from brokers.kite.wire import Reply
from brokers.port import (
    BookOrder,
    BrokerPosition,
    Changing,
    Instruments,
    NotPlaced,
    OrderLimits,
    Placing,
    Refused,
    SessionExpired,
    Trade,
)
from domain.clock import Clock
from domain.values import OrderRequest, Price, Side

__all__ = ["KiteBroker", "Quote"]

T = TypeVar("T")

TAG: Final = re.compile(r"[A-Za-z0-9]{1,20}")
"""Kite: longer tags are refused, not cut; letters and digits are safe."""
QUOTES_AT_ONCE: Final = 500
AUTOMATIC: Final = Decimal(-1)
SESSION_OVER: Final = "the session ended at 06:00 IST; log in at Kite again"
SESSION_CLOSED: Final = "the session is closed here: it was replaced, or the account disconnected"

log = structlog.get_logger(__name__)


class KiteBroker:
    """One account, for as long as its session lasts. Every call keeps to `address.timeout`, in real time."""

    def __init__(
        self,
        account: KiteAccount,
        address: KiteAddress,
        *,
        clock: Clock,
        instruments: Instruments,
        gate: Callable[[str], Awaitable[None]],
        refused: Callable[[KiteAccount], None],
        hints: Callable[[KiteAccount], AsyncIterator[str]],
        limits: OrderLimits | None = OrderLimits(),  # noqa: B008 (frozen)
        executor: ThreadPoolExecutor | None = None,
        on_order_written: Callable[[int], None] | None = None,
    ) -> None:
        """`gate`: awaited before each reading, with "quote" or "read"; what it raises, the reading raises.
        `refused`: called each time Kite says that the session is over. `hints`: what `updates` gives.
        `on_order_written`: hears, in a thread, the `perf_counter_ns` at which a new order was handed to the socket.
        """
        self._account = account
        self._address = address
        self._clock = clock
        self._instruments = instruments
        self._gate = gate
        self._refused = refused
        self._hints = hints
        self._limits = limits
        self._on_order_written = on_order_written
        self._clients = KiteClients(account, address, executor=executor)
        self._closed = asyncio.Event()
        self._noticed: set[tuple[str, ...]] = set()

    def __repr__(self) -> str:
        return f"KiteBroker({self._account!r})"

    @property
    def account(self) -> str:
        return self._account.kite_user_id

    @property
    def limits(self) -> OrderLimits | None:
        return self._limits

    # --- orders

    async def place(self, request: OrderRequest) -> Placing:
        """A regular order of the day: a limit order when it has a price, else a market order within its protection."""
        if (refusal := self._unplaceable(request)) is not None:
            return refusal
        fields = self._fields(request)
        answer = await self._clients.call(
            lambda kite: kite.place_order("regular", **fields), classify.placing, on_written=self._on_order_written
        )
        if isinstance(answer, NotPlaced) and answer.session:
            self._refused(self._account)
        return answer

    async def modify(self, order_id: str, *, price: Price) -> Changing:
        """A new limit price; Kite: an order with market protection is a limit order in the book, too."""
        if not (price.is_finite() and price > 0):
            return Refused(Reason.TICK_SIZE.value)
        return await self._change(
            order_id,
            lambda kite: kite.modify_order("regular", order_id, order_type="LIMIT", price=_plain(price)),
        )

    async def cancel(self, order_id: str) -> Changing:
        return await self._change(order_id, lambda kite: kite.cancel_order("regular", order_id))

    async def _change(self, order_id: str, ask: Ask) -> Changing:
        if not (order_id.isascii() and order_id.isdigit()):
            return Refused(Reason.UNKNOWN_ORDER.value)  # it would be another address than that of an order
        if self._over:
            return Refused(Reason.SESSION_EXPIRED.value)
        answer = await self._clients.call(ask, classify.changing)
        if answer == Refused(Reason.SESSION_EXPIRED.value):
            self._refused(self._account)
        return answer

    def _unplaceable(self, request: OrderRequest) -> NotPlaced | None:
        """Why it is not worth sending. An exit of what is not listed (any more, or not yet loaded) is: what is held can
        be sold under the name that it was bought by, or Kite says no."""
        if self._over:
            return NotPlaced(Reason.SESSION_EXPIRED.value, curable=False, session=True, text=SESSION_OVER)
        if TAG.fullmatch(request.tag) is None:
            return _refusal(Reason.TAG, f"tag {request.tag[:40]!r}: up to 20 letters and digits")
        if request.quantity <= 0:
            return _refusal(Reason.LOT_SIZE, f"quantity {request.quantity}")
        instrument = self._instruments.find(request.symbol)
        exchange, _, name = request.symbol.partition(":")
        if not exchange or not name or (instrument is None and request.side is Side.BUY):
            return _refusal(Reason.INSTRUMENT, f"unknown instrument {request.symbol}")
        if request.price is not None:
            tick = Decimal(0) if instrument is None else instrument.tick_size
            if not _on_grid(request.price, tick):
                text = f"price {request.price} is not a multiple of the tick size {tick}"
                return _refusal(Reason.TICK_SIZE, text)
        elif not _protects(request.market_protection):
            text = f"market protection {request.market_protection}: -1, or above 0 up to 100 %"
            return _refusal(Reason.MARKET_PROTECTION, text)
        return None

    def _fields(self, request: OrderRequest) -> Mapping[str, object]:
        exchange, _, tradingsymbol = request.symbol.partition(":")
        fields: dict[str, object] = {
            "exchange": exchange,
            "tradingsymbol": tradingsymbol,
            "transaction_type": request.side.value,
            "quantity": request.quantity,
            "product": request.product.value,
            "validity": "DAY",
            "tag": request.tag,
        }
        if request.price is not None:
            fields |= {"order_type": "LIMIT", "price": _plain(request.price)}
        else:
            fields |= {"order_type": "MARKET", "market_protection": _plain(request.market_protection)}
        if self._address.algo_id:
            fields["algo_id"] = self._address.algo_id
        return fields

    # --- readings

    async def orders(self) -> list[BookOrder]:
        """Raises PartialReading when a row cannot be understood: it might be the one that is looked for."""
        at = self._clock.now()
        return await self._read(lambda kite: kite.orders(), lambda data: book.orders(data, at, self._notice))

    async def trades(self) -> list[Trade]:
        at = self._clock.now()
        return await self._read(lambda kite: kite.trades(), lambda data: book.trades(data, at))

    async def positions(self) -> list[BrokerPosition]:
        """Those of MIS and CNC; what was delivered on earlier days is with the holdings."""
        return await self._read(lambda kite: kite.positions(), lambda data: book.positions(data, self._notice))

    async def quotes(self, symbols: Iterable[str]) -> dict[str, Quote]:
        """Last prices and circuit limits by symbol, 500 in one call; symbols that Kite does not know are left out."""
        asked = list(dict.fromkeys(symbols))
        found: dict[str, Quote] = {}
        for start in range(0, len(asked), QUOTES_AT_ONCE):
            some = asked[start : start + QUOTES_AT_ONCE]
            found |= await self._read(lambda kite, some=some: kite.quote(some), book.quotes, gate="quote")  # type: ignore[misc]
        return found

    async def instruments(self, exchange: str) -> bytes:
        """The dump of what an exchange lists, CSV as Kite sends it."""
        return await self._understood(lambda kite: kite.instruments(exchange), classify.dump)

    async def _read(self, ask: Ask, understand: Callable[[Any], T], *, gate: str = "read") -> T:
        return await self._understood(ask, lambda reply: understand(classify.reading(reply)), gate=gate)

    async def _understood(self, ask: Ask, read: Callable[[Reply], T], *, gate: str = "read") -> T:
        if self._over:
            raise SessionExpired(SESSION_OVER)
        await self._gate(gate)
        try:
            return await self._clients.call(ask, read)
        except SessionExpired:
            self._refused(self._account)
            raise

    # --- the rest

    def updates(self) -> AsyncIterator[str]:
        """Raises SessionExpired when the session is closed here: the stream of a session that was replaced, or that the
        user has disconnected, is not listened to any more, though Kite may keep it open until the morning."""
        return self._updates(self._hints(self._account))

    async def _updates(self, hints: AsyncIterator[str]) -> AsyncGenerator[str, None]:
        closed = asyncio.create_task(self._closed.wait(), name="session closed")
        coming: asyncio.Future[str | None] | None = None
        try:
            while True:
                coming = asyncio.ensure_future(_next(hints))
                await asyncio.wait({coming, closed}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    raise SessionExpired(SESSION_CLOSED)
                hint = coming.result()
                if hint is None:
                    return
                yield hint
        finally:
            tasks = [each for each in (coming, closed) if each is not None]
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if isinstance(hints, AsyncGenerator):
                await hints.aclose()

    async def aclose(self) -> None:
        """Calls under way are answered first. Later ones are not sent."""
        self._closed.set()
        await self._clients.aclose()

    @property
    def _over(self) -> bool:
        return self._clock.now() >= self._account.expires_at

    def _notice(self, what: str, facts: Mapping[str, str]) -> None:
        """Logs what is odd once. Called in threads."""
        key = (what, *facts.values())
        if key not in self._noticed and len(self._noticed) < MOST_NOTICES:
            self._noticed.add(key)
            log.warning(what, account=self.account, facts=dict(facts))


MOST_NOTICES: Final = 1_000


async def _next(hints: AsyncIterator[str]) -> str | None:
    return await anext(hints, None)


def _refusal(reason: Reason, text: str) -> NotPlaced:
    return NotPlaced(reason.value, curable=False, text=text)


def _on_grid(price: Price, tick: Decimal) -> bool:
    """Tick 0: the grid is not known."""
    return price.is_finite() and price > 0 and (tick == 0 or price % tick == 0)


def _protects(protection: Decimal) -> bool:
    """Kite: −1 lets the broker choose; without protection a market order is refused."""
    return protection == AUTOMATIC or (protection.is_finite() and 0 < protection <= 100)


def _plain(number: Decimal) -> str:
    """Without an exponent, digit by digit."""
    return format(number, "f")
