"""What is sent and what is answered: one Struct each. The OpenAPI document is made from these.

Requests refuse unknown fields and convert nothing (`api.bodies`). Answers hold what the caller may see, and no more.
"""

import datetime as dt
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from api.bodies import ClockTime, Exact
from api.egress import PROXY
from api.security.passwords import MAX_LENGTH, MIN_LENGTH
from domain.values import Holding, Product, Status

# --- fields ----------------------------------------------------------------------------------------------------------

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

Email = Annotated[
    str,
    Meta(description="an e-mail address", max_length=254, pattern=rf"^{_ATOM}(\.{_ATOM})*@{_LABEL}(\.{_LABEL})+$"),
]
Password = Annotated[str, Meta(description="a password", min_length=MIN_LENGTH, max_length=MAX_LENGTH)]
GivenPassword = Annotated[str, Meta(description="the password", min_length=1, max_length=MAX_LENGTH)]
RefreshToken = Annotated[str, Meta(description="a refresh token", min_length=20, max_length=200)]
StrategyId = Annotated[int, Meta(description="a strategy's id", ge=1, le=9_007_199_254_740_991)]
Symbol = Annotated[
    str,
    Meta(
        description="EXCHANGE:TRADINGSYMBOL in capitals; without the exchange, NSE",
        max_length=64,
        pattern=r"^([A-Z]{2,8}:)?[A-Z0-9][A-Z0-9&_.-]*( [A-Z0-9&_.-]+)*$",
        examples=["NSE:INFY"],
    ),
]
Shares = Annotated[int, Meta(description="shares", ge=1, le=10_000_000)]
Secret = Annotated[str, Meta(description="a secret of the broker's", min_length=1, max_length=512)]
Reason = Annotated[str, Meta(description="why, for the audit trail", min_length=1, max_length=200)]
Proxy = Annotated[
    str,
    Meta(
        description="http(s)://[USER:PASSWORD@]HOST:PORT through which the broker is reached",
        max_length=600,
        pattern=PROXY,
    ),
]


class BrokerName(StrEnum):
    KITE = "kite"
    PAPER = "paper"


class Request(Struct, forbid_unknown_fields=True):
    """The base of what is sent."""


class Answer(Struct):
    """The base of what is answered."""


class Notice(Struct):
    """The base of what a broker tells us by itself: it may hold more than we know."""


# --- auth ------------------------------------------------------------------------------------------------------------


class Register(Request):
    email: Email
    password: Password


class Login(Request):
    email: Email
    password: GivenPassword


class Refresh(Request):
    refresh_token: RefreshToken


class Logout(Request):
    refresh_token: RefreshToken


class Tokens(Answer):
    """`access_token` goes into the Authorization header; `refresh_token` is good for one exchange."""

    user_id: int
    access_token: str
    refresh_token: str
    token_type: str
    expires_in: Annotated[int, Meta(description="seconds that the access token lives")]


# --- broker ----------------------------------------------------------------------------------------------------------


class ConnectBroker(Request):
    """Credentials are checked with the broker, stored sealed, and never shown again.

    What was given before may be left out when a Kite account connects again: then a token is enough. `egress_proxy`
    null: from this installation's own address.
    """

    broker: BrokerName
    api_key: Secret | UnsetType = UNSET
    api_secret: Secret | UnsetType = UNSET
    access_token: Secret | UnsetType = UNSET
    request_token: Secret | UnsetType = UNSET
    egress_proxy: Proxy | UnsetType | None = UNSET


class BrokerState(Answer):
    broker: str
    status: Annotated[str, Meta(description="`connected`, or `expired`: log in at the broker again")]
    broker_user_id: str | None
    fingerprint: Annotated[str, Meta(description="tells API keys apart and reveals none")]
    connected_at: dt.datetime | None
    expires_at: Annotated[dt.datetime | None, Meta(description="when the session ends by itself")]
    egress_proxy: Annotated[str | None, Meta(description="its user and password are not shown")]


class LoginUrl(Answer):
    login_url: Annotated[str, Meta(description="where the user logs in at the broker, in a browser")]


class KitePostback(Notice):
    """Kite's word that an order changed. Its checksum covers the order's id and time and nothing else, so nothing
    else of it is looked at, and the order book is asked what is true."""

    user_id: Annotated[str, Meta(description="the account at Kite", min_length=1, max_length=64)]
    order_id: Annotated[str, Meta(description="the order at Kite", pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    order_timestamp: Annotated[str, Meta(description="as Kite writes it", min_length=1, max_length=64)]
    checksum: Annotated[
        str, Meta(description="SHA-256 of order_id, order_timestamp and the API secret, in hex", max_length=128)
    ] = ""


# --- strategies ------------------------------------------------------------------------------------------------------


class CreateStrategy(Request):
    symbol: Symbol
    quantity: Shares
    buy_time: ClockTime
    sell_time: ClockTime
    stop_loss: Exact
    product: Product = Product.MIS
    market_protection: Exact = Decimal(-1)


class UpdateStrategy(Request):
    """The fields to change; those that are left out stay."""

    strategy_id: StrategyId
    quantity: Shares | UnsetType = UNSET
    buy_time: ClockTime | UnsetType = UNSET
    sell_time: ClockTime | UnsetType = UNSET
    stop_loss: Exact | UnsetType = UNSET
    product: Product | UnsetType = UNSET
    market_protection: Exact | UnsetType = UNSET


class StartStrategy(Request):
    strategy_id: StrategyId


class StopStrategy(Request):
    """`square_off` sells what is held; without it the shares stay."""

    strategy_id: StrategyId
    square_off: bool = False


class SettlePosition(Request):
    """So many of the strategy's shares were closed elsewhere."""

    strategy_id: StrategyId
    quantity: Shares


class StrategyCreated(Answer):
    strategy_id: int


class StrategyStatus(Answer):
    """A strategy as the log says it is, up to `position_in_log`. It is `starting` as soon as its start is asked for."""

    strategy_id: int
    status: Status
    position: Holding
    last_action: str
    last_price: Decimal | None
    symbol: str
    product: Product
    session_date: dt.date | None
    quantity: int
    filled_quantity: Annotated[int, Meta(description="bought in this run")]
    open_quantity: Annotated[int, Meta(description="held now")]
    stop_loss: Decimal
    buy_time: dt.time
    sell_time: dt.time
    buy_at: dt.datetime | None
    sell_at: dt.datetime | None
    lock_state: Annotated[str, Meta(description="the tag of the unresolved order, or `free`")]
    exit_reason: str | None
    run: int
    version: int
    updated_at: dt.datetime | None
    position_in_log: str


class ListedStrategy(Answer):
    strategy_id: int
    symbol: str
    quantity: int
    buy_time: dt.time
    sell_time: dt.time
    stop_loss: Decimal
    product: str
    market_protection: Decimal
    status: str
    position: str
    session_date: dt.date | None
    exit_reason: str | None
    realised: Decimal | None
    created_at: dt.datetime
    updated_at: dt.datetime


class StrategyPage(Answer):
    strategies: list[ListedStrategy]
    next_cursor: str | None


class ListedEvent(Answer):
    """An event as the log has it; `data` is the event's own content."""

    position: str
    version: int
    type: str
    recorded_at: dt.datetime
    event_id: str
    correlation_id: str
    causation_id: str
    data: dict[str, Any]


class EventPage(Answer):
    events: list[ListedEvent]
    next_cursor: str | None


class ListedOrder(Answer):
    tag: str
    run: int
    kind: str
    side: str
    symbol: str
    product: str
    quantity: int
    filled: int
    average_price: Decimal | None
    order_id: str | None
    status: str
    reason: str | None
    attempt: int
    cause: str
    intent_position: str
    outcome_position: str | None
    final_position: str | None
    requested_at: dt.datetime
    answered_at: dt.datetime | None
    finalized_at: dt.datetime | None


class OrderPage(Answer):
    orders: list[ListedOrder]
    next_cursor: str | None


# --- the kill switch -------------------------------------------------------------------------------------------------


class HaltTrading(Request):
    """No new entries, flat strategies stop; `square_off` also sells what is held."""

    square_off: bool = False
    reason: Reason = "USER"


class HaltState(Answer):
    halted: bool
    square_off: bool = False
    reason: str | None = None
    at: dt.datetime | None = None


# --- the system ------------------------------------------------------------------------------------------------------


class Health(Answer):
    status: str


class Readiness(Answer):
    ready: bool
    checks: Annotated[dict[str, str], Meta(description="`ok`, or what is the matter, by check")]
