"""How many messages a process handles at once, with a share that only critical ones may take."""

import asyncio
from collections import Counter

from domain.values import Priority
from eventstore.keys import CLASSES

__all__ = ["Slots"]


class Slots:
    """`concurrency` slots, of which all classes but critical together never take more than those not reserved.

    When one gets free, the most urgent class that waits gets it. One waiter per class.
    """

    def __init__(self, concurrency: int, reserved_critical: int) -> None:
        if not 0 <= reserved_critical < concurrency:
            raise ValueError(f"{reserved_critical} of {concurrency} slots reserved: some must be left for the others")
        self._concurrency = concurrency
        self._shared = concurrency - reserved_critical
        self._taken: Counter[Priority] = Counter()
        self._waiting: dict[Priority, asyncio.Future[None]] = {}

    def free(self, priority: Priority) -> int:
        """How many this class could take now."""
        taken = self._taken.total()
        room = self._concurrency - taken
        if priority is not Priority.CRITICAL:
            room = min(room, self._shared - (taken - self._taken[Priority.CRITICAL]))
        return max(room, 0)

    async def take(self, priority: Priority, at_most: int | None = None) -> int:
        """Take as many as are free, one at least: waits for it. 0 after `wake_all`."""
        while (room := self.free(priority)) == 0:
            self._waiting[priority] = waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            except WakeUp:
                return 0
            finally:
                self._waiting.pop(priority, None)
        number = room if at_most is None else min(room, at_most)
        self._taken[priority] += number
        return number

    def give(self, priority: Priority, number: int = 1) -> None:
        self._taken[priority] -= number
        for each in CLASSES:
            waiter = self._waiting.get(each)
            if waiter is not None and not waiter.done() and self.free(each):
                waiter.set_result(None)

    def wake_all(self) -> None:
        """Whoever waits gets nothing, at once."""
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(WakeUp())


class WakeUp(Exception):
    """The wait is over, without a slot."""
