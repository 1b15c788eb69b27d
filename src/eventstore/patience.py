"""The time by which the processes of a log wait for each other: the machine's, in a simulation its own."""

import asyncio
import time
from contextvars import ContextVar
from typing import Final, Protocol

__all__ = ["TIMER", "Timer"]


class Timer(Protocol):
    """Seconds that only go forward."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

    def uptime(self, told: float) -> float:
        """How long the server has run, which says itself that it is `told`."""
        ...


class _MachineTime:
    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def uptime(self, told: float) -> float:
        return told


_MACHINE: Final = _MachineTime()
TIMER: Final[ContextVar[Timer]] = ContextVar("TIMER", default=_MACHINE)
