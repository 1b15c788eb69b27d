"""The role `market`: one feed, and a listener for the stops of every partition."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from bahi.roles.base import Partition
from bahi.roles.heartbeat import FEED, beat
from bahi.settings import Settings, SettingsError
from bahi.telemetry.metrics import MarketMetrics
from bahi.wiring import House
from projections.stop_index import StopIndex
from simulation.market import DEFAULT_SYMBOLS
from simulation.ticks import TickFile, TickFileError
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
        self._recording = recording_of(house.settings)
        self._feed = SharedFeed(feed_of(house, self._recording))
        self._clock = house.clock
        self._redis = house.redis
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
            feed = group.create_task(self._play())
            heart = group.create_task(beat(self._redis, [FEED], self._clock, self._is_heard))
            listeners = [group.create_task(listener.run(events)) for listener, events in self._listeners]
            await asyncio.wait(listeners)
            feed.cancel()
            heart.cancel()

    def _is_heard(self) -> bool:
        return not any(listener.is_silent for listener, _ in self._listeners)

    async def stop(self) -> None:
        for listener, _ in self._listeners:
            listener.stop()

    async def _play(self) -> None:
        """The feed, for ever. A recording ends or breaks off; the listeners report the silence that follows."""
        while True:
            try:
                await self._feed.run()
                break
            except FeedError as error:
                log.warning("feed_failed", feed=self._feed.name, why=str(error))
                await self._clock.sleep(PAUSE)
            except TickFileError as error:
                log.error("feed_broken", feed=self._feed.name, why=str(error))
                break
        if self._recording is not None:
            skipped = [f"line {line}: {reason}" for line, reason in self._recording.bad[:10]]
            rows, bad = self._recording.rows, self._recording.bad_count
            log.info("feed_ended", feed=self._feed.name, rows=rows, skipped=bad, first_skipped=skipped)


def recording_of(settings: Settings) -> TickFile | None:
    """The tick file that the settings name, if they do. Raises TickFileError when it is no tick file."""
    if not settings.price_feed.startswith("file:"):
        return None
    recording = TickFile(Path(settings.price_feed.removeprefix("file:")))
    next(iter(recording), None)  # what is wrong with it is said now, not when the first strategy is armed
    return recording


def feed_of(house: House, recording: TickFile | None) -> Feed:
    """The feed that the settings name."""
    name = house.settings.price_feed
    if recording is not None:
        return FileFeed(lambda: recording, house.clock, onto=house.clock.now(), name=name)
    if name == "simulated":
        return SimulatedFeed(DEFAULT_SYMBOLS, house.clock)
    raise SettingsError([f"BAHI_FEED is {name}, which this version of bahi cannot read: simulated or file:PATH"])
