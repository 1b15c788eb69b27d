"""The words of the domain: small closed vocabularies and exact values. Money and prices are Decimal, never float."""

import datetime as dt
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, NewType

from msgspec import Meta, Struct

Instant = Annotated[int, Meta(extra={"kind": "instant"}, description="microseconds since 1970-01-01T00:00:00Z")]
"""A moment: integer microseconds since 1970-01-01T00:00:00Z."""
Duration = Annotated[int, Meta(extra={"kind": "duration"}, description="microseconds")]
"""A span of time: integer microseconds."""
Price = Annotated[Decimal, Meta(description="rupees, exact")]
Money = Annotated[Decimal, Meta(description="rupees, exact")]
Quantity = Annotated[int, Meta(description="shares")]
Tag = NewType("Tag", str)
"""Our order's name at the broker: 20 characters [A-Z0-9], see `domain.tags`."""

SECOND: Duration = 1_000_000
MINUTE: Duration = 60 * SECOND
HOUR: Duration = 60 * MINUTE
DAY: Duration = 24 * HOUR

ZERO = Decimal(0)


class Priority(StrEnum):
    """The class of an event: it names the stream that the event is appended to."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Status(StrEnum):
    """Where a strategy is in its life."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


ALIVE = frozenset({Status.STARTING, Status.RUNNING, Status.STOPPING})


class Holding(StrEnum):
    """The spec's `position` of a run: what it has done with its shares."""

    NONE = "none"
    BOUGHT = "bought"
    SOLD = "sold"
    EXITED_BY_SL = "exited_by_sl"


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"


class Kind(StrEnum):
    """Why an order is placed: the entry, the timed exit or square-off, the stop-loss, the sale of surfaced shares."""

    BUY = "BUY"
    SELL = "SELL"
    STOPLOSS = "STOPLOSS"
    SURFACED = "SURFACED"

    @property
    def side(self) -> Side:
        return Side.BUY if self is Kind.BUY else Side.SELL


class Product(StrEnum):
    """MIS: intraday, squared off by the broker after its cut-off. CNC: delivery."""

    MIS = "MIS"
    CNC = "CNC"


class Phase(StrEnum):
    """What we know of an order: asked for, perhaps there, at the broker, or over."""

    SENDING = "sending"
    UNKNOWN = "unknown"
    LIVE = "live"
    FINAL = "final"


class Final(StrEnum):
    """How an order ended."""

    COMPLETE = "complete"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    NOT_PLACED = "not_placed"


class Doubt(StrEnum):
    """Why an outcome is unknown; it decides the length of the quarantine (architecture §5.4)."""

    AMBIGUOUS = "ambiguous"
    DEAD_SENDER = "dead_sender"


class Exit(StrEnum):
    """Why a run ended."""

    SELL = "SELL"
    STOPLOSS = "STOPLOSS"
    USER = "USER"
    HALTED = "HALTED"
    ABORT = "ABORT"
    DENIED = "DENIED"
    REJECTED = "REJECTED"
    MISSED = "MISSED"
    SESSION_END = "SESSION_END"


class Denial(StrEnum):
    """Why we did not send an order. Ours, never the broker's."""

    TOO_LATE = "TOO_LATE"
    MARKET_CLOSED = "MARKET_CLOSED"
    HALTED = "HALTED"
    NO_SESSION = "NO_SESSION"
    PRICE_AT_STOP = "PRICE_AT_STOP"
    NO_FRESH_PRICE = "NO_FRESH_PRICE"
    LIMIT_NOTIONAL = "LIMIT_NOTIONAL"
    LIMIT_DAY = "LIMIT_DAY"
    LOT_SIZE = "LOT_SIZE"
    INSTRUMENT = "INSTRUMENT"


class Abort(StrEnum):
    """Why a strategy was aborted."""

    RETRIES_EXHAUSTED = "RETRIES_EXHAUSTED"
    TOKEN_INVALID = "TOKEN_INVALID"  # noqa: S105 (a reason, not a secret)
    BROKER_REFUSED = "BROKER_REFUSED"
    RUNTIME_CORRUPTED = "RUNTIME_CORRUPTED"
    ILLEGAL_TRANSITION = "ILLEGAL_TRANSITION"
    POISON_EVENT = "POISON_EVENT"
    OPERATOR = "OPERATOR"


class Refusal(StrEnum):
    """Why a start was refused."""

    NO_SESSION_AHEAD = "NO_SESSION_AHEAD"
    UNKNOWN_YEAR = "UNKNOWN_YEAR"
    NOT_FLAT = "NOT_FLAT"
    ORDER_UNRESOLVED = "ORDER_UNRESOLVED"
    ALREADY_RUNNING = "ALREADY_RUNNING"
    HALTED = "HALTED"
    TIMES = "TIMES"
    INSTRUMENT = "INSTRUMENT"


class Code(StrEnum):
    """What an alert is about."""

    UNPROTECTED_POSITION = "UNPROTECTED_POSITION"
    OVERSOLD = "OVERSOLD"
    POSITION_MISMATCH = "POSITION_MISMATCH"
    UNKNOWN_ORDER = "UNKNOWN_ORDER"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    ORDER_SURFACED = "ORDER_SURFACED"
    FEED_SILENT = "FEED_SILENT"
    SESSION_MISSING = "SESSION_MISSING"
    EVENT_PARKED = "EVENT_PARKED"
    EXIT_NOT_FILLING = "EXIT_NOT_FILLING"
    SAFETY_ABORT = "SAFETY_ABORT"
    RECOVERY = "RECOVERY"
    ARCHIVE_GAP = "ARCHIVE_GAP"
    SEALING_STOPPED = "SEALING_STOPPED"


class Severity(StrEnum):
    WARNING = "warning"
    CRITICAL = "critical"


class Tick(Struct, frozen=True, gc=False):
    """A trade seen on the market: `symbol` is `EXCHANGE:TRADINGSYMBOL`, `at` the exchange's time."""

    symbol: str
    price: Price
    at: Instant
    volume: Quantity = 0


class Config(Struct, frozen=True, kw_only=True):
    """What the user asked for. Times are exchange wall-clock; `market_protection` in %, −1: the broker chooses."""

    symbol: str
    quantity: Quantity
    buy_time: dt.time
    sell_time: dt.time
    stop_loss: Price
    product: Product = Product.MIS
    market_protection: Decimal = Decimal(-1)


class OrderRequest(Struct, frozen=True, kw_only=True):
    """Everything the broker is told. `price` is None for a market order."""

    symbol: str
    side: Side
    quantity: Quantity
    product: Product
    tag: Tag
    market_protection: Decimal = Decimal(-1)
    price: Price | None = None
