"""Between a simulated process and everything outside it: each call waits at a gate until it is let through.

A call to Redis, to PostgreSQL or to the broker is a `Crossing`. It is parked when it begins; whoever conducts the
simulation lets one through at a time and then waits until nothing moves any more (`Traffic.rest`). So every order in
which the calls of all processes can follow each other can be brought about, and the same choices give the same history.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError

from eventstore.clients import Pool
from simulation.blocking import BlockingConnection
from simulation.clock import VirtualClock

__all__ = ["TRANSACTION", "WIRE", "Crossing", "GatedPool", "Traffic", "Verdict", "Wire", "track_tasks"]

WIRE: Final[ContextVar["Wire | None"]] = ContextVar("WIRE", default=None)
"""The wire of the process that the running task belongs to."""


TRANSACTION: Final = "postgres"
"""A crossing that stays open while its process makes others."""


class Verdict(StrEnum):
    """What becomes of a crossing."""

    PASS = "pass"  # noqa: S105
    LOSE = "call lost"
    """It is never made; the caller gets an error."""
    SWALLOW = "reply lost"
    """It is made; the caller gets an error."""
    FREEZE = "dies with the reply"
    """It is made, and the caller never hears of it: its process is about to die."""


class Crossing:
    """One call out of a process, from its gate to its answer."""

    __slots__ = ("gate", "number", "task", "verdict", "what", "wire")

    def __init__(self, wire: "Wire", what: str, number: int, task: "asyncio.Task[Any]") -> None:
        self.wire = wire
        self.what = what
        self.number = number
        self.task = task
        self.verdict = Verdict.PASS
        self.gate: asyncio.Future[None] = task.get_loop().create_future()

    def __repr__(self) -> str:
        return f"{self.wire.name}: {self.what} #{self.number}"


class Traffic:
    """All crossings of a simulation: those `parked` at their gates, in the order of arrival, and those on their way."""

    def __init__(self, clock: VirtualClock) -> None:
        self.parked: list[Crossing] = []
        self.count = 0
        self._flying: list[Crossing] = []
        self._moved = asyncio.Event()
        self._clock = clock

    async def rest(self) -> None:
        """Returns when nothing moves: every task waits at a gate, for the clock, or for another task."""
        ready: Any = vars(asyncio.get_running_loop())["_ready"]  # asyncio tells nobody whether it has anything to do
        while True:
            if ready:
                await asyncio.sleep(0)
            elif self._is_flying():
                self._moved.clear()
                await self._moved.wait()
            else:
                return

    def release(self, crossing: Crossing, verdict: Verdict = Verdict.PASS) -> None:
        """Lets it through. Wait for `rest` afterwards."""
        self.parked.remove(crossing)
        crossing.verdict = verdict
        if verdict is not Verdict.LOSE:
            self._flying.append(crossing)
        crossing.gate.set_result(None)

    async def park(self, crossing: Crossing) -> None:
        self.count += 1
        self.parked.append(crossing)
        self._moved.set()
        try:
            await crossing.gate
        except asyncio.CancelledError:
            if crossing in self.parked:
                self.parked.remove(crossing)
            self.land(crossing)
            raise

    def land(self, crossing: Crossing) -> None:
        if crossing in self._flying:
            self._flying.remove(crossing)
        self._moved.set()

    def _is_flying(self) -> bool:
        """Whether an answer is on its way. Not so for a transaction that is open while its process waits elsewhere."""
        if not self._flying:
            return False
        parked = {each.task for each in self.parked}
        waiting = {each.wire for each in self.parked if each.task is not each.wire.aside}
        return any(not self._waits(each, parked, waiting) for each in self._flying)

    def _waits(self, crossing: Crossing, parked: "set[asyncio.Task[Any]]", waiting: "set[Wire]") -> bool:
        task = crossing.task
        if task.done() or task in parked or self._clock.asleep(task):
            return True
        if crossing.what != TRANSACTION:
            return False
        wire = crossing.wire
        return (
            wire.is_frozen
            or wire in waiting
            or any(self._clock.asleep(each) for each in wire.tasks if each is not wire.aside)
        )


class Wire:
    """The way out of one process. `number` counts its crossings from 1."""

    def __init__(self, name: str, traffic: Traffic) -> None:
        self.name = name
        self.number = 0
        self.is_cut = False
        self.is_frozen = False
        """It is about to be cut, and waits for nothing any more."""
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """What runs in the process."""
        self.aside: asyncio.Task[Any] | None = None
        """What runs beside its work: that it waits does not mean that the work does."""
        self._traffic = traffic

    async def enter(self, what: str) -> Crossing:
        """Waits to be let through. When its verdict is LOSE the call must not be made, else `leave` it afterwards."""
        if self.is_cut:
            await _for_ever()  # the dead do nothing
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (coroutines run in tasks)
        self.number += 1
        crossing = Crossing(self, what, self.number, task)
        await self._traffic.park(crossing)
        return crossing

    async def leave(self, crossing: Crossing) -> None:
        """The answer has come. When the verdict is SWALLOW it must not be told."""
        self._traffic.land(crossing)
        if crossing.verdict is Verdict.FREEZE and not self.is_cut:  # else it is dead already, and lets go of everything
            self.is_frozen = True
            await _for_ever()

    def cut(self) -> None:
        """The process is no more: nothing that it does from now on is heard of."""
        self.is_cut = True
        for task in list(self.tasks):
            task.cancel()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What is started within belongs to this process."""
        token = WIRE.set(self)
        try:
            yield
        finally:
            WIRE.reset(token)


class GatedPool(Pool):
    """Connections to Redis of a simulated process: a command begins when it takes one and ends
    when it gives it back."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._wire = WIRE.get()
        self._crossings: dict[Any, Crossing] = {}

    def make_connection(self) -> BlockingConnection:
        return BlockingConnection(**self.connection_kwargs)

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        if self._wire is None:
            return await super().get_connection(command_name, *keys, **options)
        crossing = await self._wire.enter("redis")
        if crossing.verdict is Verdict.LOSE:
            raise RedisConnectionError("the call was lost")
        try:
            connection = await super().get_connection(command_name, *keys, **options)
        except BaseException:
            await self._wire.leave(crossing)
            raise
        self._crossings[connection] = crossing
        return connection

    async def release(self, connection: Any) -> None:
        await super().release(connection)
        crossing = self._crossings.pop(connection, None)
        if self._wire is not None and crossing is not None:
            await self._wire.leave(crossing)
            if crossing.verdict is Verdict.SWALLOW:
                raise RedisConnectionError("the reply was lost")


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def track_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """From now on every task is known to the process in which it was made."""

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        if (wire := WIRE.get()) is not None:
            wire.tasks[task] = None
            task.add_done_callback(lambda done: wire.tasks.pop(done, None))
        return task

    loop.set_task_factory(make)
