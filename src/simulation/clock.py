"""A clock that moves only when it is told to, so that a test or a simulated day owns the time."""

import asyncio
import heapq
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from domain.values import Duration, Instant

__all__ = ["VirtualClock"]

_Sleeper = tuple[Instant, int, "asyncio.Future[None]"]

# Turns of the event loop given to the tasks that were just woken, before time moves on. A chain of tasks that hand over
# to each other needs one turn per link; work on other threads or sockets is not waited for.
TURNS = 25


class VirtualClock:
    """Time moves by `set` and `advance` only.

    Sleepers wake in the order of their instants, those of one instant in the order in which they fell asleep.
    """

    def __init__(self, start: Instant) -> None:
        self._now = start
        self._sleepers: list[_Sleeper] = []
        self._number = count()
        self._asleep: WeakKeyDictionary[asyncio.Task[object], asyncio.Future[None]] = WeakKeyDictionary()

    def now(self) -> Instant:
        return self._now

    async def sleep(self, duration: Duration) -> None:
        if duration <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + duration, next(self._number), woken))
        if (task := asyncio.current_task()) is not None:
            self._asleep[task] = woken
        await woken

    def asleep(self, task: "asyncio.Task[Any]") -> bool:
        """Whether the task waits for this clock: nothing but time can bring it on."""
        woken = self._asleep.get(task)
        return woken is not None and not woken.done()

    def next_at(self) -> Instant | None:
        """The instant at which the next sleeper wakes, None when nobody sleeps: where a simulation may jump to."""
        while self._sleepers and self._sleepers[0][2].done():  # its task was cancelled
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def set(self, at: Instant) -> None:
        """Moves to `at` in one step; whoever is due by then is woken, in order, and sees `at` when it runs.

        Raises ValueError for an instant that is past.
        """
        if at < self._now:
            raise ValueError(f"time does not run backwards: from {self._now} to {at}")
        self._now = at
        while (due := self.next_at()) is not None and due <= at:
            heapq.heappop(self._sleepers)[2].set_result(None)

    async def advance(self, duration: Duration) -> None:
        """Moves on by `duration`, stopping at every instant at which somebody wakes, so that each sees its own."""
        until = self._now + duration
        await self._turn()
        while (due := self.next_at()) is not None and due <= until:
            self.set(max(due, self._now))
            await self._turn()
        self.set(until)
        await self._turn()

    async def _turn(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
