"""The archive: the exact bytes, once each, without a gap; and reading that does not notice where they are."""

import pytest
from redis.asyncio import Redis

from domain.values import Kind
from eventstore.archive import ArchiveGap
from eventstore.entries import read_entries
from eventstore.errors import CorruptEvent, LogHole, LogLost
from eventstore.open import open_log
from projections.runtime import DEFAULTS
from tests.projections.world import World


async def _store(world: World, raws: list) -> int:
    async with world.engine.begin() as connection:
        return await world.archive.store(connection, raws)


async def test_the_archive_gives_back_the_very_entries_of_the_streams(world: World) -> None:
    await world.day(1)
    await world.day(2, Kind.STOPLOSS)
    before = await world.entries()
    assert await _store(world, before) == len(before)
    assert await world.archive.entries(0, 10_000) == before
    assert await world.archive.last_position() == before[-1].position
    rows = await world.execute("SELECT type, strategy_id, user_id FROM events WHERE position = 1")
    assert rows == [("STRATEGY_CREATED", 1, 7)]


async def test_storing_twice_stores_once_and_more_continues(world: World) -> None:
    await world.day(1)
    raws = await world.entries()
    assert await _store(world, raws[:10]) == 10
    assert await _store(world, raws[:10]) == 0
    assert await _store(world, raws[5:]) == len(raws) - 10
    assert await world.execute("SELECT count(*) FROM events") == [(len(raws),)]


@pytest.mark.parametrize("batch", [slice(1, 5), slice(0, 0, -1), [0, 1, 3, 4]])
async def test_a_batch_that_does_not_continue_the_checkpoint_is_refused(world: World, batch: slice | list[int]) -> None:
    await world.day(1)
    raws = await world.entries()
    chosen = [raws[i] for i in batch] if isinstance(batch, list) else raws[batch]
    if not chosen:
        assert await _store(world, chosen) == 0
        return
    with pytest.raises(ArchiveGap):
        await _store(world, chosen)
    assert await world.execute("SELECT count(*) FROM events") == [(0,)]
    assert await world.archive.last_position() == 0


@pytest.mark.parametrize("trimmed", [0, 1, 11, 10_000])
async def test_reading_does_not_notice_what_was_trimmed(world: World, trimmed: int) -> None:
    await world.day(1)
    raws = await world.entries()
    events = [it async for it in world.log.read()]
    await _store(world, raws)
    await world.day(2)
    more = await world.entries(len(raws))
    await world.trim(min(trimmed, len(raws)))
    assert await world.entries() == raws + more
    assert [it async for it in world.log.read()][: len(events)] == events
    followed = []
    async for it in world.log.follow():
        followed.append(it)
        if it.position == more[-1].position:
            break
    assert [it.position for it in followed] == list(range(1, more[-1].position + 1))


async def test_what_is_in_neither_is_a_hole(world: World) -> None:
    await world.day(1)
    await _store(world, (await world.entries())[:5])
    await world.trim(7)
    with pytest.raises(LogHole) as missing:
        await world.entries()
    assert missing.value.position == 6


async def test_a_corrupt_entry_is_archived_as_it_is_and_read_as_corrupt(world: World) -> None:
    await world.create(1)
    position = await world.foreign("high", b"\xc1 not an envelope \x00", strategy_id=1)
    raws = await world.entries()
    assert await _store(world, raws) == 2
    await world.trim(position)
    assert (await world.entries())[-1].envelope == b"\xc1 not an envelope \x00"
    with pytest.raises(CorruptEvent):
        [it async for it in world.log.read()]


async def test_an_archive_belongs_to_one_log(world: World, redis: Redis, redis_url: str) -> None:
    await world.day(1)
    await world.projector.step()
    await redis.flushall()
    other = await open_log(redis_url, clock=world.clock, defaults=DEFAULTS, allow_weak=True)
    world.log.epoch = other.epoch
    world.log.lineage = other.lineage
    world.log.seen = 0
    with pytest.raises(LogLost, match="the archive belongs to log"):
        await world.new_projector().step()
    await other.aclose()


async def test_a_second_entry_of_a_position_does_not_hide_that_another_is_missing(world: World) -> None:
    await world.day(1)
    await world.redis.xdel("events:high", "6-0")
    await world.redis.xdel("events:medium", "4-0")
    await world.redis.execute_command("XADD", "events:low", "5-0", "v", "1", "t", "1", "e", "second")
    with pytest.raises(LogHole) as missing:
        await world.entries()
    assert missing.value.position == 4
    holes: list[int] = []
    entries = [raw async for page in read_entries(world.log, on_hole=holes.append) for raw in page]
    assert holes == [4, 6]
    assert [raw.stream for raw in entries if raw.position == 5] == ["medium"]
