"""What the API needs from the outside, each as narrow as it is used. PostgreSQL's side is in `bahi.database`."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from typing import Protocol

from msgspec import Struct

from brokers.port import BrokerRefused, Login
from domain.events import Event
from domain.facts import Facts
from domain.strategy import State
from domain.values import Instant
from eventstore.envelope import Dedupe

__all__ = [
    "AccountTaken",
    "Accounts",
    "Answered",
    "ArchivedEvent",
    "BrokerAccount",
    "BrokerLogin",
    "BrokerRefused",
    "BusyKey",
    "Credentials",
    "Decide",
    "EgressShared",
    "EmailTaken",
    "Halt",
    "Halts",
    "Idempotency",
    "KiteTerms",
    "LoggedIn",
    "LoggedOut",
    "Login",
    "OrderRow",
    "OtherRequest",
    "Readings",
    "Reused",
    "Rotated",
    "Sessions",
    "Strategies",
    "StrategyRow",
    "Taken",
    "UnknownStrategy",
    "User",
    "Users",
]


# --- users and sessions ----------------------------------------------------------------------------------------------


class EmailTaken(Exception):
    """Somebody registered with this address before."""


class User(Struct, frozen=True):
    user_id: int
    email: str
    password_hash: str
    role: str


class Users(Protocol):
    def registering(self, email: str, password_hash: str, role: str = "trader") -> AbstractAsyncContextManager[int]:
        """A new user's id. The user exists once the block ends without an exception, and not at all otherwise.

        Entering raises `EmailTaken`.
        """
        ...

    async def by_email(self, email: str) -> User | None: ...

    async def rehashed(self, user_id: int, password_hash: str) -> None: ...


class Rotated(Struct, frozen=True):
    """The refresh token was good and is used up now."""

    user_id: int
    role: str
    family: str


class Reused(Struct, frozen=True):
    """The refresh token was used up before: one of two holders is a thief, so the whole family is revoked now."""

    user_id: int
    family: str


class LoggedIn(Struct, frozen=True):
    """Which login a call belongs to, as it is now, whatever the access token says."""

    user_id: int
    role: str
    family: str


class LoggedOut(Struct, frozen=True):
    """The refresh token is unknown, expired or revoked."""


class Sessions(Protocol):
    """Refresh tokens by their digest. A login is a family of them, of which one is good at a time."""

    async def open(self, user_id: int, family: str, token: bytes, lifetime: int) -> None:
        """`lifetime` in seconds."""
        ...

    async def rotate(self, token: bytes, successor: bytes, lifetime: int) -> Rotated | Reused | LoggedOut: ...

    async def close(self, token: bytes) -> None:
        """Revoke the family of the token; nothing happens for an unknown one."""
        ...

    async def find(self, user_id: int, family: str) -> LoggedIn | None:
        """None when the login has ended or the user is gone."""
        ...


# --- broker accounts -------------------------------------------------------------------------------------------------

Credentials = Mapping[str, str]
"""Names and secret values, as a broker wants them. Never logged, never answered, stored sealed."""


class BrokerAccount(Struct, frozen=True):
    """An account without its secrets; the credentials of its proxy are masked."""

    broker: str
    status: str
    broker_user_id: str | None
    fingerprint: str
    connected_at: dt.datetime | None
    expires_at: dt.datetime | None
    egress_proxy: str | None


class AccountTaken(Exception):
    """Another user has connected this account of the broker's."""


class EgressShared(Exception):
    """Another user's account at this broker has the same egress."""


class Accounts(Protocol):
    async def connect(
        self,
        user_id: int,
        *,
        broker: str,
        broker_user_id: str,
        credentials: Credentials,
        fingerprint: str,
        egress_proxy: str | None,
        expires_at: Instant | None = None,
        own_egress: bool = False,
    ) -> None:
        """Store the account in place of the one before, its credentials and its proxy sealed.

        Raises AccountTaken and, when it must have an egress of its own, EgressShared; nothing is stored then.
        """
        ...

    async def get(self, user_id: int) -> BrokerAccount | None: ...

    async def kept(self, user_id: int, broker: str) -> Credentials | None:
        """What the user's account at this broker was connected with, `egress_proxy` among it, whatever became of the
        session. None when there is no such account."""
        ...

    async def shares_egress(self, user_id: int, broker: str, egress_proxy: str | None) -> bool:
        """Whether another user's account at this broker leaves from there."""
        ...

    async def find(self, broker: str, broker_user_id: str) -> tuple[int, Credentials] | None:
        """Whose account it is, and what it was connected with. For an unknown one it takes as long."""
        ...

    async def disconnect(self, user_id: int) -> bool:
        """Forget the account and its credentials. False when there was none."""
        ...


class BrokerLogin(Protocol):
    async def authenticate(self, user_id: int, credentials: Credentials, egress_proxy: str | None = None) -> Login:
        """Check the credentials with the broker, through the proxy if there is one.

        Raises BrokerRefused, and BrokerUnavailable when nothing is known for want of an answer.
        """
        ...


class KiteTerms(Struct, frozen=True, kw_only=True):
    """On which terms this installation takes Kite accounts."""

    login_page: str = "https://kite.zerodha.com/connect/login"
    family: bool = False
    """All accounts are one family's, so they may share an egress."""
    real_prices: bool = False
    """Stops follow Kite's own prices. Without that no Kite account is taken: they would follow somebody else's."""


# --- the kill switch -------------------------------------------------------------------------------------------------


class Halt(Struct, frozen=True):
    square_off: bool
    reason: str
    at: dt.datetime


class Halts(Protocol):
    async def set(self, user_id: int, *, square_off: bool, reason: str) -> Halt: ...

    async def lift(self, user_id: int) -> bool:
        """False when there was none."""
        ...

    async def get(self, user_id: int) -> Halt | None: ...


# --- idempotency -----------------------------------------------------------------------------------------------------


class Taken(Struct, frozen=True):
    """The key is ours now: carry the request out. `again`: somebody began before us and did not come to answer;
    `reserved_id` is the id that was set aside then."""

    again: bool = False
    reserved_id: int | None = None


class Answered(Struct, frozen=True):
    """The request was carried out before; this was the answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class OtherRequest(Struct, frozen=True):
    """The key was used for another request."""


class BusyKey(Struct, frozen=True):
    """The same request is being carried out just now."""


class Idempotency(Protocol):
    async def take(self, user_id: int, key: str, digest: bytes) -> Taken | Answered | OtherRequest | BusyKey: ...

    async def reserve(self, user_id: int, key: str, reserved_id: int) -> None:
        """Remember an id for whoever carries the request out next, should we not come to answer."""
        ...

    async def answered(self, user_id: int, key: str, answer: Answered) -> None: ...

    async def give_up(self, user_id: int, key: str) -> None:
        """The request failed without an answer worth keeping: the next attempt may carry it out."""
        ...


# --- readings --------------------------------------------------------------------------------------------------------


class StrategyRow(Struct, frozen=True, kw_only=True):
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


class OrderRow(Struct, frozen=True, kw_only=True):
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
    intent_position: int
    outcome_position: int | None
    final_position: int | None
    requested_at: dt.datetime
    answered_at: dt.datetime | None
    finalized_at: dt.datetime | None


class ArchivedEvent(Struct, frozen=True):
    partition: int
    position: int
    stream: str
    version: int
    recorded_at: Instant
    type: str
    envelope: bytes


class Readings(Protocol):
    """Pages of one user's things. Every reading names the user, so no row of another can come out."""

    async def next_strategy_id(self) -> int: ...

    async def strategies(self, user_id: int, *, before: int | None, limit: int) -> Sequence[StrategyRow]:
        """The newest first, with ids below `before`."""
        ...

    async def orders(self, user_id: int, strategy_id: int, *, after: int, limit: int) -> Sequence[OrderRow]:
        """In the order of their intents, whose positions are above `after`."""
        ...

    async def events(self, user_id: int, strategy_id: int, *, after: int, limit: int) -> Sequence[ArchivedEvent]:
        """In the log's order, positions above `after`."""
        ...


# --- strategies ------------------------------------------------------------------------------------------------------

Decide = Callable[[State, Facts], Sequence[Event]]
"""The events of a request on a strategy's state; what it raises refuses the request."""


class UnknownStrategy(LookupError):
    """There is no strategy of this id in the user's partition."""


class Strategies(Protocol):
    """Strategies as the log has them at this moment, in the partition of a user; whose they are, the state says."""

    async def look(self, strategy_id: int, user_id: int) -> State:
        """Raises UnknownStrategy, LogUnavailable."""
        ...

    async def turn(
        self, strategy_id: int, user_id: int, decide: Decide, *, correlation_id: str, dedupe: Dedupe | None = None
    ) -> None:
        """Load, decide, append the events; on a conflict, again.

        Raises UnknownStrategy, LogUnavailable, and whatever `decide` raises.
        """
        ...
