"""From Kite's stream to Kite's orders: a tick's bytes come from one socket, an order's bytes go into another.

Kite is a simulated one in a process of its own. Every second sample is one of the benchmark's own market and a broker
that only listens, in the same engine: what both differ by is what the sockets and the thread cost.
"""

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from http.client import HTTPConnection
from urllib.parse import urlencode, urlsplit

import msgspec

from bahi.bench.figures import Figure, at, latency
from bahi.bench.stops import PushFeed, by_stop, engine
from bahi.bench.world import SYMBOLS, USERS, Deaf, Fsync, Taken, arm, bench_log, desk_of, fill, until
from bahi.cli.kite_sim import Customer, Running
from brokers.instruments import BUILT_IN
from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.broker import KiteBroker
from brokers.kite.client import load
from brokers.port import Accepted, Broker, Placing
from domain.clock import Clock
from domain.strategy import State
from domain.values import DAY, OrderRequest, Price, Tick
from eventstore.log import EventLog
from simulation.kite.instruments import InstrumentList, built_in
from sources.feeds.kite import KiteFeed

__all__ = ["kite"]

PATIENCE = 10.0
"""Seconds for whatever should take milliseconds."""
CHEAP, DEAR = Decimal(1), Decimal(2000)
"""Below and above every stop."""


class _Kite:
    """A simulated Kite in another process, whose market stands still but for what is said here."""

    def __init__(self, running: Running) -> None:
        self.customers = running.customers
        self.address = KiteAddress(root=running.root, ws_root=running.ws_root)
        self._http = HTTPConnection(urlsplit(running.root).netloc, timeout=PATIENCE)

    def orders(self) -> int:
        """How many orders it has taken."""
        self._http.request("GET", "/sim/state")
        state = msgspec.json.decode(self.heard())
        return sum(user["orders"] for user in state["users"].values())

    def say_price(self, symbols: Sequence[str], price: Price) -> None:
        """The answer is not waited for: see `heard`."""
        self._http.request("POST", "/sim/prices", msgspec.json.encode(dict.fromkeys(symbols, price)))

    def heard(self) -> bytes:
        """Takes the answer. Raises OSError when Kite would not do it."""
        answer = self._http.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise OSError(f"the simulated Kite answered {answer.status}: {body[:200]!r}")
        return body

    def buy(self, customer: Customer, symbol: str, quantity: int) -> None:
        """Shares that a stop can sell."""
        exchange, _, name = symbol.partition(":")
        order = {
            "exchange": exchange,
            "tradingsymbol": name,
            "transaction_type": "BUY",
            "quantity": quantity,
            "product": "CNC",
            "order_type": "MARKET",
            "market_protection": -1,
        }
        session = {"Authorization": f"token {customer.api_key}:{customer.access_token}"}
        self._http.request("POST", "/orders/regular", urlencode(order), session)
        self.heard()

    def account(self, user_id: int, clock: Clock) -> KiteAccount:
        customer, now = self.customers[user_id - 1], clock.now()
        return KiteAccount(
            user_id=user_id,
            kite_user_id=customer.user_id,
            api_key=customer.api_key,
            access_token=customer.access_token,
            connected_at=now,
            expires_at=now + DAY,
        )


@contextmanager
def _kite() -> Iterator[_Kite]:
    """It runs while the block lasts."""
    program = "from bahi.cli.main import app; app()"
    ports = ("--port", "0", "--ws-port", "0")
    with subprocess.Popen(
        [sys.executable, "-c", program, "kite-sim", "--still", "--json", *ports, "--users", str(USERS)],
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101 (a pipe)
            said = process.stdout.readline()
            if not said:
                raise OSError("the simulated Kite did not start")
            yield _Kite(msgspec.json.decode(said, type=Running))
        finally:
            process.terminate()


class _Broker(KiteBroker):
    """Notes when it is called, and the orders that Kite took."""

    called_at = 0.0
    taken: list[Taken]

    async def place(self, request: OrderRequest) -> Placing:
        self.called_at = time.perf_counter()
        answer = await super().place(request)
        if isinstance(answer, Accepted):
            self.taken.append((request, answer.order_id))
        return answer


class _Sample:
    """One stop that was hit: seconds of `time.perf_counter()`, 0 while it has not come to that."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.tick_at = 0.0
        self.written_at = 0.0
        self.done = asyncio.Event()

    @property
    def took(self) -> float:
        return self.written_at - self.tick_at


class _Brokers:
    """Kite for users of an even number, a broker that only listens for the others."""

    def __init__(self, kite: _Kite, clock: Clock, called: Callable[[OrderRequest], None]) -> None:
        self._deaf = Deaf(called)
        self._loop = asyncio.get_running_loop()
        self.sample: _Sample | None = None
        self.kite = {
            user_id: _Broker(
                kite.account(user_id, clock),
                kite.address,
                clock=clock,
                instruments=BUILT_IN,
                gate=_nobody_waits,
                refused=_nobody_cares,
                hints=_no_hints,
                on_order_written=self._written,
            )
            for user_id in range(1, USERS + 1)
            if at_kite(user_id)
        }
        self.taken = self._deaf.taken
        for broker in self.kite.values():
            broker.taken = self.taken

    async def of(self, user_id: int) -> Broker | None:
        return self.kite.get(user_id, self._deaf)

    async def connected(self) -> list[int]:
        return list(range(1, USERS + 1))

    async def aclose(self) -> None:
        for broker in self.kite.values():
            await broker.aclose()

    def _written(self, at_ns: int) -> None:
        """In a thread."""
        sample = self.sample
        if sample is not None and not sample.written_at:
            sample.written_at = at_ns / 1e9
            self._loop.call_soon_threadsafe(sample.done.set)


def at_kite(user_id: int) -> bool:
    return user_id % 2 == 0


async def _nobody_waits(_reading: str) -> None: ...


def _nobody_cares(_account: KiteAccount) -> None: ...


async def _no_hints(_account: KiteAccount) -> AsyncIterator[str]:
    await asyncio.Event().wait()
    yield ""


class _Run:
    """The engine with a market and a broker of each kind; one stop is hit after the other."""

    def __init__(self, kite: _Kite, log: EventLog) -> None:
        clock = log.clock
        self.kite = kite
        self.log = log
        self.clock = clock
        self.own = PushFeed()
        self.brokers = _Brokers(kite, clock, self._called)
        self.seen: set[str] = set()
        self.sample: _Sample | None = None
        instruments = InstrumentList(built_in())
        tokens = {each.symbol: each.token for each in instruments}
        account = kite.account(min(self.brokers.kite), clock)

        async def session() -> KiteAccount:
            return account

        self.feed = KiteFeed(
            account=session, tokens=tokens.get, address=kite.address, clock=clock, on_frame=self._on_frame
        )

    def _on_frame(self, read_at_ns: int, ticks: Sequence[Tick]) -> None:
        self.seen.update(tick.symbol for tick in ticks)
        sample = self.sample
        if sample is not None and not sample.tick_at:
            sample.tick_at = read_at_ns / 1e9

    def _called(self, _request: OrderRequest) -> None:
        sample = self.sample
        if sample is not None and not sample.written_at:
            sample.written_at = time.perf_counter()
            sample.done.set()

    async def hit(self, state: State) -> _Sample:
        """The tick at the strategy's own stop, and the order that it leads to. Raises TimeoutError."""
        self.sample = self.brokers.sample = sample = _Sample(state)
        async with asyncio.timeout(PATIENCE):
            if at_kite(state.user_id):
                self.kite.say_price([state.symbol], state.stop_loss)
                await sample.done.wait()
                self.kite.heard()
            else:
                sample.tick_at = time.perf_counter()
                self.own.queue.put_nowait([Tick(state.symbol, state.stop_loss, self.clock.now())])
                await sample.done.wait()
        return sample


@asynccontextmanager
async def _running(fsync: Fsync, armed: int, samples: int) -> AsyncIterator[tuple[_Run, list[State]]]:
    """The engine, and the stops to hit, those that follow each other of users that follow each other."""
    with _kite() as server:
        async with bench_log(fsync) as log:
            states = await arm(log, range(1, armed + 1), bought=True)
            stops = by_stop(states)[:samples]
            _stock(server, [state for state in stops if at_kite(state.user_id)])
            run = _Run(server, log)
            kites = [state for state in states if at_kite(state.user_id)]
            others = [state for state in states if not at_kite(state.user_id)]
            wanted = {state.symbol for state in kites}
            async with engine(log, run.brokers, (run.feed, kites), (run.own, others)):
                await until(lambda: wanted <= run.seen, PATIENCE)
                yield run, stops
            await run.brokers.aclose()


def _stock(server: _Kite, states: Sequence[State]) -> None:
    """Buys what the stops will sell, cheaply, and lets the prices rise above all stops."""
    shares = Counter[tuple[int, str]]()
    for state in states:
        shares[state.user_id, state.symbol] += state.open_quantity
    server.say_price(SYMBOLS, CHEAP)
    server.heard()
    for (user_id, symbol), quantity in shares.items():
        server.buy(server.customers[user_id - 1], symbol, quantity)
    server.say_price(SYMBOLS, DEAR)
    server.heard()


async def kite(fsync: Fsync, armed: int, samples: int) -> list[Figure]:
    """`samples` stops hit one after the other, alternately at Kite and at the benchmark's own market and broker.

    An account's first order makes its connection; it counts apart.
    """
    load()
    rng = random.Random(1)  # noqa: S311 (a benchmark)
    first: list[float] = []
    later: list[float] = []
    called: list[float] = []
    own: list[float] = []
    connected: set[int] = set()
    async with _running(fsync, armed, samples) as (run, stops):
        before, desk = run.kite.orders(), desk_of(run.log, run.brokers)
        for state in stops:
            sample = await run.hit(state)
            if not at_kite(state.user_id):
                own.append(sample.took)
            elif state.user_id in connected:
                later.append(sample.took)
                called.append(run.brokers.kite[state.user_id].called_at - sample.tick_at)
            else:
                connected.add(state.user_id)
                first.append(sample.took)
            await until(lambda: bool(run.brokers.taken), PATIENCE)
            await fill(desk, run.brokers.taken)
            await asyncio.sleep(rng.uniform(0.01, 0.02))  # until nothing of it is left to do
        placed = run.kite.orders() - before
        if placed != len(first) + len(later):
            raise OSError(f"{placed} orders are at Kite, {len(first) + len(later)} went out")
    ratio = at(later, 0.5) / at(own, 0.5)
    return [
        latency(f"Kite tick to order written, {armed:,}", fsync, later),
        latency("… until the broker is called", fsync, called),
        latency("… first order of an account", fsync, first),
        latency("tick to broker, every other", fsync, own),
        Figure(name="Kite to in-process, p50", fsync=fsync, value=round(ratio, 2), unit="×"),
    ]
