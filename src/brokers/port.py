"""The Broker port: what the engine asks of a broker, and the only answers it gets.

`place`, `modify` and `cancel` never raise for what the broker or the network did: their answer says what is *known*
(architecture §5.3). The readings raise `BrokerUnavailable` or `SessionExpired`; a failed reading is no reading.
"""

from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from domain.values import Instant, OrderRequest, Price, Product, Quantity, Side


class BrokerError(Exception):
    """The base of what a reading may raise."""


class BrokerUnavailable(BrokerError):
    """The broker did not answer, or not in a form that can be trusted."""


class SessionExpired(BrokerError):
    """The account has no valid session: the user must log in at the broker again."""


class BrokerRefused(BrokerError):
    """The broker does not take the credentials. The reason says what to do, and holds none of them."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Login(Struct, frozen=True, kw_only=True):
    """A session at the broker: whose it is, the credentials worth keeping, and when it ends (None: it does not)."""

    broker_user_id: str
    credentials: Mapping[str, str]
    expires_at: Instant | None = None

    def __repr__(self) -> str:
        return f"Login(broker_user_id={self.broker_user_id!r}, expires_at={self.expires_at})"


class Accepted(Struct, frozen=True):
    """The broker has the order under this id. It may still reject it."""

    order_id: str


class NotPlaced(Struct, frozen=True):
    """The order certainly does not exist.

    `curable`: asking again within seconds may help. `counted`: it says something of the order, so that the attempt
    counts (a 429, or a broker that cannot be reached, does not). `session`: no valid session.
    """

    reason: str
    curable: bool
    counted: bool = True
    session: bool = False
    text: str = ""


class Unanswered(Struct, frozen=True):
    """The broker may or may not have carried it out."""

    text: str


class Done(Struct, frozen=True):
    """The broker took the cancel or the change; the order book says what became of it."""


class Refused(Struct, frozen=True):
    """The broker refused the cancel or the change."""

    reason: str


Placing = Accepted | NotPlaced | Unanswered
Changing = Done | Refused | Unanswered


class BookStatus(StrEnum):
    """An order in the book. Whatever is not terminal is OPEN, known or not."""

    OPEN = "open"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    REJECTED = "rejected"

    @property
    def terminal(self) -> bool:
        return self is not BookStatus.OPEN


class BookOrder(Struct, frozen=True, kw_only=True):
    """A row of the broker's order book. `filled` is cumulative; remaining is `quantity - filled` while OPEN."""

    order_id: str
    tag: str | None
    symbol: str
    side: Side
    product: Product
    quantity: Quantity
    filled: Quantity
    average_price: Price | None
    price: Price | None
    status: BookStatus
    placed_at: Instant
    text: str = ""
    reason: str = ""
    """For a rejected order: a stable reason code."""
    curable: bool = False
    counted: bool = True
    """As with `NotPlaced`."""


class Trade(Struct, frozen=True, kw_only=True):
    trade_id: str
    order_id: str
    symbol: str
    side: Side
    quantity: Quantity
    price: Price
    at: Instant


class BrokerPosition(Struct, frozen=True, kw_only=True):
    """The account's net quantity of one symbol and product, whoever traded it."""

    symbol: str
    product: Product
    quantity: Quantity
    average_price: Price | None = None


class OrderLimits(Struct, frozen=True, kw_only=True):
    """How many orders, changes and cancels an account may ask for in each window of the calendar; `reserve` is the
    share kept for exits. The defaults are Kite's, for every account alike; every attempt counts."""

    second: int = 10
    minute: int = 400
    day: int = 5_000
    reserve: float = 0.2


class Unread(Struct, frozen=True, kw_only=True):
    """A row of the order book that cannot be understood: what is known of it. `order_id` None: not even that."""

    order_id: str | None
    tag: str | None
    why: str
    foreign: bool = False
    """Somebody else's tag shows that it is certainly not ours."""


class PartialReading(BrokerUnavailable):
    """A reading of the order book in which some rows could not be understood. The others say what they say, but
    nothing may be taken for absent because of those that may be anybody's."""

    def __init__(self, rows: list[BookOrder], unread: tuple[Unread, ...]) -> None:
        first = unread[0]
        super().__init__(f"{len(unread)} orders that cannot be understood, first {first.order_id}: {first.why}")
        self.rows = rows
        self.unread = unread


class Broker(Protocol):
    """One account at a broker."""

    @property
    def account(self) -> str:
        """The account's id at the broker; limits and positions are per account."""
        ...

    @property
    def limits(self) -> OrderLimits | None:
        """What the broker allows this account; None: anything."""
        ...

    async def place(self, request: OrderRequest) -> Placing: ...

    async def modify(self, order_id: str, *, price: Price) -> Changing: ...

    async def cancel(self, order_id: str) -> Changing: ...

    async def orders(self) -> list[BookOrder]:
        """The whole order book of the day. Raises PartialReading, too."""
        ...

    async def trades(self) -> list[Trade]: ...

    async def positions(self) -> list[BrokerPosition]: ...

    def updates(self) -> AsyncIterator[str]:
        """Hints: ids of orders that may have changed. Lossy, repeated and unordered by nature; the book decides."""
        ...


class Brokers(Protocol):
    """Finds the account of a user."""

    async def of(self, user_id: int) -> Broker | None:
        """The user's broker, or None when there is no valid session."""
        ...

    async def connected(self) -> list[int]:
        """The users that have a broker session now."""
        ...


class Instrument(Struct, frozen=True, kw_only=True):
    """What may be traded. Limits are the day's circuit prices, None when unknown; `freeze` the largest single order."""

    symbol: str
    lot: Quantity = 1
    tick_size: Decimal = Decimal("0.05")
    freeze: Quantity = 1_000_000
    lower_circuit: Price | None = None
    upper_circuit: Price | None = None


class Instruments(Protocol):
    """The tradable instruments by `EXCHANGE:TRADINGSYMBOL`."""

    @property
    def loaded(self) -> bool:
        """Whether the list is there; without it nothing is found, which says nothing about a symbol."""
        ...

    def find(self, symbol: str) -> Instrument | None: ...

    def near(self, symbol: str) -> list[str]:
        """Up to five known symbols that look like this one, best first."""
        ...


__all__ = [
    "Accepted",
    "BookOrder",
    "BookStatus",
    "Broker",
    "BrokerError",
    "BrokerPosition",
    "BrokerRefused",
    "BrokerUnavailable",
    "Brokers",
    "Changing",
    "Done",
    "Instrument",
    "Instruments",
    "Login",
    "NotPlaced",
    "OrderLimits",
    "PartialReading",
    "Placing",
    "Refused",
    "SessionExpired",
    "Trade",
    "Unanswered",
    "Unread",
]
