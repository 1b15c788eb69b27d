"""Making room for a new epoch: the fence goes up first, then everything that followed from the log is taken down."""

from collections.abc import AsyncIterator
from typing import Final

from redis.asyncio import Redis

from domain.values import Instant
from eventstore.clients import command
from eventstore.epochs import Epoch
from eventstore.errors import LogLost
from eventstore.keys import CLASSES, Keys
from eventstore.open import create_groups
from eventstore.script import Script

__all__ = ["KEPT", "begin", "clear", "fence"]

KEPT: Final = 30 * 24 * 3600
"""Seconds for which streams that were set aside stay: for somebody to look at them, and not for ever."""

_begin = Script("begin")


async def fence(redis: "Redis", keys: Keys, token: str) -> None:
    """From now on only who knows `token` appends. Raises LogUnavailable."""
    await command(redis, "SET", keys.epoch, token)


async def clear(redis: "Redis", keys: Keys, position: int, recorded_at: Instant, *, keep_as: str | None) -> None:
    """An empty log that ends at `position`, with its groups; nothing of what was there stays.

    With `keep_as`, the name of an epoch, its streams are set aside under it for `KEPT`: they may hold what nobody else
    does.
    """
    for each in CLASSES:
        if keep_as is not None and await command(redis, "EXISTS", keys.streams[each]):
            await command(redis, "EXPIRE", keys.streams[each], KEPT)
            await command(redis, "RENAME", keys.streams[each], keys.lost(keep_as, each))
        await command(redis, "UNLINK", keys.streams[each])
    await command(redis, "UNLINK", keys.timers, keys.position, keys.epochs, keys.log_id, keys.archived, keys.sealed)
    for pattern in keys.patterns:
        async for names in _scan(redis, pattern):
            await command(redis, "UNLINK", *names)
    await command(redis, "HSET", keys.position, "position", position, "recorded_at", recorded_at)
    await create_groups(redis, keys, position)


async def begin(redis: "Redis", keys: Keys, token: str, lineage: tuple[Epoch, ...], encoded: list[bytes]) -> None:
    """The last epoch of the lineage is the log's from now on, at once: half of a lineage would be taken for none.

    Raises LogLost when the fence is another one's by now, and LogUnavailable: then perhaps it has begun.
    """
    newest = lineage[-1]
    names = [keys.epoch, keys.epochs, keys.log_id, keys.members, keys.doubted]
    answer = await _begin(redis, names, token, newest.epoch, newest.log_id, *encoded)
    if answer[0] != b"Begun":
        raise LogLost("another process has begun to restore the log meanwhile")


async def _scan(redis: "Redis", pattern: str) -> AsyncIterator[list[bytes]]:
    cursor = b"0"
    while True:
        cursor, found = await command(redis, "SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
        if found:
            yield found
        if cursor == b"0":
            return
