"""Seals are part of the batch that they are made in; and how far the archive reaches is told to all, come what may."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from bahi.seal_keys import SqlSealKeys
from domain.values import MINUTE, Instant
from eventstore.archived import ArchiveWatch
from eventstore.clients import command
from eventstore.envelope import Raw
from eventstore.errors import LogUnavailable
from eventstore.sealing import Sealing
from tests.projections.sealed import BOX
from tests.projections.world import World


class Watched(Sealing):
    """Tells what it was asked to do."""

    def __init__(self, *, events: int = 1000) -> None:
        super().__init__(0, SqlSealKeys(BOX), events=events, age=MINUTE)
        self.told: list[str] = []
        self.after: Callable[[], None] = lambda: None

    async def seal(self, connection: AsyncConnection, raws: Sequence[Raw], now: Instant, *, rest: bool = False) -> int:
        self.told.append(f"seal {len(raws)}")
        made = await super().seal(connection, raws, now, rest=rest)
        self.after()
        return made

    def committed(self) -> None:
        self.told.append("committed")
        super().committed()

    def forget(self) -> None:
        self.told.append("forget")
        super().forget()


async def sealed(world: World) -> list[tuple[int, int]]:
    return [tuple(row) for row in await world.execute("SELECT first, last FROM seals ORDER BY number")]


async def test_a_batch_is_archived_and_sealed_or_neither(world: World) -> None:
    await world.day(1)
    sealing = Watched(events=10)
    projector = world.new_projector(sealing=sealing)

    def fail() -> None:
        raise OSError("the connection is gone")

    sealing.after = fail
    with pytest.raises(OSError, match="gone"):
        await projector.step()
    assert await world.execute("SELECT count(*) FROM events") == [(0,)]
    assert await sealed(world) == []
    sealing.after = lambda: None
    assert await projector.step() == 19
    assert await sealed(world) == [(1, 10)]
    assert sealing.told == ["seal 19", "forget", "seal 19", "committed"]


async def test_what_is_old_enough_is_sealed_though_nothing_comes(world: World) -> None:
    await world.day(1)
    sealing = Watched()
    projector = world.new_projector(sealing=sealing)
    await projector.step()
    await projector.seal()
    assert await sealed(world) == []
    world.time.set(world.time.now() + MINUTE)
    assert await projector.seal() == 1
    assert await projector.seal() == 0
    assert await sealed(world) == [(1, 19)]
    assert sealing.told == ["seal 19", "committed", "seal 0", "committed"]  # nothing is asked that is not due


async def test_a_running_projector_seals_by_itself_and_the_rest_at_its_end(world: World) -> None:
    projector = world.new_projector(sealing=Watched(), linger=0)
    running = asyncio.create_task(projector.run())
    await world.day(1)
    watch = ArchiveWatch(world.log)
    assert await watch.reached(19, 30)
    world.time.set(world.time.now() + MINUTE)
    async with asyncio.timeout(60):
        while not await sealed(world):  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.001)
    await world.create(2)
    assert await watch.reached(20, 30)
    await projector.stop()
    await running
    await watch.aclose()
    assert await sealed(world) == [(1, 19), (20, 20)]


async def test_where_another_writer_was_it_looks_anew(world: World) -> None:
    first, second = Watched(events=10), Watched(events=10)
    one, other = world.new_projector(sealing=first), world.new_projector(sealing=second)
    await world.day(1)
    await one.step()
    await world.day(2)
    await other.step()
    world.time.set(world.time.now() + MINUTE)
    assert await one.seal() == 0  # not its turn: it does not know what is archived
    assert first.told[-1] == "forget"
    await world.day(3)
    await one.step()
    await one.seal(rest=True)
    assert await sealed(world) == [(1, 10), (11, 20), (21, 30), (31, 40), (41, 50), (51, 57)]


async def test_an_archive_that_was_restored_under_it_is_brought_up_again(world: World) -> None:
    """Even if nothing happens any more: it is noticed when a seal is due."""
    projector = world.new_projector(sealing=Watched(), linger=0)
    running = asyncio.create_task(projector.run())
    await world.day(1)
    watch = ArchiveWatch(world.log)
    assert await watch.reached(19, 30)
    await world.execute("DELETE FROM events WHERE position > 7 RETURNING 1")
    await world.execute("UPDATE checkpoint SET position = 7 RETURNING 1")
    world.time.set(world.time.now() + MINUTE)
    async with asyncio.timeout(60):
        while await world.execute("SELECT count(*) FROM events") != [(19,)]:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.001)
    await projector.stop()
    await running
    await watch.aclose()
    assert await sealed(world) == [(1, 19)]


# --- telling how far it reaches ---------------------------------------------------------------------------------------


async def told(world: World) -> bytes | None:
    position: bytes | None = await command(world.log.redis, "GET", world.log.keys.archived)
    return position


async def test_everybody_is_told_how_far_the_archive_reaches(world: World) -> None:
    await world.day(1)
    await world.projector.step()
    assert await told(world) == b"19"
    await command(world.log.redis, "DEL", world.log.keys.archived)
    await world.new_projector().step()  # also at a start, when there is nothing to archive
    assert await told(world) == b"19"


@pytest.mark.parametrize("error", [LogUnavailable("no answer"), ResponseError("OOM command not allowed")])
async def test_what_cannot_be_told_is_archived_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(*_: Any) -> None:
        raise error

    await world.create(1)
    with monkeypatch.context() as failing, capture_logs() as lines:
        failing.setattr("projections.projector.announce", fail)
        await world.projector.step()
        await world.create(2)
        await world.projector.step()
    assert await world.archive.last_position() == 2
    assert [line["what"] for line in lines if line["event"] == "ERROR_LOGGED"] == ["announcing"]  # once
    await world.create(3)
    await world.projector.step()
    assert await told(world) == b"3"
