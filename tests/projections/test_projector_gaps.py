"""A hole between the archive and the log: trading goes on, somebody is told, and it waits until the hole is filled."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from domain.events import AlertTriggered
from domain.values import Code, Severity
from eventstore.clients import command
from eventstore.envelope import Raw
from eventstore.errors import LogHole, LogLost
from projections.projector import Projector
from tests.projections.world import World


class Telling:
    """What a projector tells, to wait for."""

    def __init__(self) -> None:
        self.troubles: asyncio.Queue[Exception] = asyncio.Queue()

    async def next(self) -> Exception:
        async with asyncio.timeout(60):
            return await self.troubles.get()

    async def hole(self) -> int:
        trouble = await self.next()
        assert isinstance(trouble, LogHole)
        return trouble.position


async def restored(world: World, back_to: int) -> list[Raw]:
    """The archive is of an older backup, and Redis was trimmed beyond it. What is missing."""
    await world.day(1)
    await world.projector.step()
    missing = (await world.entries())[back_to:]
    await world.trim(len(missing) + back_to)
    await world.execute("DELETE FROM events WHERE position > :back RETURNING 1", back=back_to)
    await world.execute("DELETE FROM order_logs RETURNING 1")
    await world.execute("UPDATE checkpoint SET position = :back RETURNING 1", back=back_to)
    return missing


async def alerts(world: World) -> list[AlertTriggered]:
    found: list[AlertTriggered] = []
    for name in world.log.keys.streams.values():
        for _, fields in await command(world.log.redis, "XRANGE", name, "-", "+"):
            if b"ALERT_TRIGGERED" in fields[5]:
                found += [it.event async for it in world.log.read(await world.log.last_position() - 1)]
    return found


async def test_before_a_hole_it_waits_tells_and_goes_on_when_it_is_filled(world: World) -> None:
    missing = await restored(world, 5)
    telling = Telling()
    projector = world.new_projector(patience=1000, linger=0, on_trouble=telling.troubles.put_nowait)
    with capture_logs() as lines:
        running = asyncio.create_task(projector.run())
        assert await telling.hole() == 6
        await world.create(2)  # trading goes on
        assert await telling.hole() == 6
        assert await world.archive.last_position() == 5
        assert not running.done()

        async with world.engine.begin() as connection:  # as `bahi archive import` does
            await world.archive.store(connection, missing)
        async with asyncio.timeout(60):
            while await world.archive.last_position() < await world.log.last_position():  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.001)
        await projector.stop()
        await running
    said = [line for line in lines if line.get("what") == "hole in the archive"]
    assert {(line["first"], line["last"]) for line in said} == {(6, 19)}
    assert "bahi archive import" in said[0]["error"]
    assert [raw.position for raw in await world.archive.entries(0, 100)] == list(range(1, 22))


async def test_the_alert_is_raised_once(world: World) -> None:
    """However often it looks, and however many processes do."""
    await restored(world, 5)
    telling = Telling()
    running = []
    for _ in range(2):
        projector = world.new_projector(patience=1000, linger=0, on_trouble=telling.troubles.put_nowait)
        running.append((projector, asyncio.create_task(projector.run())))
    for _ in range(8):
        await telling.hole()
    for projector, task in running:
        await projector.stop()
        await task
    assert await world.log.last_position() == 20
    [alert] = await alerts(world)
    assert (alert.code, alert.severity) == (Code.ARCHIVE_GAP, Severity.CRITICAL)
    assert alert.facts == {"first": "6", "last": "19", "partition": "0"}


async def test_a_stop_does_not_wait_for_the_hole(world: World) -> None:
    await restored(world, 5)
    telling = Telling()
    projector = world.new_projector(on_trouble=telling.troubles.put_nowait)
    running = asyncio.create_task(projector.run())
    assert await telling.hole() == 6
    await projector.stop()
    await running


async def test_redis_may_be_away_while_there_is_a_hole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await restored(world, 5)
    telling = Telling()
    projector = world.new_projector(patience=1000, on_trouble=telling.troubles.put_nowait)
    with monkeypatch.context() as failing:
        failing.setattr(world.log, "append", _unavailable)
        running = asyncio.create_task(projector.run())
        await telling.next()
        await telling.hole()
    assert await telling.hole() == 6
    await projector.stop()
    await running
    assert len(await alerts(world)) == 1


async def _unavailable(*_: Any, **__: Any) -> None:
    from eventstore.errors import LogUnavailable

    raise LogUnavailable("no answer from Redis")


async def test_what_another_one_archived_and_trimmed_meanwhile_is_no_hole(world: World) -> None:
    telling = Telling()
    projector = world.new_projector(linger=0, on_trouble=telling.troubles.put_nowait)
    await world.create(1)
    await projector.step()
    await world.create(2)
    await world.projector.step()
    await world.trim(2)
    await world.create(3)
    running = asyncio.create_task(projector.run())
    async with asyncio.timeout(60):
        while await world.archive.last_position() < 3:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.001)
    await projector.stop()
    await running
    assert telling.troubles.empty()


async def test_a_log_that_is_lost_ends_it(world: World) -> None:
    projector: Projector = world.new_projector()
    await world.create(1)
    await projector.step()
    await world.redis.flushall()
    with pytest.raises(LogLost):
        await projector.run()
