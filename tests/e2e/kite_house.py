"""bahi on a Kite of its own: a simulated one in another process, engines that are pointed at it, traders who log in."""

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
from msgspec import Struct
from websockets.sync.client import connect

from bahi.clock import SystemClock
from brokers.port import BookStatus, Trade
from domain.values import Instant, Product, Quantity, Side
from eventstore.entries import read_entries
from eventstore.envelope import Recorded, decode
from eventstore.open import open_log
from projections.runtime import DEFAULTS
from tests.e2e.house import BAHI, House, Trader, until

SECRET = "kite-e2e-secret"


class Kite:
    """`bahi kite-sim`, whose market is what is said here: every symbol trades at its last price twice a second."""

    def __init__(self, *options: str) -> None:
        self.prices: dict[str, float] = {}
        self.customers: list[Customer] = []
        self._numbers = itertools.count(1)
        self.popen = subprocess.Popen(
            [BAHI, "kite-sim", "--json", "--port", "0", "--ws-port", "0", "--users", "1", "--still", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("BAHI_")},
        )
        assert self.popen.stdout is not None
        said = json.loads(self.popen.stdout.readline())
        self.root, self.ws_root = said["root"], said["ws_root"]
        self.http = httpx.Client(base_url=self.root, timeout=30)
        self._closing = threading.Event()
        self._trading = threading.Lock()
        self._market = threading.Thread(target=self._trade)
        self._market.start()

    def close(self) -> None:
        self._closing.set()
        self._market.join()
        self.http.close()
        self.popen.terminate()
        assert self.popen.wait(120) == 0, "the simulated Kite failed"

    def post(self, path: str, **body: Any) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code in (200, 201), f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def customer(self, postback_url: str | None = None) -> "Customer":
        """A new one, with a session."""
        user_id = f"KT{next(self._numbers):04}"
        key = f"kite-e2e-key-{user_id}"
        said = self.post(
            "/sim/users", user_id=user_id, api_key=key, api_secret=SECRET, postback_url=postback_url, session=True
        )
        customer = Customer(user_id, key, said["access_token"])
        self.customers.append(customer)
        return customer

    def trade(self, symbol: str, price: float) -> None:
        """At once, and from now on."""
        self.prices[symbol] = price
        self.post("/sim/prices", **{symbol: price})

    def rest(self, symbol: str) -> None:
        """Nobody trades it any more when this returns."""
        with self._trading:
            self.prices.pop(symbol)

    def _trade(self) -> None:
        while not self._closing.wait(0.5):
            with self._trading:
                if prices := dict(self.prices):
                    self.post("/sim/prices", **prices)

    @contextlib.contextmanager
    def full_house(self, customer: "Customer") -> Iterator[None]:
        """As many connections to the stream as Kite lets an app have: one more is refused with 429."""
        query = urlencode({"api_key": customer.api_key, "access_token": customer.access_token})
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(connect(f"{self.ws_root}/?{query}"))
            yield

    def fault(self, fault: str, customer: "Customer", **how: Any) -> None:
        self.post("/sim/faults", fault=fault, user_id=customer.user_id, **how)

    def fired(self, fault: str) -> int:
        return int(self.http.get("/sim/state").json()["fired"].get(fault, 0))

    def attempts(self, customer: "Customer") -> list[Any]:
        """All calls to place, change or cancel, the refused ones too."""
        return list(self._orders(customer)["attempts"])

    def orders(self, customer: "Customer") -> list[Any]:
        """All rows that ever were in the book."""
        return list(self._orders(customer)["orders"])

    def books(self) -> tuple[list["KiteRow"], list[Trade]]:
        """The orders and the trades of all customers, in the order in which they came."""
        rows: list[KiteRow] = []
        trades: list[Trade] = []
        for customer in self.customers:
            known = self._orders(customer)
            placed = {each["order_id"]: each["at"] for each in known["attempts"] if each["kind"] == "place"}
            rows += [KiteRow.of(customer.user_id, row, placed[row["order_id"]]) for row in known["orders"]]
            trades += msgspec.convert(known["trades"], list[Trade], strict=False)
        return sorted(rows, key=lambda row: row.placed_at), sorted(trades, key=lambda trade: (trade.at, trade.trade_id))

    def _orders(self, customer: "Customer") -> Any:
        return self.http.get("/sim/orders", params={"user_id": customer.user_id}).json()

    def instruments(self, customer: "Customer", exchange: str) -> bytes:
        """The dump, as an operator downloads it."""
        session = self.http.get(
            f"/instruments/{exchange}", headers={"Authorization": f"token {customer.api_key}:{customer.access_token}"}
        )
        assert session.status_code == 200, session.text
        return session.content

    def login(self, customer: "Customer") -> str:
        """The request token that the browser brings back."""
        page = self.http.get("/connect/login", params={"v": "3", "api_key": customer.api_key})
        return str(page.json()["request_token"])

    def logout(self, customer: "Customer") -> None:
        """Somewhere else."""
        self.post("/sim/logout", user_id=customer.user_id)


class Customer(Struct, frozen=True):
    """Of the simulated Kite."""

    user_id: str
    api_key: str
    access_token: str


class Survived(Struct, frozen=True):
    """A trouble that was lived through: by what it was noticed, what happened then, and what came of it."""

    fault: str
    noticed: str
    then: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.fault:20} {self.noticed:42} {self.then:24} {self.outcome}"


class KiteRow(Struct, frozen=True, kw_only=True):
    """An order of Kite's book, as the checker of the invariants wants it."""

    account: str
    order_id: str
    tag: str
    symbol: str
    side: Side
    product: Product
    quantity: Quantity
    filled: Quantity
    status: BookStatus
    placed_at: Instant

    @classmethod
    def of(cls, account: str, row: Any, placed_at: Instant) -> "KiteRow":
        return cls(
            account=account,
            order_id=row["order_id"],
            tag=row["tag"] or "",
            symbol=f"{row['exchange']}:{row['tradingsymbol']}",
            side=Side(row["transaction_type"]),
            product=Product(row["product"]),
            quantity=row["quantity"],
            filled=row["filled_quantity"],
            status=FINAL.get(row["status"], BookStatus.OPEN),
            placed_at=placed_at,
        )


FINAL = {
    "COMPLETE": BookStatus.COMPLETE,
    "CANCELLED": BookStatus.CANCELLED,
    "REJECTED": BookStatus.REJECTED,
}


HARDLY_POLLING = """
import sys
from sources import updates

ordinary, users = updates.OpenOrders.period, {int(each) for each in sys.argv.pop(1).split(",")}
updates.OpenOrders.period = lambda orders, user: 3_600_000_000 if user in users else ordinary(orders, user)
from bahi.cli.main import app

app()
"""


class KiteHouse(House):
    """Engines pointed at this Kite by its addresses. All accounts are one family's.

    `unpolled`: users whose order book is read once an hour, unless something says that it changed.
    """

    def __init__(self, kite: Kite, *, unpolled: Iterable[int] = (), **settings: str) -> None:
        at_kite = {"KITE_ROOT": kite.root, "KITE_WS_ROOT": kite.ws_root, "KITE_FAMILY": "true"}
        super().__init__(**(at_kite | settings))
        self.kite = kite
        if users := ",".join(map(str, unpolled)):
            self.command = [sys.executable, "-c", HARDLY_POLLING, users]

    def books(self) -> tuple[list[Any], list[Trade]]:
        return self.kite.books()

    def owners(self, rows: Iterable[Any]) -> dict[str, int]:
        return {each.customer.user_id: each.user_id for each in self.traders if isinstance(each, KiteTrader)}

    def records(self) -> list[Recorded]:
        """The log so far, while trading goes on."""

        async def read() -> list[Recorded]:
            log = await open_log(self.redis_url, clock=SystemClock(), defaults=DEFAULTS)
            try:
                return [decode(raw) async for page in read_entries(log) for raw in page]
            finally:
                await log.aclose()

        return asyncio.run(read())

    def said_often(self) -> dict[str, int]:
        """What any process has logged more than ten times, but for requests (those that a slow machine's archive kept
        waiting are told twice), events and orders that waited: of those there are as many as there are."""
        often = ("request", "answered_before_archive", "order_waited")
        said = Counter(
            f"{process.name}: {line['event']}"
            for process in self.processes
            for line in process.every_line()
            if line["event"] not in often and line["logger"] != "bahi.events"
        )
        return {what: count for what, count in said.items() if count > 10}

    def says(self, *command: str) -> Any:
        """What `bahi COMMAND --json` answers."""
        done = subprocess.run(
            [BAHI, *command, "--home", self.home, "--json"],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.home,
            check=False,
        )
        assert done.returncode == 0, f"bahi {' '.join(command)}: {done.returncode} {done.stdout} {done.stderr}"
        return json.loads(done.stdout)

    def metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        lines = (line for line in self.get("/metrics").text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


class KiteTrader(Trader):
    """A user of the app with an account at this Kite; connected with an access token, unless it is said otherwise."""

    house: KiteHouse

    def __init__(self, house: KiteHouse, *, postbacks: bool = False, connect: bool = True) -> None:
        super().__init__(house, connect=False)
        self.customer = house.kite.customer(f"{house.url}/broker/kite/postback" if postbacks else None)
        if connect:
            self.connect(access_token=self.customer.access_token)

    def connect(self, **token: Any) -> Any:
        return self.post("/broker/connect", broker="kite", api_key=self.customer.api_key, api_secret=SECRET, **token)

    def asked(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Asked again while the instruments are not there: they come after the first account has connected."""

        def loaded() -> httpx.Response | None:
            answer = self.http.post(path, json=body)
            if answer.status_code != 503:
                return answer
            assert (answer.json()["code"], answer.headers["retry-after"]) == ("INSTRUMENTS_NOT_LOADED", "3")
            return None

        answer = until(loaded, 30, f"{path} is answered")
        assert answer is not None
        return answer

    def start(self, strategy_id: int) -> Any:
        """Until it runs: 202 says that it takes longer than a request may wait."""
        answer = self.http.post("/strategy/start", json={"strategy_id": strategy_id})
        assert answer.status_code in (200, 202), answer.text
        return self.sees(strategy_id, status="running")

    def sees(self, strategy_id: int, seconds: float = 20, **wanted: Any) -> Any:
        try:
            return super().sees(strategy_id, seconds, **wanted)
        except AssertionError as failure:
            events = "\n".join(
                f"{each['recorded_at']} {each['type']} {each['data']}" for each in self.events(strategy_id)
            )
            raise AssertionError(f"{failure}\n{events}") from None

    def ends(self, strategy_id: int, reason: str, seconds: float = 20) -> Any:
        """The status once the run has ended, which must be for this reason."""
        status = self.sees(strategy_id, seconds, status="stopped")
        assert status["exit_reason"] == reason, status
        return status

    def attempts(self, side: str | None = None) -> list[Any]:
        """The orders asked of Kite for this trader, those refused too."""
        asked = [each for each in self.house.kite.attempts(self.customer) if each["kind"] == "place"]
        return [each for each in asked if side in (None, each["side"])]
