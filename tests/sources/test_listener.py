"""The market listener on a real log: every trade at or under an armed stop is triggered, once per revision."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from bahi.servers import EmbeddedRedis
from domain.events import (
    AlertTriggered,
    PriceFeedConnected,
    PriceFeedError,
    PriceStreamDisconnected,
    PriceStreamRestored,
    PriceTick,
    StoplossTriggered,
    StrategyStopped,
    StrategyUpdated,
)
from domain.values import HOUR, MINUTE, SECOND, Code, Exit, Severity, Tick
from eventstore.clients import log_client
from eventstore.envelope import Ids
from eventstore.errors import LogUnavailable
from eventstore.keys import MARKET_TICKS, Keys, price
from eventstore.log import EventLog
from projections.prices import decode_price
from projections.runtime import DEFAULTS
from projections.stop_index import Stop, StopIndex
from simulation.clock import VirtualClock
from sources.feeds.port import Connected, Disconnected, FeedError
from sources.judging import Verdict
from sources.listener import MarketListener, Observer
from sources.prices import PriceWriter
from sources.silence import Silence
from tests.sources.feed import ToldFeed
from tests.sources.world import (
    ALWAYS,
    CLOSE,
    INFY,
    NSE,
    TEN,
    ShiftedClock,
    add,
    bought,
    history,
    load,
    open_test_log,
    recorded,
    start,
    started,
    tick,
    until,
    wait_for,
)

TCS = "NSE:TCS"


class Noted(Observer):
    def __init__(self) -> None:
        self.drops: list[tuple[Verdict, int]] = []
        self.latencies: list[int] = []
        self.received_batches = 0
        self.down = asyncio.Event()

    def received(self, batch: Sequence[Tick], received_at: int) -> None:
        self.received_batches += 1

    def triggered(self, stops: Sequence[Stop], received_at: int) -> None:
        self.latencies.append(received_at)

    def dropped(self, reason: Verdict, count: int) -> None:
        self.drops.append((reason, count))

    def unavailable(self, error: LogUnavailable) -> None:
        self.down.set()


class World:
    """A listener that is turned by hand."""

    def __init__(self, log: EventLog, clock: VirtualClock, index: StopIndex | None = None) -> None:
        self.log, self.clock, self.feed, self.noted = log, clock, ToldFeed(), Noted()
        self.listener = MarketListener(
            log, self.feed, clock, NSE, StopIndex() if index is None else index, observer=self.noted
        )
        self.at = 0

    async def follow(self) -> None:
        async for each in self.log.read(self.at):
            await self.listener.on_event(each)
            self.at = each.position

    async def buy(self, strategy_id: int, stop: str = "100", symbol: str = INFY) -> int:
        """A strategy that holds shares, with its stop; its run."""
        run = (await start(self.log, strategy_id, started(symbol=symbol, stop=stop))).run
        await add(self.log, strategy_id, *bought(strategy_id, run))
        await self.follow()
        return run

    async def ticks(self, *ticks: Tick) -> None:
        await self.listener.on_ticks(list(ticks))

    async def triggers(self) -> list[StoplossTriggered]:
        return [each.event for each in await history(self.log, StoplossTriggered)]  # type: ignore[misc]


@pytest.fixture
def world(log: EventLog, clock: VirtualClock) -> World:
    return World(log, clock)


# --- stops ----------------------------------------------------------------------------------------------------------


async def test_a_trade_at_the_stop_triggers_it_and_one_above_does_not(world: World) -> None:
    run = await world.buy(1)
    await world.ticks(tick("100.05"))
    assert await world.triggers() == []
    await world.ticks(tick("100"), tick("99"))
    (event,) = await world.triggers()
    assert event == StoplossTriggered(run=run, stop_revision=1, tick=tick("100"), stop_loss=Decimal(100))
    (state,) = await load(world.log, [1])
    assert (state.stop_due, state.stop_price) == (True, 100)


async def test_a_stop_is_checked_at_the_first_fill_against_the_last_price(world: World) -> None:
    await world.ticks(tick("105"), tick("99"))
    await world.buy(1)
    assert [event.tick for event in await world.triggers()] == [tick("99")]


async def test_the_last_price_is_the_newest_and_not_the_lowest(world: World) -> None:
    await world.ticks(tick("99"), tick("105"), tick("99", TEN - SECOND))
    await world.buy(1)
    assert await world.triggers() == []


async def test_a_stop_is_checked_when_it_is_armed_anew(world: World) -> None:
    await world.buy(1)
    await world.ticks(tick("102"))
    await add(world.log, 1, StrategyUpdated(stop_revision=2, stop_loss=Decimal(103)))
    await world.follow()
    assert [(event.stop_revision, event.tick.price) for event in await world.triggers()] == [(2, 102)]


async def test_each_revision_triggers_once(world: World) -> None:
    await world.buy(1)
    await world.ticks(tick("99"))
    await world.ticks(tick("98"))
    await world.follow()
    await world.ticks(tick("97.50"))
    await add(world.log, 1, StrategyUpdated(stop_revision=2, stop_loss=Decimal(97)))
    await world.follow()
    assert [event.stop_revision for event in await world.triggers()] == [1]
    await world.ticks(tick("97"), tick("96"))
    assert [event.stop_revision for event in await world.triggers()] == [1, 2]


async def test_two_listeners_trigger_once(world: World, log: EventLog, clock: VirtualClock) -> None:
    other = World(log, clock)
    await world.buy(1)
    await other.follow()
    await world.ticks(tick("99"))
    await other.ticks(tick("98"))
    assert [event.tick.price for event in await world.triggers()] == [99]


async def test_many_stops_hit_by_one_tick_are_all_appended(world: World) -> None:
    for each in range(1, 151):
        await world.buy(each, stop=str(100 + each % 3))
    await world.ticks(tick("100"))
    assert {each.strategy_id for each in await history(world.log, StoplossTriggered)} == set(range(1, 151))
    assert len(await world.triggers()) == 150


async def test_a_stopped_strategy_is_not_triggered(world: World) -> None:
    run = await world.buy(1)
    await add(world.log, 1, StrategyStopped(run=run, reason=Exit.USER, at=TEN, open_quantity=10))
    await world.follow()
    await world.ticks(tick("99"))
    assert await world.triggers() == []


async def test_a_step_back_of_two_seconds_triggers_and_an_older_one_does_not(world: World) -> None:
    await world.buy(1)
    await world.ticks(tick("105"), tick("99", TEN - 3 * SECOND))
    assert await world.triggers() == []
    await world.ticks(tick("99", TEN - 2 * SECOND))
    assert len(await world.triggers()) == 1


async def test_bad_ticks_are_dropped_and_counted_by_reason(world: World) -> None:
    await world.buy(1)
    await world.ticks(tick("105"), tick("0"), tick("-1"), tick("99", CLOSE), tick("99", TEN - MINUTE))
    await world.ticks(tick("99", TEN + HOUR))
    assert await world.triggers() == []
    assert world.noted.drops == [
        (Verdict.PRICE, 2),
        (Verdict.FUTURE, 1),
        (Verdict.OLD, 1),
        (Verdict.FUTURE, 1),
    ]


async def test_a_restarted_listener_checks_the_stops_against_the_prices_that_were_left(
    world: World, log: EventLog, clock: VirtualClock
) -> None:
    """The one before wrote the price and died before the trigger."""
    await world.ticks(tick("99"))
    await start(log, 1, started())
    await add(log, 1, *bought(1, 2))
    index = StopIndex.from_states(await load(log, [1]))
    restarted = World(log, clock, index)
    await restarted.listener.begin()
    assert [event.tick for event in await world.triggers()] == [tick("99")]
    assert restarted.feed.symbols == {INFY}


async def test_symbols_of_started_strategies_are_subscribed_until_they_stop(world: World) -> None:
    run = (await start(world.log, 1, started(symbol=TCS))).run
    await world.follow()
    assert world.feed.symbols == {TCS}
    await world.buy(2)
    assert world.feed.symbols == {TCS, INFY}
    await add(world.log, 1, StrategyStopped(run=run, reason=Exit.USER, at=TEN))
    await world.follow()
    assert world.feed.symbols == {INFY}


# --- prices ---------------------------------------------------------------------------------------------------------


async def test_prices_and_ticks_are_written(world: World, redis: Redis) -> None:
    await world.ticks(tick("99.95"), tick("100.10"), tick("98", TEN - SECOND), tick("3000", TEN, TCS))
    assert decode_price(await redis.get(price(INFY))) == (Decimal("100.10"), TEN)
    assert decode_price(await redis.get(price(TCS))) == (Decimal(3000), TEN)
    ((_, fields),) = await redis.xrange(MARKET_TICKS)
    event = msgspec.msgpack.decode(fields[b"e"], type=PriceTick)
    assert [each.price for each in event.ticks] == [Decimal("99.95"), Decimal("100.10"), Decimal(98), Decimal(3000)]


async def test_ticks_are_collected_for_a_tenth_of_a_second(world: World, redis: Redis, clock: VirtualClock) -> None:
    for number in range(10):
        clock.set(TEN + number * 30_000)
        await world.ticks(tick("100"))
    # entries at 0, 120, 240 ms: 1 + 4 + 4 ticks, the last waits
    entries = [msgspec.msgpack.decode(each[1][b"e"], type=PriceTick) for each in await redis.xrange(MARKET_TICKS)]
    assert [len(each.ticks) for each in entries] == [1, 4, 4]


async def test_the_stream_of_ticks_is_capped(redis: Redis) -> None:
    writer = PriceWriter(redis, every=0, keep=100)
    for number in range(1_000):
        writer.note(tick("100"), True)
        await writer.flush(TEN + number)
    assert await redis.xlen(MARKET_TICKS) < 400


# --- silence --------------------------------------------------------------------------------------------------------


async def silent(world: World, clock: VirtualClock) -> None:
    await world.ticks(tick("105"))
    for second in range(1, 13):
        clock.set(TEN + second * SECOND)
        await world.listener.check_silence(clock.now())


async def test_a_silent_feed_is_reported_once_and_asked_to_reconnect(world: World, clock: VirtualClock) -> None:
    await world.buy(1)
    await silent(world, clock)
    (lost,) = await history(world.log, PriceStreamDisconnected)
    assert lost.event == PriceStreamDisconnected(silence=5 * SECOND, reason="no tick while the market is open")
    (alert,) = await history(world.log, AlertTriggered)
    assert isinstance(alert.event, AlertTriggered)
    assert (alert.event.code, alert.event.severity) == (Code.FEED_SILENT, Severity.CRITICAL)
    assert (alert.strategy_id, alert.version) == (0, 0)
    assert world.feed.reconnects == 2
    await world.ticks(tick("105", clock.now()))
    (restored,) = await history(world.log, PriceStreamRestored)
    assert restored.event == PriceStreamRestored(gap=12 * SECOND)


async def test_after_a_silence_stops_are_checked_and_the_tick_is_judged_for_its_time(
    world: World, clock: VirtualClock
) -> None:
    await world.buy(1)
    await silent(world, clock)
    await world.ticks(tick("99", TEN - 3 * SECOND))  # what the feed remembers from before
    assert await world.triggers() == []
    await world.ticks(tick("99", clock.now()))
    assert len(await world.triggers()) == 1


async def test_nobody_expects_ticks_without_strategies_or_market(world: World, clock: VirtualClock) -> None:
    await silent(world, clock)
    await world.buy(1)
    clock.set(CLOSE)
    for second in range(20):
        clock.set(CLOSE + second * SECOND)
        await world.listener.check_silence(clock.now())
    assert await history(world.log, PriceStreamDisconnected) == []


# --- by the clock ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(listener: MarketListener, log: EventLog, after: int = 0) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.run(log.follow(after)))
        try:
            yield
        finally:
            listener.stop()


def today(clock: ShiftedClock, **more: Any) -> Any:
    now = clock.now()
    return started(now - MINUTE, now + HOUR, open_at=now - HOUR, close_at=now + 2 * HOUR, **more)


async def test_running_it_triggers_writes_prices_and_reports_its_feed(
    real_log: EventLog, real_clock: ShiftedClock, redis: Redis
) -> None:
    feed, noted = ToldFeed(), Noted()
    listener = MarketListener(real_log, feed, real_clock, ALWAYS, StopIndex(), observer=noted)
    feed.tell(Connected(3), Disconnected("gone"), Disconnected("gone"), FeedError("refused"), Connected(4))
    async with running(listener, real_log):
        run = (await start(real_log, 1, today(real_clock))).run
        at = real_clock.now()
        feed.tick(tick("99", at))
        await wait_for(real_log, 2, PriceFeedConnected)
        await add(real_log, 1, *bought(1, run))  # the fill finds the price under the stop
        await wait_for(real_log, 1, StoplossTriggered)
        run = (await start(real_log, 2, today(real_clock, symbol=TCS))).run
        await add(real_log, 2, *bought(2, run))
        await wait_for(real_log, 1, StoplossTriggered)
        await until(lambda: listener.index.symbols() == {INFY, TCS} and len(listener.index) == 1)
        feed.tick(tick("101", at, TCS))
        feed.tick(tick("99.90", at, TCS))
        found = await wait_for(real_log, 2, StoplossTriggered)
    assert [each.strategy_id for each in found] == [1, 2]
    assert len(noted.latencies) == 2
    assert feed.symbols == {INFY, TCS}
    assert decode_price(await redis.get(price(TCS))) == (Decimal("99.90"), at)
    said = [each.event for each in await history(real_log, PriceFeedConnected, PriceFeedError)]
    assert said == [
        PriceFeedConnected(feed="told", symbols=3),
        PriceFeedError(feed="told", reason="gone"),
        PriceFeedError(feed="told", reason="refused"),
        PriceFeedConnected(feed="told", symbols=4),
    ]


async def test_running_it_notices_a_silence_and_its_end(real_log: EventLog, real_clock: ShiftedClock) -> None:
    feed = ToldFeed()
    listener = MarketListener(real_log, feed, real_clock, ALWAYS, StopIndex(), silence=Silence(SECOND // 10))
    async with running(listener, real_log):
        await start(real_log, 1, today(real_clock))
        await wait_for(real_log, 1, PriceStreamDisconnected)
        await wait_for(real_log, 1, AlertTriggered)
        assert feed.reconnects >= 1
        feed.tick(tick("105", real_clock.now()))
        await wait_for(real_log, 1, PriceStreamRestored)


async def test_a_feed_that_sends_only_nonsense_is_silent(world: World, clock: VirtualClock) -> None:
    await world.buy(1)
    for second in range(8):
        clock.set(TEN + second * SECOND)
        await world.ticks(tick("0", clock.now()), tick("99", clock.now() + HOUR))
        await world.listener.check_silence(clock.now())
    assert len(await history(world.log, PriceStreamDisconnected)) == 1
    assert await history(world.log, PriceStreamRestored) == []


async def test_a_stop_hit_while_the_log_is_away_is_triggered_when_it_is_back(
    servers_home: Path, real_clock: ShiftedClock
) -> None:
    home = servers_home / "stops"
    home.mkdir(exist_ok=True)
    server = EmbeddedRedis(home)
    server.start()
    try:
        log = await open_test_log(server.url, real_clock)
        feed, noted = ToldFeed(), Noted()
        listener = MarketListener(log, feed, real_clock, ALWAYS, StopIndex(), observer=noted)
        async with running(listener, log):
            for each in range(1, 6):
                run = (await start(log, each, today(real_clock, stop=str(100 + each)))).run
                await add(log, each, *bought(each, run))
            await until(lambda: len(listener.index) == 5)
            await asyncio.to_thread(server.kill)
            for cents in range(105, 100, -1):  # one stop after the other, and back up
                feed.tick(tick(str(cents), real_clock.now()))
            feed.tick(tick("120", real_clock.now()))
            async with asyncio.timeout(60):
                await noted.down.wait()
            await asyncio.to_thread(server.start)
            found = await wait_for(log, 5, StoplossTriggered)
        assert {each.strategy_id for each in found} == {1, 2, 3, 4, 5}
        assert len(await history(log, StoplossTriggered)) == 5
        await log.aclose()
    finally:
        server.stop()


async def test_by_hand_an_outage_keeps_the_hit_for_the_next_call(servers_home: Path, clock: VirtualClock) -> None:
    home = servers_home / "hand"
    home.mkdir(exist_ok=True)
    server = EmbeddedRedis(home)
    server.start()
    try:
        log = await open_test_log(server.url, clock)
        world = World(log, clock)
        await world.buy(1)
        await asyncio.to_thread(server.kill)
        with pytest.raises(LogUnavailable):
            await world.ticks(tick("99"))
        await asyncio.to_thread(server.start)
        await world.ticks(tick("120"))
        assert [event.tick.price for event in await world.triggers()] == [99]
        await log.aclose()
    finally:
        server.stop()


# --- the property ---------------------------------------------------------------------------------------------------

_STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ticks"),
            st.lists(st.tuples(st.integers(-4, 4), st.integers(95, 106), st.booleans()), min_size=1, max_size=4),
        ),
        st.tuples(st.just("fill"), st.integers(1, 3)),
        st.tuples(st.just("stop at"), st.tuples(st.integers(1, 3), st.integers(95, 105))),
        st.tuples(st.just("echo"), st.integers(1, 3)),
    ),
    max_size=30,
)


@settings(max_examples=300)
@given(_STEPS)
def test_every_trade_at_or_under_an_armed_stop_is_triggered_once_per_revision(steps: list[tuple[str, Any]]) -> None:
    """Against a model that knows nothing of indexes: armed stops, the newest price, and a set of what was triggered."""
    clock = VirtualClock(TEN)
    log = EventLog(
        log_client("redis://127.0.0.1:1/0"), keys=Keys(), clock=clock, ids=Ids("x"), epoch="x", defaults=DEFAULTS
    )
    listener = MarketListener(log, ToldFeed(), clock, NSE, StopIndex())
    versions = dict.fromkeys((1, 2, 3), 1)
    stops = dict.fromkeys((1, 2, 3), 100)
    revisions = dict.fromkeys((1, 2, 3), 1)
    held: set[int] = set()
    done: dict[tuple[int, int], Tick] = {}
    symbol_of = {1: INFY, 2: INFY, 3: TCS}
    newest: dict[str, Tick] = {}
    hits: list[tuple[Stop, Tick]] = []

    def feed(strategy_id: int, event: Any) -> None:
        versions[strategy_id] += 1
        hits.extend(listener.apply(recorded(strategy_id, versions[strategy_id], event)))

    def expect(strategy_id: int, trade: Tick) -> None:
        key = (strategy_id, revisions[strategy_id])
        # a stop that is due already stays due if the trade that made it so is under the new stop too
        earlier = [each for (who, _), each in done.items() if who == strategy_id and each.price <= stops[strategy_id]]
        is_due = strategy_id in echoed and bool(earlier) and echoed[strategy_id].price <= stops[strategy_id]
        if strategy_id in held and key not in done and not is_due and trade.price <= stops[strategy_id]:
            done[key] = trade

    echoed: dict[int, Tick] = {}
    for each in (1, 2, 3):
        listener.apply(recorded(each, 1, started(symbol=symbol_of[each])))
    for step, detail in steps:
        match step:
            case "ticks":
                batch = [
                    Tick(INFY if is_infy else TCS, Decimal(cents), TEN + second * SECOND)
                    for second, cents, is_infy in detail
                ]
                hits.extend(listener.look(batch))
                for trade in batch:
                    last = newest.get(trade.symbol)
                    if last is not None and last.at - trade.at > 2 * SECOND:
                        continue
                    if last is None or trade.at >= last.at:
                        newest[trade.symbol] = trade
                    for each in (1, 2, 3):
                        if symbol_of[each] == trade.symbol:
                            expect(each, trade)
            case "fill" if detail not in held:
                held.add(detail)
                for event in bought(detail, 1):
                    feed(detail, event)
                if symbol_of[detail] in newest:
                    expect(detail, newest[symbol_of[detail]])
            case "stop at":
                each, stop = detail
                stops[each] = stop
                revisions[each] += 1
                if each in echoed and echoed[each].price > stop:
                    del echoed[each]
                feed(each, StrategyUpdated(stop_revision=revisions[each], stop_loss=Decimal(stop)))
                if symbol_of[each] in newest:
                    expect(each, newest[symbol_of[each]])
            case "echo":  # the log's answer to the trigger of the present revision
                key = (detail, revisions[detail])
                if key in done and detail not in echoed:
                    echoed[detail] = done[key]
                    event = StoplossTriggered(run=1, stop_revision=key[1], tick=done[key], stop_loss=Decimal(1))
                    feed(detail, event)
            case _:
                pass
    assert {(stop.strategy_id, stop.revision): trade for stop, trade in hits} == done
    assert len(hits) == len(done)
