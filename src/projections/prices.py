"""The value of `price:{symbol}`: the last valid trade's price and its exchange time, `148.95@1605842413000000`."""

from decimal import Decimal, InvalidOperation

from domain.values import Instant, Price, Tick


def encode_price(tick: Tick) -> bytes:
    return f"{tick.price}@{tick.at}".encode()


def decode_price(value: bytes | None) -> tuple[Price, Instant] | None:
    """Price and time, or None when there is none or it cannot be read: then there is no fresh price."""
    if value is None:
        return None
    price, _, at = value.decode(errors="replace").partition("@")
    try:
        return Decimal(price), int(at)
    except (InvalidOperation, ValueError):
        return None
