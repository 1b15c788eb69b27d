"""The text frames of Kite's stream: what happened to an order, what went wrong, and everything else.

{"type": "order", "data": {"order_id": …}}    {"type": "error", "data": "…"}    {"type": "message", "data": "…"}
"""

import msgspec
from msgspec import Struct

__all__ = ["ErrorText", "OrderText", "parse_text"]

LONGEST_ID = 64
LONGEST_ERROR = 300


class OrderText(Struct, frozen=True):
    """Something happened to an order. Empty: to some order, the frame does not say which in a form we know."""

    order_id: str


class ErrorText(Struct, frozen=True):
    """Kite says that something is wrong with what we asked of the stream."""

    text: str


def parse_text(frame: str) -> OrderText | ErrorText | None:
    """None for what has no meaning for us: messages, unknown types, no JSON. Never raises."""
    try:
        said = msgspec.json.decode(frame)
    except (msgspec.DecodeError, RecursionError):
        return None
    match said:
        case {"type": "order", "data": {"order_id": order_id}}:
            return OrderText(_order_id(order_id))
        case {"type": "order"}:
            return OrderText("")
        case {"type": "error", **rest}:
            return ErrorText(str(rest.get("data", ""))[:LONGEST_ERROR])
        case _:
            return None


def _order_id(value: object) -> str:
    """Kite: a string of digits. As a number it is exact too, as long as it came as a whole one."""
    match value:
        case str() if len(value) <= LONGEST_ID:
            return value
        case int() if not isinstance(value, bool) and 0 < value < 10**LONGEST_ID:
            return str(value)
        case _:
            return ""
