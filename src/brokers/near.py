"""Names that look like another: what to suggest for a symbol that is not known."""

from bisect import bisect_left
from collections.abc import Iterable
from heapq import nsmallest
from typing import Final

__all__ = ["Names"]

ALIKE: Final = 50.0
"""How alike two names must be to be suggested, in %."""
MOST: Final = 5
FIRST: Final = "NSE"
"""Of two exchanges that have the same name, the one that is suggested first unless the other was asked for."""


class Names:
    """A fixed set of symbols `EXCHANGE:TRADINGSYMBOL`, to be searched by likeness.

    Twenty thousand are searched within a few milliseconds: names that begin so are found by bisection, the others are
    compared in native code.
    """

    def __init__(self, symbols: Iterable[str]) -> None:
        exchanges: dict[str, list[str]] = {}
        shared: dict[str, str] = {}
        for symbol in symbols:
            exchange, _, name = symbol.partition(":")
            exchanges.setdefault(name, []).append(shared.setdefault(exchange, exchange))
        self._names = sorted(exchanges)
        # Most names are of the same few sets of exchanges.
        sets: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._exchanges = {name: sets.setdefault(key := tuple(there), key) for name, there in exchanges.items()}

    def near(self, symbol: str) -> list[str]:
        """Up to five symbols that look like this one, best first; the exchange may be left out or be wrong.

        Names that begin with what was asked come before those that are only alike.
        """
        exchange, _, name = symbol.upper().rpartition(":")
        name = name.strip()
        if not name:
            return []
        start = bisect_left(self._names, name)
        end = bisect_left(self._names, name + "\U0010ffff", lo=start)
        found = nsmallest(MOST, self._names[start:end], key=lambda each: (len(each), each))
        if len(found) < MOST:
            from rapidfuzz import fuzz, process  # a twentieth of what a start takes, and not every process is asked

            # More than are wanted: of equally alike ones those come first that the alphabet puts first.
            alike = process.extract(name, self._names, scorer=fuzz.ratio, score_cutoff=ALIKE, limit=4 * MOST)
            alike.sort(key=lambda each: (-each[1], each[0]))
            found += [each for each, _, _ in alike if not each.startswith(name)]
        symbols = [
            f"{where}:{each}"
            for each in found
            for where in sorted(self._exchanges[each], key=lambda where: (where != exchange, where != FIRST, where))
        ]
        return symbols[:MOST]
