"""What `create_app` is given. The composition root makes one of these; a test makes another."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from api.acknowledged import Acknowledge
from api.audit.ports import Export, History, Stories, Verifier
from api.pages import Cursors
from api.ports import Accounts, BrokerLogin, Halts, Idempotency, KiteTerms, Readings, Sessions, Strategies, Users
from api.rate import AuthLimits, RateLimits
from api.security.keys import SecretKeys
from api.security.passwords import Passwords
from api.security.tokens import AccessTokens
from api.stream.streams import Streams
from brokers.port import Instruments
from domain.calendar import Calendar
from domain.clock import Clock
from domain.facts import Policy
from eventstore.log import EventLog

__all__ = ["Check", "Dependencies", "Deps", "Hint"]

Check = Callable[[], Awaitable[None]]
"""Returns when its part of the engine is ready, raises when it is not; the message is shown to anybody."""

Hint = Callable[[int, str], Awaitable[None]]
"""Tells whoever reads the user's order book that this order may have changed. Lossy: the book is read anyway."""


async def nobody_listens(user_id: int, order_id: str) -> None:
    """Without anybody who reads order books, a hint is for nobody."""


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """Everything the API works with. `logs` is by partition, `logins` by the broker's name."""

    users: Users
    sessions: Sessions
    accounts: Accounts
    halts: Halts
    idempotency: Idempotency
    readings: Readings
    history: History
    stories: Stories
    streams: Streams
    strategies: Strategies
    logs: Sequence[EventLog]
    redis: "Redis"
    keys: SecretKeys
    logins: Mapping[str, BrokerLogin]
    instruments: Instruments
    calendar: Calendar
    clock: Clock
    policy: Policy = field(default_factory=Policy)
    kite: KiteTerms = field(default_factory=KiteTerms)
    hint: Hint = nobody_listens
    verifier: Verifier | None = None
    export: Export | None = None
    acknowledge: Acknowledge | None = None
    """Holds answers until the archive has what they answer to; without one they are given at once."""
    checks: Mapping[str, Check] = field(default_factory=dict)
    auth_limits: AuthLimits = field(default_factory=AuthLimits)
    passwords: Passwords = field(default_factory=Passwords)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    rate_limits: RateLimits = field(init=False)
    tokens: AccessTokens = field(init=False)
    cursors: Cursors = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate_limits", RateLimits(self.redis, self.auth_limits))
        object.__setattr__(self, "tokens", AccessTokens(self.keys))
        object.__setattr__(self, "cursors", Cursors(self.keys))

    def log_of(self, user_id: int) -> EventLog:
        """The partition that everything of this user is in."""
        return self.logs[user_id % len(self.logs)]

    def public_position(self, user_id: int, position: int) -> str:
        """A position of the user's log, as the outside names it."""
        return self.position_in(user_id % len(self.logs), position)

    def position_in(self, partition: int, position: int) -> str:
        """`position`, and `partition-position` where there is more than one partition."""
        return str(position) if len(self.logs) == 1 else f"{partition}-{position}"


async def _dependencies(request: Request) -> Dependencies:
    found: Dependencies = request.app.state.dependencies
    return found


Deps = Annotated[Dependencies, Depends(_dependencies)]
