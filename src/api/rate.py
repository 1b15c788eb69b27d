"""Rate limits of the doors that anybody may knock at, counted in Redis by a sliding window."""

import hashlib
import time

from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from msgspec import Struct
from redis.asyncio import Redis
from starlette.requests import Request

from api.problems import Problem

__all__ = ["AuthLimits", "RateLimits", "peer"]


class AuthLimits(Struct, frozen=True, kw_only=True):
    """How often: per address of the caller, and for one account, whoever asks. Written as `limits` reads them."""

    per_address: str = "60/minute"
    logins_per_email: str = "10/5 minutes"
    postbacks_per_address: str = "6000/minute"
    """Kite sends those of all users from few addresses: room for ten orders a second of ten users."""


class RateLimits:
    """Raises 429 with Retry-After once a limit is used up. Knocking while it is used up does not prolong it."""

    def __init__(self, redis: "Redis", limits: AuthLimits) -> None:
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix="http-limit",
            connection_pool=redis.connection_pool,  # type: ignore[arg-type]  # handed through to redis-py
        )
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._per_address = parse(limits.per_address)
        self._logins_per_email = parse(limits.logins_per_email)
        self._postbacks = parse(limits.postbacks_per_address)

    async def knock(self, address: str) -> None:
        """Somebody at this network address asks to be let in."""
        await self._take(self._per_address, "address", address)

    async def login(self, email: str) -> None:
        """Somebody tries a password for this account. Its e-mail address is not written into Redis."""
        await self._take(self._logins_per_email, "email", hashlib.sha256(email.encode()).hexdigest())

    async def postback(self, address: str) -> None:
        """Somebody at this network address says that an order changed."""
        await self._take(self._postbacks, "postback", address)

    async def _take(self, item: RateLimitItem, *names: str) -> None:
        if await self._limiter.hit(item, *names):
            return
        reset = (await self._limiter.get_window_stats(item, *names)).reset_time
        wait = max(1, int(reset - time.time()) + 1)
        raise Problem(429, "RATE_LIMITED", f"try again in {wait} s", headers={"Retry-After": str(wait)})


def peer(request: Request) -> str:
    """Who knocks. Behind a proxy the server puts the caller's address there, from proxies that it was told to trust."""
    return request.client.host if request.client else "local"
