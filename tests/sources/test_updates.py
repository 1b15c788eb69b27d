"""When the order books are read: on hints, by time, and never so often that nothing else could be read."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

from brokers.port import Broker
from domain.events import OrderFinalized
from domain.values import DAY, SECOND, Final, Instant, Tag
from eventstore.envelope import Recorded
from eventstore.errors import LogUnavailable
from simulation.clock import VirtualClock
from sources.updates import BREATH, IDLE_PERIOD, WATCH_PERIOD, OpenOrders, Updates

BEGIN: Instant = 1_790_000_000_000_000
USER = 7


class Hinting:
    """A broker that hints whenever it is told to."""

    def __init__(self) -> None:
        self.hints: asyncio.Queue[str] = asyncio.Queue()

    async def updates(self) -> AsyncIterator[str]:
        while True:
            yield await self.hints.get()


class Directory:
    """One user's broker. `away`: the accounts cannot be read."""

    def __init__(self) -> None:
        self.broker = Hinting()
        self.away = False

    async def of(self, user_id: int) -> Broker | None:
        self._look()
        return self.broker  # type: ignore[return-value]

    async def connected(self) -> list[int]:
        self._look()
        return [USER]

    def _look(self) -> None:
        if self.away:
            raise LogUnavailable("the accounts cannot be read")


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock(BEGIN)
        self.directory = Directory()
        self.read_at: list[Instant] = []
        self.updates = Updates(brokers=self.directory, clock=self.clock, poll=self._poll, orders=OpenOrders())

    async def _poll(self, user_id: int, strategies: frozenset[int]) -> int:
        self.read_at.append(self.clock.now())
        return 0

    async def __aenter__(self) -> "World":
        self._running = asyncio.create_task(self.updates.run(_nothing()))
        await self.clock.advance(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.updates.stop()
        await self._running


async def _nothing() -> AsyncIterator[Recorded]:
    await asyncio.Event().wait()
    yield _finalized(BEGIN)


def _finalized(at: Instant) -> Recorded:
    event = OrderFinalized(tag=Tag("TAG"), final=Final.NOT_PLACED)
    return Recorded(1, 1, at, "1", 1, USER, "", "", "w", event)


async def test_the_first_hint_is_followed_at_once_and_a_flood_five_times_a_second() -> None:
    async with World() as world:
        world.directory.broker.hints.put_nowait("1")
        await world.clock.advance(0)
        assert world.read_at == [BEGIN]
        for _ in range(1_000):
            world.directory.broker.hints.put_nowait("1")
            await world.clock.advance(SECOND // 500)
    assert [later - earlier for earlier, later in pairwise(world.read_at)] == [BREATH] * 10


async def test_accounts_that_cannot_be_read_are_asked_for_again() -> None:
    world = World()
    world.directory.away = True
    async with world:
        await world.clock.advance(20 * SECOND)
        assert world.read_at == []
        world.directory.away = False
        await world.clock.advance(6 * SECOND + IDLE_PERIOD)
        assert world.read_at


def test_what_was_given_up_is_watched_for_a_day() -> None:
    orders = OpenOrders()
    orders.apply(_finalized(BEGIN))
    orders.forget(BEGIN + DAY // 2 - DAY)
    assert orders.period(USER) == WATCH_PERIOD
    orders.forget(BEGIN + DAY + 1 - DAY)
    assert orders.period(USER) == IDLE_PERIOD
