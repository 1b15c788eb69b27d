"""The feed port: a stream of ticks in the order of their arrival, with what the feed knows of its connection."""

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct

from domain.values import Tick

__all__ = ["Connected", "Disconnected", "Feed", "FeedError", "FeedItem"]


class Connected(Struct, frozen=True):
    """The feed is connected and asked for this many symbols."""

    symbols: int


class Disconnected(Struct, frozen=True):
    """The feed lost its connection and makes a new one by itself."""

    reason: str


FeedItem = list[Tick] | Connected | Disconnected


class FeedError(Exception):
    """The feed cannot go on; iterating it again is a new attempt."""


class Feed(Protocol):
    """Ticks of the symbols asked for. Nothing is promised of their order, age or sense: the listener judges them."""

    @property
    def name(self) -> str: ...

    def ticks(self) -> AsyncIterator[FeedItem]:
        """What arrives, in batches as it arrived, until the feed has ended. Raises FeedError."""
        ...

    def subscribe(self, symbols: frozenset[str]) -> None:
        """From now on the symbols wanted are these, and no others. Never waits; it holds across reconnects."""
        ...

    def reconnect(self) -> None:
        """The connection is thought dead: make a new one. Never waits; harmless when one is being made."""
        ...
