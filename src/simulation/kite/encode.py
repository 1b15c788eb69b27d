"""Kite's binary frames from what they should say: the inverse of `brokers.kite.packets`.

It writes with a layout of its own, field by field, so that a wrong offset in the decoder does not cancel out.
"""

from collections.abc import Sequence
from struct import pack
from typing import Final

from brokers.kite.packets import DEPTH, INDICES, Level, Mode, Packet, exponent
from domain.values import SECOND, ZERO, Instant, Price

__all__ = ["HEARTBEAT", "MOST_PACKETS", "encode", "frame"]

HEARTBEAT: Final = b"\x00"
MOST_PACKETS: Final = 0xFFFF
"""A frame's count has 16 bits."""


def frame(packets: Sequence[bytes]) -> bytes:
    """One frame of these packets; raises struct.error for more than 65,535 of them."""
    return pack(">H", len(packets)) + b"".join(pack(">H", len(each)) + each for each in packets)


def encode(packet: Packet) -> bytes:
    """The packet as Kite would send it; what is None is sent as zero. Its length follows from mode and segment.

    Raises struct.error for a number that has no room: below zero, or a price beyond 32 bits of its smallest unit.
    """
    head = pack(">II", packet.token, _units(packet, packet.last_price))
    if packet.mode is Mode.LTP:
        return head
    if packet.token & 0xFF == INDICES:
        prices = (packet.high, packet.low, packet.open, packet.close)
        body = head + pack(">IIIIi", *(_units(packet, each) for each in prices), _units(packet, packet.change))
        return body if packet.mode is Mode.QUOTE else body + pack(">I", _seconds(packet.exchange_at))
    body = head + pack(
        ">IIIIIIIII",
        packet.last_quantity or 0,
        _units(packet, packet.average_price),
        packet.volume or 0,
        packet.buy_quantity or 0,
        packet.sell_quantity or 0,
        *(_units(packet, each) for each in (packet.open, packet.high, packet.low, packet.close)),
    )
    if packet.mode is Mode.QUOTE:
        return body
    oi = (packet.oi or 0, packet.oi_day_high or 0, packet.oi_day_low or 0)
    body += pack(">IIIII", _seconds(packet.traded_at), *oi, _seconds(packet.exchange_at))
    return body + b"".join(_level(packet, each) for side in (packet.buy, packet.sell) for each in _padded(side))


def _level(packet: Packet, level: Level) -> bytes:
    return pack(">IIHH", level.quantity, _units(packet, level.price), level.orders, 0)


def _padded(side: tuple[Level, ...]) -> list[Level]:
    """A side of the market depth always has five levels; those that nobody offers are zero."""
    return [*side[:DEPTH], *[Level(0, ZERO, 0)] * (DEPTH - len(side))]


def _units(packet: Packet, price: Price | None) -> int:
    """A price as the number of its smallest units; what lies between two units is cut off."""
    return 0 if price is None else int(price.scaleb(-exponent(packet.token)))


def _seconds(at: Instant | None) -> int:
    return 0 if at is None else at // SECOND
