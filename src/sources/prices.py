"""Writes market data to Redis: `price:{symbol}`, and the capped stream `market:ticks`.

Never in the way of a stop-loss: what is not written yet waits here, and newer prices replace older ones.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
from redis.asyncio import Redis

from domain.events import PriceTick
from domain.values import Duration, Instant, Tick
from eventstore.clients import Argument, commands
from eventstore.errors import outages
from eventstore.keys import MARKET_TICKS, price
from projections.prices import encode_price

__all__ = ["PriceWriter"]

_encode = msgspec.msgpack.Encoder().encode

MOST_WAITING: Final = 10_000
"""Ticks kept for the stream while Redis is away; the oldest are let go, market data being no history."""


class PriceWriter:
    """`every`: the shortest time between two entries of the stream; `keep`: how many entries it has, about."""

    def __init__(self, redis: "Redis", *, every: Duration = 100_000, keep: int = 100_000) -> None:
        self._redis = redis
        self._every = every
        self._keep = keep
        self._prices: dict[str, Tick] = {}
        self._ticks: deque[Tick] = deque(maxlen=MOST_WAITING)
        self._streamed_at: Instant | None = None

    @property
    def is_pending(self) -> bool:
        return bool(self._prices or self._ticks)

    def note(self, tick: Tick, is_newest: bool) -> None:
        """A valid tick; the newest of its symbol is its last price."""
        self._ticks.append(tick)
        if is_newest:
            self._prices[tick.symbol] = tick

    async def flush(self, now: Instant, *, everything: bool = False) -> None:
        """Write the prices in one round trip, with the ticks when the stream's next entry is due or `everything` is.
        Raises LogUnavailable: then they wait for the next call."""
        prices, self._prices = self._prices, {}
        calls: list[Sequence[Argument]] = [
            ("SET", price(symbol), encode_price(tick)) for symbol, tick in prices.items()
        ]
        streamed = 0
        if self._ticks and (everything or self._is_due(now)):
            streamed = len(self._ticks)
            entry = _encode(PriceTick(ticks=list(self._ticks)))
            calls.append(("XADD", MARKET_TICKS, "MAXLEN", "~", self._keep, "*", "e", entry))
        if not calls:
            return
        try:
            for answer in await commands(self._redis, calls):
                if isinstance(answer, Exception):
                    with outages():
                        raise answer
        except BaseException:
            self._prices = prices | self._prices
            raise
        if streamed:
            self._streamed_at = now
            for _ in range(min(streamed, len(self._ticks))):
                self._ticks.popleft()

    def _is_due(self, now: Instant) -> bool:
        return self._streamed_at is None or not 0 <= now - self._streamed_at < self._every
