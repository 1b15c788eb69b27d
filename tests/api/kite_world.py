"""The API with Kite behind it: the real login, through the official client, at a simulated Kite."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from api.ports import Credentials, KiteTerms, Login
from api.routes.broker import PaperLogin
from brokers.kite.account import KiteAddress
from brokers.kite.login import KiteLogin
from domain.values import Duration
from simulation.clock import VirtualClock
from simulation.kite.server import serve
from simulation.kite.sim import KiteSim
from tests.api.conftest import OpenWorld
from tests.api.world import NOW, Trader, World

PAGE = "https://kite.zerodha.com/connect/login"


class Unproxied:
    """The login without the proxies, which are not there in a test: it notes through which one it was to go."""

    def __init__(self, login: KiteLogin) -> None:
        self.login = login
        self.proxies: list[str | None] = []

    async def authenticate(self, user_id: int, credentials: Credentials, egress_proxy: str | None = None) -> Login:
        self.proxies.append(egress_proxy)
        return await self.login.authenticate(user_id, credentials)


@dataclass
class KiteWorld:
    """A world whose users may connect Kite accounts. `hints` are those that postbacks gave."""

    world: World
    sim: KiteSim
    login_there: Unproxied
    clock: VirtualClock
    hints: list[tuple[int, str]] = field(default_factory=list)

    def customer(self, kite_user_id: str) -> dict[str, str]:
        """A new customer of Kite's, and what its app is connected with."""
        keys = {"api_key": f"key{kite_user_id.lower()}", "api_secret": f"secret-of-{kite_user_id}-0123456789"}
        self.sim.register(kite_user_id, **keys)
        return keys

    def login(self, kite_user_id: str) -> dict[str, Any]:
        """What the browser brings back."""
        return {"broker": "kite", "request_token": self.sim.login(kite_user_id)}

    async def connect(self, trader: Trader, kite_user_id: str = "AB1234", **more: Any) -> httpx.Response:
        """For the first time, or again with what is known."""
        keys = {} if kite_user_id in self.sim.accounts else self.customer(kite_user_id)
        return await trader.post("/broker/connect", self.login(kite_user_id) | keys | more)

    def pass_time(self, duration: Duration) -> None:
        """Here and at Kite."""
        self.world.clock.time += duration
        self.clock.set(self.world.clock.time)

    def set_terms(self, **terms: Any) -> None:
        deps = self.world.app.state.dependencies
        self.world.app.state.dependencies = replace(deps, kite=KiteTerms(**({"real_prices": True} | terms)))


@asynccontextmanager
async def open_kite_world(opened: OpenWorld, **terms: Any) -> AsyncIterator[KiteWorld]:
    clock = VirtualClock(NOW)
    sim = KiteSim(clock)
    async with serve(sim) as server:
        login = Unproxied(KiteLogin(KiteAddress(root=server.root, login=PAGE), clock))
        async with opened(logins={"kite": login, "paper": PaperLogin()}) as world:
            found = KiteWorld(world, sim, login, clock)

            async def hint(user_id: int, order_id: str) -> None:
                found.hints.append((user_id, order_id))

            world.app.state.dependencies = replace(world.deps, hint=hint)
            found.set_terms(**terms)
            yield found
