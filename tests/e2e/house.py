"""bahi as its users run it: `bahi run …` as processes on a folder of its own, and traders who talk HTTP to it."""

import asyncio
import datetime as dt
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import httpx
import psutil
import redis

from bahi.clock import SystemClock
from brokers.paper.book import Book
from brokers.paper.matching import Order as Row
from brokers.port import Trade
from domain.strategy import State
from eventstore.entries import read_entries
from eventstore.envelope import Recorded, decode
from eventstore.errors import CorruptEvent
from eventstore.keys import Keys, price
from eventstore.open import open_log
from projections.live import live_states
from projections.prices import decode_price
from projections.runtime import DEFAULTS
from simulation.invariants import Checker

T = TypeVar("T")

IST = ZoneInfo("Asia/Kolkata")
PASSWORD = "a long enough password 9"
BAHI = Path(sys.executable).with_name("bahi")


SLOWLY = 4
"""What is waited for may take so many times as long as on an idle machine."""
FAR = 600
"""Seconds, after which a test is over."""
_pace = 1.0


def pace() -> float:
    """How many times as long as alone a process takes here at present: measured by a little work. At most 20."""
    work = 0.1
    begun, worked = time.perf_counter(), time.thread_time()
    while time.thread_time() - worked < work:
        pass
    return min(max(1.0, (time.perf_counter() - begun) / work), 20.0)


def until(look: Callable[[], T], seconds: float = 20, what: str = "", every: float = 0.05) -> T:
    """Looks again and again until it is true; its answer. Fails when it is not true in time, which is a multiple of
    the seconds that it may take on an idle machine."""
    seconds *= SLOWLY * _pace
    deadline = time.monotonic() + seconds
    while not (answer := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or look.__name__}; the last answer was {answer!r}")
        time.sleep(every)
    return answer


def clock_in(seconds: float) -> str:
    """The exchange's wall clock that many seconds from now, more where everything takes longer (but not of what is far
    away anyway): HH:MM:SS, the next full second."""
    return clock_after(min(seconds * _pace, FAR - 1) if seconds < FAR else seconds)


def clock_after(seconds: float) -> str:
    """The same, of seconds that were measured."""
    return f"{dt.datetime.now(IST) + dt.timedelta(seconds=seconds + 0.999):%H:%M:%S}"


LATE = ("23:59:58", "23:59:59")
"""The last moments of the day, to buy and to sell: not while a test runs."""


def await_a_long_day() -> None:
    """A day at the exchange ends at midnight; a test that begins right before it waits for the next one."""
    until(lambda: dt.datetime.now(IST).time() < dt.time(23, 55), 400, "midnight has passed", every=1)


def free_port() -> int:
    """For a server that is started later: below the ports that the kernel gives to whoever asks for any, so that no
    connection of another test takes it meanwhile."""
    while True:
        with socket.socket() as trial, suppress(OSError):
            trial.bind(("127.0.0.1", random.SystemRandom().randrange(10_000, 32_000)))
            return int(trial.getsockname()[1])


class Process:
    """One `bahi run`."""

    def __init__(self, house: "House", roles: tuple[str, ...], port: int | None, settings: dict[str, str]) -> None:
        self.roles = roles
        self.ended = False
        """By us."""
        self.name = "-".join(roles) or "all"
        number = next(house.numbers)
        self.out = house.home / f"{number:03}-{self.name}.out"
        self.err = house.home / f"{number:03}-{self.name}.err"
        given = [] if port is None else ["--port", str(port)]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.popen = subprocess.Popen(
                [*house.command, "run", *roles, "--home", house.home, *given],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**house.environment, **settings},
                cwd=house.home,
            )

    @property
    def lives(self) -> bool:
        return self.popen.poll() is None

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines of this name so far."""
        return [line for line in self.every_line() if line["event"] == event]

    def every_line(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self.out.read_text().splitlines() if line.startswith("{")]

    def check(self) -> None:
        assert self.lives or self.ended, f"{self.name} ended with {self.popen.returncode}: {self.said()}"

    @property
    def started(self) -> bool:
        self.check()
        return b'"event": "started"' in self.out.read_bytes()

    def ready(self, seconds: float = 40) -> "Process":
        until(lambda: self.started, seconds, f"{self.name} has started")
        return self

    def said(self) -> str:
        """The end of what it wrote."""
        return self.out.read_text()[-3000:] + self.err.read_text()[-3000:]

    def kill(self) -> None:
        self.ended = True
        self.popen.kill()
        self.popen.wait()

    def terminate(self, seconds: float = 15) -> None:
        """SIGTERM. It must end in good order, within a multiple of the seconds that it may take on an idle machine."""
        self.ended = True
        self.popen.send_signal(signal.SIGTERM)
        try:
            code = self.popen.wait(seconds * SLOWLY * _pace)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end: {self.said()}") from None
        assert code == 0, f"{self.name} ended with {code}: {self.said()}"


class House:
    """A BAHI_HOME, its processes, and what is in its log and its order book."""

    def __init__(self, **settings: str) -> None:
        global _pace
        await_a_long_day()
        _pace = pace()
        self.home = Path(tempfile.mkdtemp(prefix="bahi-e2e-"))
        self.command: list[str | Path] = [BAHI]
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.numbers = itertools.count(1)
        self.processes: list[Process] = []
        self.traders: list[Trader] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BAHI_")},
            **{name: value for name, value in os.environ.items() if name == "BAHI_TEST_REDIS"},
            "BAHI_CALENDAR": "always-open",
            **{f"BAHI_{name}": value for name, value in settings.items()},
        }

    def start(self, *roles: str, port: int | None = None, **settings: str) -> Process:
        """`bahi run ROLES`; those with the REST application on this house's port."""
        if port is None and (not roles or "api" in roles):
            port = self.port
        process = Process(self, roles, port, {f"BAHI_{name}": value for name, value in settings.items()})
        self.processes.append(process)
        return process

    def living(self, role: str = "") -> list[Process]:
        """The processes of a role, or all. Fails when one has ended that nobody ended."""
        for process in self.processes:
            process.check()
        return [each for each in self.processes if each.lives and (not role or role in each.roles)]

    def close(self) -> None:
        """Ends whatever is left of it, servers included."""
        for process in self.processes:
            if process.lives:
                process.kill()
        for server in self.servers().values():
            server.kill()
        shutil.rmtree(self.home)

    # --- from outside -------------------------------------------------------------------------------------------------

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30)

    def ready(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def await_ready(self, seconds: float = 40) -> None:
        until(self.ready, seconds, "the engine is ready")

    # --- from inside --------------------------------------------------------------------------------------------------

    def servers(self) -> dict[str, psutil.Process]:
        """The server processes that live on this home, by the name of their folder."""
        found = {}
        for name, pidfile in (("redis", "redis.pid"), ("postgres", "postgres/postmaster.pid")):
            try:
                process = psutil.Process(int((self.home / pidfile).read_text().split("\n")[0]))
                if process.cwd() == str(self.home / name):
                    found[name] = process
            except (FileNotFoundError, ValueError, psutil.Error):
                continue
        return found

    @property
    def redis_url(self) -> str:
        return str(json.loads((self.home / "servers.json").read_text())["redis_url"])

    def redis(self) -> "redis.Redis":
        return redis.Redis.from_url(self.redis_url)

    def price(self, symbol: str) -> Decimal | None:
        """The last price that the market listener wrote down."""
        found = decode_price(self.redis().get(price(symbol)))
        return None if found is None else found[0]

    def stopped(self, strategies: Iterable[int]) -> bool:
        """Whether these have ended, by the log alone: the application need not answer."""
        found = [self.redis().hget(Keys().runtime(each), "status") for each in strategies]
        return set(found) == {b"stopped"}

    def books(self) -> tuple[list[Any], list[Trade]]:
        """The orders and the trades of all traders at the paper broker."""

        async def read() -> tuple[list[Row], list[Trade]]:
            book = Book(self.home / "paper.db", inline=True)
            try:
                rows: list[Row] = []
                trades: list[Trade] = []
                for trader in self.traders:
                    account = f"PAPER-{trader.user_id}"
                    rows += await book.read(lambda it, account=account: it.between(account, 0, 2**62))
                    trades += await book.read(lambda it, account=account: it.trades(account, 0))
                return rows, sorted(trades, key=lambda trade: int(trade.trade_id))
            finally:
                book.close()

        return asyncio.run(read())

    def owners(self, rows: Iterable[Any]) -> dict[str, int]:
        """Whose account each is."""
        return {row.account: int(row.account.removeprefix("PAPER-")) for row in rows}

    def audit(self, *, finished: bool = True) -> "Audit":
        """Reads the whole log and the whole book, and checks every invariant that can be seen from outside; with
        `finished` also that every run has ended and every order is final."""
        read = until(self._at_rest, 20, "the log is read before it grows")
        assert read is not None
        checker = read.checker
        checker.check()
        if not checker.unreadable:
            checker.equals_live(read.live)
        if finished:
            checker.all_final()
        return read

    def _at_rest(self) -> "Audit | None":
        """Everything as of one moment; None if somebody appended meanwhile."""
        before = self.redis().hgetall(Keys().position)
        read = asyncio.run(self._read(*self.books()))
        return read if self.redis().hgetall(Keys().position) == before else None

    async def _read(self, rows: list[Any], trades: list[Trade]) -> "Audit":
        log = await open_log(self.redis_url, clock=SystemClock(), defaults=DEFAULTS)
        try:
            _, live, corrupt = await live_states(log)
            assert not corrupt
            records: list[Recorded] = []
            unreadable: list[int] = []
            async for page in read_entries(log):
                for raw in page:
                    try:
                        records.append(decode(raw))
                    except CorruptEvent as error:
                        unreadable.append(error.position)
        finally:
            await log.aclose()
        accounts = self.owners(rows)
        checker = Checker(
            records, rows, trades, log_ids=log.log_ids, accounts=accounts, unreadable=frozenset(unreadable)
        )
        return Audit(records, rows, trades, {state.id: state for state in live}, checker)


class Audit:
    """What the log and the book said."""

    def __init__(
        self, records: list[Recorded], rows: list[Any], trades: list[Trade], live: dict[int, State], checker: Checker
    ) -> None:
        self.records = records
        self.rows = rows
        self.trades = trades
        self.live = live
        self.checker = checker

    def types(self, strategy_id: int) -> list[str]:
        return [record.event.type for record in self.records if record.strategy_id == strategy_id]


class Trader:
    """A user of the app."""

    _numbers = itertools.count(1)

    def __init__(self, house: House, *, connect: bool = True) -> None:
        self.house = house
        self.email = f"trader{next(self._numbers)}.{os.getpid()}@example.com"
        self.http = httpx.Client(base_url=house.url, timeout=30)
        tokens = self.post("/auth/register", 201, email=self.email, password=PASSWORD)
        self.user_id: int = tokens["user_id"]
        house.traders.append(self)
        self.take(tokens)
        if connect:
            self.post("/broker/connect", broker="paper", api_key="k123456", api_secret="s123456", access_token="t1234")

    def take(self, tokens: dict[str, Any]) -> None:
        self.http.headers["authorization"] = f"Bearer {tokens['access_token']}"
        self._taken_at = time.monotonic()

    def stay_logged_in(self) -> None:
        """Before something that may last; an access token is good for ten minutes."""
        if time.monotonic() - self._taken_at > 60:
            self.take(self.post("/auth/login", email=self.email, password=PASSWORD))

    def post(self, path: str, expect: int = 200, **body: Any) -> Any:
        """The answer; that of a start or a stop once it is done, if the engine takes its time."""
        answer = self.asked(path, body)
        if (answer.status_code, expect) == (202, 200):
            strategy_id = answer.json()["strategy_id"]
            until(lambda: self.status(strategy_id)["status"] not in {"starting", "stopping"}, 20, f"{path} is done")
            return self.status(strategy_id)
        assert answer.status_code == expect, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def asked(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """The first answer that is one."""
        return self.http.post(path, json=body)

    def get(self, path: str, expect: int = 200) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == expect, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def create(self, buy: float | None = None, sell: float | None = None, **asked: Any) -> int:
        """A strategy whose times are so many seconds ahead; without them, late in the day."""
        times = {
            "buy_time": LATE[0] if buy is None else clock_in(buy),
            "sell_time": LATE[1] if sell is None else clock_in(sell),
        }
        given = {"symbol": "INFY", "quantity": 10, "stop_loss": 1.0, "product": "CNC"} | times | asked
        return int(self.post("/strategy/create", 201, **given)["strategy_id"])

    def start(self, strategy_id: int) -> Any:
        return self.post("/strategy/start", strategy_id=strategy_id)

    def armed(self, buy: float | None = None, sell: float | None = None, **asked: Any) -> int:
        """Created and started."""
        strategy_id = self.create(buy, sell, **asked)
        started = self.start(strategy_id)
        assert started["status"] == "running"
        assert started["session_date"] == dt.datetime.now(IST).date().isoformat(), "the test was too slow"
        return strategy_id

    def stop_if_for_another_day(self, strategy_id: int) -> None:
        """When nobody could start it in time, it is armed for the next session."""
        session = until(lambda: self.status(strategy_id)["session_date"], 20, f"strategy {strategy_id} is started")
        if session != dt.datetime.now(IST).date().isoformat():
            stopped = self.http.post("/strategy/stop", json={"strategy_id": strategy_id})
            assert stopped.status_code in (200, 202), stopped.text

    def status(self, strategy_id: int) -> Any:
        return self.get(f"/strategy/status/{strategy_id}")

    def sees(self, strategy_id: int, seconds: float = 20, **wanted: Any) -> Any:
        """The status, once its fields are so."""

        def look() -> Any:
            status = self.status(strategy_id)
            return status if all(status[name] == value for name, value in wanted.items()) else None

        try:
            return until(look, seconds)
        except AssertionError:
            raise AssertionError(f"not {wanted} within {seconds:g} s: {self.status(strategy_id)}") from None

    def listed(self, path: str, of: str) -> list[Any]:
        """All pages."""
        rows: list[Any] = []
        cursor: str | None = None
        while True:
            page = self.http.get(path, params={"limit": "3"} | ({"cursor": cursor} if cursor else {})).json()
            rows += page[of]
            cursor = page["next_cursor"]
            if cursor is None:
                return rows

    def events(self, strategy_id: int) -> list[Any]:
        return self.listed(f"/strategy/{strategy_id}/events", "events")

    def orders(self, strategy_id: int) -> list[Any]:
        return self.listed(f"/strategy/{strategy_id}/orders", "orders")
