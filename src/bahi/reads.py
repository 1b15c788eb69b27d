"""Kite's limits on readings, per account and shared by all processes: counted in Redis, waited for, never exceeded."""

import time
from typing import Final, Literal

from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from brokers.port import BrokerUnavailable
from domain.clock import Clock
from domain.values import SECOND

__all__ = ["ReadLimits", "Reading"]

Reading = Literal["quote", "read"]

LIMITS: Final[dict[Reading, RateLimitItem]] = {"quote": parse("1/second"), "read": parse("10/second")}
"""Kite Connect docs: quotes 1 a second, everything else 10. Kite counts by the calendar's seconds, of its own clock; a
moving window holds for any clock."""
SHORTEST: Final = 0.01
"""Seconds; a window may end between the count and the look at when it ends."""


class ReadLimits:
    """Lets a reading pass when the account has room for it."""

    def __init__(self, redis: "Redis", clock: Clock) -> None:
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix="kite-limit",
            connection_pool=redis.connection_pool,  # type: ignore[arg-type]  # handed through to redis-py
        )
        self._limiter = MovingWindowRateLimiter(storage)
        self._clock = clock

    async def wait(self, account: str, reading: Reading) -> None:
        """Raises BrokerUnavailable when the count cannot be had: nothing is read uncounted."""
        item = LIMITS[reading]
        try:
            while not await self._limiter.hit(item, reading, account):
                ends = (await self._limiter.get_window_stats(item, reading, account)).reset_time
                await self._clock.sleep(int(max(SHORTEST, ends - time.time()) * SECOND))
        except RedisError as error:
            raise BrokerUnavailable(f"the readings of {account} cannot be counted: {error}") from error
