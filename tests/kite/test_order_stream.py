"""Hints of orders from the stream of the account that placed them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from brokers.kite.account import KiteAddress
from brokers.kite.order_stream import order_updates
from brokers.kite.texts import ErrorText, OrderText, parse_text
from brokers.port import BrokerUnavailable, SessionExpired
from domain.values import SECOND
from simulation.kite.faults import Fault, Play
from tests.kite.stream_world import SBIN, World, account, reading, tick


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.serving():
        yield world


def row(order_id: str, status: str = "COMPLETE", filled: int = 10) -> dict[str, object]:
    return {
        "order_id": order_id,
        "status": status,
        "quantity": 10,
        "filled_quantity": filled,
        "placed_by": "AB1234",
        "order_timestamp": "2026-11-20 12:00:00",
    }


async def test_the_orders_that_may_have_changed_are_named_as_they_come(world: World) -> None:
    mine = world.login(account())
    async with reading(order_updates(mine, world.address, world.clock)) as reader:
        await world.until(lambda: reader.items == [""])
        for order_id in ("100", "101", "100", "99"):  # repeated and out of order, as they come
            world.server.on_order(mine.kite_user_id, row(order_id))
        await world.until(lambda: len(reader.items) == 5)
        assert reader.items == ["", "100", "101", "100", "99"]


async def test_after_every_connection_the_book_is_to_be_read(world: World) -> None:
    mine = world.login(account())
    async with reading(order_updates(mine, world.address, world.clock)) as reader:
        await world.until(lambda: reader.items == [""])
        world.next_plays(Fault.F12_STREAM_GAP, 5 * SECOND)
        world.server.on_order(mine.kite_user_id, row("100"))  # nobody hears of it
        await world.pass_until(lambda: reader.items == ["", ""])
        world.server.trouble(Play(Fault.F14_SILENT_STREAM, 60 * SECOND), mine.kite_user_id)
        await world.pass_until(lambda: reader.items == ["", "", ""])
        world.server.abort()
        await world.pass_until(lambda: reader.items == ["", "", "", ""])


async def test_a_loss_is_said_once_for_each_reason_and_so_is_its_end(world: World) -> None:
    mine = world.login(account())
    with capture_logs() as lines:
        async with reading(order_updates(mine, world.address, world.clock)) as reader:
            await world.until(lambda: reader.items == [""])
            refused = len(world.server.refusals)
            world.server.trouble(Play(Fault.F12_STREAM_GAP, 90 * SECOND), mine.kite_user_id)
            await world.pass_until(lambda: reader.items == ["", ""])
            assert len(world.server.refusals) - refused > 3
    said = [(line["event"], line.get("reason")) for line in lines]
    assert said == [
        ("kite_orders_lost", "the connection broke off"),
        ("kite_orders_lost", "the handshake was answered with 503"),
        ("kite_orders_back", None),
    ]


async def test_what_is_no_order_update_is_no_hint(world: World) -> None:
    mine = world.login(account())
    other = world.login(account("XY0001", "another"))
    async with reading(order_updates(mine, world.address, world.clock)) as reader:
        await world.until(lambda: reader.items == [""])
        world.server.on_order(other.kite_user_id, row("7"))
        world.server.on_ticks([tick(SBIN, "612.35")])
        world.server.message("hello", mine.kite_user_id)
        for text in ("", "{", '{"type": "error", "data": "no"}', '{"type": "instruments_meta", "data": {}}'):
            world.server.say(text, mine.kite_user_id)
        world.server.send(b"\x00", mine.kite_user_id)
        world.server.on_order(mine.kite_user_id, row("100"))
        await world.until(lambda: len(reader.items) == 2)
        assert reader.items == ["", "100"]


async def test_a_refused_session_has_expired(world: World) -> None:
    mine = world.login(account())
    async with reading(order_updates(mine, world.address, world.clock)) as reader:
        await world.until(lambda: reader.items == [""])
        world.logout(mine)
        await world.pass_until(reader.task.done)
        assert isinstance(reader.task.exception(), SessionExpired)
        assert "t0psecret" not in str(reader.task.exception())


async def test_an_address_that_can_never_work_is_unavailable(world: World) -> None:
    with pytest.raises(BrokerUnavailable):
        async for _ in order_updates(account(), KiteAddress(ws_root="nonsense"), world.clock):
            pass


async def test_leaving_closes_the_connection_and_leaves_no_task_behind(world: World) -> None:
    mine = world.login(account())
    before = asyncio.all_tasks()
    async with reading(order_updates(mine, world.address, world.clock)) as reader:
        await world.until(lambda: reader.items == [""])
    await world.until(lambda: not world.server.connections)
    await world.until(lambda: asyncio.all_tasks() <= before)


@pytest.mark.parametrize(
    ("frame", "meaning"),
    [
        ('{"type": "order", "id": "", "data": {"order_id": "220524001859672"}}', OrderText("220524001859672")),
        ('{"type": "order", "data": {"order_id": 1953341975595868160}}', OrderText("1953341975595868160")),
        ('{"type": "order", "data": {"order_id": 19533419755958681600000}}', OrderText("19533419755958681600000")),
        ('{"type": "order", "data": {"order_id": null}}', OrderText("")),
        ('{"type": "order", "data": {"order_id": 1.5}}', OrderText("")),
        ('{"type": "order", "data": {"order_id": true}}', OrderText("")),
        ('{"type": "order", "data": {"order_id": ""}}', OrderText("")),
        ('{"type": "order", "data": {"order_id": -5}}', OrderText("")),
        ('{"type": "order", "data": {"order_id": ' + "9" * 5_000 + "}}", None),
        ('{"type": "order", "data": {"order_id": "' + "9" * 5_000 + '"}}', OrderText("")),
        ('{"type": "order", "data": []}', OrderText("")),
        ('{"type": "error", "data": "' + "e" * 5_000 + '"}', ErrorText("e" * 300)),
        ('{"type": "error"}', ErrorText("")),
        ('{"type": "message", "data": "hello"}', None),
        ('{"type": ["order"]}', None),
        ('{"kind": "order"}', None),
        ("7", None),
        ("", None),
        ("\x00", None),
        ('{"type": "order"', None),
        ("[" * 200_000, None),
    ],
)
def test_text_frames_mean_what_they_can_and_never_raise(frame: str, meaning: object) -> None:
    assert parse_text(frame) == meaning
