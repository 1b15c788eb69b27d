"""Logs on a real Redis: one by the machine's clock, one by a clock that is turned by hand."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from eventstore.log import EventLog
from simulation.clock import VirtualClock
from tests.sources.world import TEN, ShiftedClock, open_test_log


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(TEN)


@pytest.fixture
async def log(redis: Redis, redis_url: str, clock: VirtualClock) -> AsyncIterator[EventLog]:
    """An empty log by the clock of the test."""
    log = await open_test_log(redis_url, clock)
    yield log
    await log.aclose()


@pytest.fixture
def real_clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
async def real_log(redis: Redis, redis_url: str, real_clock: ShiftedClock) -> AsyncIterator[EventLog]:
    """An empty log by the machine's clock."""
    log = await open_test_log(redis_url, real_clock)
    yield log
    await log.aclose()
