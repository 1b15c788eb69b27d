"""Following the log live, in the exact total order, without a lock.

One XREAD waits on the class streams. Positions are gapless, so an event is held back until every earlier one was
seen. An append is atomic, and so is an XREAD that does not wait: what it does not show up to the highest position
seen, while COUNT cut no stream off, is not there.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from redis.asyncio import Redis

from eventstore.clients import BLOCK_MS, answers, command, reader_client
from eventstore.envelope import Raw, Recorded, decode
from eventstore.errors import LogHole, LogLost, LogUnavailable
from eventstore.keys import CLASSES, Keys
from eventstore.reading import Archive, parse, read_pages
from eventstore.waiting import others_first

__all__ = ["Tail", "follow", "verify"]

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
            await verify(reader, keys, epoch, seen)
            async for events in read_pages(reader, keys, seen, None, page=page, archive=archive):
                for recorded in events:
                    seen = recorded.position
                    yield recorded
                failures = 0
            tail = Tail(reader, keys, epoch, seen, page)
            while True:
                for raw in await tail.look(wait=True):
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


class Tail:
    """The entries after a position as they come, in order and without a hole, one look at a time."""

    def __init__(self, reader: "Redis", keys: Keys, epoch: str, after: int, page: int) -> None:
        self.seen = after
        self._reader = reader
        self._keys = keys
        self._epoch = epoch
        self._page = page
        self._cursor = dict.fromkeys(CLASSES, after)
        self._held: dict[int, Raw] = {}
        self.behind = False
        """The log goes on after what it has shown: it was appended to in between, or trimmed before it was seen."""

    async def look(self, *, wait: bool) -> list[Raw]:
        """What has come; with `wait` after BLOCK_MS at most. Raises LogHole when one is missing, LogLost,
        LogUnavailable."""
        # While something is missing the streams are asked all at once; a wait may answer for one stream only.
        complete = bool(self._held)
        reply = await self._xread(wait=wait and not self._held and not self.behind)
        await others_first()  # a worker of this process may have had its answer in the same moment
        for name, entries in reply:
            stream = self._keys.class_of(name)
            for entry in entries:
                raw = parse(entry, stream)
                self._held[raw.position] = raw
                self._cursor[stream] = raw.position
            complete = complete and len(entries) < self._page
        found = []
        while (next_raw := self._held.pop(self.seen + 1, None)) is not None:
            self.seen += 1
            found.append(next_raw)
        if self._held and complete and not found:  # what came before the hole goes first
            raise LogHole(self.seen + 1)
        if reply or self._held:
            self.behind = False
        elif self.behind:
            raise LogHole(self.seen + 1)  # what came was trimmed before it was seen here
        else:
            self.behind = await verify(self._reader, self._keys, self._epoch, self.seen) > self.seen
        return found

    async def _xread(self, *, wait: bool) -> list[Any]:
        names = [self._keys.streams[each] for each in self._cursor]
        after = [f"{position}-0" for position in self._cursor.values()]
        block: tuple[str | int, ...] = ("BLOCK", BLOCK_MS) if wait else ()
        reply: list[Any] | None = await command(
            self._reader, "XREAD", "COUNT", self._page, *block, "STREAMS", *names, *after
        )
        return reply or []


async def verify(reader: "Redis", keys: Keys, epoch: str, seen: int) -> int:
    """It is still the log that we know, and not shorter than what we saw of it. Its last position. Raises LogLost,
    LogUnavailable."""
    now, position = await answers(reader, [("GET", keys.epoch), ("HGET", keys.position, "position")])
    if now is None or now.decode() != epoch:
        raise LogLost(f"the epoch was {epoch} and is {now.decode() if now else 'gone'}")
    if position is None or int(position) < seen:
        raise LogLost(f"the log ended at {seen} or later and now ends at {position and int(position)}")
    return int(position)
