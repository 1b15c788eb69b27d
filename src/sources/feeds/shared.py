"""One feed for several listeners, one of each partition: a broker allows few connections, and prices are the same."""

import asyncio
from collections.abc import AsyncIterator

from sources.feeds.port import Feed, FeedError, FeedItem

__all__ = ["SharedFeed"]


class SharedFeed:
    """`view()` gives each listener a feed of its own, before `run` is started. It is subscribed to what any of them
    wants, and every view hears all of it. Ticks wait in memory for a listener that is slow."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._views: list[_View] = []

    def view(self) -> Feed:
        view = _View(self, self._feed)
        self._views.append(view)
        return view

    async def run(self) -> None:
        """Hand on what the feed yields, until it has ended. A FeedError goes to every view, and the feed is iterated
        again when they are."""
        while True:
            try:
                async for item in self._feed.ticks():
                    for view in self._views:
                        view.items.put_nowait(item)
            except FeedError as error:
                for view in self._views:
                    view.listening.clear()
                    view.items.put_nowait(error)
                for view in self._views:
                    await view.listening.wait()
            else:
                for view in self._views:
                    view.items.put_nowait(None)
                return

    def subscribe(self) -> None:
        self._feed.subscribe(frozenset[str]().union(*(view.wanted for view in self._views)))


class _View:
    def __init__(self, shared: SharedFeed, feed: Feed) -> None:
        self.items: asyncio.Queue[FeedItem | FeedError | None] = asyncio.Queue()
        self.wanted: frozenset[str] = frozenset()
        self.listening = asyncio.Event()
        self._shared = shared
        self._feed = feed

    @property
    def name(self) -> str:
        return self._feed.name

    async def ticks(self) -> AsyncIterator[FeedItem]:
        self.listening.set()
        while (item := await self.items.get()) is not None:
            if isinstance(item, FeedError):
                raise item
            yield item

    def subscribe(self, symbols: frozenset[str]) -> None:
        self.wanted = symbols
        self._shared.subscribe()

    def reconnect(self) -> None:
        self._feed.reconnect()
