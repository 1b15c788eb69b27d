"""Trimming: nothing goes that anybody still needs, and whoever reads does not notice what went."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from redis.asyncio import Redis

from domain.values import HOUR, Exit, Kind
from eventstore.clients import command
from eventstore.entries import read_entries
from eventstore.errors import LogHole, LogLost
from eventstore.keys import CLASSES, GROUP
from eventstore.trimming import ArchiveIncomplete, Trimmed, trim
from projections.projector import Projector
from projections.rebuild import rebuild
from projections.replay import replay_states
from projections.verify import verify
from tests.projections.sealed import sealing
from tests.projections.world import World

HOT = 2 * HOUR


class Trimming:
    """A world whose archive is sealed, and whose lanes are played by hand."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.log = world.log
        self.projector = Projector(world.log, world.engine, world.clock, sealing=sealing())

    async def archive(self, *, seal: bool = True) -> int:
        """How far it reaches."""
        await self.projector.step()
        if seal:
            await self.projector.seal(rest=True)
        return await self.log.last_position()

    async def work(self, *, ack: bool = True) -> None:
        """The group is given everything there is, and has done with it."""
        for name in self.log.keys.streams.values():
            reply = await self._redis("XREADGROUP", "GROUP", GROUP, "w", "STREAMS", name, ">")
            for entry_id, _ in reply[0][1] if reply and ack else ():
                await self._redis("XACK", name, GROUP, entry_id)

    async def old(self) -> None:
        """Time goes on until everything is old enough."""
        self.world.time.set(self.world.time.now() + HOT)

    async def trim(self) -> Trimmed:
        return await trim(self.log, self.world.archive, hot=HOT, now=self.world.clock.now())

    async def held(self) -> list[int]:
        """The positions that Redis holds."""
        found: list[int] = []
        for name in self.log.keys.streams.values():
            found += [int(entry_id[:-2]) for entry_id, _ in await self._redis("XRANGE", name, "-", "+")]
        return sorted(found)

    async def _redis(self, *words: Any) -> Any:
        return await command(self.log.redis, *words)


@pytest.fixture
async def world(redis: Redis, redis_url: str, database_url: str) -> AsyncIterator[World]:
    made = await World.make(redis, redis_url, database_url)
    yield made
    await made.aclose()


@pytest.fixture
async def it(world: World) -> Trimming:
    """A day is over: archived, sealed, worked off, and old enough."""
    made = Trimming(world)
    await world.day(1)
    await made.archive()
    await made.work()
    await made.old()
    return made


# --- what stays -------------------------------------------------------------------------------------------------------


async def test_what_is_archived_sealed_done_with_and_old_goes(it: Trimming) -> None:
    last = await it.log.last_position()
    assert await it.trim() == Trimmed(last, last, last, {})
    assert await it.held() == []
    assert await it.trim() == Trimmed(last, last, 0, {})
    await it.world.create(2)
    assert await it.held() == [last + 1]
    assert (await it.trim()).upto == last


async def test_what_is_not_sealed_stays(it: Trimming) -> None:
    last = await it.log.last_position()
    await it.world.day(2)
    await it.archive(seal=False)
    sealed = (await it.world.execute("SELECT max(last) FROM seals"))[0][0]
    assert last < sealed < await it.log.last_position()
    await it.work()
    await it.old()
    await it.trim()
    assert (await it.held())[0] == sealed + 1


async def test_what_is_not_old_enough_stays(it: Trimming) -> None:
    last = await it.log.last_position()
    await it.world.day(2)
    await it.archive()
    await it.work()
    assert (await it.trim()).upto == last
    assert (await it.held())[0] == last + 1


async def test_what_is_not_archived_stays(it: Trimming) -> None:
    """Whatever the seals say: the checkpoint went back, as in an archive that was restored from a backup."""
    await it.world.execute("UPDATE checkpoint SET position = 7 RETURNING 1")
    assert (await it.trim()).upto == 7
    assert (await it.held())[0] == 8


async def test_what_only_claims_to_be_archived_stays(it: Trimming) -> None:
    await it.world.execute("DELETE FROM events WHERE position = 5 RETURNING 1")
    with pytest.raises(ArchiveIncomplete, match="holds 18 of the positions 1 to 19"):
        await it.trim()
    assert await it.held() == list(range(1, 20))


async def test_what_is_pending_stays_in_its_stream(it: Trimming) -> None:
    """The others go on without it."""
    last = await it.log.last_position()
    await it.world.day(2)
    await it.work(ack=False)
    await it.archive()
    await it.old()
    pending = {each: await command(it.log.redis, "XPENDING", it.log.keys.streams[each], GROUP) for each in CLASSES}
    oldest = {each: int(found[1][:-2]) for each, found in pending.items() if found[0]}
    done = await it.trim()
    assert done.held.keys() == oldest.keys()
    assert done.upto == min(oldest.values()) - 1 == last
    for each, first in oldest.items():
        await command(it.log.redis, "XACK", it.log.keys.streams[each], GROUP, f"{first}-0")
    assert (await it.trim()).upto > last


async def test_what_the_group_was_not_given_yet_stays(it: Trimming) -> None:
    last = await it.log.last_position()
    await it.world.create(2)
    await it.archive()
    await it.old()
    done = await it.trim()
    assert done.upto == last
    assert done.held["medium"] == "its group workers has seen it up to that position"
    await it.work()
    assert (await it.trim()).upto == last + 1


async def test_a_stream_whose_group_is_missing_stays_whole(it: Trimming) -> None:
    high = it.log.keys.streams["high"]
    count = await command(it.log.redis, "XLEN", high)
    await command(it.log.redis, "XGROUP", "DESTROY", high, GROUP)
    done = await it.trim()
    assert done.held == {"high": "its group workers is missing"}
    assert await command(it.log.redis, "XLEN", high) == count == len(await it.held())
    await command(it.log.redis, "DEL", high)
    assert (await it.trim()).held == {}  # and one that is gone holds nothing


async def test_another_group_that_lags_holds_its_stream_back(it: Trimming) -> None:
    medium = it.log.keys.streams["medium"]
    await command(it.log.redis, "XGROUP", "CREATE", medium, "somebody", "3-0")
    done = await it.trim()
    assert done.held == {"medium": "its group somebody has seen it up to that position"}
    assert (await it.held())[0] == 4
    await command(it.log.redis, "XGROUP", "DESTROY", medium, "somebody")
    assert (await it.trim()).held == {}
    assert await it.held() == []


async def test_another_log_is_not_trimmed(it: Trimming) -> None:
    await command(it.log.redis, "SET", it.log.keys.epoch, "another")
    with pytest.raises(LogLost):
        await it.trim()
    assert await it.held() == list(range(1, 20))


async def test_a_long_log_is_trimmed_in_slices(it: Trimming, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.trimming.SLICE", 4)
    last = await it.log.last_position()
    assert await it.trim() == Trimmed(last, last, last, {})
    assert await it.held() == []


# --- reading on -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def half(it: Trimming) -> Trimming:
    """A log of two days, the first of which is in the archive only, and an event that nobody has archived."""
    await it.world.day(2)
    await it.archive()
    await it.world.create(3)
    assert (await it.trim()).upto == 19
    return it


async def test_a_half_trimmed_log_reads_whole(half: Trimming) -> None:
    log, world = half.log, half.world
    last = await log.last_position()
    positions = list(range(1, last + 1))
    assert (await half.held())[0] == 20
    assert [event.position async for event in log.read()] == positions
    assert [event.position async for event in log.read(5, 30)] == positions[5:30]
    assert [event.position async for event in log.read(until=7)] == positions[:7]
    assert [raw.position for raw in await world.entries()] == positions
    states = await replay_states(log)
    assert [(each, state.version, state.position_in_log) for each, state in states.items()] == [
        (1, 19, 19),
        (2, 19, 38),
        (3, 1, 39),
    ]
    report = await verify(log)
    assert report.ok
    assert report.events == last


async def test_everything_is_rebuilt_from_a_half_trimmed_log(half: Trimming) -> None:
    before = await half.world.dump(lambda name: name.startswith(("strategy:", "runtime:", "symbol:", "user:")))
    await half.archive()
    rebuilt = await rebuild(half.log, half.world.engine)
    assert (rebuilt.strategies, rebuilt.faults) == (3, ())
    assert await half.world.dump(lambda name: name in before) == before


async def test_a_follower_does_not_notice_that_it_was_overtaken(half: Trimming) -> None:
    """It reads, stops reading for long, and what comes next is gone from Redis; then even the last event is."""
    log, world = half.log, half.world
    last = await log.last_position()
    async with aclosing(log.follow(10, page=4)) as following:
        seen = [(await anext(following)).position for _ in range(3)]
        await half.archive()
        await half.work()
        await half.old()
        assert (await half.trim()).upto == last
        seen += [(await anext(following)).position for _ in range(last - 13)]
        assert seen == list(range(11, last + 1))

        # live now; what comes is archived and trimmed before the follower looks
        await world.start(3)
        await world.order(3, Kind.BUY)
        await world.order(3, Kind.SELL)
        await world.end(3, Exit.SELL)
        end = await half.archive()
        await half.work()
        await half.old()
        assert (await half.trim()).upto == end
        assert await half.held() == []
        assert [(await anext(following)).position for _ in range(end - last)] == list(range(last + 1, end + 1))


async def test_reading_goes_on_while_it_is_trimmed(half: Trimming) -> None:
    await half.archive()
    await half.work()
    await half.old()
    last = await half.log.last_position()
    positions: list[int] = []
    async with aclosing(read_entries(half.log, page=3)) as pages:
        async for page in pages:
            if not positions:
                assert (await half.trim()).upto == last
            positions += [raw.position for raw in page]
    assert positions == list(range(1, last + 1))


async def test_the_archive_follower_does_not_need_what_was_trimmed(half: Trimming) -> None:
    """Another one of it archived what this one did not see, and then it was trimmed."""
    late = half.world.new_projector()
    await late.step()
    await half.world.day(4)
    await half.archive()
    await half.work()
    await half.old()
    last = await half.log.last_position()
    assert (await half.trim()).upto == last
    await half.world.create(5)
    with pytest.raises(LogHole, match=f"position {last - 18} "):
        await late.step()
    assert await late.step() == 1  # it looked again
