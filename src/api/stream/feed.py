"""What was archived just now, read once per process and handed to every stream that it is for.

A stream that keeps up takes it from memory. One that has fallen behind, or begins in the past, reads the archive by
index at its own pace, and meanwhile nothing is kept for it but a few of the newest.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

import structlog

from api.audit.ports import History, HistoryRow, Span, Where
from api.audit.search import search
from eventstore.archive import OUTAGES
from eventstore.archived import ArchiveWatch
from eventstore.errors import LogUnavailable

__all__ = ["Feed", "Listener"]

PAGE: Final = 256
"""Events read at a time."""
MOST_WAITING: Final = 256
"""Events kept for a stream that does not take them; with more it reads them from the archive when it does."""
BACK_OFF: Final = 0.5
"""Seconds until the archive is asked again after it gave no answer."""

_log = structlog.get_logger(__name__)


class Listener:
    """What one stream is to tell of one partition, from `after` on. `some` is set when there is something to take."""

    def __init__(self, feed: "Feed", history: History, where: Where, after: int, some: asyncio.Event) -> None:
        self.where = where
        self.after = after
        """Everything up to here was taken, or is not for this stream."""
        self._feed = feed
        self._history = history
        self._some = some
        self._waiting: deque[HistoryRow] = deque()
        self._overflowed = False
        self._reading_until = feed.head
        """Up to here the archive is read; what comes after it is kept in `_waiting`."""

    @property
    def user_id(self) -> int | None:
        return self.where.user_id

    def put(self, row: HistoryRow) -> None:
        """An event of this listener's user, or of anybody if it has none."""
        where = self.where
        if row.raw.position <= self.after:
            return
        if where.strategy_id not in (None, row.strategy_id) or (where.types and row.type not in where.types):
            return
        if len(self._waiting) >= MOST_WAITING:
            self.fall_behind()
        elif not self._overflowed:
            self._waiting.append(row)
        self._some.set()

    def fall_behind(self) -> None:
        """There may be something that is not kept: it is in the archive."""
        self._waiting.clear()
        self._overflowed = True
        self._some.set()

    async def take(self) -> list[HistoryRow]:
        """The next events, some of them; none when there are none just now. Raises what an archive that is away
        raises."""
        if self.after >= self._reading_until and self._overflowed:
            self._overflowed = False
            self._reading_until = self._feed.head
        if self.after < self._reading_until:
            span = Span(self._feed.partition, self.after, self._reading_until)
            rows, more = await search(self._history, [span], self.where, PAGE)
            self.after = self._reading_until if more is None else more[1]
            self._some.set()  # there may be more
            return rows
        rows = list(self._waiting)
        self._waiting.clear()
        self.after = max(self.after, self._feed.head)
        return rows


class Feed:
    """The newest of one partition's archive. It reads only while somebody listens. Close it with `aclose()`."""

    def __init__(self, partition: int, history: History, watch: ArchiveWatch) -> None:
        self.partition = partition
        self.head = 0
        """Everything up to here was handed on."""
        self._history = history
        self._watch = watch
        self._listeners: dict[int | None, set[Listener]] = {}
        self._late: set[Listener] = set()
        """Those that came while the archive was being read, perhaps not for them."""
        self._reading: asyncio.Task[None] | None = None

    async def listen(self, where: Where, after: int | None, some: asyncio.Event) -> Listener:
        """From `after` on, or from the archive's end."""
        if self._reading is None:
            end = (await self._history.ends())[self.partition].position
            if self._reading is None:
                self.head = end
                self._reading = asyncio.create_task(self._read(), name=f"feed {self.partition}")
        listener = Listener(self, self._history, where, self.head if after is None else after, some)
        self._listeners.setdefault(where.user_id, set()).add(listener)
        self._late.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        theirs = self._listeners.get(listener.user_id, set())
        theirs.discard(listener)
        self._late.discard(listener)
        if not theirs:
            self._listeners.pop(listener.user_id, None)
        if not self._listeners and self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def aclose(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({self._reading})
            self._reading = None

    async def _read(self) -> None:
        while True:
            try:
                while self._watch.position <= self.head:
                    await self._watch.moved()
                until = self._watch.position
                self._late.clear()
                users = tuple(each for each in self._listeners if each is not None)
                where = Where() if None in self._listeners else Where(users=users)
                rows = await self._history.events(self.partition, self.head, until, where, PAGE)
                self._hand_on(rows, rows[-1].raw.position if len(rows) == PAGE else until)
            except (LogUnavailable, *OUTAGES) as error:
                _log.warning("stream_waits", partition=self.partition, why=str(error).splitlines()[0])
                await asyncio.sleep(BACK_OFF)

    def _hand_on(self, rows: list[HistoryRow], until: int) -> None:
        """All of it in one go: whoever looks at `head` finds everything up to it handed on."""
        everybody = self._listeners.get(None, ())
        for row in rows:
            for listener in (*everybody, *(self._listeners.get(row.user_id, ()) if row.user_id is not None else ())):
                if listener not in self._late:
                    listener.put(row)
        self.head = until
        for listener in self._late:
            listener.fall_behind()
