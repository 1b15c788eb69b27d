"""A history as it would lie in the archive, made without a log: strategies that live through days, event by event."""

import datetime as dt
import itertools
from collections.abc import Iterator
from decimal import Decimal

from domain.events import (
    BuyTriggered,
    Event,
    ExecuteBuy,
    ExecuteSell,
    LockAcquired,
    OrderAccepted,
    OrderFilled,
    OrderFinalized,
    SellTriggered,
    StrategyCreated,
    StrategyExited,
    StrategyReady,
    StrategyRunning,
    StrategyStarted,
    StrategyStartRequested,
    StrategyStopped,
    UserRegistered,
)
from domain.tags import make_tag
from domain.values import HOUR, SECOND, Config, Exit, Final, Instant, Kind, OrderRequest, Product
from eventstore.envelope import Ids, NewEvent, Raw, encode

__all__ = ["EPOCH", "LOG_ID", "MORNING", "history"]

LOG_ID, EPOCH = "HIST", "EPOCHEPOCHEPOCH1"
MORNING: Instant = 1_795_000_000_000_000
CONFIG = Config(
    symbol="NSE:INFY",
    quantity=10,
    buy_time=dt.time(9, 20),
    sell_time=dt.time(15, 10),
    stop_loss=Decimal("1480.50"),
)


def history(count: int, *, users: int = 5, partition: int = 0, partitions: int = 1) -> list[Raw]:
    """The first so many entries. A strategy lives a day of 21 events; the users take turns."""
    ids = Ids(f"hist{partition}")
    raws: list[Raw] = []
    at = MORNING
    for strategy_id, user_id, number, event in itertools.islice(_events(users, partition, partitions), count):
        at += SECOND // 4
        event_id = ids.next()
        envelope = encode(NewEvent(event, strategy_id, user_id, causation_id="cause-1"), event_id, ids.writer)
        raws.append(Raw(len(raws) + 1, str(event.stream), number, at, envelope))
    return raws


def _events(users: int, partition: int, partitions: int) -> Iterator[tuple[int, int, int, Event]]:
    for number in range(1, users + 1):
        yield 0, number * partitions + partition, 0, UserRegistered()
    for strategy_id in itertools.count(1 + partition, partitions):
        user_id = (strategy_id // partitions % users + 1) * partitions + partition
        for version, event in enumerate(_day(strategy_id), 1):
            yield strategy_id, user_id, version, event


def _day(strategy_id: int) -> Iterator[Event]:
    now, run = MORNING, 3
    yield StrategyCreated(config=CONFIG)
    yield StrategyStartRequested()
    yield StrategyStarted(
        session_date=dt.date(2026, 11, 18),
        open_at=now,
        close_at=now + 6 * HOUR,
        buy_at=now + HOUR,
        sell_at=now + 5 * HOUR,
        config=CONFIG,
    )
    yield StrategyReady(run=run)
    yield StrategyRunning(run=run)
    for number, kind, cls in ((1, Kind.BUY, ExecuteBuy), (2, Kind.SELL, ExecuteSell)):
        tag = make_tag(LOG_ID, strategy_id, run, number)
        request = OrderRequest(symbol="NSE:INFY", side=kind.side, quantity=10, product=Product.MIS, tag=tag)
        price = Decimal("1500.35")
        yield BuyTriggered(run=run, due_at=now + HOUR) if kind is Kind.BUY else SellTriggered(run=run, due_at=now)
        yield LockAcquired(tag=tag, kind=kind)
        yield cls(request=request, tag=tag, kind=kind, attempt=1, at=now, deadline=now + 2 * SECOND, cause="cause-1")
        yield OrderAccepted(tag=tag, order_id=f"o-{tag}")
        yield OrderFilled(tag=tag, order_id=f"o-{tag}", filled=10, average_price=price)
        yield OrderFinalized(tag=tag, final=Final.COMPLETE, filled=10, average_price=price)
    yield StrategyExited(run=run, reason=Exit.SELL, realised=Decimal("0.00"))
    yield StrategyStopped(run=run, reason=Exit.SELL, at=now)
