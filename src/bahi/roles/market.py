"""The role `market`: one feed, a listener for the stops of every partition, and what the market lists."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from bahi.database.instruments import SqlInstruments
from bahi.instruments import InstrumentRefresher
from bahi.roles.base import Partition
from bahi.roles.heartbeat import FEED, beat
from bahi.settings import Settings
from bahi.telemetry.metrics import MarketMetrics
from bahi.wiring import House
from brokers.instruments import InstrumentCatalogue
from brokers.kite.account import KiteAccount
from domain.values import SECOND
from eventstore.errors import LogUnavailable
from projections.stop_index import StopIndex
from simulation.market import DEFAULT_SYMBOLS
from simulation.ticks import TickFile, TickFileError
from sources.feeds.file import FileFeed
from sources.feeds.kite import KiteFeed
from sources.feeds.port import Feed, FeedError
from sources.feeds.shared import SharedFeed
from sources.feeds.simulated import SimulatedFeed
from sources.listener import MarketListener
from sources.prices import PriceWriter

log = structlog.get_logger(__name__)

PAUSE = 1_000_000
"""Microseconds before a feed that could not go on is tried again."""
LISTS_EVERY = SECOND
"""How often it is looked whether instruments or circuit limits are to be fetched."""


class MarketRole:
    def __init__(self, house: House, partitions: Sequence[Partition]) -> None:
        self._recording = recording_of(house.settings)
        self._telling: set[asyncio.Task[None]] = set()
        self._feed = SharedFeed(self._feed_of(house))
        self._house = house
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
            lists = group.create_task(self._mind_lists())
            heart = group.create_task(beat(self._redis, [FEED], self._clock, self._is_heard))
            listeners = [group.create_task(listener.run(events)) for listener, events in self._listeners]
            await asyncio.wait(listeners)
            feed.cancel()
            lists.cancel()
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

    # --- Kite --------------------------------------------------------------------------------------------------------

    def _feed_of(self, house: House) -> Feed:
        """The feed that the settings name."""
        name = house.settings.price_feed
        if self._recording is not None:
            return FileFeed(lambda: self._recording or (), house.clock, onto=house.clock.now(), name=name)
        if name == "simulated" or not isinstance(house.instruments, InstrumentCatalogue):
            return SimulatedFeed(DEFAULT_SYMBOLS, house.clock)
        return KiteFeed(
            account=house.kite.feed_account,
            tokens=house.instruments.token,
            address=house.kite.address,
            clock=house.clock,
            refused=house.kite.refused,
            on_order=self._tell_of_order,
        )

    def _tell_of_order(self, account: KiteAccount, order_id: str) -> None:
        """The connection that brings prices hears of its account's orders, too."""
        task = asyncio.create_task(self._tell(account.user_id, order_id))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, user_id: int, order_id: str) -> None:
        try:
            await self._house.hints.publish(user_id, order_id)
        except LogUnavailable as error:
            log.debug("hint_not_published", why=str(error))

    async def _mind_lists(self) -> None:
        """Fetches the instruments and the circuit limits, as long as somebody has a session to fetch them with."""
        house, catalogue = self._house, self._house.instruments
        if not isinstance(catalogue, InstrumentCatalogue):
            return
        refresher = InstrumentRefresher(
            SqlInstruments(house.engine),
            house.clock,
            house.calendar,
            exchanges=house.settings.kite_exchanges.replace(" ", "").split(","),
            download=house.kite.download,
            quote=house.kite.quote,
            wanted=self._wanted,
        )
        known = 0
        waits = ""
        while True:
            try:
                if await house.kite.feed_account() is not None:
                    await refresher.step()
                waits = ""
            except LogUnavailable as error:
                if str(error) != waits:
                    log.warning("lists_wait", why=str(error))
                waits = str(error)
            if catalogue.changes != known:
                # What had no token may have one now, and a token may have come to stand for another share: the stop
                # would follow that one's price.
                known = catalogue.changes
                self._feed.want()
            await house.clock.sleep(LISTS_EVERY)

    async def _wanted(self) -> frozenset[str]:
        return frozenset().union(*(listener.index.symbols() for listener, _ in self._listeners))


def recording_of(settings: Settings) -> TickFile | None:
    """The tick file that the settings name, if they do. Raises TickFileError when it is no tick file."""
    if not settings.price_feed.startswith("file:"):
        return None
    recording = TickFile(Path(settings.price_feed.removeprefix("file:")))
    next(iter(recording), None)  # what is wrong with it is said now, not when the first strategy is armed
    return recording
