"""The market of a simulated life: prices walk, and now and then fall through the stops; and the feed."""

import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

from domain.values import SECOND, Instant, Tick
from simulation.faults import Fault, Faults

__all__ = ["GRID", "OPENING", "SYMBOLS", "Feed", "draw_ticks"]

SYMBOLS: Final = ("NSE:INFY", "NSE:SBIN")
OPENING: Final = Decimal("150.00")
GRID: Final = Decimal("0.05")
_FLOOR, _CEILING = Decimal("128.00"), Decimal("170.00")


def draw_ticks(chance: random.Random, begin: Instant, end: Instant) -> Iterator[list[Tick]]:
    """Batches of ticks in the order of their time: every five to twenty seconds one for each symbol."""
    prices = dict.fromkeys(SYMBOLS, OPENING)
    at = begin
    while at < end:
        batch = []
        for symbol in SYMBOLS:
            step = chance.choice((-1, 1)) * chance.choice((1, 2, 3, 5, 8, 60 if chance.random() < 0.2 else 4))
            moved = prices[symbol] + step * GRID
            if chance.random() < 0.1:
                moved += (OPENING - moved) / 2  # it comes back, so that there is something to buy again
            prices[symbol] = min(max(moved, _FLOOR), _CEILING).quantize(GRID)
            prices[symbol] -= prices[symbol] % GRID
            batch.append(Tick(symbol, prices[symbol], at))
        yield batch
        at += chance.randint(5 * SECOND, 20 * SECOND)


class Feed:
    """Brings the ticks to whoever listens, as feeds do: late, twice, in another order, broken, or not at all."""

    def __init__(self, chance: random.Random, faults: Faults) -> None:
        self._chance = chance
        self._faults = faults
        self._late: list[Tick] = []

    def bring(self, batch: Sequence[Tick]) -> list[Tick]:
        """What arrives when these were traded."""
        arrived, self._late = [*self._late, *batch], []
        for tick in batch:
            if self._faults.happens(Fault.TICK_MISSING, 0.05):
                arrived.remove(tick)
            elif self._faults.happens(Fault.TICK_LATE, 0.05):
                arrived.remove(tick)
                self._late.append(tick)
            elif self._faults.happens(Fault.TICK_REPEATED, 0.05):
                arrived.append(tick)
        if len(arrived) > 1 and self._faults.happens(Fault.TICKS_REORDERED, 0.1):
            self._chance.shuffle(arrived)
        if self._faults.happens(Fault.TICK_BROKEN, 0.03):
            arrived.append(
                Tick(self._chance.choice(SYMBOLS), Decimal(self._chance.choice(("0", "-1", "NaN"))), batch[0].at)
            )
        return arrived
