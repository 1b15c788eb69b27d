"""A disk that is full: nothing is half-written, and everything goes on by itself when there is room again.

The servers are real. PostgreSQL says that its disk is full; at Redis a limit on the size of its file stands for that.
"""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from redis.asyncio import Redis

from bahi.servers import EmbeddedRedis
from bahi.servers.process import until
from bahi.servers.redis import find_redis_server
from domain.events import AlertTriggered, StrategyStopRequested
from domain.values import Code, Severity
from eventstore.batch import Appended
from eventstore.envelope import Dedupe, NewEvent
from eventstore.errors import LogUnavailable
from eventstore.log import EventLog
from eventstore.open import open_log
from projections.runtime import DEFAULTS
from simulation.clock import VirtualClock
from tests.conftest import _execute
from tests.projections.sealed import sealing
from tests.projections.world import MORNING, World

# --- PostgreSQL -------------------------------------------------------------------------------------------------------


async def test_an_archive_whose_disk_is_full_waits_and_trading_goes_on(world: World, database_url: str) -> None:
    """It turns out at the last statement of the batch."""
    await world.day(1)
    troubles: asyncio.Queue[Exception] = asyncio.Queue()
    _execute(
        database_url,
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'could not write: No space left on device' USING ERRCODE = 'disk_full'; END $$",
        "CREATE TRIGGER full_disk BEFORE UPDATE ON checkpoint FOR EACH ROW EXECUTE FUNCTION full_disk()",
    )
    projector = world.new_projector(sealing=sealing(), on_trouble=troubles.put_nowait)
    running = asyncio.create_task(projector.run())
    async with asyncio.timeout(60):
        for _ in range(2):
            assert "No space left" in str(await troubles.get())
    await world.create(2)
    for table in ("events", "seals", "strategies", "order_logs"):
        assert await world.execute(f"SELECT count(*) FROM {table}") == [(0,)]  # noqa: S608
    _execute(database_url, "DROP TRIGGER full_disk ON checkpoint")
    async with asyncio.timeout(60):
        while projector.position != 20:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.001)
    await projector.stop()
    await running
    assert await world.execute("SELECT count(*) FROM order_logs") == [(2,)]


# --- Redis ------------------------------------------------------------------------------------------------------------


class Disk:
    """A Redis of its own, whose append-only file may be forbidden to grow."""

    def __init__(self, folder: Path, appendfsync: Literal["always", "everysec"]) -> None:
        # a limit on the size of a file would kill it by a signal, which a full disk does not
        program = folder / "redis-server"
        program.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {find_redis_server()} \"$@\"\n")
        program.chmod(0o700)
        self.ends = appendfsync == "always"
        self.server = EmbeddedRedis(folder / "home", appendfsync=appendfsync, program=program)

    def fill(self) -> None:
        files = list(self.server.folder.rglob("*.aof"))
        size = max(file.stat().st_size for file in files)
        room = 32 * 1024  # with the first append, Redis 6.2 writes the script as well
        psutil.Process(self.server.pid).rlimit(resource.RLIMIT_FSIZE, (size + room, resource.RLIM_INFINITY))

    def make_room(self) -> None:
        """And start it again if it ends, as `bahi run` does: with `always` it does, a moment after it refused."""
        if self.ends:
            assert until(lambda: not self.server.is_running, 60)
            self.server.start()
        else:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            psutil.Process(self.server.pid).rlimit(resource.RLIMIT_FSIZE, unlimited)


@asynccontextmanager
async def redis_on(disk: Disk) -> AsyncIterator[EventLog]:
    with disk.server:
        log = await open_log(
            disk.server.url, clock=VirtualClock(MORNING), defaults=DEFAULTS, allow_weak=True, writer="w"
        )
        try:
            yield log
        finally:
            await log.aclose()


def pair(number: int) -> tuple[list[NewEvent], Dedupe]:
    """Two events that are appended together, or not at all; to be repeated until it is known that they are."""
    alert = AlertTriggered(severity=Severity.WARNING, code=Code.OVERSOLD, at=number)
    events = [NewEvent(alert), NewEvent(StrategyStopRequested(reason=f"{number:05}" * 40), strategy_id=1, user_id=7)]
    return events, Dedupe(key=f"pair-{number}", digest="")


async def _until_it_is_full(log: EventLog) -> int:
    """How many appends were acknowledged."""
    for number in range(1000):
        events, dedupe = pair(number)
        try:
            await log.append(events, dedupe=dedupe)
        except LogUnavailable:
            return number
    raise AssertionError("it had room for everything")


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
async def test_a_redis_without_room_takes_no_half_of_an_append(
    tmp_path_factory: Any, appendfsync: Literal["always", "everysec"]
) -> None:
    """With `always` it ends, since it cannot keep its word, and is started again; else it refuses until it can."""
    disk = Disk(tmp_path_factory.mktemp("r"), appendfsync)
    async with redis_on(disk) as log:
        disk.fill()
        acknowledged = await _until_it_is_full(log)
        assert acknowledged > 0
        disk.make_room()
        again, dedupe = pair(acknowledged)
        async with asyncio.timeout(60):
            while True:
                try:
                    await log.append(again, dedupe=dedupe)  # which tells whether it was there already
                    break
                except LogUnavailable:
                    await asyncio.sleep(0.01)
        found = [it async for it in log.read()]
        assert [it.position for it in found] == list(range(1, 2 * acknowledged + 3))
        assert [it.event.at for it in found if isinstance(it.event, AlertTriggered)] == list(range(acknowledged + 1))
        assert isinstance(await log.append(pair(acknowledged + 1)[0]), Appended)


async def test_the_archive_goes_on_after_redis_had_no_room(world: World, redis: Redis) -> None:
    """Announcing how far it is fails like any other write; the archive does not wait for that."""
    await world.day(1)
    await redis.config_set("maxmemory", "1")
    try:
        await world.projector.step()
    finally:
        await redis.config_set("maxmemory", "0")
    assert await world.archive.last_position() == 19
