"""The log's entries as their exact bytes, whatever state they are in: for archiving, replaying and proving it.

Unlike `EventLog.read` nothing is refused here. An entry that no append wrote keeps its place in the order, with its
fields as its envelope, which then cannot be decoded.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from operator import attrgetter
from typing import Any, Protocol, runtime_checkable

import msgspec
from redis.asyncio import Redis

from domain.values import Priority
from eventstore.clients import BLOCK_MS, command, commands, reader_client
from eventstore.envelope import Raw
from eventstore.errors import CorruptEvent, LogHole, LogLost
from eventstore.keys import CLASSES
from eventstore.log import EventLog
from eventstore.reading import parse

__all__ = ["PAGE", "EntryArchive", "check_log", "holes", "read_entries", "stream_entries", "wait_for_more"]

PAGE = 2000


@runtime_checkable
class EntryArchive(Protocol):
    """An archive that gives back the very bytes."""

    async def entries(self, after: int, until: int) -> list[Raw]:
        """Those of this range that it has, in order."""
        ...


async def check_log(log: EventLog, seen: int = 0) -> int:
    """The position of the last entry. Raises LogLost if this is not the log that it was, or is shorter than what was
    seen of it; LogUnavailable."""
    epoch, position = await commands(log.redis, [("GET", log.keys.epoch), ("HGET", log.keys.position, "position")])
    for answer in (epoch, position):
        if isinstance(answer, Exception):
            raise answer
    if epoch is None or epoch.decode() != log.epoch:
        raise LogLost(f"the epoch was {log.epoch} and is {epoch.decode() if epoch else 'gone'}")
    if position is None or int(position) < seen:
        raise LogLost(f"the log ended at {seen} or later and now ends at {position and int(position)}")
    log.seen = max(log.seen, int(position))
    return int(position)


async def stream_entries(log: EventLog, after: int, until: int) -> list[Raw]:
    """The entries of a range that the streams hold, in position order. Raises LogUnavailable."""
    bounds = (f"{after + 1}-0", f"{until}-0")
    replies = await commands(log.redis, [("XRANGE", log.keys.streams[each], *bounds) for each in CLASSES])
    found: list[Raw] = []
    for each, reply in zip(CLASSES, replies, strict=True):
        if isinstance(reply, Exception):
            raise reply
        try:
            found += [parse(entry, each) for entry in reply]
        except CorruptEvent:
            found += [raw for entry in reply if (raw := _any(entry, each)) is not None]
    found.sort(key=_position)
    once = {raw.position: raw for raw in reversed(found)}
    if len(once) < len(found):  # a second entry of a number is none of ours: the more urgent stream's stays
        return [*once.values()][::-1]
    return found


_position = attrgetter("position")


def _any(entry: Any, stream: Priority) -> Raw | None:
    """The entry, even if no append wrote it; None if its id is no position."""
    try:
        return parse(entry, stream)
    except CorruptEvent as error:
        entry_id, fields = entry
        return Raw(error.position, stream, 0, 0, msgspec.msgpack.encode(fields)) if entry_id[-2:] == b"-0" else None


async def read_entries(
    log: EventLog,
    after: int = 0,
    until: int | None = None,
    *,
    page: int = PAGE,
    on_hole: Callable[[int], None] | None = None,
) -> AsyncGenerator[list[Raw], None]:
    """Pages of entries after `after`, up to `until` or the present end, from the streams and the archive, seamlessly.

    What neither holds is told to `on_hole`, else LogHole is raised. The next page is fetched while one is worked on.
    Raises LogUnavailable, LogLost.
    """
    last = await check_log(log)
    until = last if until is None else min(until, last)
    trimmed = await _trimmed(log, last) if after < until else 0
    ahead: asyncio.Task[list[Raw]] | None = None
    try:
        while after < until:
            upto = min(after + page, until)
            entries = await (ahead or _both(log, after, upto, trimmed))
            ahead = None
            if upto < until:
                ahead = asyncio.create_task(_both(log, upto, min(upto + page, until), trimmed))
            for position in holes(entries, after, upto):
                if on_hole is None:
                    raise LogHole(position)
                on_hole(position)
            if entries:
                yield entries
            after = upto
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


def holes(entries: Sequence[Raw], after: int, until: int) -> list[int]:
    """The positions after + 1 … until that are not among these."""
    if len(entries) == until - after:
        return []
    held = {raw.position for raw in entries}
    return [position for position in range(after + 1, until + 1) if position not in held]


async def _trimmed(log: EventLog, last: int) -> int:
    """Up to where no stream holds anything any more: only the archive need be asked. Raises LogUnavailable."""
    oldest = last + 1
    for reply in await commands(log.redis, [("XRANGE", log.keys.streams[e], "-", "+", "COUNT", 1) for e in CLASSES]):
        if isinstance(reply, Exception):
            raise reply
        if reply:
            oldest = min(oldest, int(reply[0][0].partition(b"-")[0]))
    return oldest - 1


async def _both(log: EventLog, after: int, until: int, trimmed: int) -> list[Raw]:
    """What the streams hold of a range, and what only the archive does."""
    archive: object = log.archive
    entries = await stream_entries(log, after, until) if until > trimmed else []
    if len(entries) == until - after or not isinstance(archive, EntryArchive):
        return entries
    held = {raw.position for raw in entries}
    entries += [raw for raw in await archive.entries(after, until) if raw.position not in held]
    entries.sort(key=_position)
    return entries


async def wait_for_more(log: EventLog, after: int, reader: "Redis | None" = None) -> bool:
    """True once something comes after `after`, False after BLOCK_MS; may be cancelled. Raises LogUnavailable.

    `reader` saves connecting again and again; it is of no more use after a cancellation.
    """
    asking = reader or reader_client(log.redis)
    names = [log.keys.streams[each] for each in CLASSES]
    try:
        ids = [f"{after}-0"] * len(names)
        return bool(await command(asking, "XREAD", "COUNT", 1, "BLOCK", BLOCK_MS, "STREAMS", *names, *ids))
    finally:
        if asking is not reader:
            await asking.aclose()
