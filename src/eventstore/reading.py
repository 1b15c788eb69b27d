"""Reading the log: the class streams merged into the one total order, and checked to be complete."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from redis.asyncio import Redis

from domain.values import Priority
from eventstore.clients import answers, command
from eventstore.envelope import Raw, Recorded, decode
from eventstore.errors import CorruptEvent, LogHole, LogLost
from eventstore.keys import CLASSES, Keys

__all__ = ["Archive", "last_position", "parse", "read_pages"]


class Archive(Protocol):
    """Where the events are that the streams hold no longer."""

    def read(self, after: int, until: int | None) -> AsyncIterator[Recorded]: ...

    async def last_position(self) -> int: ...


async def last_position(redis: "Redis", keys: Keys) -> int:
    """The position of the last event. Raises LogLost when the log is gone, LogUnavailable."""
    position = await command(redis, "HGET", keys.position, "position")
    if position is None:
        raise LogLost(f"the key {keys.position} is gone")
    return int(position)


def parse(entry: Sequence[Any], stream: Priority) -> Raw:
    """An entry of a reply. Raises CorruptEvent if no append wrote it."""
    entry_id, fields = entry
    try:
        if entry_id[-2:] != b"-0":
            raise ValueError("its id is not a position")
        _, version, _, recorded_at, _, envelope = fields
        return Raw(int(entry_id[:-2]), stream, int(version), int(recorded_at), envelope)
    except (ValueError, TypeError) as error:
        position = int(entry_id.partition(b"-")[0])
        raise CorruptEvent(position, stream, f"{entry_id!r}: {error}") from error


async def _raw_pages(redis: "Redis", keys: Keys, after: int, until: int, *, page: int) -> AsyncIterator[list[Raw]]:
    """Pages of entries in position order, of what the streams hold; nothing else is checked here."""
    if after >= until:
        return
    waiting: dict[Priority, list[Raw]] = {each: [] for each in CLASSES}
    unread = dict.fromkeys(CLASSES, after + 1)
    while True:
        behind = [each for each in unread if not waiting[each]]
        if behind:
            replies = await answers(
                redis,
                [("XRANGE", keys.streams[each], f"{unread[each]}-0", f"{until}-0", "COUNT", page) for each in behind],
            )
            for each, reply in zip(behind, replies, strict=True):
                waiting[each] = [parse(entry, each) for entry in reply]
                if len(reply) < page:
                    del unread[each]
                else:
                    unread[each] = waiting[each][-1].position + 1
        # What a stream has beyond its page is not known: go no further than the shortest page.
        bound = min((waiting[each][-1].position for each in unread), default=until)
        ready: list[Raw] = []
        for each, entries in waiting.items():
            cut = len(entries)
            while cut and entries[cut - 1].position > bound:
                cut -= 1
            ready += entries[:cut]
            waiting[each] = entries[cut:]
        if ready:
            ready.sort(key=_position)
            yield ready
        if not unread and not any(waiting.values()):
            return


def _position(raw: Raw) -> int:
    return raw.position


async def read_pages(
    redis: "Redis", keys: Keys, after: int, until: int | None, *, page: int, archive: Archive | None
) -> AsyncIterator[list[Recorded]]:
    """Pages of events in position order without a hole: from the streams, and from the archive what they lack.

    The end is noted first: an append is atomic, so every entry up to there can be seen.
    """
    last = await last_position(redis, keys)
    until = last if until is None else min(until, last)
    seen = after
    async for entries in _raw_pages(redis, keys, after, until, page=page):
        events: list[Recorded] = []
        for raw in entries:
            if raw.position != seen + 1:
                if events:
                    yield events
                    events = []
                async for older in _archived(archive, seen, raw.position - 1, page):
                    yield older
            events.append(decode(raw))
            seen = raw.position
        yield events
    if seen < until:
        async for older in _archived(archive, seen, until, page):
            yield older


async def _archived(archive: Archive | None, after: int, until: int, page: int) -> AsyncIterator[list[Recorded]]:
    """The archive's events of a range that the streams lack. Raises LogHole when it lacks one, too."""
    seen = after
    if archive is not None:
        events: list[Recorded] = []
        async for recorded in archive.read(after, until):
            if recorded.position != seen + 1:
                break
            seen = recorded.position
            events.append(recorded)
            if len(events) == page:
                yield events
                events = []
        if events:
            yield events
    if seen != until:
        raise LogHole(seen + 1)
