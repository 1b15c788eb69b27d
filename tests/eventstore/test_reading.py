"""Reading and following: the one total order, complete, however it is cut into pages."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from domain.events import (
    BuyTriggered,
    ForceStop,
    LockConflict,
    StrategyStartRequested,
    StrategyStopRequested,
)
from eventstore.envelope import NewEvent, Recorded
from eventstore.errors import CorruptEvent, LogHole, LogLost, LogUnavailable
from eventstore.reading import read_pages

EVENTS = (
    BuyTriggered(run=1, due_at=2),
    LockConflict(woken_by="a", held_by="b"),
    ForceStop(reason="OPERATOR"),
    StrategyStopRequested(),
    BuyTriggered(run=2, due_at=2),
    StrategyStartRequested(),
)


def mixed(number: int) -> list[NewEvent]:
    return [NewEvent(EVENTS[n % len(EVENTS)], strategy_id=n % 3 + 1) for n in range(number)]


async def first(number: int, events: AsyncIterator[Recorded]) -> list[Recorded]:
    found = []
    async with asyncio.timeout(60):
        async for event in events:
            found.append(event)
            if len(found) == number:
                break
    return found


class Kept:
    """An archive of the events that it was given."""

    def __init__(self, events: list[Recorded]) -> None:
        self.events = events

    async def read(self, after: int, until: int | None) -> AsyncIterator[Recorded]:
        for event in self.events:
            if event.position > after and (until is None or event.position <= until):
                yield event

    async def identity(self):
        return (), await self.last_position()

    async def claim(self, lineage):
        pass

    async def last_position(self) -> int:
        return self.events[-1].position if self.events else 0


async def trim(log, redis, before: int) -> None:
    for stream in log.keys.streams.values():
        await redis.xtrim(stream, minid=f"{before}-0", approximate=False)


# --- read ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 2, 3, 7, 100])
async def test_the_streams_are_read_as_one_in_position_order(log, page):
    events = mixed(50)
    await log.append(events)
    pages = [p async for p in log.read_pages(page=page)]
    read = [recorded for p in pages for recorded in p]
    assert [r.position for r in read] == list(range(1, 51))
    assert [r.event for r in read] == [new.event for new in events]
    assert all(len(p) > 0 for p in pages)


async def test_reading_begins_and_ends_where_it_is_told(log):
    await log.append(mixed(20))
    assert [e.position async for e in log.read(after=5, until=9)] == [6, 7, 8, 9]
    assert [e.position async for e in log.read(after=18, until=99)] == [19, 20]
    assert [e.position async for e in log.read(after=20)] == []
    assert [e.position async for e in log.read(after=30)] == []


async def test_reading_while_others_append_has_no_hole(opened):
    reader, writer = await opened(), await opened(writer="b")

    async def append_all():
        for _ in range(30):
            await writer.append(mixed(10))

    appending = asyncio.create_task(append_all())
    while not appending.done():
        positions = [e.position async for p in reader.read_pages(page=3) for e in p]
        assert positions == list(range(1, len(positions) + 1))
    await appending


async def test_what_the_streams_hold_no_longer_is_read_from_the_archive(opened, redis):
    log = await opened()
    await log.append(mixed(30))
    archive = Kept([e async for e in log.read()])
    await trim(log, redis, 21)
    log = await opened(archive=archive)
    assert [e.position async for e in log.read()] == list(range(1, 31))
    assert [e.position async for e in log.read(after=3, until=22)] == list(range(4, 23))
    assert [e.position async for e in log.read(after=3, until=8)] == list(range(4, 9))
    assert [e.position async for p in log.read_pages(page=4) for e in p] == list(range(1, 31))


async def test_a_hole_that_nobody_can_fill_is_named(opened, redis):
    log = await opened()
    await log.append(mixed(12))
    archive = Kept([e async for e in log.read()][:4])
    await redis.xdel(log.keys.streams["critical"], "9-0")
    with pytest.raises(LogHole, match="position 9 "):
        _ = [e async for e in log.read()]
    await trim(log, redis, 7)
    with pytest.raises(LogHole, match="position 1 "):
        _ = [e async for e in log.read()]
    with pytest.raises(LogHole, match="position 5 "):
        _ = [p async for p in read_pages(log.redis, log.keys, 0, None, page=9, archive=archive)]


async def test_an_end_that_is_missing_is_a_hole(log, redis):
    await log.append(mixed(4))
    await redis.xdel(log.keys.streams["medium"], "4-0")
    with pytest.raises(LogHole, match="position 4 "):
        _ = [e async for e in log.read()]


async def test_a_foreign_entry_is_named(log, redis):
    await log.append(mixed(2))
    await redis.xadd(log.keys.streams["high"], {"hello": "world"}, id="3-0")
    await redis.hset(log.keys.position, "position", "3")
    with pytest.raises(CorruptEvent, match="entry 3 of high"):
        _ = [e async for e in log.read()]


async def test_a_log_that_is_gone_is_lost(log, redis):
    await redis.flushall()
    with pytest.raises(LogLost):
        await log.last_position()


# --- follow ----------------------------------------------------------------------------------------------------------


async def test_a_follower_sees_what_was_and_then_what_comes(log):
    await log.append(mixed(7))
    follower = log.follow(after=2)
    assert [e.position for e in await first(5, follower)] == [3, 4, 5, 6, 7]
    later = asyncio.create_task(first(3, log.follow(after=7)))
    await log.append(mixed(3))
    assert [e.position for e in await later] == [8, 9, 10]


@pytest.mark.parametrize("page", [1, 2, 5])
async def test_a_follower_sees_the_exact_order_under_concurrent_appends_and_tiny_pages(opened, page):
    logs = [await opened(writer=f"w{n}") for n in range(5)]
    followers = [asyncio.create_task(first(240, log.follow(page=page))) for log in logs[:2]]

    async def append_all(log, start):
        for n in range(20):
            events = mixed(6)
            await log.append([events[(start + n + k) % 6] for k in range(n % 3 + 1)] + [events[n % 6]] * (2 - n % 3))

    await asyncio.gather(*(append_all(log, n) for n, log in enumerate(logs[1:])))
    for found in await asyncio.gather(*followers):
        assert [e.position for e in found] == list(range(1, 241))


async def test_a_follower_connects_again_and_misses_nothing(log, redis):
    following = asyncio.create_task(first(40, log.follow()))
    for _ in range(10):
        await log.append(mixed(4))
        await redis.client_kill_filter(_type="normal", skipme=True)
        await once_connected(log)
    assert [e.position for e in await following] == list(range(1, 41))


async def once_connected(log) -> None:
    """The log's own connection was cut as well: it notices once, and then has another."""
    async with asyncio.timeout(60):
        while True:
            try:
                await log.last_position()
            except LogUnavailable:
                continue
            return


async def test_a_follower_that_comes_too_late_reads_the_archive(opened, redis):
    log = await opened()
    await log.append(mixed(30))
    archive = Kept([e async for e in log.read()])
    await trim(log, redis, 25)
    log = await opened(archive=archive)
    assert [e.position for e in await first(30, log.follow())] == list(range(1, 31))


async def test_a_follower_that_neither_streams_nor_archive_can_serve_says_so_at_once(opened, redis):
    log = await opened()
    await log.append(mixed(30))
    archive = Kept([e async for e in log.read() if e.position != 7])
    await trim(log, redis, 25)
    log = await opened(archive=archive)
    with pytest.raises(LogHole, match="position 7 "):
        await first(30, log.follow())


async def test_a_follower_names_a_hole_that_opens_before_it(log, redis):
    follower = log.follow()
    await log.append(mixed(6))
    assert [e.position for e in await first(6, follower)] == list(range(1, 7))
    async with redis.pipeline(transaction=True) as pipe:
        pipe.xadd(log.keys.streams["high"], {"v": 0, "t": 0, "e": b""}, id="8-0")
        pipe.hset(log.keys.position, "position", "8")
        await pipe.execute()
    with pytest.raises(LogHole, match="position 7 "):
        await first(1, log.follow(after=6))


@pytest.mark.parametrize("loss", ["emptied", "shrunken", "another"])
async def test_a_follower_of_a_log_that_was_lost_says_so(log, redis, loss):
    await log.append(mixed(6))
    follower = log.follow()
    assert len(await first(6, follower)) == 6
    waiting = asyncio.create_task(first(1, log.follow(after=6)))
    if loss == "emptied":
        await redis.flushall()
    elif loss == "shrunken":
        await redis.hset(log.keys.position, "position", "3")
    else:
        await redis.set(log.keys.epoch, "another")
    with pytest.raises(LogLost):
        await waiting
