"""A life that hangs is broken off: what waits for ever, and what never waits."""

import asyncio
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from simulation.stage import Stage
from simulation.world import World

__all__ = ["HANGS", "live_within"]

HANGS: Final = 120.0
"""Seconds after which a life hangs; it takes seconds at most."""


def live_within(stage: Stage, world: World, seconds: float) -> None:
    """Lives it. When it takes so many seconds of real time, or of the processor's, that is in what was `found`, and the
    next life can begin. To be called in the main thread, which is where signals arrive."""
    with suppress(_Hangs), _broken_off(world, seconds):
        stage.run(_within(world, seconds))


class _Hangs(BaseException):
    """Raised wherever a life is; nothing in the engine takes it for an error that it knows."""


@contextmanager
def _broken_off(world: World, seconds: float) -> Iterator[None]:
    """What never waits lets no other task have a turn, the one that looks at the clock included; but it works."""

    def break_off(_number: int, frame: FrameType | None) -> None:
        where = "".join(traceback.format_stack(frame)[-8:])
        world.found.append(f"liveness: the life hangs, after {seconds:g} s of the processor's time, in\n{where}")
        raise _Hangs

    before = signal.signal(signal.SIGPROF, break_off)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


async def _within(world: World, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await world.live()
    except TimeoutError:
        world.found.append(f"liveness: the life hangs, after {seconds:g} s of real time: {world.traffic.parked}")
