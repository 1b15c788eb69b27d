"""How far the archive reaches, told to all processes: a key in Redis, and a message whenever it moves.

What is in Redis and in the archive outlives the loss of either: so the answers to users wait for it.
"""

from eventstore.clients import commands
from eventstore.log import EventLog

__all__ = ["announce"]


async def announce(log: EventLog, position: int) -> None:
    """The archive reaches to `position` now. Raises LogUnavailable: perhaps nobody heard it; the next one will do."""
    name = log.keys.archived
    for answer in await commands(log.redis, [("SET", name, position), ("PUBLISH", name, position)]):
        if isinstance(answer, Exception):
            raise answer
