"""Kite's binary frames: what is in them, exactly, whatever arrives.

A frame is a count (2 bytes) and as many packets, each with its length (2 bytes) before it; all numbers are big-endian
and unsigned, as the official client reads them. The length says the kind (Kite Connect docs, "Message structure"):

    8    the last price of any instrument
    28   an index                        32   an index with the exchange's time
    44   an instrument, quote            184  an instrument, full: with the exchange's time and the market depth

Nothing here raises for what a frame contains: packets of another length are skipped, a frame that breaks off gives the
packets before the break, and both are counted.
"""

from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from struct import Struct as Layout
from typing import Final

from msgspec import Struct

from domain.values import SECOND, Instant, Price, Quantity

__all__ = [
    "DEPTH",
    "INDICES",
    "LENGTHS",
    "Level",
    "Mode",
    "Noticed",
    "Packet",
    "Quick",
    "decode",
    "exponent",
    "quick",
]

INDICES: Final = 9
"""The segment of what cannot be traded; an instrument's segment is the last byte of its token."""
EXPONENTS: Final = {3: -7, 6: -4, 12: -4}
"""Currency futures (cds) count in 10⁻⁷, those of BSE (bcd) and NSE's commodities (nco) in 10⁻⁴, all else in 10⁻²."""

LENGTHS: Final = frozenset({8, 28, 32, 44, 184})
DEPTH: Final = 5
"""Levels of each side of the market depth."""


class Mode(StrEnum):
    """How much a packet tells; Kite's names of the modes of a subscription."""

    LTP = "ltp"
    QUOTE = "quote"
    FULL = "full"


class Level(Struct, frozen=True, gc=False):
    """One price of the market depth: how many shares in how many orders."""

    quantity: Quantity
    price: Price
    orders: int


class Packet(Struct, frozen=True, kw_only=True):
    """Everything one packet tells. None is what its kind does not carry, or a time that Kite left at zero."""

    token: int
    mode: Mode
    last_price: Price
    last_quantity: Quantity | None = None
    average_price: Price | None = None
    volume: Quantity | None = None
    buy_quantity: Quantity | None = None
    sell_quantity: Quantity | None = None
    open: Price | None = None
    high: Price | None = None
    low: Price | None = None
    close: Price | None = None
    change: Price | None = None
    """Indices only: against yesterday's close. The one number that is read signed."""
    traded_at: Instant | None = None
    oi: Quantity | None = None
    oi_day_high: Quantity | None = None
    oi_day_low: Quantity | None = None
    exchange_at: Instant | None = None
    buy: tuple[Level, ...] = ()
    sell: tuple[Level, ...] = ()

    @property
    def tradable(self) -> bool:
        return self.token & 0xFF != INDICES


class Noticed(Struct):
    """What frames contained besides packets that could be read; one is handed to many calls, which add to it."""

    heartbeats: int = 0
    """Frames of at most one byte."""
    skipped: int = 0
    """Packets of an unknown length."""
    broken: int = 0
    """Frames that end before their last packet does, or go on after it."""
    timeless: int = 0
    """`quick` only: packets without the exchange's time."""


Quick = tuple[int, Price, Instant, Quantity]
"""What a stop needs to know: token, last price, exchange time, volume of the day (0 for an index)."""

_LTP: Final = Layout(">II")
_INDEX: Final = Layout(">IIIIIIi")
_QUOTE: Final = Layout(">IIIIIIIIIII")
_REST: Final = Layout(">IIIII")
_TIME: Final = Layout(">I")
_LEVELS: Final = Layout(">" + "IIH2x" * 2 * DEPTH)
_QUICK_FULL: Final = Layout(">II8xI40xI")
_QUICK_INDEX: Final = Layout(">II20xI")

_SCALES: Final = tuple(Decimal(1).scaleb(EXPONENTS.get(segment, -2)) for segment in range(256))


def exponent(token: int) -> int:
    """The power of ten in which the prices of an instrument are counted."""
    return EXPONENTS.get(token & 0xFF, -2)


def quick(frame: bytes, noticed: Noticed) -> list[Quick]:
    """What the stops need of the packets that carry the exchange's time, in the order of the frame. Never raises.

    This is on the way from a tick to an order: one unpacking a packet, and no floats.
    """
    end = len(frame)
    if end < 2:
        noticed.heartbeats += 1
        return []
    found: list[Quick] = []
    full, index, scales = _QUICK_FULL.unpack_from, _QUICK_INDEX.unpack_from, _SCALES
    at = 2
    for _ in range(frame[0] << 8 | frame[1]):
        begin = at + 2
        if begin > end:
            break
        length = frame[at] << 8 | frame[at + 1]
        at = begin + length
        if at > end:
            break
        if length == 184:
            token, price, volume, seconds = full(frame, begin)
        elif length == 32:
            token, price, seconds = index(frame, begin)
            volume = 0
        else:
            if length in LENGTHS:
                noticed.timeless += 1
            else:
                noticed.skipped += 1
            continue
        if seconds:
            found.append((token, price * scales[token & 0xFF], seconds * SECOND, volume))
        else:
            noticed.timeless += 1
    else:
        if at == end:
            return found
    noticed.broken += 1
    return found


def decode(frame: bytes, noticed: Noticed) -> list[Packet]:
    """Everything of every packet of a known length, in the order of the frame. Never raises."""
    if len(frame) < 2:
        noticed.heartbeats += 1
        return []
    found = []
    for begin, length in _packets(frame, noticed):
        match length:
            case 8:
                token, price = _LTP.unpack_from(frame, begin)
                found.append(Packet(token=token, mode=Mode.LTP, last_price=price * _SCALES[token & 0xFF]))
            case 28 | 32:
                found.append(_index(frame, begin, length))
            case 44 | 184:
                found.append(_instrument(frame, begin, length))
            case _:
                noticed.skipped += 1
    return found


def _packets(frame: bytes, noticed: Noticed) -> Iterator[tuple[int, int]]:
    """Where each packet that is wholly there begins, and its length."""
    end, at = len(frame), 2
    for _ in range(frame[0] << 8 | frame[1]):
        begin = at + 2
        if begin > end:
            break
        length = frame[at] << 8 | frame[at + 1]
        at = begin + length
        if at > end:
            break
        yield begin, length
    else:
        if at == end:
            return
    noticed.broken += 1


def _index(frame: bytes, begin: int, length: int) -> Packet:
    """An index tells high, low, open, close; everything else tells open, high, low, close."""
    token, price, high, low, opened, close, change = _INDEX.unpack_from(frame, begin)
    scale = _SCALES[token & 0xFF]
    return Packet(
        token=token,
        mode=Mode.QUOTE if length == 28 else Mode.FULL,
        last_price=price * scale,
        high=high * scale,
        low=low * scale,
        open=opened * scale,
        close=close * scale,
        change=change * scale,
        exchange_at=_instant(_TIME.unpack_from(frame, begin + 28)[0]) if length == 32 else None,
    )


def _instrument(frame: bytes, begin: int, length: int) -> Packet:
    token, price, last, average, volume, buying, selling, opened, high, low, close = _QUOTE.unpack_from(frame, begin)
    scale = _SCALES[token & 0xFF]
    traded, oi, oi_high, oi_low, exchange = 0, None, None, None, 0
    buy: tuple[Level, ...] = ()
    sell: tuple[Level, ...] = ()
    if length == 184:
        traded, oi, oi_high, oi_low, exchange = _REST.unpack_from(frame, begin + 44)
        entries = _LEVELS.unpack_from(frame, begin + 64)
        levels = [Level(entries[n], entries[n + 1] * scale, entries[n + 2]) for n in range(0, 6 * DEPTH, 3)]
        buy, sell = tuple(levels[:DEPTH]), tuple(levels[DEPTH:])
    return Packet(
        token=token,
        mode=Mode.QUOTE if length == 44 else Mode.FULL,
        last_price=price * scale,
        last_quantity=last,
        average_price=average * scale,
        volume=volume,
        buy_quantity=buying,
        sell_quantity=selling,
        open=opened * scale,
        high=high * scale,
        low=low * scale,
        close=close * scale,
        traded_at=_instant(traded),
        oi=oi,
        oi_day_high=oi_high,
        oi_day_low=oi_low,
        exchange_at=_instant(exchange),
        buy=buy,
        sell=sell,
    )


def _instant(seconds: int) -> Instant | None:
    return seconds * SECOND if seconds else None
