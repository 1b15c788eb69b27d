"""The clocks: the virtual one that tests and simulations own, and the machine's."""

import asyncio
import time

import pytest

from bahi.clock import SystemClock
from domain.values import SECOND, Duration
from simulation.clock import VirtualClock


async def test_sleepers_wake_in_order_each_at_its_own_instant() -> None:
    clock, woken = VirtualClock(100), list[tuple[str, int]]()

    async def sleeper(name: str, *naps: Duration) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.now()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("a", 30))
        group.create_task(sleeper("b", 10, 10, 10))
        group.create_task(sleeper("c", 10))
        await clock.advance(25)
        assert woken == [("b", 110), ("c", 110), ("b", 120)]
        assert (clock.now(), clock.next_at()) == (125, 130)
        await clock.advance(5)
    assert woken[3:] == [("a", 130), ("b", 130)]
    assert clock.next_at() is None


async def test_set_jumps_and_wakes_whoever_is_due() -> None:
    clock = VirtualClock(0)
    naps = [asyncio.ensure_future(clock.sleep(nap)) for nap in (10, 20, 30)]
    await asyncio.sleep(0)
    clock.set(20)
    await asyncio.sleep(0)
    assert [nap.done() for nap in naps] == [True, True, False]
    naps[2].cancel()
    await asyncio.gather(*naps, return_exceptions=True)
    assert clock.next_at() is None


async def test_no_time_passes_by_itself() -> None:
    clock = VirtualClock(5)
    await clock.sleep(0)
    await clock.sleep(-1)
    assert clock.now() == 5


async def test_time_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="from 5 to 4"):
        VirtualClock(5).set(4)


async def test_the_machines_clock_counts_microseconds() -> None:
    clock = SystemClock()
    assert abs(clock.now() / SECOND - time.time()) < 5
    before = clock.now()
    await clock.sleep(-SECOND)
    await clock.sleep(1)
    assert clock.now() > before
