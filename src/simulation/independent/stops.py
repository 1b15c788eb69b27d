"""What is held and has a stop is exited when the market trades at or under it."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from simulation.independent.finding import Finding, Rule

__all__ = ["PATIENCE", "Guards"]

PATIENCE: Final = 10_000_000
"""Microseconds from the trade until the history must tell of the trigger, or of another exit."""


class _Guard:
    """While it stands, a trade at or under the stop must end it."""

    def __init__(
        self, strategy: int, run: int, symbol: str, stop: Decimal, at: int, position: int, hours: tuple[int, int]
    ) -> None:
        self.strategy, self.run, self.symbol, self.stop = strategy, run, symbol, stop
        self.at, self.position, self.hours = at, position, hours
        self.until: int | None = None


class Guards:
    """Each stretch of the history in which a strategy held shares, ran, and nothing had told it to exit."""

    def __init__(self) -> None:
        self._all: list[_Guard] = []
        self._standing: dict[int, _Guard] = {}
        self._blind: list[tuple[int, int]] = []
        self._blind_since: int | None = None

    def begin(
        self, strategy: int, run: int, symbol: str, stop: Decimal, at: int, position: int, hours: tuple[int, int]
    ) -> None:
        if strategy not in self._standing:
            guard = self._standing[strategy] = _Guard(strategy, run, symbol, stop, at, position, hours)
            self._all.append(guard)

    def end(self, strategy: int, at: int) -> None:
        guard = self._standing.pop(strategy, None)
        if guard is not None:
            guard.until = at

    def blind(self, at: int) -> None:
        """The prices cease to come."""
        if self._blind_since is None:
            self._blind_since = at

    def seeing(self, at: int) -> None:
        """They come again."""
        if self._blind_since is not None:
            self._blind.append((self._blind_since, at))
            self._blind_since = None

    def judge(self, market: Iterable[tuple[str, Decimal, int, int]], last_at: int) -> list[Finding]:
        """The stops that a trade (symbol, price, from when on it counts, when it was dealt with) reached and that
        nobody minded. `last_at`: where the history ends."""
        trades: defaultdict[str, list[tuple[int, int, Decimal]]] = defaultdict(list)
        for symbol, price, at, dealt_at in market:
            trades[symbol].append((at, dealt_at, price))
            last_at = max(last_at, dealt_at)
        for each in trades.values():
            each.sort()
        blind = [*self._blind, *([] if self._blind_since is None else [(self._blind_since, last_at + 1)])]
        found = []
        for guard in self._all:
            until = last_at if guard.until is None else guard.until
            hit = _first_hit(guard, trades[guard.symbol], until - PATIENCE, blind)
            if hit is not None:
                at, price = hit
                what = (
                    f"strategy {guard.strategy}, run {guard.run}, holds {guard.symbol} since here, its stop is"
                    f" {guard.stop}; {price} was traded at {at}, and"
                    f" {(until - at) / 1e6:.1f} s later nothing had come of it"
                )
                found.append(Finding(Rule.STOP, what, guard.position))
        return found


def _first_hit(
    guard: _Guard, trades: list[tuple[int, int, Decimal]], before: int, blind: list[tuple[int, int]]
) -> tuple[int, Decimal] | None:
    opening, close = guard.hours
    for index in range(bisect_left(trades, (max(guard.at, opening),)), len(trades)):
        at, dealt_at, price = trades[index]
        if at >= close:
            return None
        if dealt_at < before and price <= guard.stop and not any(since <= at < until for since, until in blind):
            return dealt_at, price
    return None
