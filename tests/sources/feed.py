"""A feed that says what the test tells it to."""

import asyncio
from collections.abc import AsyncIterator

from domain.values import Tick
from sources.feeds.port import Feed, FeedError, FeedItem


class ToldFeed:
    name = "told"

    def __init__(self) -> None:
        self.items: asyncio.Queue[FeedItem | FeedError] = asyncio.Queue()
        self.symbols: frozenset[str] = frozenset()
        self.reconnects = 0

    def tell(self, *items: FeedItem | FeedError) -> None:
        for item in items:
            self.items.put_nowait(item)

    def tick(self, *ticks: Tick) -> None:
        self.tell(list(ticks))

    async def ticks(self) -> AsyncIterator[FeedItem]:
        while True:
            item = await self.items.get()
            if isinstance(item, FeedError):
                raise item
            yield item

    def subscribe(self, symbols: frozenset[str]) -> None:
        self.symbols = symbols

    def reconnect(self) -> None:
        self.reconnects += 1


_: type[Feed] = ToldFeed
