"""What is measured: a real Redis with its own data, the real log and handlers, and a broker that only listens."""

import asyncio
import datetime as dt
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from bahi.clock import SystemClock
from bahi.servers import EmbeddedRedis
from brokers.instruments import BUILT_IN
from brokers.port import Accepted, BookOrder, BookStatus, BrokerPosition, Brokers, Changing, Done, Placing, Trade
from domain.calendar import AlwaysOpenCalendar
from domain.events import StrategyCreated, StrategyRunning, StrategyStarted
from domain.facts import Policy
from domain.strategy import State, fold, initial
from domain.tags import parse_tag
from domain.values import MINUTE, Config, Instant, OrderRequest, Price, Product
from eventstore.envelope import NewEvent
from eventstore.log import EventLog
from eventstore.open import open_log
from handlers.decider import Wake
from handlers.desk import Desk
from handlers.effects import record
from handlers.outcomes import booked
from projections.runtime import DEFAULTS, encode_state
from simulation.market import DEFAULT_SYMBOLS

__all__ = ["SYMBOLS", "USERS", "Deaf", "Fsync", "Taken", "arm", "bench_log", "created", "desk_of", "fill"]

Fsync = Literal["always", "everysec"]
SYMBOLS = tuple(DEFAULT_SYMBOLS)[:20]
USERS = 50


@asynccontextmanager
async def bench_log(fsync: Fsync) -> AsyncIterator[EventLog]:
    """An empty log on a Redis of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="bahi-bench-") as folder,
        EmbeddedRedis(Path(folder), appendfsync=fsync) as server,
    ):
        log = await open_log(server.url, clock=SystemClock(), defaults=DEFAULTS, allow_weak=True)
        try:
            yield log
        finally:
            await log.aclose()


Taken = tuple[OrderRequest, str]
"""An order that the broker took, and its id there."""


class Deaf:
    """A broker, and its own directory, that takes every order at once and tells when."""

    account = "BENCH"
    limits = None

    def __init__(self, called: Callable[[OrderRequest], None]) -> None:
        self._called = called
        self._orders = 0
        self.taken: list[Taken] = []

    async def of(self, user_id: int) -> "Deaf":
        return self

    async def connected(self) -> list[int]:
        return list(range(1, USERS + 1))

    async def place(self, request: OrderRequest) -> Placing:
        self._called(request)
        self._orders += 1
        self.taken.append((request, str(self._orders)))
        return Accepted(str(self._orders))

    async def modify(self, order_id: str, *, price: Price) -> Changing:
        return Done()

    async def cancel(self, order_id: str) -> Changing:
        return Done()

    async def orders(self) -> list[BookOrder]:
        return []

    async def trades(self) -> list[Trade]:
        return []

    async def positions(self) -> list[BrokerPosition]:
        return []

    async def updates(self) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""


def desk_of(log: EventLog, brokers: Brokers) -> Desk:
    """A desk whose strategies are never late."""
    return Desk(
        log=log,
        clock=log.clock,
        calendar=AlwaysOpenCalendar(),
        policy=replace(Policy(), buy_late_limit=60 * MINUTE),
        instruments=BUILT_IN,
        brokers=brokers,
        known={},
    )


async def fill(desk: Desk, taken: list[Taken]) -> None:
    """Writes that these orders traded, as a poller would: else they would be chased, in the middle of what is measured.
    None of them is left in the list."""
    while taken:
        request, order_id = taken.pop()
        tag = parse_tag(request.tag)
        assert tag is not None  # noqa: S101 (we made it)
        row = BookOrder(
            order_id=order_id,
            tag=request.tag,
            symbol=request.symbol,
            side=request.side,
            product=request.product,
            quantity=request.quantity,
            filled=request.quantity,
            average_price=Decimal(100),
            price=request.price,
            status=BookStatus.COMPLETE,
            placed_at=desk.clock.now(),
        )
        await record(desk, tag.strategy_id, lambda state, _: booked(state, request.tag, row), Wake())  # noqa: B023


def created(strategy_id: int) -> Config:
    """No two of a symbol have the same stop."""
    return Config(
        symbol=SYMBOLS[strategy_id % len(SYMBOLS)],
        quantity=10,
        buy_time=dt.time(0, 1),
        sell_time=dt.time(23, 58),
        stop_loss=Decimal(1000) - Decimal(strategy_id // len(SYMBOLS)) / 20,
        product=Product.CNC,
    )


async def arm(log: EventLog, ids: Sequence[int], *, bought: bool) -> list[State]:
    """Running strategies, written as their events would have left them; `bought` ones hold their shares."""
    calendar = AlwaysOpenCalendar()
    session = calendar.session_on(calendar.wall(log.clock.now()).date())
    buy_at: Instant = session.open_at if bought else session.close_at - 1

    async def one(strategy_id: int) -> State:
        user_id = strategy_id % USERS + 1
        config = created(strategy_id)
        started = StrategyStarted(
            session_date=session.date,
            open_at=session.open_at,
            close_at=session.close_at,
            buy_at=buy_at,
            sell_at=session.close_at - 1,
            config=config,
        )
        events = [StrategyCreated(config=config), started, StrategyRunning(run=2)]
        state = fold(initial(strategy_id, user_id), events)
        if bought:
            state.bought = state.open_quantity = config.quantity
            state.entered = state.entry_spent = True
        new = [NewEvent(event, strategy_id, user_id) for event in events]
        await log.append(new, expected=0, runtime=encode_state(state, None))
        return state

    states: list[State] = []
    for start in range(0, len(ids), 64):
        states += await asyncio.gather(*(one(each) for each in ids[start : start + 64]))
    return states


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """Raises TimeoutError when the condition does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the benchmark's world does not come to the point")
        await asyncio.sleep(0.001)
