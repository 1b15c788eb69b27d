"""A simulated Kite as the venue of a simulated day: ticks go out over its stream and come back through the feed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.packets import Mode
from domain.clock import Clock
from domain.values import Instant, Tick
from simulation.kite.server import Server
from simulation.kite.sim import KiteSim
from sources.feeds.kite import KiteFeed
from sources.feeds.port import Feed, FeedItem

__all__ = ["KiteVenue"]

PATIENCE = 30.0
"""Seconds of real time after which the stream counts as broken."""


class KiteVenue:
    """`simulation.day.Venue` over sockets. A batch of ticks has come back wholly before the day goes on, unless the
    stream is `faulty`: then it goes on after a moment with what has come.

    The stream's frames come in their order, so a message sent behind a batch tells that the batch was read.
    """

    def __init__(
        self,
        sim: KiteSim,
        server: Server,
        account: Callable[[], Awaitable[KiteAccount | None]],
        address: KiteAddress,
        clock: Clock,
        *,
        faulty: float = 0,
    ) -> None:
        """`account`: the session that prices come through now. `clock` is the real one: sockets know no other.
        `faulty`: how many seconds a batch may take."""
        self._sim = sim
        self._stream = server.stream
        self._account = account
        self._faulty = faulty
        self._kite = KiteFeed(
            account=account,
            tokens=lambda symbol: None if (found := sim.instruments.find(symbol)) is None else found.token,
            address=address,
            clock=clock,
            on_frame=lambda _, ticks: self._came.extend(ticks),
        )
        self._wanted: frozenset[int] = frozenset()
        self._came: list[Tick] = []
        self.feed: Feed = _Asking(self)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """The feed reads while the block lasts."""
        reading = asyncio.create_task(self._read(), name="kite venue: feed")
        try:
            yield
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    async def trade(self, batch: Sequence[Tick]) -> Sequence[Tick]:
        account = await self._account()
        user_id = "" if account is None else account.kite_user_id
        wanted = dict.fromkeys(self._wanted, Mode.FULL)
        await self._until(lambda: self._stream.subscribed(user_id) == wanted)  # what was asked for is on its way
        await self._sim.on_ticks(batch)
        if not wanted:
            return ()
        marks = self._kite.ignored_texts
        self._stream.message("so far", user_id)
        await self._until(lambda: self._kite.ignored_texts > marks)
        came, self._came = self._came, []
        return came

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Raises TimeoutError when a stream without faults does not come to it."""
        try:
            async with asyncio.timeout(self._faulty or PATIENCE):
                while not holds():  # noqa: ASYNC110 (nothing tells)
                    await asyncio.sleep(0)
        except TimeoutError:
            if not self._faulty:
                raise

    async def match(self, batch: Sequence[Tick]) -> None:
        """The exchange has seen the ticks already."""

    def next_due(self) -> Instant | None:
        due = self._sim.next_due()
        return due if due is not None and due > self._sim.clock.now() else None

    def want(self, symbols: frozenset[str]) -> None:
        self._wanted = frozenset(
            found.token for symbol in symbols if (found := self._sim.instruments.find(symbol)) is not None
        )
        self._kite.subscribe(symbols)

    async def _read(self) -> None:
        async for _ in self._kite.ticks():
            pass  # each frame's ticks were heard before


class _Asking:
    """The feed as the listener of a day sees it: it asks, and the day hands the ticks over."""

    name = "kite"

    def __init__(self, venue: KiteVenue) -> None:
        self._venue = venue

    def subscribe(self, symbols: frozenset[str]) -> None:
        self._venue.want(symbols)

    def reconnect(self) -> None:
        """The stream minds its own silence, in real time."""

    async def ticks(self) -> AsyncIterator[FeedItem]:
        empty: tuple[FeedItem, ...] = ()
        for item in empty:
            yield item
