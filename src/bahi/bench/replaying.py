"""How fast the log folds to state, and what it costs in Redis."""

import time
from decimal import Decimal

from bahi.bench.figures import Figure
from bahi.bench.world import SYMBOLS, USERS, Fsync, arm, bench_log
from domain.events import BuyTriggered, ExecuteBuy, LockAcquired, OrderAccepted, OrderFilled, OrderFinalized
from domain.tags import make_tag
from domain.values import Final, Kind, OrderRequest, Product, Side
from eventstore.clients import commands
from eventstore.entries import read_entries
from eventstore.envelope import NewEvent
from eventstore.log import EventLog, chunked
from projections.replay import Replay

__all__ = ["memory", "replay"]


async def replay(fsync: Fsync, events: int) -> list[Figure]:
    """Bytes of the log to states: decoding and folding, without the reading from Redis, which is given beside it."""
    async with bench_log(fsync) as log:
        await _fill(log, events)
        begun = time.perf_counter()
        pages = [page async for page in read_entries(log, 0, await log.last_position())]
        read = time.perf_counter() - begun
        count = sum(len(page) for page in pages)
        rates = []
        for _ in range(5):
            folding = Replay()
            begun = time.perf_counter()
            for page in pages:
                folding.feed(page)
            rates.append(count / (time.perf_counter() - begun))
    best = sorted(rates)[len(rates) // 2]
    return [
        Figure(
            name="replay to state",
            fsync=fsync,
            value=round(best),
            unit="events/s",
            note=f"median of 5, {min(rates):,.0f}–{max(rates):,.0f}, {count:,} events",
            goal="≥ 500,000",
            met=best >= 500_000,
        ),
        Figure(name="reading the log from Redis", fsync=fsync, value=round(count / read), unit="events/s"),
    ]


async def memory(fsync: Fsync, strategies: int, events: int) -> list[Figure]:
    """By Redis' own accounting: the class streams, and a strategy's two hashes with its place in the sets."""
    async with bench_log(fsync) as log:
        await arm(log, range(1, strategies + 1), bought=False)
        keys = log.keys
        hashes = [key(each) for each in range(1, strategies + 1) for key in (keys.strategy, keys.runtime)]
        sets = [keys.user_strategies(user) for user in range(1, USERS + 1)]
        symbols = [keys.symbol_strategies(symbol) for symbol in SYMBOLS]
        per_strategy = await _usage(log, [*hashes, *sets, *symbols]) / strategies
        before, held = await log.last_position(), await _usage(log, list(keys.streams.values()))
        await _fill(log, events)
        written = await log.last_position() - before
        per_event = (await _usage(log, list(keys.streams.values())) - held) / written
    return [
        Figure(name="Redis memory per event", fsync=fsync, value=round(per_event), unit="bytes", note=f"{written:,}"),
        Figure(
            name="Redis memory per idle strategy",
            fsync=fsync,
            value=round(per_strategy),
            unit="bytes",
            note=f"{strategies:,}, without its events",
        ),
    ]


async def _fill(log: EventLog, events: int) -> None:
    """Histories as trading leaves them: a trigger, an intent, its answer, its fill."""
    batch: list[NewEvent] = []
    strategies = 1000
    for n in range(events // 6):
        strategy_id = n % strategies + 1
        tag = make_tag("BNCH", strategy_id, 2, n // strategies % 1000 + 1)
        request = OrderRequest(symbol="NSE:INFY", side=Side.BUY, quantity=10, product=Product.MIS, tag=tag)
        price = Decimal("1510.55")
        batch += [
            NewEvent(event, strategy_id, strategy_id % 50 + 1)
            for event in (
                BuyTriggered(run=2, due_at=1_795_146_600_000_000),
                LockAcquired(tag=tag, kind=Kind.BUY),
                ExecuteBuy(
                    request=request,
                    tag=tag,
                    kind=Kind.BUY,
                    attempt=1,
                    at=1_795_146_600_000_000,
                    deadline=1_795_146_602_000_000,
                    cause="bench-1",
                ),
                OrderAccepted(tag=tag, order_id=f"2611200000{n:05}"),
                OrderFilled(tag=tag, order_id=f"2611200000{n:05}", filled=10, average_price=price),
                OrderFinalized(tag=tag, final=Final.COMPLETE, filled=10, average_price=price),
            )
        ]
        if len(batch) >= 1200:
            await log.append_many(chunked(batch))
            batch.clear()
    if batch:
        await log.append_many(chunked(batch))


async def _usage(log: EventLog, keys: list[str]) -> int:
    answers = await commands(log.redis, [("MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys])
    return sum(answer or 0 for answer in answers)
