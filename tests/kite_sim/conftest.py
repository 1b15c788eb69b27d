"""A simulated Kite on loopback, and the official client to drive it."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import httpx
import pytest
from kiteconnect import KiteConnect

from domain.calendar import instant
from domain.values import Duration, Tick
from simulation.clock import VirtualClock
from simulation.kite.server import Server, serve
from simulation.kite.sim import KiteSim

USER, KEY, SECRET = "AB1234", "apikey", "apisecret"
SBIN = "NSE:SBIN"
FRIDAY_TEN = instant(dt.date(2026, 11, 20), dt.time(10))


class OfficialClient:
    """`kiteconnect.KiteConnect` with awaitable methods: each call runs in a thread, as the client blocks."""

    def __init__(self, client: KiteConnect) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.client, name)
        return lambda *args, **kwargs: asyncio.to_thread(method, *args, **kwargs)

    async def buy(self, quantity: int = 10, **terms: Any) -> str:
        return await self._place("BUY", quantity, terms)

    async def sell(self, quantity: int = 10, **terms: Any) -> str:
        return await self._place("SELL", quantity, terms)

    async def _place(self, side: str, quantity: int, terms: dict[str, Any]) -> str:
        """At market with automatic protection; at a limit when `price` is given."""
        asked: dict[str, Any] = {"variety": "regular", "exchange": "NSE", "tradingsymbol": "SBIN", "product": "MIS"}
        if "price" in terms:
            asked["order_type"] = "LIMIT"
        else:
            asked |= {"order_type": "MARKET", "market_protection": -1}
        asked |= terms
        return await asyncio.to_thread(self.client.place_order, transaction_type=side, quantity=quantity, **asked)

    async def row(self, order_id: str) -> dict[str, Any]:
        """The order in the book."""
        return next(row for row in await self.orders() if row["order_id"] == order_id)

    async def states(self, order_id: str) -> list[str]:
        return [row["status"] for row in await self.order_history(order_id)]


class World:
    """One simulated Kite that is served, one customer with a session, and what tests do with them."""

    def __init__(self, sim: KiteSim, clock: VirtualClock, server: Server) -> None:
        self.sim = sim
        self.clock = clock
        self.server = server
        self.account = sim.accounts[USER]
        self.http = httpx.AsyncClient(base_url=server.root, timeout=5, verify=False)  # noqa: S501 (loopback)

    def client(self, access_token: str | None, *, timeout: float = 5) -> OfficialClient:
        return OfficialClient(KiteConnect(KEY, access_token, root=self.server.root, timeout=timeout))

    def logged_in(self, *, timeout: float = 5) -> OfficialClient:
        return self.client(self.sim.open_session(USER), timeout=timeout)

    def header(self) -> dict[str, str]:
        return {"Authorization": f"token {KEY}:{self.sim.open_session(USER)}"}

    async def price(self, price: str, symbol: str = SBIN) -> None:
        await self.sim.on_ticks([Tick(symbol=symbol, price=Decimal(price), at=self.clock.now())])

    async def later(self, duration: Duration) -> None:
        """Moves the clock in one step and lets happen what is due by then."""
        self.clock.set(self.clock.now() + duration)
        await self.sim.settle()


MakeWorld = Callable[..., Awaitable[World]]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(FRIDAY_TEN)


@pytest.fixture
async def make_world(clock: VirtualClock) -> AsyncIterator[MakeWorld]:
    """Serves a Kite made with the given options; `account` and `serve_with` go to `register` and `serve`."""
    async with AsyncExitStack() as stack:

        async def make(
            *, account: dict[str, Any] | None = None, serve_with: dict[str, Any] | None = None, **options: Any
        ) -> World:
            options.setdefault("check_limits", False)
            sim = KiteSim(clock, **options)
            sim.register(USER, api_key=KEY, api_secret=SECRET, **(account or {}))
            server = await stack.enter_async_context(serve(sim, **(serve_with or {})))
            world = World(sim, clock, server)
            stack.push_async_callback(world.http.aclose)
            return world

        yield make


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    """A Kite without limits, always open, on which SBIN last traded at 800."""
    world = await make_world()
    await world.price("800")
    return world


@pytest.fixture
def kite(world: World) -> OfficialClient:
    return world.logged_in()
