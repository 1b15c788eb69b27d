"""Following the log live, in the exact total order, without a lock.

One XREAD waits on the class streams. Positions are gapless, so an event is held back until every earlier one was
seen. An append is atomic, and so is an XREAD that does not wait: what it does not show up to the highest position
seen, while COUNT cut no stream off, is not there.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from redis.asyncio import Redis

from domain.values import Priority
from eventstore.clients import BLOCK_MS, command, reader_client
from eventstore.envelope import Raw, Recorded, decode
from eventstore.errors import LogHole, LogLost, LogUnavailable
from eventstore.keys import CLASSES, Keys
from eventstore.reading import Archive, parse, read_pages
from eventstore.waiting import others_first

__all__ = ["follow"]

_BACK_OFF = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


async def follow(
    redis: "Redis", keys: Keys, epoch: str, after: int, *, page: int, archive: Archive | None
) -> AsyncGenerator[Recorded, None]:
    """The events after `after`, for ever. Raises LogHole, LogLost, CorruptEvent; a lost connection is made again."""
    seen = after
    failures = missing = 0
    while True:
        reader = reader_client(redis)
        try:
            await _verify(reader, keys, epoch, seen)
            async for events in read_pages(reader, keys, seen, None, page=page, archive=archive):
                for recorded in events:
                    seen = recorded.position
                    yield recorded
                failures = 0
            async for raw in _live(reader, keys, epoch, seen, page):
                seen = raw.position
                failures = 0
                yield decode(raw)
        except LogHole as hole:
            # Trimmed meanwhile: the archive may have it, and reading from the start asks it. Once.
            if archive is None or hole.position == missing:
                raise
            missing = hole.position
        except LogUnavailable:
            await asyncio.sleep(_BACK_OFF[min(failures, len(_BACK_OFF) - 1)])
            failures += 1
        finally:
            await reader.aclose()


async def _live(reader: "Redis", keys: Keys, epoch: str, after: int, page: int) -> AsyncIterator[Raw]:
    """The entries after `after` as they come, in order. Raises LogHole when one is missing."""
    cursor = dict.fromkeys(CLASSES, after)
    held: dict[int, Raw] = {}
    seen = after
    behind = False
    while True:
        # While something is missing the streams are asked all at once; a wait may answer for one stream only.
        complete = bool(held)
        reply = await _xread(reader, keys, cursor, page, wait=not held and not behind)
        await others_first()  # a worker of this process may have had its answer in the same moment
        for name, entries in reply:
            stream = keys.class_of(name)
            for entry in entries:
                raw = parse(entry, stream)
                held[raw.position] = raw
                cursor[stream] = raw.position
            complete = complete and len(entries) < page
        while (next_raw := held.pop(seen + 1, None)) is not None:
            seen += 1
            yield next_raw
        if held and complete:
            raise LogHole(seen + 1)
        if reply or held:
            behind = False
        elif behind:
            raise LogHole(seen + 1)  # what came was trimmed before it was seen here
        else:
            behind = await _verify(reader, keys, epoch, seen) > seen


async def _xread(reader: "Redis", keys: Keys, cursor: dict[Priority, int], page: int, *, wait: bool) -> list[Any]:
    names = [keys.streams[each] for each in cursor]
    after = [f"{position}-0" for position in cursor.values()]
    block: tuple[str | int, ...] = ("BLOCK", BLOCK_MS) if wait else ()
    reply: list[Any] | None = await command(reader, "XREAD", "COUNT", page, *block, "STREAMS", *names, *after)
    return reply or []


async def _verify(reader: "Redis", keys: Keys, epoch: str, seen: int) -> int:
    """It is still the log that we know, and not shorter than what we saw of it. Its last position. Raises LogLost."""
    now = await command(reader, "GET", keys.epoch)
    position = await command(reader, "HGET", keys.position, "position")
    if now is None or now.decode() != epoch:
        raise LogLost(f"the epoch was {epoch} and is {now.decode() if now else 'gone'}")
    if position is None or int(position) < seen:
        raise LogLost(f"the log ended at {seen} or later and now ends at {position and int(position)}")
    return int(position)
