"""A generated market day: plausible prices, and the dirt of real recordings, the same for the same seed everywhere.

Each symbol walks on the tick grid from its own random stream, so its path does not depend on which other symbols are
in the day. All arithmetic is on integers: no float, hash or platform can change a day.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import accumulate, pairwise
from math import isqrt
from types import MappingProxyType

from domain.calendar import Session, instant
from domain.values import SECOND, Instant, Tick

__all__ = ["DEFAULT_SYMBOLS", "GRID", "generate_day"]

GRID = Decimal("0.05")
"""The exchange's price step."""

DEFAULT_SYMBOLS: Mapping[str, Decimal] = MappingProxyType(
    {
        f"NSE:{symbol}": Decimal(price)
        for symbol, price in {
            "ASIANPAINT": "2480",
            "AXISBANK": "1210",
            "BAJFINANCE": "985",
            "BHARTIARTL": "2050",
            "HCLTECH": "1560",
            "HDFCBANK": "990",
            "HINDUNILVR": "2420",
            "ICICIBANK": "1370",
            "INFY": "1510",
            "ITC": "405",
            "KOTAKBANK": "2110",
            "LT": "3980",
            "M&M": "3620",
            "MARUTI": "15900",
            "RELIANCE": "1490",
            "SBIN": "955",
            "SUNPHARMA": "1710",
            "TATASTEEL": "174.50",
            "TCS": "3080",
            "TITAN": "3790",
            "WIPRO": "243.35",
        }.items()
    }
)
"""Well-known symbols with rough prices to start from."""

# How often the dirt of a recording appears, one row in so many (measured on a recorded day of half a million rows).
ONE_IN_BACK_STEP = 250
ONE_IN_VOLUME_FALL = 100
ROWS_AFTER_CLOSE = 100  # one for so many rows of the session

_FINE = 1 << 10  # the walk's resolution: parts of one grid step
_DAY_RANGE = 64  # a day's standard deviation is the start price / 64, about 1.6 %
_WIDEST_MOVE = 8  # prices stay within a day's move of start price / 8, inside the usual circuit limits
_MINUTE = 60


def generate_day(
    date: dt.date,
    symbols: Mapping[str, Decimal] = DEFAULT_SYMBOLS,
    seed: int = 0,
    *,
    ticks_per_symbol: int = 10_000,
    session: Session | None = None,
) -> Iterator[Tick]:
    """The ticks of one day in the order of their arrival.

    `symbols` gives each symbol's price at the start. Each has exactly `ticks_per_symbol` rows in the session (09:15 to
    15:30 of `date` unless another is given), most of them near its open and close and none in its breaks, and a few
    before and after it. Stamps have whole seconds and repeat; one row in 250 is stamped a second back, one in 100 shows
    less volume than the row before. Raises `ValueError` for a start price below the grid step, a negative number of
    ticks, or a session on another date.
    """
    if ticks_per_symbol < 0:
        raise ValueError(f"ticks_per_symbol must not be negative, got {ticks_per_symbol}")
    if session is None:
        session = Session(
            date=date,
            open_at=instant(date, dt.time(9, 15)),
            close_at=instant(date, dt.time(15, 30)),
            name="Regular",
        )
    if session.date != date:
        raise ValueError(f"the session is on {session.date}, the day on {date}")
    for symbol, price in symbols.items():
        if not price.is_finite() or price < GRID:
            raise ValueError(f"start price of {symbol} must be at least {GRID}, got {price}")
    return _arrivals(session, symbols, seed, ticks_per_symbol)


def _arrivals(session: Session, symbols: Mapping[str, Decimal], seed: int, per_symbol: int) -> Iterator[Tick]:
    weights = _activity(session)
    walks = [
        _Walk(symbol, price, random.Random(f"{seed}/{session.date}/{symbol}"), weights, per_symbol)
        for symbol, price in symbols.items()
    ]
    if per_symbol == 0:
        return
    midnight = instant(session.date, dt.time.min)
    seconds = (session.close_at - session.open_at + SECOND - 1) // SECOND

    before = min(8 * _MINUTE, (session.open_at - midnight) // SECOND)
    if before > _MINUTE:  # the pre-open auction's price, about eight minutes ahead
        yield from _sorted(row for walk in walks for row in walk.outside(session.open_at - before * SECOND, _MINUTE, 1))
    for minute in range(len(weights)):
        start = session.open_at + minute * _MINUTE * SECOND
        length = min(_MINUTE, seconds - minute * _MINUTE)
        yield from _sorted(row for walk in walks for row in walk.minute(minute, start, length))
    end_of_day = instant(session.date, dt.time(23, 59, 59))
    if session.close_at + 10 * _MINUTE * SECOND < end_of_day:
        length = min(20 * _MINUTE, (end_of_day - session.close_at) // SECOND - 10 * _MINUTE)
        start = session.close_at + 10 * _MINUTE * SECOND
        rows = 1 + per_symbol // ROWS_AFTER_CLOSE
        yield from _sorted(row for walk in walks for row in walk.outside(start, length, rows))


def _sorted(rows: Iterator[tuple[int, int, Tick]]) -> list[Tick]:
    return [tick for _, _, tick in sorted(rows, key=lambda row: row[:2])]


def _activity(session: Session) -> list[int]:
    """The weight of each minute of the session: a U, three times as high at its ends as in its middle, 0 in breaks."""
    minutes = -(-(session.close_at - session.open_at) // (_MINUTE * SECOND))
    weights = []
    for minute in range(minutes):
        from_middle = 2 * minute + 1 - minutes
        start = session.open_at + minute * _MINUTE * SECOND
        still = any(pause.start_at < start + _MINUTE * SECOND and start < pause.end_at for pause in session.breaks)
        weights.append(0 if still else 1000 + 2000 * from_middle * from_middle // (minutes * minutes))
    return weights


class _Walk:
    """One symbol's path through the day: price on the grid, cumulative volume."""

    def __init__(self, symbol: str, start: Decimal, rng: random.Random, weights: list[int], ticks: int) -> None:
        self._symbol = symbol
        self._bits = rng.getrandbits
        self._below = rng.randrange
        grid = int(start / GRID)
        self._fine = grid * _FINE + _FINE // 2
        self._lowest = max(1, grid - grid // _WIDEST_MOVE) * _FINE
        self._highest = (grid + max(1, grid // _WIDEST_MOVE)) * _FINE
        # A step is 32 coin tosses, whose deviation is the square root of 8.
        self._step = max(1, grid * _FINE // (_DAY_RANGE * isqrt(max(1, 8 * ticks))))
        self._drift = 0
        self._volume = 0
        self._lot = 1 + 2_000_000 // max(1, grid)
        self._prices: dict[int, Decimal] = {}
        total = max(1, sum(weights))
        phase = rng.randrange(total)
        upto = [(ticks * done + phase) // total for done in accumulate(weights, initial=0)]
        self._counts = [later - earlier for earlier, later in pairwise(upto)]
        self._heavy = [1 + weight // 1000 for weight in weights]

    def minute(self, minute: int, start: Instant, length: int) -> Iterator[tuple[int, int, Tick]]:
        """The rows that arrive in this minute: second, order within it, tick."""
        count = self._counts[minute]
        if count == 0:
            return
        bits, heavy = self._bits, self._heavy[minute]
        if minute % 15 == 0:  # a new mood: lean up, down, or neither
            self._drift = self._below(-2, 3) * self._step // 16
        last, order = -1, 0
        for second in sorted([self._below(length) for _ in range(count)]):
            # Symbols mix within a second, the rows of one symbol keep their order.
            last, order = second, bits(16) if second > last else max(order, bits(16))
            fine = self._fine + (bits(32).bit_count() - 16) * self._step + self._drift
            if fine < self._lowest:
                fine = 2 * self._lowest - fine
            elif fine > self._highest:
                fine = 2 * self._highest - fine
            self._fine = fine
            # Many small trades, few large ones; every fourth row is a quote without a trade.
            if bits(2):
                self._volume += 1 + (self._lot * heavy * bits(8) * bits(8) >> 14)
            at, volume, dirt = start + second * SECOND, self._volume, bits(16)
            if dirt % ONE_IN_BACK_STEP == 1 and second:
                at -= SECOND
            if dirt % ONE_IN_VOLUME_FALL == 2:
                volume -= min(volume, 1 + bits(6))
            yield second, order, Tick(self._symbol, self._price(fine), at, volume)

    def outside(self, start: Instant, length: int, count: int) -> Iterator[tuple[int, int, Tick]]:
        """Rows outside the session: the price and volume stand still."""
        for second in sorted([self._below(length) for _ in range(count)]):
            tick = Tick(self._symbol, self._price(self._fine), start + second * SECOND, self._volume)
            yield second, self._bits(16), tick

    def _price(self, fine: int) -> Decimal:
        grid = fine // _FINE
        price = self._prices.get(grid)
        if price is None:
            price = self._prices[grid] = grid * GRID
        return price
