"""What the market did, as quotes and candles tell it: every tick is noted, by symbol."""

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from msgspec import Struct

from domain.calendar import wall
from domain.values import MINUTE, ZERO, Instant, Money, Price, Quantity, Tick
from simulation.kite.instruments import SimInstrument

__all__ = ["Candle", "Day", "Tape", "circuits"]

BAND = Decimal("0.1")
"""How far a share may move from its previous close in a day, as a fraction."""


class Candle(Struct):
    """`at`: where its minute begins."""

    at: Instant
    open: Price
    high: Price
    low: Price
    close: Price
    volume: Quantity

    def add(self, other: "Candle") -> None:
        """The next one, so that both are one."""
        self.high, self.low = max(self.high, other.high), min(self.low, other.low)
        self.close = other.close
        self.volume += other.volume


class Day(Struct, kw_only=True):
    """A symbol's day so far. `close` is the previous day's last price, None when nothing was traded before."""

    open: Price
    high: Price
    low: Price
    last: Price
    last_quantity: Quantity = 0
    volume: Quantity = 0
    value: Money = ZERO
    at: Instant
    close: Price | None = None

    @property
    def average(self) -> Price:
        return (self.value / self.volume).quantize(Decimal("0.01")) if self.volume else self.last


class Tape:
    """Takes ticks in the order in which they come. A tick's volume is that of the day; without one it is one share."""

    def __init__(self) -> None:
        self._days: dict[str, Day] = {}
        self._minutes: dict[str, list[Candle]] = {}

    def ticks(self, ticks: Sequence[Tick]) -> None:
        for tick in ticks:
            self._note(tick)

    def day(self, symbol: str) -> Day | None:
        """The newest day that the symbol was traded on."""
        return self._days.get(symbol)

    def minutes(self, symbol: str) -> Sequence[Candle]:
        """Of all days, oldest first; minutes without a trade have none."""
        return self._minutes.get(symbol, ())

    def _note(self, tick: Tick) -> None:
        day = self._days.get(tick.symbol)
        if day is None or wall(day.at).date() != wall(tick.at).date():
            close = None if day is None else day.last
            day = Day(open=tick.price, high=tick.price, low=tick.price, last=tick.price, at=tick.at, close=close)
            self._days[tick.symbol] = day
        volume = max(tick.volume or day.volume + 1, day.volume)
        traded = volume - day.volume
        day.last_quantity = traded or day.last_quantity
        day.value += traded * tick.price
        day.volume, day.last, day.at = volume, tick.price, max(day.at, tick.at)
        day.high, day.low = max(day.high, tick.price), min(day.low, tick.price)
        candle = Candle(tick.at - tick.at % MINUTE, tick.price, tick.price, tick.price, tick.price, traded)
        minutes = self._minutes.setdefault(tick.symbol, [])
        if minutes and minutes[-1].at >= candle.at:  # of this minute; a step back by a second belongs to it, too
            minutes[-1].add(candle)
        else:
            minutes.append(candle)


def circuits(instrument: SimInstrument, day: Day | None) -> tuple[Price, Price]:
    """Lower and upper circuit limit: the instrument's own, else 10 % around the previous close, on the grid toward it.

    Without a previous close the day's first price stands for it; zeros when there is neither.
    """
    around = previous_close(instrument, day) or (ZERO if day is None else day.open)
    tick = instrument.tick_size
    lower, upper = around * (1 - BAND), around * (1 + BAND)
    if tick:
        lower = (lower / tick).to_integral_value(ROUND_CEILING) * tick
        upper = (upper / tick).to_integral_value(ROUND_FLOOR) * tick
    own_lower, own_upper = instrument.lower_circuit, instrument.upper_circuit
    return lower if own_lower is None else own_lower, upper if own_upper is None else own_upper


def previous_close(instrument: SimInstrument, day: Day | None) -> Price | None:
    return day.close if day is not None and day.close is not None else instrument.close
