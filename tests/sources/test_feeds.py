"""The feeds: a recording against the clock, and a simulated market."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing
from decimal import Decimal
from typing import Any, cast

import pytest

from domain.values import HOUR, SECOND, Instant, Tick
from simulation.clock import VirtualClock
from simulation.market import DEFAULT_SYMBOLS
from sources.feeds.file import FileFeed
from sources.feeds.port import Connected, Feed, FeedError, FeedItem
from sources.feeds.shared import SharedFeed
from sources.feeds.simulated import SimulatedFeed
from tests.sources.feed import ToldFeed
from tests.sources.world import INFY, TEN, tick

TCS = "NSE:TCS"


async def play(feed: Feed, clock: VirtualClock, batches: int | None = None) -> list[tuple[Instant, list[Tick]]]:
    """What a feed yields and when, time being turned on whenever it sleeps."""
    heard: list[tuple[Instant, list[Tick]]] = []

    async def listen() -> None:
        async with aclosing(cast(Any, feed.ticks())) as items:
            async for item in cast(AsyncIterator[Any], items):
                if isinstance(item, Connected):
                    continue
                heard.append((clock.now(), item))
                if len(heard) == batches:
                    return

    listening = asyncio.create_task(listen())
    while not listening.done():
        await asyncio.sleep(0)
        if (at := clock.next_at()) is not None:
            clock.set(max(at, clock.now()))
    await listening
    return heard


def recording() -> list[Tick]:
    return [
        tick("100", TEN),
        tick("3000", TEN, TCS),
        tick("101", TEN + 10 * SECOND),
        tick("102", TEN + 9 * SECOND),
        tick("103", TEN + 20 * SECOND),
    ]


async def test_a_recording_is_played_with_its_own_stamps_from_now() -> None:
    clock = VirtualClock(TEN + HOUR)
    feed = FileFeed(recording, clock)
    feed.subscribe(frozenset({INFY, TCS}))
    heard = await play(feed, clock)
    assert [(at - TEN - HOUR, [str(each.price) for each in batch]) for at, batch in heard] == [
        (0, ["100", "3000"]),
        (10 * SECOND, ["101", "102"]),
        (20 * SECOND, ["103"]),
    ]
    assert heard[-1][1][0].at == TEN + 20 * SECOND


async def test_a_recording_is_laid_onto_today_and_sped_up() -> None:
    clock = VirtualClock(TEN + HOUR)
    feed = FileFeed(recording, clock, speed=10, onto=TEN + 2 * HOUR)
    feed.subscribe(frozenset({INFY}))
    heard = await play(feed, clock)
    assert [at - TEN - 2 * HOUR for at, _ in heard] == [0, SECOND, 2 * SECOND]
    assert [[each.at - TEN - 2 * HOUR for each in batch] for _, batch in heard] == [
        [0],
        [SECOND, SECOND - SECOND // 10],
        [2 * SECOND],
    ]


async def test_only_subscribed_symbols_are_played() -> None:
    clock = VirtualClock(TEN)
    feed = FileFeed(recording, clock)
    feed.subscribe(frozenset({TCS}))
    assert [[each.symbol for each in batch] for _, batch in await play(feed, clock)] == [[TCS]]


async def test_the_simulated_market_has_its_rate_and_the_same_prices_for_the_same_seed() -> None:
    heard = []
    for _ in range(2):
        clock = VirtualClock(TEN)
        feed = SimulatedFeed(DEFAULT_SYMBOLS, clock, per_second=50, seed=3)
        feed.subscribe(frozenset({INFY, TCS}))
        heard.append(await play(feed, clock, 501))
    assert heard[0] == heard[1]
    assert [each.symbol for each in heard[0][0][1]] == [INFY, TCS]  # a price of each at once
    assert heard[0][-1][0] - TEN == 10 * SECOND  # 500 ticks at 50 a second
    assert all(each.at == at for at, batch in heard[0] for each in batch)


async def test_simulated_prices_go_down_through_stops_and_up_again_on_the_grid() -> None:
    clock = VirtualClock(TEN)
    feed = SimulatedFeed({INFY: Decimal(1500)}, clock, per_second=100, seed=1)
    feed.subscribe(frozenset({INFY}))
    prices = [each.price for _, batch in await play(feed, clock, 6_000) for each in batch]
    assert min(prices) < Decimal(1500) * Decimal("0.997")
    assert max(prices) > Decimal(1500) * Decimal("1.003")
    assert all(price > 0 and price % Decimal("0.05") == 0 for price in prices)
    assert max(abs(b - a) for a, b in itertools.pairwise(prices)) <= Decimal(1)


async def test_fast_simulated_markets_send_several_ticks_in_a_batch() -> None:
    clock = VirtualClock(TEN)
    feed = SimulatedFeed(DEFAULT_SYMBOLS, clock, per_second=1_000)
    feed.subscribe(frozenset(DEFAULT_SYMBOLS))
    heard = await play(feed, clock, 101)
    assert heard[-1][0] - TEN == SECOND
    assert sum(len(batch) for _, batch in heard[1:]) == 1_000


async def test_a_shared_feed_is_one_feed_to_several_listeners() -> None:
    told = ToldFeed()
    shared = SharedFeed(told)
    one, two = shared.share(), shared.share()
    one.subscribe(frozenset({INFY}))
    two.subscribe(frozenset({TCS}))
    assert told.symbols == {INFY, TCS}
    one.subscribe(frozenset())
    assert told.symbols == {TCS}
    two.reconnect()
    assert told.reconnects == 1

    async def listen(feed: Feed) -> list[FeedItem]:
        heard: list[FeedItem] = []
        async for item in feed.ticks():
            heard.append(item)
            if len(heard) == 2:
                break
        return heard

    told.tick(tick("100"))
    told.tell(FeedError("gone"))
    told.tick(tick("101"))
    with pytest.raises(FeedError):
        await shared.run()
    again = asyncio.create_task(shared.run())  # its caller's new attempt
    heard = await asyncio.gather(listen(one), listen(two))
    again.cancel()
    assert heard == [[[tick("100")], [tick("101")]]] * 2
