"""Time that a strategy waits for: the entries of `timers`, claimed by workers when they are due."""

from domain.values import SECOND, Instant
from eventstore.clients import command
from eventstore.log import EventLog
from eventstore.script import Script

__all__ = ["CLAIMED_FOR", "claim_due", "next_timer"]

CLAIMED_FOR = 2 * SECOND
"""How long a claimed entry is its claimer's. Whoever appends for the strategy sets or removes it anyway."""

_claim = Script("timers")


async def claim_due(log: EventLog, now: Instant, limit: int = 64) -> list[int]:
    """The strategies whose `wake_at` has come, the longest due first; nobody else gets them for CLAIMED_FOR.

    Instants are exact as scores: microseconds stay below 2^53 until the year 2255. Raises LogUnavailable.
    """
    due = await _claim(log.redis, [log.keys.timers], now, limit, now + CLAIMED_FOR)
    return [int(member) for member in due]


async def next_timer(log: EventLog) -> Instant | None:
    """When the first timer is due; None when nobody waits for time. Raises LogUnavailable."""
    first = await command(log.redis, "ZRANGE", log.keys.timers, 0, 0, "WITHSCORES")
    return int(float(first[1])) if first else None
