"""What the stream tells of an instrument: the packets that follow from its trades of the day."""

from decimal import Decimal
from typing import Final

from brokers.kite.packets import DEPTH, Level, Mode, Packet, exponent
from domain.calendar import wall
from domain.values import ZERO, Instant, Money, Price, Quantity, Tick
from simulation.kite.encode import encode
from simulation.kite.instruments import SimInstrument

__all__ = ["Quote"]

OFFERED: Final = 100
"""Shares in the first level of each side; a level further out has as many more."""


class Quote:
    """The day of one instrument so far. It starts anew with the first trade of another day, and keeps the close."""

    def __init__(self, instrument: SimInstrument) -> None:
        self.instrument = instrument
        self._close = instrument.close or ZERO
        self._last = ZERO
        self._at: Instant = 0
        self._begin()
        self._encoded: dict[Mode, bytes] = {}

    def _begin(self) -> None:
        self._open = self._high = self._low = ZERO
        self._volume: Quantity = 0
        self._last_quantity: Quantity = 0
        self._value: Money = ZERO

    def trade(self, tick: Tick) -> None:
        """Ticks carry the volume of the day; without one, each is a trade of one share."""
        if self._at and wall(tick.at).date() != wall(self._at).date():
            self._close = self._last
            self._begin()
        volume = max(tick.volume or self._volume + 1, self._volume)
        self._last_quantity = volume - self._volume or self._last_quantity
        self._value += (volume - self._volume) * tick.price
        self._volume, self._last, self._at = volume, tick.price, tick.at
        self._open = self._open or tick.price
        self._high = max(self._high, tick.price)
        self._low = min(self._low or tick.price, tick.price)
        self._encoded.clear()

    @property
    def is_known(self) -> bool:
        """Whether there is anything to tell."""
        return self._at > 0

    def packet(self, mode: Mode) -> bytes:
        """As it is sent to who subscribed in this mode. Made once for all of them."""
        if mode not in self._encoded:
            self._encoded[mode] = encode(self._packet(mode))
        return self._encoded[mode]

    def _packet(self, mode: Mode) -> Packet:
        token = self.instrument.token
        if self.instrument.is_index:
            return Packet(
                token=token,
                mode=mode,
                last_price=self._last,
                high=self._high,
                low=self._low,
                open=self._open,
                close=self._close,
                change=self._last - self._close,
                exchange_at=self._at,
            )
        step = max(self.instrument.tick_size, Decimal(1).scaleb(exponent(token)))
        buy = tuple(level for n in range(DEPTH) if (level := self._level(self._last - n * step, n)) is not None)
        sell = tuple(level for n in range(DEPTH) if (level := self._level(self._last + (n + 1) * step, n)) is not None)
        return Packet(
            token=token,
            mode=mode,
            last_price=self._last,
            last_quantity=self._last_quantity,
            average_price=self._value / self._volume if self._volume else self._last,
            volume=self._volume,
            buy_quantity=sum(level.quantity for level in buy),
            sell_quantity=sum(level.quantity for level in sell),
            open=self._open,
            high=self._high,
            low=self._low,
            close=self._close,
            traded_at=self._at,
            oi=0,
            oi_day_high=0,
            oi_day_low=0,
            exchange_at=self._at,
            buy=buy,
            sell=sell,
        )

    def _level(self, price: Price, number: int) -> Level | None:
        return Level(OFFERED * (number + 1), price, number + 1) if price > 0 else None
