"""The broker's side of the counter: checks a request, enters it into the book, and settles what is due.

One `Exchange` per process serves all accounts. Every public method is at most two short transactions.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from brokers.paper.book import Book
from brokers.paper.checks import change_refused, limit_of
from brokers.paper.matching import Fill, Order, filled_by, next_due, settle
from brokers.paper.plan import SESSION_EXPIRED, ChangeFault, NoFaults, Plan, Script
from brokers.paper.rows import Rows
from brokers.port import (
    Accepted,
    BookStatus,
    BrokerUnavailable,
    Changing,
    Done,
    Instruments,
    NotPlaced,
    Placing,
    Refused,
    Unanswered,
)
from domain.calendar import Calendar, Session, UnknownYear, wall
from domain.clock import Clock
from domain.values import Duration, Instant, OrderRequest, Price, Tick

__all__ = ["Exchange", "LastPrice", "News"]


class LastPrice(Protocol):
    """The market's last price of a symbol, None when there is none yet. Raises BrokerUnavailable, nothing else."""

    def __call__(self, symbol: str, /) -> Awaitable[Tick | None]: ...


class News(Struct, frozen=True):
    """What an account's follower learns in one look: changed orders, up to which change, and when to look again."""

    order_ids: list[str]
    cursor: int
    live: bool
    due: Instant | None


class Exchange:
    def __init__(
        self,
        book: Book,
        clock: Clock,
        prices: LastPrice,
        *,
        instruments: Instruments,
        calendar: Calendar,
        plan: Plan | None = None,
    ) -> None:
        self.book = book
        self.clock = clock
        self._prices = prices
        self._instruments = instruments
        self._calendar = calendar
        self._plan = plan or NoFaults()
        self._session: Session | None = None

    # --- orders

    async def place(self, account: str, request: OrderRequest) -> Placing:
        """Enters the order into the book at once; the caller hears of it after the script's latency."""
        try:
            last = await self._prices(request.symbol)
        except BrokerUnavailable as error:
            return NotPlaced(reason="NO_PRICE", curable=True, text=str(error))
        now = self.clock.now()
        answer, wait = await self.book.write(lambda rows: self._enter(rows, account, request, now, last))
        if wait > 0:
            await self.clock.sleep(wait)
            if isinstance(answer, Accepted):
                await self._settle_if_priced(account)
        return answer

    async def modify(self, account: str, order_id: str, price: Price) -> Changing:
        """Re-prices a resting order. A fill that is due comes first."""

        prices = await self._prices_for(account, order_id)

        def change(rows: Rows, order: Order) -> Changing:
            if (refused := change_refused(order, price, self._instruments.find(order.symbol))) is not None:
                return refused
            order = replace(order, limit=price, released=True, modifications=order.modifications + 1)
            self._write_settled(rows, order, self.clock.now(), prices.get(order.symbol), always=True)
            return Done()

        return await self._change(account, order_id, prices, change, modifying=True)

    async def cancel(self, account: str, order_id: str) -> Changing:
        """Cancels what has not filled. A fill that is due comes first."""

        def change(rows: Rows, order: Order) -> Changing:
            rows.update(replace(order, status=BookStatus.CANCELLED))
            return Done()

        prices = await self._prices_for(account, order_id)
        return await self._change(account, order_id, prices, change, modifying=False)

    # --- settling

    async def settle(self, account: str) -> None:
        """Lets everything happen that is due by now for the account's orders."""
        orders = await self.book.read(lambda rows: rows.live_of(account))
        prices = await self._prices_of({order.symbol for order in orders})
        await self._settle(orders, prices, lambda rows: rows.live_of(account))

    async def _settle_if_priced(self, account: str) -> None:
        try:
            await self.settle(account)
        except BrokerUnavailable:
            pass  # the order is there all the same; whoever looks next settles it

    async def on_tick(self, tick: Tick) -> None:
        """The market traded: fills whatever rests at this price or better, of every account."""
        orders = await self.book.read(lambda rows: rows.live_in(tick.symbol))
        await self._settle(orders, {tick.symbol: tick.price}, lambda rows: rows.live_in(tick.symbol))

    async def news(self, account: str, cursor: int) -> News:
        """Settles, then tells which orders changed after `cursor`."""
        await self.settle(account)
        now = self.clock.now()

        def look(rows: Rows) -> News:
            changed = rows.changed(account, cursor, now)
            live = rows.live_of(account)
            due = min((at for order in live if (at := next_due(order, now)) is not None), default=None)
            return News(
                [str(order_id) for _, order_id in changed], max([cursor, *(n for n, _ in changed)]), bool(live), due
            )

        return await self.book.read(look)

    # --- switches, kept in the book

    async def expire_session(self, account: str) -> None:
        """From now on nothing works for the account, in any process, until `renew_session`."""
        await self.book.write(lambda rows: rows.keep_account(account, replace(rows.account(account), expired=True)))

    async def renew_session(self, account: str) -> None:
        await self.book.write(lambda rows: rows.keep_account(account, replace(rows.account(account), expired=False)))

    async def fail_readings(self, account: str, *, count: int = 0, since: Instant = 0, until: Instant = 0) -> None:
        """The account's next `count` readings fail, and all of them from `since` until `until`."""
        await self.book.write(lambda rows: _fail_readings(rows, account, count, since, until))

    # --- inside the transactions

    def _enter(
        self, rows: Rows, account: str, request: OrderRequest, now: Instant, last: Tick | None
    ) -> tuple[Placing, Duration]:
        """The answer, and how long the caller waits for it."""
        number = rows.attempt(account)
        if rows.account(account).expired:
            return SESSION_EXPIRED, 0
        script = self._plan.for_order(request, number)
        if script.failed_readings or script.dark:
            _fail_readings(rows, account, script.failed_readings, now, now + script.dark)
        if script.refuse is not None:
            return script.refuse, script.latency
        instrument = self._instruments.find(request.symbol)
        limit = limit_of(request, instrument, last, trading=self._trading(now))
        if isinstance(limit, NotPlaced):
            return limit, script.latency
        order_id = self._book_order(rows, account, request, limit, script, now, last)
        if script.lost is not None:
            return Unanswered("the request timed out; check the order book"), script.lost.timeout
        return Accepted(str(order_id)), script.latency

    def _book_order(
        self,
        rows: Rows,
        account: str,
        request: OrderRequest,
        limit: Price,
        script: Script,
        now: Instant,
        last: Tick | None,
    ) -> int | None:
        surfaces = 0 if script.lost is None else script.lost.surfaces
        if surfaces is None:
            return None
        session = self._session_at(now)
        order = Order(
            order_id=int(f"{wall(now):%y%m%d}{rows.next_order_number():09}"),
            account=account,
            tag=request.tag,
            symbol=request.symbol,
            side=request.side,
            product=request.product,
            quantity=request.quantity,
            limit=limit,
            placed_at=now + surfaces,
            lapses_at=None if session is None else session.close_at,
            script=script,
        )
        order, fill = settle(order, now, None if last is None else last.price, trading=True)
        rows.insert(order)
        if fill is not None:
            rows.trade(order, fill, now)
        return order.order_id

    async def _change(
        self,
        account: str,
        order_id: str,
        prices: dict[str, Price],
        change: Callable[[Rows, Order], Changing],
        *,
        modifying: bool,
    ) -> Changing:
        now = self.clock.now()

        def work(rows: Rows) -> tuple[Changing, Duration]:
            if rows.account(account).expired:
                return Refused(SESSION_EXPIRED.reason), 0
            order = self._find(rows, account, order_id, now)
            if order is None:
                return Refused("UNKNOWN_ORDER"), 0
            latency = order.script.latency
            order = self._write_settled(rows, order, now, prices.get(order.symbol))
            if order.status.terminal:
                return Refused(f"ORDER_{order.status.name}"), latency
            order, fault = _next_attempt(order, modifying=modifying)
            match fault:
                case ChangeFault.NONE:
                    if isinstance(answer := change(rows, order), Refused):
                        rows.update(order)
                    return answer, latency
                case ChangeFault.REFUSED:
                    rows.update(order)
                    return Refused("BEING_PROCESSED"), latency
                case ChangeFault.FILLED:
                    price = prices.get(order.symbol, order.limit)
                    fill = Fill(order.remaining, price if order.crosses(price) else order.limit)
                    order, fill = filled_by(order, fill)
                    rows.update(order)
                    rows.trade(order, fill, now)
                    return Refused("ORDER_COMPLETE"), latency
                case ChangeFault.LOST_DONE:
                    if isinstance(change(rows, order), Refused):
                        rows.update(order)
                case ChangeFault.LOST_IGNORED:
                    rows.update(order)
            return Unanswered("the request timed out"), latency

        answer, wait = await self.book.write(work)
        if wait > 0:
            await self.clock.sleep(wait)
        return answer

    async def _settle(
        self, orders: Iterable[Order], prices: dict[str, Price], again: Callable[[Rows], list[Order]]
    ) -> None:
        """Writes only if something is due; looks `again` in the transaction: another process may have settled it."""
        now = self.clock.now()
        trading = self._trading(now)
        if not any(settle(order, now, prices.get(order.symbol), trading)[0] is not order for order in orders):
            return

        def work(rows: Rows) -> None:
            for order in again(rows):
                self._write_settled(rows, order, now, prices.get(order.symbol))

        await self.book.write(work)

    def _write_settled(
        self, rows: Rows, order: Order, now: Instant, price: Price | None, *, always: bool = False
    ) -> Order:
        settled, fill = settle(order, now, price, self._trading(now))
        if always or settled is not order:
            rows.update(settled)
        if fill is not None:
            rows.trade(settled, fill, now)
        return settled

    @staticmethod
    def _find(rows: Rows, account: str, order_id: str, now: Instant) -> Order | None:
        # No order has an id of another form, and int() would take some.
        known = order_id.isascii() and order_id.isdecimal() and len(order_id) < 19
        return rows.find(account, int(order_id), now) if known else None

    # --- the market

    async def _prices_of(self, symbols: Iterable[str]) -> dict[str, Price]:
        ticks = [await self._prices(symbol) for symbol in sorted(symbols)]
        return {tick.symbol: tick.price for tick in ticks if tick is not None}

    async def _prices_for(self, account: str, order_id: str) -> dict[str, Price]:
        """The price of the order's symbol; without one, nothing can have filled."""
        now = self.clock.now()
        order = await self.book.read(lambda rows: self._find(rows, account, order_id, now))
        try:
            return {} if order is None or order.status.terminal else await self._prices_of([order.symbol])
        except BrokerUnavailable:
            return {}

    def _trading(self, now: Instant) -> bool:
        session = self._session_at(now)
        return session is not None and session.trades_at(now)

    def _session_at(self, now: Instant) -> Session | None:
        if self._session is None or not self._session.contains(now):
            try:
                self._session = self._calendar.session_at(now)
            except UnknownYear:
                self._session = None
        return self._session


def _next_attempt(order: Order, *, modifying: bool) -> tuple[Order, ChangeFault]:
    """Counts one more attempt to modify or cancel, and what the script makes of it."""
    if modifying:
        faults, n = order.script.modifies, order.modify_attempts
        order = replace(order, modify_attempts=n + 1)
    else:
        faults, n = order.script.cancels, order.cancel_attempts
        order = replace(order, cancel_attempts=n + 1)
    return order, faults[n] if n < len(faults) else ChangeFault.NONE


def _fail_readings(rows: Rows, account: str, count: int, since: Instant, until: Instant) -> None:
    state = rows.account(account)
    rows.keep_account(
        account,
        replace(
            state,
            failing=state.failing + count,
            dark_from=since if until > since else state.dark_from,
            dark_until=until if until > since else state.dark_until,
        ),
    )
