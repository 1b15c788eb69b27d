"""Everybody hears how far the archive reaches."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from eventstore.archived import ArchiveWatch, announce
from eventstore.log import EventLog

SOON = 60.0
"""Seconds in which it must have been heard; it takes milliseconds."""


@pytest.fixture
async def watch(log: EventLog) -> AsyncIterator[ArchiveWatch]:
    watch = ArchiveWatch(log)
    yield watch
    await watch.aclose()


async def test_what_was_said_before_anybody_listened_is_known(log: EventLog, watch: ArchiveWatch) -> None:
    await announce(log, 7)
    assert await watch.reached(7, SOON)
    assert watch.position == 7


async def test_all_who_wait_hear_it_once_it_is_there_and_not_before(log: EventLog, watch: ArchiveWatch) -> None:
    waiting = [asyncio.create_task(watch.reached(position, SOON)) for position in (5, 9, 10)]
    await announce(log, 9)
    assert await asyncio.gather(*waiting[:2]) == [True, True]
    assert not waiting[2].done()
    await announce(log, 12)
    assert await waiting[2]


async def test_one_that_is_not_reached_in_time_is_not_reached(log: EventLog, watch: ArchiveWatch) -> None:
    await announce(log, 1)
    assert not await watch.reached(2, 0.01)
    await announce(log, 2)
    assert await watch.reached(2, SOON)


async def test_a_lost_connection_is_made_again_and_nothing_said_meanwhile_is_missed(
    log: EventLog, watch: ArchiveWatch, redis: Redis
) -> None:
    await announce(log, 1)
    assert await watch.reached(1, SOON)
    assert await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1  # type: ignore[no-untyped-call]
    await announce(log, 2)
    assert await watch.reached(2, SOON)
    await announce(log, 3)
    assert await watch.reached(3, SOON)


async def test_an_archive_that_was_restored_reaches_less_far(log: EventLog, watch: ArchiveWatch) -> None:
    await announce(log, 9)
    assert await watch.reached(9, SOON)
    await announce(log, 4)
    while watch.position != 4:
        await watch.moved()
    assert not await watch.reached(9, 0.01)
