"""A simulated market in real time: each symbol walks on the price grid around its start, from its own seeded stream.

For trials: prices swing about 1 % to both sides within minutes, so stops a little below the market are reached.
"""

import random
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from typing import Final

from domain.clock import Clock
from domain.values import SECOND, Duration, Price, Tick
from sources.feeds.port import Connected, Feed, FeedItem

__all__ = ["SimulatedFeed"]

GRID: Final = Decimal("0.05")
SHORTEST: Final[Duration] = 10_000
"""Between two batches: faster markets send more ticks in each."""
UNKNOWN: Final = Decimal(100)
"""Where a symbol starts that the table does not have."""


class SimulatedFeed:
    """About `per_second` ticks of the symbols subscribed, stamped by the clock. The same seed, symbols and number of
    ticks give the same prices."""

    def __init__(
        self, starts: Mapping[str, Price], clock: Clock, *, per_second: int = 20, seed: int = 0, name: str = "simulated"
    ) -> None:
        if per_second < 1:
            raise ValueError(f"per_second must be 1 or more, got {per_second}")
        self._starts = starts
        self._clock = clock
        self._seed = seed
        self._name = name
        self._pause = max(SHORTEST, SECOND // per_second)
        self._batch = max(1, per_second * self._pause // SECOND)
        self._choice = random.Random(f"{seed}/choice")  # noqa: S311 (a market, not a secret)
        self._symbols: list[str] = []
        self._walks: dict[str, _Walk] = {}
        self._new = False

    @property
    def name(self) -> str:
        return self._name

    def subscribe(self, symbols: frozenset[str]) -> None:
        self._new = self._new or not symbols <= frozenset(self._symbols)
        self._symbols = sorted(symbols)

    def reconnect(self) -> None:
        """There is no connection to lose."""

    async def ticks(self) -> AsyncIterator[FeedItem]:
        yield Connected(len(self._symbols))
        while True:
            if self._new:  # a price of each at once: nobody waits for the first trade of a quiet symbol
                self._new = False
                yield [self._tick(symbol) for symbol in self._symbols]
            elif self._symbols:
                yield [self._tick(self._choice.choice(self._symbols)) for _ in range(self._batch)]
            await self._clock.sleep(self._pause)

    def _tick(self, symbol: str) -> Tick:
        walk = self._walks.get(symbol)
        if walk is None:
            walk = self._walks[symbol] = _Walk(self._starts.get(symbol, UNKNOWN), f"{self._seed}/{symbol}")
        price, volume = walk.step()
        return Tick(symbol, price, self._clock.now(), volume)


class _Walk:
    """A price in grid steps: pulled back to a level that itself wanders around the start."""

    def __init__(self, start: Price, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._start = self._level = self._at = max(1, int(start / GRID))
        self._reach = max(4, self._start // 100)
        self._step = max(1, self._start // 4_000)
        self._volume = 0

    def step(self) -> tuple[Price, int]:
        below = self._random.randint
        if below(0, 63) == 0:
            self._level = max(1, self._start + below(-self._reach, self._reach))
        pull = (self._level > self._at) - (self._level < self._at)
        self._at = max(1, self._at + below(-self._step, self._step) + pull)
        self._volume += below(1, 100)
        return self._at * GRID, self._volume


_: type[Feed] = SimulatedFeed
