"""One connection to the market for the listeners of all partitions."""

import asyncio
from collections.abc import AsyncIterator

from sources.feeds.port import Feed, FeedItem

__all__ = ["SharedFeed"]


class SharedFeed:
    """Hands what a feed brings to every share, and asks the feed for what any of them wants.

    `run` reads the feed until it ends or is cancelled; its errors are its caller's. Ticks are shared unfiltered: a
    listener has no stop for a symbol that it did not ask for.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._shares: list[_Share] = []

    def share(self) -> Feed:
        """The feed of one more listener. Take all shares before `run`."""
        share = _Share(self)
        self._shares.append(share)
        return share

    async def run(self) -> None:
        """Raises FeedError when the feed cannot go on; calling it again is a new attempt."""
        async for item in self._feed.ticks():
            for share in self._shares:
                share.items.put_nowait(item)

    @property
    def name(self) -> str:
        return self._feed.name

    def want(self) -> None:
        self._feed.subscribe(frozenset().union(*(share.symbols for share in self._shares)))

    def reconnect(self) -> None:
        self._feed.reconnect()


class _Share:
    def __init__(self, feed: SharedFeed) -> None:
        self._feed = feed
        self.symbols: frozenset[str] = frozenset()
        self.items: asyncio.Queue[FeedItem] = asyncio.Queue()

    @property
    def name(self) -> str:
        return self._feed.name

    def subscribe(self, symbols: frozenset[str]) -> None:
        self.symbols = symbols
        self._feed.want()

    def reconnect(self) -> None:
        self._feed.reconnect()

    async def ticks(self) -> AsyncIterator[FeedItem]:
        while True:
            yield await self.items.get()


_: type[Feed] = _Share
