"""The API on real servers, with as much of an engine as answers it: what is decided is decided by the real rules."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from argon2 import PasswordHasher
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import create_app
from api.dependencies import Dependencies
from api.rate import AuthLimits
from api.security.keys import SecretKeys
from api.security.passwords import Passwords
from bahi.database.engine import create_engine
from bahi.rest import rest_dependencies
from brokers.instruments import BUILT_IN
from domain.calendar import AlwaysOpenCalendar, instant
from domain.events import Event, StrategyReady, StrategyRunning, StrategyStarted
from domain.facts import Policy
from domain.values import Duration, Instant
from eventstore.archived import ArchiveWatch
from eventstore.clients import log_client
from eventstore.envelope import NewEvent, Recorded
from eventstore.log import EventLog
from eventstore.open import open_log
from handlers.advance import advance
from handlers.decider import Wake
from handlers.desk import Desk
from projections.projector import Projector
from projections.runtime import DEFAULTS

NOW: Instant = instant(dt.date(2025, 6, 3), dt.time(10, 0))
PASSWORD = "a password of some length"
KEY = "first key of the tests, random enough to them"
STRATEGY: dict[str, Any] = {
    "symbol": "NSE:INFY",
    "quantity": 10,
    "buy_time": "10:30",
    "sell_time": "15:10",
    "stop_loss": 1480.55,
}
UNLIMITED = AuthLimits(per_address="100000/minute", logins_per_email="100000/minute")


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> Instant:
        return self.time

    async def sleep(self, duration: Duration) -> None:
        self.time += duration


class NoBrokers:
    """Nobody has a broker session: nothing is ever sent in these tests."""

    async def of(self, user_id: int) -> None:
        return None

    async def connected(self) -> list[int]:
        return []


@dataclass
class Trader:
    """A registered user with a client of its own, which sends the access token."""

    user_id: int
    email: str
    client: httpx.AsyncClient
    tokens: dict[str, Any]

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.client.get(path, **options)

    async def post(self, path: str, body: Any = None, *, key: str | None = None, **options: Any) -> httpx.Response:
        headers = options.pop("headers", {}) | ({} if key is None else {"Idempotency-Key": key})
        return await self.client.post(path, json=body, headers=headers, **options)

    async def create(self, **changes: Any) -> int:
        answer = await self.post("/strategy/create", STRATEGY | changes)
        assert answer.status_code == 201, answer.text
        strategy_id: int = answer.json()["strategy_id"]
        return strategy_id


@dataclass
class World:
    app: FastAPI
    deps: Dependencies
    engine: AsyncEngine
    desks: Sequence[Desk]
    clock: HandClock
    client: httpx.AsyncClient
    stack: AsyncExitStack
    traders: list[Trader] = field(default_factory=list)

    @property
    def log(self) -> EventLog:
        return self.desks[0].log

    async def trader(self, email: str | None = None, password: str = PASSWORD) -> Trader:
        email = email or f"trader{len(self.traders)}@example.com"
        answer = await self.client.post("/auth/register", json={"email": email, "password": password})
        assert answer.status_code == 201, answer.text
        self.traders.append(await self._with_client(email, answer.json()))
        return self.traders[-1]

    async def person(self, role: str, email: str | None = None) -> Trader:
        """A user of a role that only the operator can give, logged in."""
        email = email or f"{role}@example.com"
        password_hash = await self.deps.passwords.hash(PASSWORD)
        async with self.deps.users.registering(email, password_hash, role):
            pass
        answer = await self.client.post("/auth/login", json={"email": email, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        return await self._with_client(email, answer.json())

    async def auditor(self) -> Trader:
        return await self.person("auditor")

    async def _with_client(self, email: str, tokens: dict[str, Any]) -> Trader:
        client = await self.stack.enter_async_context(
            _client(self.app, {"Authorization": f"Bearer {tokens['access_token']}"})
        )
        return Trader(tokens["user_id"], email, client, tokens)

    async def history(self, *types: type[Event]) -> list[Recorded]:
        """Everything in the log, or what is of these types."""
        found = [recorded for desk in self.desks async for recorded in desk.log.read()]
        return [one for one in found if not types or isinstance(one.event, types)]

    async def archive(self) -> None:
        """Let the archive and the SQL projections catch up with the log."""
        for desk in self.desks:
            await Projector(desk.log, self.engine, self.clock).step()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """With a worker that decides on every wake-up, and a scheduler that reports every started strategy as ready."""
        tasks = [asyncio.create_task(_work(desk)) for desk in self.desks]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in results), results


async def _work(desk: Desk) -> None:
    async for recorded in desk.log.follow():
        if recorded.event.wakes and recorded.strategy_id:
            await advance(desk, recorded.strategy_id, Wake.of(recorded, None))
        if isinstance(recorded.event, StrategyStarted):
            ready = (StrategyReady(run=recorded.version), StrategyRunning(run=recorded.version))
            await desk.log.append([NewEvent(event, recorded.strategy_id, recorded.user_id) for event in ready])


def _client(app: FastAPI, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://bahi.test", headers=headers, timeout=20)


@asynccontextmanager
async def open_world(
    redis_url: str,
    database_url: str,
    *,
    partitions: int = 1,
    keys: Sequence[str] = (KEY,),
    **options: Any,
) -> AsyncIterator[World]:
    """The API on these servers. `options` go to `rest_dependencies`."""
    clock = HandClock()
    async with AsyncExitStack() as stack:
        engine = create_engine(database_url, size=5)
        stack.push_async_callback(engine.dispose)
        counters = log_client(redis_url)
        stack.push_async_callback(counters.aclose)
        desks = []
        for partition in range(partitions):
            log = await open_log(
                redis_url,
                clock=clock,
                defaults=DEFAULTS,
                writer=f"test{partition}",
                partition=partition,
                partitions=partitions,
                allow_weak=True,
            )
            stack.push_async_callback(log.aclose)
            desk = Desk(
                log=log,
                clock=clock,
                calendar=AlwaysOpenCalendar(),
                policy=Policy(),
                instruments=BUILT_IN,
                brokers=NoBrokers(),
                known={},
            )
            desks.append(desk)
        watches = [ArchiveWatch(desk.log) for desk in desks]
        for watch in watches:
            stack.push_async_callback(watch.aclose)
        settings: dict[str, Any] = {
            "watches": watches,
            "auth_limits": UNLIMITED,
            "passwords": Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)),
        }
        deps = rest_dependencies(
            engine=engine, desks=desks, redis=counters, keys=SecretKeys(keys), **(settings | options)
        )
        stack.push_async_callback(deps.streams.aclose)
        app = create_app(deps)
        client = await stack.enter_async_context(_client(app))
        yield World(app, deps, engine, desks, clock, client, stack)


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer, which must be well formed and just this one."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), answer.text
    assert body.keys() == {"type", "title", "status", "detail", "code", "errors", "request_id"}
    assert body["type"] == f"urn:bahi:problem:{code}"
    assert body["title"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert all(error.keys() == {"field", "rule", "message"} for error in body["errors"])
    return body


def rules(answer: httpx.Response) -> dict[str, str]:
    """Of a refused request: the rule that each field breaks."""
    return {error["field"]: error["rule"] for error in problem(answer, 422, "VALIDATION_FAILED")["errors"]}
