"""A market, a clock and a paper exchange to test with."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, cast

from brokers.instruments import BUILT_IN
from brokers.paper.book import Book
from brokers.paper.broker import PaperBroker
from brokers.paper.exchange import Exchange
from brokers.paper.plan import NEVER, THROTTLED, ChangeFault, Lost, Plan, Portion, Rejection, Script
from brokers.port import BrokerUnavailable, Instruments, NotPlaced
from domain.calendar import Calendar, instant, load_nse
from domain.values import SECOND, Duration, Instant, OrderRequest, Price, Tick
from simulation.clock import VirtualClock
from tests.brokers.conformance import Fault

T = TypeVar("T")

DAY = dt.date(2021, 4, 13)
TEN = instant(DAY, dt.time(10))
CLOSE = instant(DAY, dt.time(15, 30))

HALF = Portion(Decimal("0.5"))
OF_FAULT = {
    Fault.REJECTED_BEFORE: Script(refuse=NotPlaced(reason="MARGIN", curable=False)),
    Fault.THROTTLED: Script(refuse=THROTTLED),
    Fault.REJECTED_AFTER: Script(reject=Rejection(reason="MARGIN", after=SECOND)),
    Fault.LOST_EXISTS: Script(lost=Lost(surfaces=0)),
    Fault.LOST_SURFACES: Script(lost=Lost(surfaces=30 * SECOND)),
    Fault.LOST_NEVER: Script(lost=Lost(surfaces=None)),
    Fault.HALF_FILLS: Script(fills=(HALF,), rest=4 * SECOND),
    Fault.HALF_RESTS: Script(fills=(HALF,), rest=NEVER),
    Fault.CANCEL_REFUSED: Script(cancels=(ChangeFault.REFUSED,)),
    Fault.CANCEL_FILLED: Script(fills=(HALF,), rest=NEVER, cancels=(ChangeFault.FILLED,)),
    Fault.CANCEL_LOST: Script(cancels=(ChangeFault.LOST_DONE,)),
    Fault.CANCEL_IGNORED: Script(cancels=(ChangeFault.LOST_IGNORED,)),
    Fault.MODIFY_REFUSED: Script(modifies=(ChangeFault.REFUSED,)),
    Fault.MODIFY_LOST: Script(modifies=(ChangeFault.LOST_DONE,)),
}


class Market:
    """The last prices."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._ticks: dict[str, Tick] = {}
        self.broken = False
        self.when_asked: Callable[[], Awaitable[object]] | None = None

    def set(self, symbol: str, price: Price) -> Tick:
        self._ticks[symbol] = Tick(symbol, price, self._clock.now())
        return self._ticks[symbol]

    async def last(self, symbol: str) -> Tick | None:
        if self.broken:
            raise BrokerUnavailable("no price feed")
        if self.when_asked is not None:
            await self.when_asked()
        return self._ticks.get(symbol)


class ArmedPlan:
    """Plays the armed scripts, one per order, then none."""

    def __init__(self) -> None:
        self.next: list[Script] = []

    def for_order(self, request: OrderRequest, n: int) -> Script:
        return self.next.pop(0) if self.next else Script()


class World:
    """Everything that a paper broker needs, with the time in the test's hand; it is a conformance `Harness`."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        inline: bool = False,
        plan: Plan | None = None,
        instruments: Instruments = BUILT_IN,
        calendar: Calendar | None = None,
        at: Instant = TEN,
    ) -> None:
        self.clock = VirtualClock(at)
        self.market = Market(self.clock)
        self.armed = ArmedPlan()
        self._path, self._inline, self._plan = path, inline, plan or self.armed
        self._instruments, self._calendar = instruments, calendar or load_nse()
        self._open()

    def _open(self) -> None:
        self.book = Book(self._path, inline=self._inline)
        self.exchange = Exchange(
            self.book,
            self.clock,
            self.market.last,
            instruments=self._instruments,
            calendar=self._calendar,
            plan=self._plan,
        )

    def broker(self, account: str = "ACCOUNT1") -> PaperBroker:
        return PaperBroker(account, self.exchange)

    def now(self) -> Instant:
        return self.clock.now()

    async def advance(self, duration: Duration) -> None:
        await self.clock.advance(duration)

    async def answer(self, call: Awaitable[T]) -> T:
        return await drive(self.clock, call)

    async def set_price(self, symbol: str, price: Price) -> None:
        await self.exchange.on_tick(self.market.set(symbol, price))

    async def inject(self, fault: Fault, account: str = "ACCOUNT1") -> None:
        match fault:
            case Fault.READING_FAILS:
                await self.exchange.fail_readings(account, count=1)
            case Fault.SESSION_EXPIRED:
                await self.exchange.expire_session(account)
            case Fault.SESSION_RENEWED:
                await self.exchange.renew_session(account)
            case _:
                self.armed.next.append(OF_FAULT[fault])

    async def restart(self) -> None:
        self.book.close()
        self._open()

    def lose_the_feed(self) -> None:
        """From now on no price can be had."""
        self.market.broken = True

    def close(self) -> None:
        self.book.close()


async def until(condition: Callable[[], bool], task: asyncio.Future[Any]) -> None:
    """Lets the task run until the condition holds."""
    while not condition():
        assert not task.done()
        await asyncio.wait({task}, timeout=0)


async def drive(clock: VirtualClock, call: Awaitable[T]) -> T:
    """Awaits the call; whenever somebody sleeps meanwhile, moves the clock to where the next one wakes."""
    task = asyncio.ensure_future(cast("Coroutine[Any, Any, T]", call))
    while not task.done():
        await asyncio.wait({task}, timeout=0)
        if not task.done() and (at := clock.next_at()) is not None:
            clock.set(at)
    return await task
