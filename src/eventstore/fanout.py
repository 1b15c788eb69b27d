"""One follower of the log for a whole process, its events handed to every subscriber in the same order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from eventstore.envelope import Recorded
from eventstore.errors import CorruptEvent
from eventstore.log import EventLog

__all__ = ["Fanout"]

Corrupt = Callable[[CorruptEvent], None]


class Fanout:
    """Subscribe first, then `run`: every subscriber sees every readable event after `after`.

    An entry that cannot be read is reported to `corrupt` and passed over: the workers park it. A subscriber that falls
    behind holds up nobody; what it has not taken waits in memory.
    """

    def __init__(self, log: EventLog, after: int, corrupt: Corrupt = lambda _: None) -> None:
        self._log = log
        self._position = after
        self._corrupt = corrupt
        self._queues: list[asyncio.Queue[Recorded]] = []

    @property
    def position(self) -> int:
        """The last position handed out."""
        return self._position

    def subscribe(self) -> AsyncIterator[Recorded]:
        """The events from here on, for ever. Subscribe before `run`, or see only what comes later."""
        queue: asyncio.Queue[Recorded] = asyncio.Queue()
        self._queues.append(queue)
        return self._drain(queue)

    async def run(self) -> None:
        """Follows until cancelled. Raises LogLost, LogHole."""
        while True:
            try:
                async with aclosing(self._log.follow(self._position)) as events:
                    async for recorded in events:
                        self._position = recorded.position
                        self._log.seen = max(self._log.seen, recorded.position)
                        for queue in self._queues:
                            queue.put_nowait(recorded)
            except CorruptEvent as error:
                self._position = error.position
                self._corrupt(error)

    async def _drain(self, queue: asyncio.Queue[Recorded]) -> AsyncIterator[Recorded]:
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.remove(queue)
