"""The role `market`: one feed, and a listener for the stops of every partition."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from bahi.roles.base import Partition
from bahi.settings import SettingsError
from bahi.telemetry.metrics import MarketMetrics
from bahi.wiring import House
from projections.stop_index import StopIndex
from simulation.market import DEFAULT_SYMBOLS
from simulation.ticks import TickFile
from sources.feeds.file import FileFeed
from sources.feeds.port import Feed, FeedError
from sources.feeds.shared import SharedFeed
from sources.feeds.simulated import SimulatedFeed
from sources.listener import MarketListener
from sources.prices import PriceWriter

log = structlog.get_logger(__name__)

PAUSE = 1_000_000
"""Microseconds before a feed that could not go on is tried again."""


class MarketRole:
    def __init__(self, house: House, partitions: Sequence[Partition]) -> None:
        self._house = house
        self._feed = SharedFeed(feed_of(house))
        observer = MarketMetrics(house.metrics, house.tick_to_order)
        self._listeners = [
            (
                MarketListener(
                    house.logs[each.number],
                    self._feed.share(),
                    house.clock,
                    house.calendar,
                    StopIndex.from_states(each.states),
                    prices=PriceWriter(house.redis),
                    observer=observer,
                ),
                each.follow(),
            )
            for each in partitions
        ]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            feed = group.create_task(self._feed_for_ever())
            listeners = [group.create_task(listener.run(events)) for listener, events in self._listeners]
            await asyncio.wait(listeners)
            feed.cancel()

    async def stop(self) -> None:
        for listener, _ in self._listeners:
            listener.stop()

    async def _feed_for_ever(self) -> None:
        while True:
            try:
                await self._feed.run()
                log.info("feed_ended", feed=self._feed.name)
                return
            except FeedError as error:
                log.warning("feed_failed", feed=self._feed.name, why=str(error))
                await self._house.clock.sleep(PAUSE)


def feed_of(house: House) -> Feed:
    """The feed that the settings name."""
    name = house.settings.feed
    if name == "simulated":
        return SimulatedFeed(DEFAULT_SYMBOLS, house.clock)
    if name.startswith("file:"):
        recording = TickFile(Path(name.removeprefix("file:")))
        return FileFeed(lambda: recording, house.clock, onto=house.clock.now(), name=name)
    raise SettingsError([f"BAHI_FEED is {name}, which this version of bahi cannot read: simulated or file:PATH"])
