"""The role `archive`: archives, seals, takes snapshots and trims; and tells of what it has come to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from api.security.keys import SecretKeys
from bahi.roles.archive import ArchiveRole
from bahi.settings import Settings
from bahi.telemetry.metrics import Metrics
from domain.events import AlertTriggered
from domain.values import HOUR, MINUTE, Code
from eventstore.archived import ArchiveWatch
from eventstore.clients import command
from eventstore.keys import GROUP
from tests.projections.sealed import OLD, STRANGE
from tests.projections.world import World


class Role:
    """The role of a house of which there is nothing else."""

    def __init__(self, world: World, **settings: Any) -> None:
        self.world = world
        self.metrics = Metrics(CollectorRegistry())
        self.house: Any = SimpleNamespace(
            settings=Settings(_env_file=None, **settings),  # type: ignore[call-arg]
            clock=world.clock,
            engine=world.engine,
            logs=[world.log],
            metrics=self.metrics,
            keys=SecretKeys([OLD]),
        )
        self.role = ArchiveRole(self.house, [])
        self.watch = ArchiveWatch(world.log)
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._running = asyncio.create_task(self.role.run())

    async def stop(self) -> None:
        await self.role.stop()
        if self._running is not None:
            await self._running
        await self.watch.aclose()

    async def archived(self) -> int:
        last = await self.world.log.last_position()
        assert await self.watch.reached(last, 30)
        return last

    async def worked_off(self) -> None:
        """The lanes have done with everything."""
        for name in self.world.log.keys.streams.values():
            await command(self.world.log.redis, "XGROUP", "SETID", name, GROUP, "$")

    def value(self, name: str) -> float | None:
        labels = {} if name.startswith("archive_") else {"partition": "0"}
        return self.metrics.registry.get_sample_value(f"bahi_{name}", labels)

    async def later(self, duration: int, condition: Callable[[], Awaitable[bool]]) -> None:
        """Time goes on, and with it what the role does now and then."""
        self.world.time.set(self.world.time.now() + duration)
        async with asyncio.timeout(60):
            while not await condition():
                self.world.time.set(self.world.time.now() + MINUTE)
                await asyncio.sleep(0.01)


@pytest.fixture
async def role(world: World) -> AsyncIterator[Role]:
    made = Role(world, seal_events=10, snapshot_events=1000, hot_hours=1)
    made.start()
    yield made
    await made.stop()


async def test_it_tells_how_far_everything_has_come(role: Role) -> None:
    await role.world.day(1)
    await role.archived()

    async def settled() -> bool:
        return role.value("archive_lag_events") == 0 == role.value("archive_lag_seconds")

    await role.later(0, settled)
    assert role.value("archived_position") == 19
    assert (role.value("sealed_position") or 0) >= 10
    await role.worked_off()

    async def trimmed() -> bool:
        return role.value("trimmed_position") == 19

    await role.later(2 * HOUR, trimmed)
    assert role.value("sealed_position") == 19
    assert await role.world.log.last_position() == 19
    assert [await command(role.world.log.redis, "XLEN", name) for name in role.world.log.keys.streams.values()] == [
        0
    ] * 4


async def test_a_clean_stop_leaves_everything_sealed_and_a_snapshot(world: World) -> None:
    role = Role(world)
    role.start()
    await world.day(1)
    await role.archived()
    await role.stop()
    assert await world.execute("SELECT first, last FROM seals") == [(1, 19)]
    assert await world.execute("SELECT position FROM snapshot_points") == [(19,)]


async def test_the_next_month_is_made_ahead(role: Role) -> None:
    async def made() -> bool:
        names = await role.world.execute(
            "SELECT relname FROM pg_class WHERE relname LIKE 'events_y%' AND relkind = 'r'"
        )
        return {name for (name,) in names} >= {"events_y2026m11", "events_y2026m12"}

    await role.later(11 * 24 * HOUR, made)  # the 29th of November


async def test_it_alarms_once_when_it_cannot_seal_and_archives_all_the_same(world: World) -> None:
    first = Role(world)
    first.start()
    await world.day(1)
    await first.archived()
    await first.stop()
    await world.execute(
        "UPDATE seal_keys SET private_key = :sealed RETURNING 1",
        sealed=STRANGE.seal(b"x" * 32, user_id=0, field="seal-key/another"),
    )
    role = Role(world, seal_events=5)
    role.start()
    await world.day(2)
    await role.archived()
    assert role.value("sealing_stopped") == 1

    async def alarmed() -> bool:
        return len(await alerts(world)) > 0

    await role.later(0, alarmed)
    await world.day(3)
    await role.archived()
    await role.stop()
    [alert] = await alerts(world)
    assert alert.code is Code.SEALING_STOPPED
    assert "does not open" in alert.facts["why"]
    assert await world.archive.last_position() == await world.log.last_position()


async def alerts(world: World) -> list[AlertTriggered]:
    return [it.event async for it in world.log.read() if isinstance(it.event, AlertTriggered)]
