"""Strategies in a real log, and clocks to test with."""

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import Any, TypeVar, cast

from domain.calendar import AlwaysOpenCalendar, instant, load_nse
from domain.events import (
    Event,
    ExecuteBuy,
    OrderFilled,
    StrategyCreated,
    StrategyStarted,
)
from domain.strategy import State, fold, initial
from domain.tags import make_tag
from domain.values import HOUR, SECOND, Config, Duration, Instant, Kind, OrderRequest, Product, Side, Tick
from eventstore.batch import Appended
from eventstore.envelope import NewEvent, Recorded
from eventstore.log import EventLog
from eventstore.open import open_log
from projections.runtime import DEFAULTS, decode_state, encode_change

DAY = dt.date(2021, 4, 13)
OPEN = instant(DAY, dt.time(9, 15))
CLOSE = instant(DAY, dt.time(15, 30))
TEN = instant(DAY, dt.time(10))
INFY = "NSE:INFY"
NSE = load_nse()
ALWAYS = AlwaysOpenCalendar()

T = TypeVar("T", bound=Event)


class ShiftedClock:
    """The machine's clock, and how far it was set from it."""

    def __init__(self) -> None:
        self.shift: Duration = 0

    def now(self) -> Instant:
        return time.time_ns() // 1_000 + self.shift

    async def sleep(self, duration: Duration) -> None:
        await asyncio.sleep(max(0, duration) / SECOND)


async def open_test_log(url: str, clock: Any) -> EventLog:
    return await open_log(url, clock=clock, defaults=DEFAULTS, allow_weak=True)


def config(symbol: str = INFY, stop: str = "100") -> Config:
    return Config(
        symbol=symbol, quantity=10, buy_time=dt.time(9, 20), sell_time=dt.time(15, 10), stop_loss=Decimal(stop)
    )


def started(
    buy_at: Instant = TEN,
    sell_at: Instant = TEN + HOUR,
    *,
    symbol: str = INFY,
    stop: str = "100",
    open_at: Instant = OPEN,
    close_at: Instant = CLOSE,
) -> StrategyStarted:
    return StrategyStarted(
        session_date=DAY,
        open_at=open_at,
        close_at=close_at,
        buy_at=buy_at,
        sell_at=sell_at,
        config=config(symbol, stop),
    )


def bought(strategy_id: int, run: int, quantity: int = 10, number: int = 1) -> tuple[Event, ...]:
    tag = make_tag("TEST", strategy_id, run, number)
    request = OrderRequest(symbol=INFY, side=Side.BUY, quantity=10, product=Product.MIS, tag=tag)
    return (
        ExecuteBuy(request=request, tag=tag, kind=Kind.BUY, attempt=1, at=TEN, deadline=TEN + SECOND, cause=""),
        OrderFilled(tag=tag, order_id="1", filled=quantity, average_price=Decimal(105)),
    )


def tick(price: str, at: Instant = TEN, symbol: str = INFY) -> Tick:
    return Tick(symbol, Decimal(price), at)


def recorded(strategy_id: int, version: int, event: Event, user_id: int = 7) -> Recorded:
    return Recorded(version, version, 0, f"e-{version}", strategy_id, user_id, "", "", "test", event)


async def add(log: EventLog, strategy_id: int, *events: Event, user_id: int = 7) -> State:
    """Append events as a handler would: at the version loaded, with the state that follows from them."""
    (before,) = await load(log, [strategy_id])
    after = fold(before, events)
    news = [NewEvent(event, strategy_id, user_id) for event in events]
    result = await log.append(news, expected=before.version, runtime=encode_change(before, after, None))
    assert isinstance(result, Appended), result
    return after


async def load(log: EventLog, strategy_ids: Sequence[int]) -> list[State]:
    states = []
    for each in await log.load_many(strategy_ids):
        if each.version:
            state = decode_state(each.strategy_id, each.strategy, each.runtime)
        else:
            state = initial(each.strategy_id, 7)
        states.append(state)
    return states


async def start(log: EventLog, strategy_id: int, event: StrategyStarted) -> State:
    return await add(log, strategy_id, StrategyCreated(config=event.config), event)


async def start_many(log: EventLog, strategy_ids: Sequence[int], event: StrategyStarted) -> None:
    for at in range(0, len(strategy_ids), 50):
        await asyncio.gather(*(start(log, each, event) for each in strategy_ids[at : at + 50]))


async def history(log: EventLog, *types: type[Event], after: int = 0) -> list[Recorded]:
    return [each async for each in log.read(after) if isinstance(each.event, types)]


async def wait_for(log: EventLog, count: int, *types: type[Event], seconds: float = 60) -> list[Recorded]:
    """The first `count` events of these types, as soon as the log has them."""
    found: list[Recorded] = []
    async with asyncio.timeout(seconds), aclosing(cast(Any, log.follow(0))) as events:
        async for each in events:
            if isinstance(each.event, types):
                found.append(each)
                if len(found) == count:
                    return found
    raise AssertionError("the follower ended")


async def until(condition: Callable[[], bool]) -> None:
    """As soon as the condition holds; the other tasks run meanwhile."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (what is waited for tells nobody)
            await asyncio.sleep(0)


async def catch_up(log: EventLog, apply: Callable[[Recorded], object], after: int) -> int:
    """Let a projection follow to the present end; the position that it is at then."""
    async for each in log.read(after):
        apply(each)
        after = each.position
    return after
