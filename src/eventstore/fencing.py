"""Making room for a new epoch: the fence goes up first, then everything that followed from the log is taken down."""

from collections.abc import AsyncIterator

from redis.asyncio import Redis

from domain.values import Instant
from eventstore.clients import command, commands
from eventstore.epochs import Epoch
from eventstore.keys import CLASSES, Keys
from eventstore.open import create_groups

__all__ = ["begin", "clear", "fence"]


async def fence(redis: "Redis", keys: Keys, token: str) -> None:
    """From now on only who knows `token` appends. Raises LogUnavailable."""
    await command(redis, "SET", keys.epoch, token)


async def clear(redis: "Redis", keys: Keys, position: int, recorded_at: Instant, *, keep_as: str | None) -> None:
    """An empty log that ends at `position`, with its groups; nothing of what was there stays.

    With `keep_as`, the name of an epoch, its streams are set aside under it: they may hold what nobody else does.
    """
    for each in CLASSES:
        if keep_as is not None and await command(redis, "EXISTS", keys.streams[each]):
            await command(redis, "RENAME", keys.streams[each], keys.lost(keep_as, each))
        await command(redis, "UNLINK", keys.streams[each])
    await command(redis, "UNLINK", keys.timers, keys.position, keys.epochs, keys.log_id, keys.archived, keys.sealed)
    for pattern in keys.patterns:
        async for names in _scan(redis, pattern):
            await command(redis, "UNLINK", *names)
    await command(redis, "HSET", keys.position, "position", position, "recorded_at", recorded_at)
    await create_groups(redis, keys, position)


async def begin(redis: "Redis", keys: Keys, lineage: tuple[Epoch, ...], encoded: list[bytes]) -> None:
    """The last epoch of the lineage is the log's from now on. Raises LogUnavailable; repeat it then."""
    newest = lineage[-1]
    calls: list[tuple[str | bytes | int, ...]] = [
        ("UNLINK", keys.epochs),
        ("RPUSH", keys.epochs, *encoded),
        ("SET", keys.log_id, newest.log_id),
        ("SET", keys.epoch, newest.epoch),
    ]
    for answer in await commands(redis, calls):
        if isinstance(answer, Exception):
            raise answer


async def _scan(redis: "Redis", pattern: str) -> AsyncIterator[list[bytes]]:
    cursor = b"0"
    while True:
        cursor, found = await command(redis, "SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
        if found:
            yield found
        if cursor == b"0":
            return
