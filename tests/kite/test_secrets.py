"""Canaries: everything that a Kite account's day does and that goes wrong in it, and then a search for its secrets.

A whole house runs, as `bahi run` makes it: the REST application on a port, the adapter, the stream, a Kite server whose
postbacks come in, and a proxy with a password in between. Then every place is searched: log lines at DEBUG before
anything is masked, the log of events and its archive, every key of Redis, every row of PostgreSQL, metrics, answers,
errors with their tracebacks, and what objects say of themselves.
"""

import asyncio
import base64
import hashlib
import io
import json
import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import generate_latest
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from bahi.clock import SystemClock
from bahi.database.instruments import SqlInstruments
from bahi.database.tables import broker_accounts, events
from bahi.instruments import InstrumentRefresher, Outcome
from bahi.roles.rest import RestRole
from bahi.settings import Settings
from bahi.wiring import House, open_house
from brokers.port import Accepted, BrokerError, NotPlaced
from domain.events import BrokerAuthFailed, BrokerAuthSuccess, BrokerKeySubmitted
from domain.values import OrderRequest, Product, Side, Tag, Tick
from projections.projector import Projector
from simulation.kite.faults import Fault
from simulation.kite.postbacks import checksum
from simulation.kite.server import Server, serve
from simulation.kite.sim import KiteSim
from tests.api.test_secrets import _dump, _dump_redis
from tests.kite.canned import forwarding
from tests.kite.loopback import closed_port

USER = "AB1234"
KEY = "canaryapikey0123"
SECRET = "canary-api-secret-c07e11d5"
WRONG_SECRET = "canary-wrong-secret-51b0aa"
PROXY_USER, PROXY_PASSWORD = "canaryproxyuser", "canary-proxy-password-77"
FORGED = hashlib.sha256(b"canary: a forged postback").hexdigest()
NEVER = "canary-request-token-that-never-was"
PASSWORD = "canary login password 9"
POSTBACK = "/broker/kite/postback"


class Day:
    """What was seen of the day, by place, and the secrets that came up in it."""

    def __init__(self, house: House, sim: KiteSim, server: Server, client: httpx.AsyncClient, proxy: str) -> None:
        self.house = house
        self.sim = sim
        self.server = server
        self.client = client
        self.proxy = proxy.replace("http://", f"http://{PROXY_USER}:{PROXY_PASSWORD}@")
        self.seen: dict[str, bytes] = {}
        self.secrets = {
            "api_secret": SECRET,
            "another api_secret": WRONG_SECRET,
            "proxy's password": PROXY_PASSWORD,
            "proxy's user": PROXY_USER,
            "proxy's header": base64.b64encode(f"{PROXY_USER}:{PROXY_PASSWORD}".encode()).decode(),
            "forged checksum": FORGED,
            "request token that never was": NEVER,
            "password": PASSWORD,
        }

    @property
    def engine(self) -> AsyncEngine:
        return self.house.engine

    def token(self) -> str:
        """A request token, which is a secret with its checksums from now on."""
        token = self.sim.login(USER)
        self.secrets[f"request token {token}"] = token
        for secret in (SECRET, WRONG_SECRET):
            made = hashlib.sha256(f"{KEY}{token}{secret}".encode()).hexdigest()
            self.secrets[f"checksum of {token} with {secret}"] = made
        return token

    async def ask(self, what: str, method: str, path: str, status: int, body: Any = None, **options: Any) -> Any:
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        answer = await self.client.request(method, path, content=content, **options)
        assert answer.status_code == status, f"{what}: {answer.text}"
        self.seen[f"answer: {what}"] = answer.content + str(answer.headers).encode()
        return answer.json() if answer.content else None

    def failed(self, what: str, error: BaseException) -> None:
        """An error as whoever catches it may show it."""
        shown = [*traceback.format_exception(error), repr(error), str(error)]
        self.seen[f"error: {what}"] = "\n".join(shown).encode()


@asynccontextmanager
async def day(redis_url: str, database_url: str, home: Path) -> AsyncIterator[Day]:
    sim = KiteSim(SystemClock())
    sim.register(USER, api_key=KEY, api_secret=SECRET)
    async with serve(sim) as server, forwarding(server.root) as (proxy, _):
        settings = Settings(
            home=home,
            redis_url=SecretStr(redis_url),
            database_url=SecretStr(database_url),
            allow_weak_durability=True,
            http_port=0,
            calendar="always-open",
            kite_root=server.root,
            kite_ws_root=server.ws_root,
        )
        async with open_house(settings) as house:
            rest = RestRole(house, [])
            sim.accounts[USER].postback_url = f"{rest.address}{POSTBACK}"
            running = asyncio.create_task(rest.run())
            async with httpx.AsyncClient(base_url=rest.address, timeout=20) as client:
                yield Day(house, sim, server, client, proxy)
            await rest.stop()
            await running


QUIET = ("httpx", "httpcore", "websockets.server")
"""The test's own client, and the server that plays Kite."""


@contextmanager
def everything_logged() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Log lines at DEBUG, of ours and of all libraries, before anything is masked."""
    ours, theirs = io.StringIO(), io.StringIO()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=repr),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(ours),
        cache_logger_on_first_use=False,
    )
    root, handler = logging.getLogger(), logging.StreamHandler(theirs)
    levels = {name: logging.getLogger(name).level for name in QUIET}
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield ours, theirs
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
        structlog.reset_defaults()


async def test_no_secret_of_a_kite_account_is_found_where_it_does_not_belong(
    redis: Redis, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    with everything_logged() as (ours, theirs):
        async with day(redis_url, database_url, tmp_path) as it:
            await _log_in(it)
            await _list(it)
            await _trade(it)
            await _lose_the_session(it)
            await _look_everywhere(it, redis)
            account = it.sim.accounts[USER]
            for number, token in enumerate([*account._access_tokens, *account._ended_tokens]):
                it.secrets[f"access token {number}"] = token
            for order in account.orders:
                for row in order.history:
                    made = checksum(order.order_id, str(row["order_timestamp"]), SECRET)
                    it.secrets[f"checksum of order {order.order_id} at {row['order_timestamp']}"] = made
    it.seen |= {"structlog": ours.getvalue().encode(), "logging": theirs.getvalue().encode()}
    assert b"postback_refused" in it.seen["structlog"], "the lines are really captured"
    assert b"session/token" in it.seen["logging"], "those of libraries too"
    assert sum(name.startswith("access token") for name in it.secrets) >= 3
    assert sum(name.startswith("checksum of order") for name in it.secrets) >= 1
    found = [
        (name, place)
        for place, content in it.seen.items()
        for name, secret in it.secrets.items()
        if secret.encode() in content
    ]
    assert found == []
    spoken = [place for place, content in it.seen.items() if KEY.encode() in content]
    assert spoken == ["answer: login-url"], "the address of the login carries the api_key, nothing else does"


async def _log_in(it: Day) -> None:
    """Every way to connect that fails, and the ones that do not."""
    registered = await it.ask(
        "register", "POST", "/auth/register", 201, {"email": "canary@example.com", "password": PASSWORD}
    )
    del it.seen["answer: register"]  # it holds the tokens of ours that it is there to give
    it.client.headers["Authorization"] = f"Bearer {registered['access_token']}"
    keys = {"broker": "kite", "api_key": KEY, "api_secret": SECRET, "egress_proxy": it.proxy}

    async def connect(what: str, status: int, **changes: Any) -> None:
        headers = {"Idempotency-Key": what.replace(" ", "-")}
        await it.ask(what, "POST", "/broker/connect", status, keys | changes, headers=headers)

    await connect("no token", 422)
    await connect("both tokens", 422, request_token=it.token(), access_token=NEVER)
    await connect("a token that never was", 400, request_token=NEVER)
    await connect("an access token that never was", 400, access_token=NEVER)
    await connect("the wrong secret", 400, request_token=it.token(), api_secret=WRONG_SECRET)
    away = f"http://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:{closed_port()}"
    await connect("a proxy that is away", 503, request_token=it.token(), egress_proxy=away)
    await connect("a proxy that is none", 422, request_token=it.token(), egress_proxy=f"{it.proxy}@")
    await connect("a field too many", 422, request_token=it.token(), unknown=it.token())
    broken = json.dumps(keys | {"request_token": it.token()}).encode()[:-3]
    await it.ask("half a body", "POST", "/broker/connect", 400, broken)
    it.secrets["query token"] = it.token()
    await it.ask("a query", "GET", f"/broker?request_token={it.secrets['query token']}", 422)
    used = it.token()
    await connect("good", 200, request_token=used)
    await connect("good", 200, request_token=used)
    await connect("used", 400, request_token=used)
    await connect("by access token", 200, access_token=it.sim.open_session(USER))
    await it.ask("again", "POST", "/broker/connect", 200, {"broker": "kite", "request_token": it.token()})
    await it.ask("broker", "GET", "/broker", 200)
    await it.ask("login-url", "GET", "/broker/kite/login-url", 200)


async def _list(it: Day) -> None:
    """What may be traded, as Kite lists it."""
    house, outcomes = it.house, list[Outcome]()

    async def nothing() -> list[str]:
        return []

    refresher = InstrumentRefresher(
        SqlInstruments(house.engine),
        house.clock,
        house.calendar,
        exchanges=["NSE"],
        download=house.kite.download,
        quote=house.kite.quote,
        wanted=nothing,
        observe=outcomes.append,
    )
    await refresher.step()
    assert house.catalogue is not None
    await house.catalogue.load()
    assert house.instruments.find("NSE:INFY") is not None, outcomes


async def _trade(it: Day) -> None:
    """An order, its postback and its update on the stream, forged postbacks, and readings that go wrong."""
    (user_id,) = await it.house.sessions.connected("kite")
    broker = await it.house.brokers.of(user_id)
    account = await it.house.sessions.kite(user_id)
    assert broker is not None
    assert account is not None
    assert account.egress_proxy == it.proxy
    hints = broker.updates()
    posted = it.house.hints.listen(user_id)
    await anext(posted)
    await anext(hints)
    order = {"symbol": "NSE:INFY", "side": Side.BUY, "quantity": 1, "product": Product.MIS}
    placed = await broker.place(OrderRequest(**order, tag=Tag("CANARY00000000000001")))
    it.seen["place"] = repr((placed, broker, account, hints)).encode()
    assert isinstance(placed, Accepted), placed
    await it.sim.on_ticks([Tick("NSE:INFY", Decimal(1500), it.house.clock.now())])
    async with asyncio.timeout(60):
        while await anext(posted) != placed.order_id:
            continue
    it.server.stop_streams()
    for fault in (Fault.F4C_HTML_READING, Fault.READING_DROPPED, Fault.F16_TRUNCATED_JSON, Fault.F16_NO_CONTENT_TYPE):
        it.sim.inject(fault, USER)
        try:
            await broker.orders()
        except BrokerError as error:
            it.failed(fault.name, error)
    for place_fault in (Fault.F2_ACCEPTED_THEN_DROPPED, Fault.F6_TIMED_OUT_400, Fault.F18_IP_NOT_ALLOWED):
        it.sim.inject(place_fault, USER)
        answer = await broker.place(OrderRequest(**order, tag=Tag("CANARY00000000000002")))
        it.seen[place_fault.name] = repr(answer).encode()
    forged = {"user_id": USER, "order_id": "1", "order_timestamp": "2026-07-01 10:00:00", "checksum": FORGED}
    await it.ask("a forged postback", "POST", POSTBACK, 403, forged)
    await it.ask("a postback of nobody", "POST", POSTBACK, 403, forged | {"user_id": "ZZ9999"})
    await it.ask("half a postback", "POST", POSTBACK, 400, json.dumps(forged).encode()[:-2])
    await it.ask("no order", "POST", POSTBACK, 422, forged | {"order_id": {"checksum": FORGED}})
    for listener in (hints, posted):
        await listener.aclose()  # type: ignore[attr-defined]  # both are generators


async def _lose_the_session(it: Day) -> None:
    """Kite ends the session: the next call finds out, and everything that looks like the session is over."""
    (user_id,) = await it.house.sessions.connected("kite")
    broker = await it.house.brokers.of(user_id)
    assert broker is not None
    it.sim.end_session(USER)
    with pytest.raises(BrokerError) as over:
        await broker.orders()
    it.failed("the session is over", over.value)
    order = OrderRequest(
        symbol="NSE:INFY", side=Side.BUY, quantity=1, product=Product.MIS, tag=Tag("CANARY00000000000003")
    )
    placed = await broker.place(order)
    assert isinstance(placed, NotPlaced)
    it.seen["place without a session"] = repr(placed).encode()
    await it.house.sessions.settled()
    assert await it.house.brokers.of(user_id) is None
    assert (await it.ask("expired", "GET", "/broker", 200))["status"] == "expired"


async def _look_everywhere(it: Day, redis: Redis) -> None:
    house = it.house
    for log in house.logs:
        await Projector(log, house.engine, house.clock).step()
    kinds = [recorded.event.type async for recorded in house.logs[0].read()]
    for kind in (BrokerKeySubmitted, BrokerAuthSuccess, BrokerAuthFailed):
        assert str(kind.__struct_config__.tag) in kinds
    async with house.engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(events)) == len(kinds)
        shown = await connection.scalar(select(broker_accounts.c.egress_proxy))
    assert shown is not None
    assert shown.startswith("http://***@127.0.0.1:")
    it.seen |= {
        "postgresql": await _dump(it),  # type: ignore[arg-type]  # all that it needs of a world is its engine
        "redis": await _dump_redis(redis),
        "metrics": generate_latest(house.metrics.registry),
        "objects": repr((house, house.sessions, house.kite, house.hints, house.brokers, vars(house.sessions))).encode(),
        "accounts": repr(await house.sessions.all_kite()).encode(),
    }
