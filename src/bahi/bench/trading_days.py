"""What a trading day leaves in the log, without anybody trading: for filling logs with what they really hold.

Strategies live through whole runs, many at once: entries and exits, stops, partial fills, denials, refusals that are
tried again. The shares of the kinds of events are those of a day on the paper broker.
"""

import datetime as dt
import random
from collections.abc import Iterator
from decimal import Decimal

from bahi.bench.world import SYMBOLS
from domain.events import (
    AlertTriggered,
    BuyTriggered,
    Event,
    ExecuteBuy,
    ExecuteSell,
    ExecuteStoploss,
    LockAcquired,
    OrderAccepted,
    OrderDenied,
    OrderFilled,
    OrderFinalized,
    OrderRejected,
    OrderRetryRequired,
    SellTriggered,
    StoplossTriggered,
    StrategyCreated,
    StrategyExited,
    StrategyReady,
    StrategyRunning,
    StrategyStarted,
    StrategyStartRequested,
    StrategyStopped,
    UserLoggedIn,
)
from domain.tags import make_tag
from domain.values import (
    DAY,
    HOUR,
    SECOND,
    Code,
    Config,
    Denial,
    Exit,
    Final,
    Instant,
    Kind,
    OrderRequest,
    Product,
    Severity,
    Tag,
    Tick,
)
from eventstore.envelope import NewEvent

__all__ = ["trading_days"]

AT_ONCE = 64
"""Strategies that something happens to at the same time, unless said otherwise."""
OPENING: Instant = 1_795_146_300 * SECOND
_EXECUTE = {Kind.BUY: ExecuteBuy, Kind.SELL: ExecuteSell, Kind.STOPLOSS: ExecuteStoploss}


def trading_days(
    *, strategies: int = 10_000, users: int = 1_000, log_id: str = "BNCH", seed: int = 1, at_once: int = AT_ONCE
) -> Iterator[NewEvent]:
    """Events for an empty log, without end: once all strategies have lived through a day the next one begins.

    The same seed gives the same ones. They are appended without `expected`, in this order.
    """
    rng = random.Random(seed)  # noqa: S311 (a benchmark)
    versions = [0] * (strategies + 1)
    day = 0
    while True:
        lives = (_life(rng, log_id, each, versions, day, users) for each in range(1, strategies + 1))
        living = [life for _, life in zip(range(at_once), lives, strict=False)]
        while living:
            place = rng.randrange(len(living))
            together = next(living[place], None)
            if together is not None:
                yield from together
            elif (another := next(lives, None)) is not None:
                living[place] = another
            else:
                living.pop(place)
        day += 1


def _life(
    rng: random.Random, log_id: str, strategy_id: int, versions: list[int], day: int, users: int
) -> Iterator[list[NewEvent]]:
    """One strategy's day: what is appended together."""
    user_id = strategy_id % users + 1
    opening = OPENING + day * DAY
    symbol = SYMBOLS[strategy_id % len(SYMBOLS)]
    orders = 0

    def these(*events: Event, cause: str = "") -> list[NewEvent]:
        versions[strategy_id] += sum(event.versioned for event in events)
        return [NewEvent(event, strategy_id, user_id, causation_id=cause) for event in events]

    def intend(kind: Kind, attempt: int = 1) -> tuple[Tag, list[NewEvent]]:
        nonlocal orders
        orders += 1
        tag = make_tag(log_id, strategy_id, run, orders)
        request = OrderRequest(symbol=symbol, side=kind.side, quantity=config.quantity, product=Product.MIS, tag=tag)
        at = opening + orders * HOUR
        cause = f"bench-{strategy_id:x}"
        intent = _EXECUTE[kind](
            request=request, tag=tag, kind=kind, attempt=attempt, at=at, deadline=at + 2 * SECOND, cause=cause
        )
        return tag, these(LockAcquired(tag=tag, kind=kind), intent, cause=cause)

    def trade(kind: Kind) -> Iterator[list[NewEvent]]:
        tag, intent = intend(kind)
        yield intent
        if rng.random() < 0.02:
            refused = OrderRejected(tag=tag, reason="MARGIN", curable=True, text="Insufficient funds. Required 15105.")
            yield these(refused, OrderFinalized(tag=tag, final=Final.REJECTED))
            again = opening + (orders + 1) * HOUR
            yield these(
                OrderRetryRequired(tag=tag, kind=kind, attempt=1, counted=True, not_before=again, reason="MARGIN")
            )
            tag, intent = intend(kind, 2)
            yield intent
        order_id = f"2611{day % 30:02}{strategy_id:09}{orders}"
        price = Decimal(rng.randrange(95_000, 105_000)) / 100
        yield these(OrderAccepted(tag=tag, order_id=order_id))
        if rng.random() < 0.15:
            yield these(OrderFilled(tag=tag, order_id=order_id, filled=config.quantity // 2, average_price=price))
        done = OrderFilled(tag=tag, order_id=order_id, filled=config.quantity, average_price=price)
        final = OrderFinalized(tag=tag, final=Final.COMPLETE, filled=config.quantity, average_price=price)
        yield these(done, final)

    config = Config(
        symbol=symbol,
        quantity=rng.choice((2, 10, 50)),
        buy_time=dt.time(9, 20),
        sell_time=dt.time(15, 10),
        stop_loss=Decimal(rng.randrange(90_000, 95_000)) / 100,
    )
    if day == 0:
        yield these(StrategyCreated(config=config))
    if rng.random() < 0.2:
        yield [NewEvent(UserLoggedIn(), user_id=user_id)]
    yield these(StrategyStartRequested())
    started = StrategyStarted(
        session_date=dt.date(2026, 11, 20) + dt.timedelta(days=day % 3650),
        open_at=opening,
        close_at=opening + 6 * HOUR,
        buy_at=opening + HOUR // 12,
        sell_at=opening + 5 * HOUR,
        config=config,
    )
    yield these(started)
    run = versions[strategy_id]
    yield these(StrategyReady(run=run))
    yield these(StrategyRunning(run=run))
    yield these(BuyTriggered(run=run, due_at=started.buy_at))
    if rng.random() < 0.18:
        facts = {"price": "1480.45", "stop_loss": str(config.stop_loss)}
        denied = OrderDenied(kind=Kind.BUY, reason=Denial.PRICE_AT_STOP, facts=facts)
        stopped = StrategyStopped(run=run, reason=Exit.DENIED, at=opening + HOUR)
        yield these(denied, StrategyExited(run=run, reason=Exit.DENIED, realised=Decimal(0)), stopped)
        return
    yield from trade(Kind.BUY)
    if rng.random() < 0.01:
        yield these(
            AlertTriggered(severity=Severity.WARNING, code=Code.FEED_SILENT, at=opening + HOUR, facts={"seconds": "6"})
        )
    by_stop = rng.random() < 0.2
    if by_stop:
        tick = Tick(symbol, config.stop_loss, opening + 2 * HOUR, 100)
        yield these(StoplossTriggered(run=run, stop_revision=1, tick=tick, stop_loss=config.stop_loss))
    else:
        yield these(SellTriggered(run=run, due_at=started.sell_at))
    yield from trade(Kind.STOPLOSS if by_stop else Kind.SELL)
    reason = Exit.STOPLOSS if by_stop else Exit.SELL
    ended = StrategyStopped(run=run, reason=reason, at=opening + 5 * HOUR)
    yield these(StrategyExited(run=run, reason=reason, realised=Decimal("-12.50")), ended)
