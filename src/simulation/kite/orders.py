"""An order in the server's book, its trades, and how both look on the wire.

Every change of an order appends a row to its history; the book shows the last one. The fields are those of Zerodha's
published samples, with what they teach: the numbers of terminal rows do not balance, and `order_timestamp` is the time
of the last call, not of the placing.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from domain.calendar import wall
from domain.values import ZERO, Instant, Money, Price, Product, Quantity, Side
from simulation.kite.faults import Play
from simulation.kite.instruments import SimInstrument

__all__ = [
    "TERMINAL",
    "Changes",
    "OrderStatus",
    "OrderType",
    "SimOrder",
    "SimTrade",
    "Validity",
    "average",
    "encode",
    "stamp",
]

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_MILLIONTH = Decimal("0.000001")


def encode(value: object) -> bytes:
    """JSON with Decimals as numbers, digit for digit."""
    return _ENCODER.encode(value)


def stamp(at: Instant | None) -> str | None:
    """Kite's time text: `YYYY-MM-DD HH:MM:SS`, the exchange's wall clock."""
    return None if at is None else wall(at).strftime("%Y-%m-%d %H:%M:%S")


def average(value: Money, quantity: Quantity) -> Price:
    """The average price, 0 for no quantity: rounded to a millionth, without trailing zeros or an exponent."""
    if not quantity:
        return ZERO
    return (value / quantity).quantize(_MILLIONTH).normalize() + ZERO


class OrderType(StrEnum):
    MARKET = "MARKET"
    LIMIT = "LIMIT"
    SL = "SL"
    SL_M = "SL-M"

    @property
    def at_market(self) -> bool:
        """Needs market protection instead of a price."""
        return self in (OrderType.MARKET, OrderType.SL_M)

    @property
    def stops(self) -> bool:
        """Waits for its trigger price."""
        return self in (OrderType.SL, OrderType.SL_M)


class Validity(StrEnum):
    DAY = "DAY"
    IOC = "IOC"
    TTL = "TTL"


class OrderStatus(StrEnum):
    """What the documentation and the field have shown."""

    RECEIVED = "PUT ORDER REQ RECEIVED"
    AMO_RECEIVED = "AMO REQ RECEIVED"
    VALIDATING = "VALIDATION PENDING"
    OPEN_PENDING = "OPEN PENDING"
    TRIGGER_PENDING = "TRIGGER PENDING"
    OPEN = "OPEN"
    MODIFY_VALIDATING = "MODIFY VALIDATION PENDING"
    MODIFY_PENDING = "MODIFY PENDING"
    MODIFIED = "MODIFIED"
    CANCEL_PENDING = "CANCEL PENDING"
    COMPLETE = "COMPLETE"
    CANCELLED = "CANCELLED"
    CANCELLED_AMO = "CANCELLED AMO"
    REJECTED = "REJECTED"


TERMINAL = frozenset({OrderStatus.COMPLETE, OrderStatus.CANCELLED, OrderStatus.CANCELLED_AMO, OrderStatus.REJECTED})


class Changes(Struct, frozen=True, kw_only=True):
    """A modification that was taken: the order's terms as they will be. `protection` in %, for orders at market."""

    order_type: OrderType
    quantity: Quantity
    price: Price
    trigger_price: Price
    disclosed: Quantity
    validity: Validity
    protection: Decimal | None


class SimOrder(Struct, kw_only=True, eq=False):
    """One order; only `simulation.kite.exchange` changes it.

    `order_type` and `price` are what the book shows: a protected market order becomes a LIMIT, at once when the last
    price is known, else with the first tick (until then MARKET at 0); a protected SL-M becomes an SL. `status` is text,
    because a fault may make it one that nobody documented. `value` is the sum of quantity × price over its trades.
    `system_tags` stand behind the tag.
    """

    order_id: str
    user_id: str
    guid: str
    variety: str
    instrument: SimInstrument
    side: Side
    product: Product
    order_type: OrderType
    validity: Validity
    quantity: Quantity
    disclosed: Quantity = 0
    price: Price = ZERO
    trigger_price: Price = ZERO
    protection: Decimal | None = None
    tag: str | None = None
    tag_only_in_tags: bool = False
    system_tags: tuple[str, ...] = ()
    parent_order_id: str | None = None
    received_at: Instant
    acted_at: Instant
    exchange_order_id: str | None = None
    exchange_at: Instant | None = None
    updated_at: Instant | None = None
    expires_at: Instant | None = None
    """A TTL order is cancelled then."""
    status: str = ""
    message: str | None = None
    message_raw: str | None = None
    filled: Quantity = 0
    value: Money = ZERO
    modified: bool = False
    modifications: int = 0
    cancels: int = 0
    """Attempts, refused ones included."""
    changes: int = 0
    """Attempts to modify, refused ones included."""
    waits_for_session: bool = False
    """An AMO before its session."""
    on_market: bool = False
    triggered: bool = False
    """A stop order whose trigger price was reached."""
    held: bool = False
    """A fault keeps it from filling."""
    fills_from: Instant = 0
    life: Play | None = None
    halved: bool = False
    foreign: bool = False
    """Not placed through the API: it appeared in the book by a fault."""
    history: list[dict[str, Any]] = []
    encoded: bytes = b"{}"
    """The book's row as JSON, made when it changes."""

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    @property
    def remaining(self) -> Quantity:
        return self.quantity - self.filled

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def awaits_trigger(self) -> bool:
        return self.order_type.stops and not self.triggered

    @property
    def average_price(self) -> Price:
        """Of its fills, 0 without any; rounded to a millionth, as the wire shows it."""
        return average(self.value, self.filled)

    @property
    def tags(self) -> list[str]:
        return [*([self.tag] if self.tag else ()), *self.system_tags]

    def crosses(self, last: Price) -> bool:
        """Whether the market's price lies inside the limit."""
        return last <= self.price if self.side is Side.BUY else last >= self.price

    def triggers(self, last: Price) -> bool:
        return last >= self.trigger_price if self.side is Side.BUY else last <= self.trigger_price

    def row(self) -> dict[str, Any]:
        """The order as GET /orders shows it now."""
        status = self.status
        left = self.remaining
        row: dict[str, Any] = {
            "account_id": self.user_id,
            "placed_by": self.user_id,
            "order_id": self.order_id,
            "exchange_order_id": self.exchange_order_id,
            "parent_order_id": self.parent_order_id,
            "status": str(status),
            "status_message": self.message,
            "status_message_raw": self.message_raw,
            "order_timestamp": stamp(self.acted_at),
            "exchange_update_timestamp": stamp(self.updated_at),
            "exchange_timestamp": stamp(self.exchange_at),
            "variety": self.variety,
            "modified": self.modified,
            "exchange": self.instrument.exchange,
            "tradingsymbol": self.instrument.tradingsymbol,
            "instrument_token": self.instrument.token,
            "order_type": self.order_type.value,
            "transaction_type": self.side.value,
            "validity": self.validity.value,
            "validity_ttl": 0,
            "product": self.product.value,
            "quantity": self.quantity,
            "disclosed_quantity": self.disclosed,
            "price": self.price,
            "trigger_price": self.trigger_price,
            "average_price": self.average_price,
            "filled_quantity": self.filled,
            # Kite: a cancelled row states what was left twice, a rejected one not at all.
            "pending_quantity": 0 if status == OrderStatus.REJECTED else left,
            "cancelled_quantity": left if status.startswith(OrderStatus.CANCELLED) else 0,
            "market_protection": 0,
            "meta": {},
            "tag": None if self.tag_only_in_tags else self.tag,
            "guid": self.guid,
        }
        if tags := self.tags:
            row["tags"] = tags
        return row

    def record(self) -> dict[str, Any]:
        """Appends the order as it now is to its history and returns that row."""
        row = self.row()
        self.history.append(row)
        self.encoded = encode(row)
        return row


class SimTrade(Struct, frozen=True, kw_only=True):
    """A fill, all of it at one price."""

    trade_id: str
    order_id: str
    exchange_order_id: str | None
    instrument: SimInstrument
    product: Product
    side: Side
    quantity: Quantity
    price: Price
    at: Instant

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    def row(self) -> dict[str, Any]:
        """As GET /trades shows it; Kite: `order_timestamp` is a time of day only."""
        return {
            "trade_id": self.trade_id,
            "order_id": self.order_id,
            "exchange": self.instrument.exchange,
            "tradingsymbol": self.instrument.tradingsymbol,
            "instrument_token": self.instrument.token,
            "product": self.product.value,
            "average_price": self.price,
            "quantity": self.quantity,
            "exchange_order_id": self.exchange_order_id,
            "transaction_type": self.side.value,
            "fill_timestamp": stamp(self.at),
            "order_timestamp": wall(self.at).strftime("%H:%M:%S"),
            "exchange_timestamp": stamp(self.at),
        }
