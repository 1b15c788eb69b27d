"""A simulated Kite on loopback sockets, a clock in the test's hand, and adapters for its accounts."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, TypeVar

from brokers.instruments import InstrumentTable
from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.broker import KiteBroker
from brokers.port import Instrument
from domain.calendar import instant, load_nse
from domain.values import DAY, SECOND, Duration, Instant, Price, Tick
from simulation.clock import VirtualClock
from simulation.kite import faults
from simulation.kite.limits import SimLimits
from simulation.kite.server import Server, serve
from simulation.kite.sim import KiteSim
from tests.brokers.conformance import Fault

T = TypeVar("T")

TEN = instant(dt.date(2021, 4, 13), dt.time(10))
TIMEOUT = 1.0
"""Real seconds after which a call that hangs is given up; every other call takes milliseconds."""

INSTRUMENTS = InstrumentTable(
    Instrument(symbol=f"NSE:{name}", tick_size=Decimal("0.05")) for name in ("SBIN", "TCS", "RELIANCE", "INFY")
)

OF_FAULT: dict[Fault, tuple[tuple[faults.Fault, Duration | None], ...]] = {
    Fault.REJECTED_BEFORE: ((faults.Fault.MARGIN_REFUSED, None),),
    Fault.THROTTLED: ((faults.Fault.F7_TOO_MANY_ORDERS, None),),
    Fault.REJECTED_AFTER: ((faults.Fault.REJECTED_LATER, SECOND),),
    Fault.LOST_EXISTS: ((faults.Fault.F1_ACCEPTED_THEN_HANGS, None),),
    Fault.LOST_SURFACES: ((faults.Fault.F5_SURFACES_LATER, 30 * SECOND),),
    Fault.LOST_NEVER: ((faults.Fault.F3_DROPPED_BEFORE, None),),
    Fault.HALF_FILLS: ((faults.Fault.HALF_THEN_REST, 4 * SECOND),),
    Fault.HALF_RESTS: ((faults.Fault.F11_HALF_THEN_STUCK, None),),
    Fault.CANCEL_REFUSED: ((faults.Fault.CANCEL_REFUSED, None),),
    Fault.CANCEL_FILLED: ((faults.Fault.F11_HALF_THEN_STUCK, None), (faults.Fault.F9_CANCEL_LOSES, None)),
    Fault.CANCEL_LOST: ((faults.Fault.CANCEL_DONE_UNANSWERED, None),),
    Fault.CANCEL_IGNORED: ((faults.Fault.CANCEL_IGNORED_UNANSWERED, None),),
    Fault.MODIFY_REFUSED: ((faults.Fault.MODIFY_REFUSED, None),),
    Fault.MODIFY_LOST: ((faults.Fault.MODIFY_DONE_UNANSWERED, None),),
    Fault.READING_FAILS: ((faults.Fault.F4C_HTML_READING, None),),
}


class Hints:
    """The order updates of one account, from the moment it is made."""

    def __init__(self, world: "KiteWorld", user_id: str) -> None:
        self._world = world
        self._user_id = user_id
        self._queue: asyncio.Queue[str] = asyncio.Queue()

    def __aiter__(self) -> "Hints":
        return self

    async def __anext__(self) -> str:
        if self._queue.empty():
            self._world.waiting.set()
        try:
            return await self._queue.get()
        finally:
            self._world.waiting.clear()

    def on_order(self, user_id: str, payload: dict[str, Any]) -> None:
        if user_id == self._user_id:
            self._world.waiting.clear()
            self._queue.put_nowait(payload["order_id"])

    def on_ticks(self, ticks: Sequence[Tick]) -> None:
        pass


class KiteWorld:
    """It is a conformance `Harness`."""

    def __init__(self, clock: VirtualClock, sim: KiteSim, server: Server, address: KiteAddress) -> None:
        self.clock = clock
        self.sim = sim
        self.server = server
        self.address = address
        self.refused: list[KiteAccount] = []
        self.gates: list[str] = []
        self.waiting = asyncio.Event()
        """Somebody waits for a hint, and none is there."""
        self._accounts: dict[str, KiteAccount] = {}
        self._brokers: dict[str, KiteBroker] = {}

    def account(self, name: str = "ACCOUNT1") -> KiteAccount:
        """The account's session."""
        if name not in self.sim.accounts:
            self.sim.register(name, api_key=f"key-of-{name}", api_secret=f"secret-of-{name}")
        if name not in self._accounts:
            now = self.clock.now()
            self._accounts[name] = KiteAccount(
                user_id=int(name[-1]),
                kite_user_id=name,
                api_key=f"key-of-{name}",
                access_token=self.sim.open_session(name),
                connected_at=now,
                expires_at=now + DAY - 4 * 3600 * SECOND,  # 06:00 of the next day
            )
        return self._accounts[name]

    def broker(self, account: str = "ACCOUNT1") -> KiteBroker:
        if account not in self._brokers:
            self._brokers[account] = KiteBroker(
                self.account(account),
                self.address,
                clock=self.clock,
                instruments=INSTRUMENTS,
                gate=self._gate,
                refused=self.refused.append,
                hints=self._hints,
            )
        return self._brokers[account]

    def now(self) -> Instant:
        return self.clock.now()

    async def advance(self, duration: Duration) -> None:
        await self.clock.advance(duration)
        await self.sim.settle()

    async def answer(self, call: Awaitable[T]) -> T:
        """Sockets need no help; whoever waits for a hint gets the time moved to where the next one may come from."""
        task = asyncio.ensure_future(call)
        while not task.done():
            waits = asyncio.ensure_future(self.waiting.wait())
            await asyncio.wait({task, waits}, return_when=asyncio.FIRST_COMPLETED)
            waits.cancel()
            if not task.done() and self.waiting.is_set() and (due := self.sim.next_due()) is not None:
                self.waiting.clear()
                self.clock.set(max(due, self.clock.now()))
                await self.sim.settle()
                self.waiting.set()
            await asyncio.wait({task}, timeout=0)
        return await task

    async def set_price(self, symbol: str, price: Price) -> None:
        await self.sim.on_ticks([Tick(symbol, price, self.clock.now())])

    async def inject(self, fault: Fault, account: str = "ACCOUNT1") -> None:
        self.account(account)
        match fault:
            case Fault.SESSION_EXPIRED:
                self.sim.end_session(account)
            case Fault.SESSION_RENEWED:
                del self._accounts[account]
                await self._brokers.pop(account).aclose()
            case _:
                for each, after in OF_FAULT[fault]:
                    self.sim.inject(each, account, after=after)

    async def restart(self) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        brokers, self._brokers = self._brokers, {}
        for broker in brokers.values():
            await broker.aclose()

    async def _gate(self, what: str) -> None:
        self.gates.append(what)

    def _hints(self, account: KiteAccount) -> AsyncIterator[str]:
        hints = Hints(self, account.kite_user_id)
        self.sim.observers.append(hints)
        return hints


@asynccontextmanager
async def kite_world(*, route_prefix: str = "") -> AsyncIterator[KiteWorld]:
    """The server's limits on readings are off: they count by the clock, which stands still."""
    clock = VirtualClock(TEN)
    limits = SimLimits(others_per_second=None, quotes_per_second=None)
    sim = KiteSim(clock, calendar=load_nse(), limits=limits)
    async with serve(sim, route_prefix=route_prefix) as server:
        address = KiteAddress(root=server.root, timeout=TIMEOUT, route_prefix=route_prefix)
        world = KiteWorld(clock, sim, server, address)
        yield world
        await world.aclose()
