"""The simulated stream: what Kite's does, read by plain sockets, by our feed, and by the official ticker."""

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from kiteconnect import KiteConnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.order_stream import order_updates
from brokers.kite.packets import Mode, Noticed, Packet, decode
from domain.values import DAY, MINUTE, SECOND, Instant, Tick
from simulation.clock import VirtualClock
from simulation.kite.faults import Fault, SeededFaults
from simulation.kite.server import Server, serve
from simulation.kite.sim import KiteSim
from simulation.kite.stream import MOST_INSTRUMENTS, StreamServer
from sources.feeds.kite import KiteFeed
from tests.kite.stream_world import reading

NOON: Instant = 1_795_156_200 * SECOND
SBIN, NIFTY = "NSE:SBIN", "NSE:NIFTY 50"
USER, KEY = "AB1234", "key-of-AB1234"
OFFICIAL = Path(__file__).parent / "official_ticker.py"


class House:
    """A simulated Kite with one customer, on sockets, by a clock that the test turns."""

    def __init__(self, sim: KiteSim, clock: VirtualClock, server: Server) -> None:
        self.sim = sim
        self.clock = clock
        self.server = server
        self.session = sim.open_session(USER)

    @property
    def url(self) -> str:
        return f"{self.server.ws_root}/?api_key={KEY}&access_token={self.session}"

    @property
    def stream(self) -> StreamServer:
        return self.server.stream

    @property
    def account(self) -> KiteAccount:
        return KiteAccount(
            user_id=7,
            kite_user_id=USER,
            api_key=KEY,
            access_token=self.session,
            connected_at=NOON,
            expires_at=NOON + DAY,
        )

    @property
    def address(self) -> KiteAddress:
        return KiteAddress(root=self.server.root, ws_root=self.server.ws_root)

    def token(self, symbol: str) -> int:
        instrument = self.sim.instruments.find(symbol)
        assert instrument is not None
        return instrument.token

    async def tick(self, symbol: str, price: str, volume: int = 100) -> None:
        await self.sim.on_ticks([Tick(symbol, Decimal(price), self.clock.now(), volume)])

    async def order(self, **more: Any) -> str:
        """A BUY of ten SBIN through the official client, at the market unless told otherwise."""
        terms = {"order_type": "MARKET", "market_protection": 5, "quantity": 10, "transaction_type": "BUY"} | more
        client = KiteConnect(KEY, self.session, root=self.server.root)
        placing = {"variety": "regular", "exchange": "NSE", "tradingsymbol": "SBIN", "product": "MIS"}
        return str(await asyncio.to_thread(lambda: client.place_order(**placing, **terms)))

    async def cancel(self, order_id: str) -> None:
        client = KiteConnect(KEY, self.session, root=self.server.root)
        await asyncio.to_thread(client.cancel_order, "regular", order_id)

    async def modify(self, order_id: str, **more: Any) -> None:
        client = KiteConnect(KEY, self.session, root=self.server.root)
        await asyncio.to_thread(lambda: client.modify_order("regular", order_id, **more))


@asynccontextmanager
async def a_house(**more: Any) -> AsyncIterator[House]:
    clock = VirtualClock(NOON)
    sim = KiteSim(clock, **more)
    sim.register(USER, api_key=KEY, api_secret="the-secret")
    async with serve(sim) as server:
        yield House(sim, clock, server)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with a_house() as house:
        yield house


async def said(client: ClientConnection) -> Any:
    """The next frame: of a binary one its packets, of a text its JSON."""
    async with asyncio.timeout(60):
        frame = await client.recv()
    return json.loads(frame) if isinstance(frame, str) else decode(frame, Noticed())


async def ask(client: ClientConnection, action: str, value: object) -> None:
    await client.send(json.dumps({"a": action, "v": value}))


async def taken(client: ClientConnection) -> None:
    """What was asked before is carried out: the server takes one message after the other."""
    await client.send("done?")
    assert await said(client) == {"type": "error", "data": "Invalid message"}


async def test_nobody_without_a_session_is_let_in(house: House) -> None:
    root = house.server.ws_root
    for query in ("", "?api_key=x&access_token=y", f"?api_key={KEY}", f"?api_key={KEY}&access_token=old"):
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{root}/{query}")
        assert refused.value.response.status_code == 403
    house.sim.end_session(USER)
    with pytest.raises(InvalidStatus):
        await connect(house.url)


async def test_a_key_has_three_connections_and_gets_another_when_one_is_closed(house: House) -> None:
    three = [await connect(house.url) for _ in range(3)]
    with pytest.raises(InvalidStatus) as refused:
        await connect(house.url)
    assert refused.value.response.status_code == 429
    await three[0].close()
    async with connect(house.url + "&user_id=AB1234"):
        pass
    for client in three:
        await client.close()


async def test_nothing_but_heartbeats_comes_before_something_is_subscribed(house: House) -> None:
    async with connect(house.url) as client:
        await house.tick(SBIN, "612.35")
        await house.clock.advance(4 * SECOND)
        assert [await client.recv() for _ in range(2)] == [b"\x00"] * 2


async def test_a_connection_that_is_sent_something_needs_no_heartbeat(house: House) -> None:
    async with connect(house.url) as client:
        await ask(client, "subscribe", [house.token(SBIN)])
        await taken(client)
        await house.clock.advance(2 * SECOND)
        for n in range(5):
            await house.tick(SBIN, f"612.{n}0")
            await house.clock.advance(2 * SECOND)
        frames = [await said(client) for _ in range(5)]
        assert [str(packets[0].last_price) for packets in frames] == [f"612.{n}0" for n in range(5)]
        await house.clock.advance(2 * SECOND)
        assert await client.recv() == b"\x00"


async def test_who_subscribes_gets_quotes_then_what_the_mode_says_and_the_last_one_at_once(house: House) -> None:
    token, index = house.token(SBIN), house.token(NIFTY)
    await house.tick(SBIN, "612.35", 900)
    await house.tick(NIFTY, "24010.65")
    async with connect(house.url) as client:
        for mode, kinds in ((None, "quote"), ("ltp", "ltp"), ("full", "full"), ("quote", "quote")):
            if mode is None:
                await ask(client, "subscribe", [token, index])
            else:
                await ask(client, "mode", [mode, [token, index]])
            stock, nifty = await said(client)
            assert (stock.token, stock.mode, stock.last_price) == (token, Mode(kinds), Decimal("612.35"))
            assert (nifty.token, nifty.mode, nifty.last_price) == (index, Mode(kinds), Decimal("24010.65"))
            assert (stock.exchange_at, nifty.exchange_at) == ((NOON, NOON) if kinds == "full" else (None, None))
        await ask(client, "unsubscribe", [index])
        await ask(client, "mode", ["full", [index]])
        await taken(client)
        await house.tick(NIFTY, "24011")
        await house.tick(SBIN, "612.40", 950)
        assert [packet.token for packet in await said(client)] == [token]


async def test_a_full_packet_tells_the_day_so_far(house: House) -> None:
    async with connect(house.url) as client:
        await ask(client, "subscribe", [house.token(SBIN)])
        await ask(client, "mode", ["full", [house.token(SBIN)]])
        await taken(client)
        for n, (price, volume) in enumerate((("612.35", 100), ("615.00", 150), ("610.05", 250), ("611.10", 300))):
            await house.clock.advance(SECOND if n else 0)
            await house.tick(SBIN, price, volume)
        packet: Packet = [await said(client) for _ in range(4)][-1][0]
        assert (packet.open, packet.high, packet.low) == (Decimal("612.35"), Decimal("615"), Decimal("610.05"))
        assert (packet.volume, packet.last_quantity) == (300, 50)
        assert packet.average_price == Decimal("611.81")  # 183,545 / 300, cut off below a paisa
        assert packet.exchange_at == packet.traded_at == NOON + 3 * SECOND
        assert [str(level.price) for level in packet.buy] == ["611.10", "611.05", "611.00", "610.95", "610.90"]
        assert [str(level.price) for level in packet.sell] == ["611.15", "611.20", "611.25", "611.30", "611.35"]


async def test_another_day_begins_anew_against_the_close_of_the_last(house: House) -> None:
    await house.tick(SBIN, "612.35", 5_000)
    house.clock.set(NOON + DAY)
    house.session = house.sim.open_session(USER)
    await house.tick(SBIN, "600.00", 10)
    async with connect(house.url) as client:
        await ask(client, "subscribe", [house.token(SBIN)])
        [packet] = await said(client)
        assert (packet.open, packet.high, packet.close, packet.volume) == (600, 600, Decimal("612.35"), 10)


async def test_ticks_of_one_moment_are_one_frame_and_none_is_left_out(house: House) -> None:
    async with connect(house.url) as client:
        await ask(client, "subscribe", [house.token(SBIN), house.token(NIFTY)])
        await taken(client)
        prices = ["612.35", "610.00", "612.30"]
        ticks = [Tick(SBIN, Decimal(price), NOON, 100) for price in prices]
        await house.sim.on_ticks([*ticks, Tick(NIFTY, Decimal(24_000), NOON), Tick("NSE:TCS", Decimal(1), NOON)])
        assert [str(packet.last_price) for packet in await said(client)] == [*prices, "24000.00"]


async def test_what_it_cannot_read_it_complains_of_and_goes_on(house: House) -> None:
    async with connect(house.url) as client:
        for message in (
            '{"a": "subscribe", "v": ["NSE:SBIN"]}',
            '{"a": "subscribe", "v": 5}',
            '{"a": "mode", "v": ["fast", [1]]}',
            '{"a": "unsubscribe"}',
            '{"a": "subscribe", "v": [-1]}',
        ):
            await client.send(message)
            assert await said(client) == {"type": "error", "data": "Error parsing instrument tokens"}
        for message in ("", "{", "[]", '{"a": "dance"}', "[" * 100_000):
            await client.send(message)
            assert await said(client) == {"type": "error", "data": "Invalid message"}
        await ask(client, "subscribe", list(range(1, MOST_INSTRUMENTS + 1)))
        await ask(client, "subscribe", [MOST_INSTRUMENTS + 1])
        assert (await said(client))["type"] == "error"
        assert len(house.stream.subscribed(USER)) == MOST_INSTRUMENTS


async def test_it_answers_pings(house: House) -> None:
    async with connect(house.url) as client, asyncio.timeout(60):
        await (await client.ping())


async def test_orders_are_told_of_when_they_trade_change_or_end_but_not_when_accepted(house: House) -> None:
    await house.tick(SBIN, "612.35")
    async with connect(house.url) as client:
        resting = await house.order(order_type="LIMIT", price="600.00", market_protection=None)
        await house.modify(resting, price="601.00")
        update = await said(client)
        assert update["type"] == "order"
        assert (update["data"]["order_id"], update["data"]["status"]) == (resting, "UPDATE")
        await house.cancel(resting)
        assert (await said(client))["data"]["status"] == "CANCELLED"
        bought = await house.order()
        done = (await said(client))["data"]
        assert (done["order_id"], done["status"], done["filled_quantity"]) == (bought, "COMPLETE", 10)
        assert (done["user_id"], done["unfilled_quantity"]) == (USER, 0)
        assert done["order_timestamp"] == "2026-11-20 12:00:00"
        assert "checksum" not in done


async def test_a_session_that_ends_ends_its_connections(house: House) -> None:
    async with connect(house.url) as client:
        house.sim.end_session(USER)
        await house.clock.advance(2 * SECOND)
        with pytest.raises(ConnectionClosed):
            await client.recv()


async def test_six_in_the_morning_ends_every_connection(house: House) -> None:
    async with connect(house.url) as client:
        house.clock.set(NOON + 18 * 60 * MINUTE)
        await house.clock.advance(2 * SECOND)
        with pytest.raises(ConnectionClosed):
            await client.recv()


async def test_who_does_not_read_is_cut_off(house: House) -> None:
    async with connect(house.url, max_queue=1) as client:
        big = "x" * 100_000
        async with asyncio.timeout(60):
            while house.stream.connections:
                house.stream.message(big, USER)
                await asyncio.sleep(0)
        client.transport.abort()


# --- faults ---------------------------------------------------------------------------------------------------------


async def statuses(house: House, client: ClientConnection, fault: Fault) -> list[str]:
    """What is pushed of an order that half fills and then fills, when the fault meets its first update."""
    house.sim.inject(fault)
    row = {"order_id": "7", "quantity": 10, "placed_by": USER, "order_timestamp": "2026-11-20 12:00:00"}
    house.stream.on_order(USER, row | {"status": "OPEN", "filled_quantity": 5})
    house.stream.on_order(USER, row | {"status": "COMPLETE", "filled_quantity": 10})
    house.stream.message("end", USER)
    found = []
    while (frame := await said(client)) != {"type": "message", "data": "end"}:
        found.append(frame["data"]["status"])
    return found


@pytest.mark.parametrize(
    ("fault", "pushed"),
    [
        (Fault.F12_PUSH_LOST, ["COMPLETE"]),
        (Fault.F12_PUSH_DUPLICATED, ["UPDATE", "UPDATE", "COMPLETE"]),
        (Fault.F12_PUSH_REORDERED, ["COMPLETE", "UPDATE"]),
    ],
)
async def test_updates_are_lost_repeated_and_out_of_order(house: House, fault: Fault, pushed: list[str]) -> None:
    async with connect(house.url) as client:
        assert await statuses(house, client, fault) == pushed
    assert house.sim.fired[fault] == 1


async def test_a_delayed_update_comes_in_the_end_when_nothing_follows_it(house: House) -> None:
    await house.tick(SBIN, "612.35")
    async with connect(house.url) as client:
        house.sim.inject(Fault.F12_PUSH_REORDERED)
        await house.order()
        await house.clock.advance(2 * SECOND)
        assert await client.recv() == b"\x00"
        assert (await said(client))["data"]["status"] == "COMPLETE"


async def test_in_a_gap_nobody_is_connected_and_updates_are_gone(house: House) -> None:
    await house.tick(SBIN, "612.35")
    async with connect(house.url) as client:
        house.sim.inject(Fault.F12_STREAM_GAP, after=30 * SECOND)
        await house.order()
        with pytest.raises(ConnectionClosed):
            await client.recv()
        with pytest.raises(InvalidStatus) as refused:
            await connect(house.url)
        assert refused.value.response.status_code == 503
        house.clock.set(NOON + 30 * SECOND)
        async with connect(house.url) as again:
            await house.clock.advance(2 * SECOND)
            assert await again.recv() == b"\x00"


async def test_a_silent_stream_sends_nothing_and_stays_up_for_its_time(house: House) -> None:
    async with connect(house.url) as client:
        await ask(client, "subscribe", [house.token(SBIN)])
        await taken(client)
        house.sim.inject(Fault.F14_SILENT_STREAM, after=20 * SECOND)
        for price in ("612.35", "612.40"):
            await house.tick(SBIN, price)
        await house.clock.advance(19 * SECOND)
        await (await client.ping())
        await house.clock.advance(4 * SECOND)
        await house.tick(SBIN, "612.45")
        assert [await client.recv() for _ in range(2)] == [b"\x00"] * 2
        assert str((await said(client))[0].last_price) == "612.45"


@pytest.mark.parametrize("fault", [Fault.F15_STREAM_ABORTED, Fault.F15_SLOW_READER])
async def test_a_stream_is_cut_without_a_closing_frame(house: House, fault: Fault) -> None:
    async with connect(house.url) as client:
        await ask(client, "subscribe", [house.token(SBIN)])
        await taken(client)
        house.sim.inject(fault, after=SECOND)
        await house.tick(SBIN, "612.35")
        await house.clock.advance(2 * SECOND)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is None


async def test_frames_are_empty_odd_and_cut_short(house: House) -> None:
    async with connect(house.url) as client:
        await ask(client, "subscribe", [house.token(SBIN)])
        await taken(client)
        for fault in (Fault.F17_EMPTY_FRAME, Fault.F17_UNKNOWN_PACKET, Fault.F17_TRUNCATED_FRAME):
            house.sim.inject(fault)
            await house.tick(SBIN, "612.35")
        noticed = Noticed()
        frames = [await client.recv() for _ in range(5)]
        found = [len(decode(frame, noticed)) for frame in frames if isinstance(frame, bytes)]
        assert found == [0, 0, 1, 1, 0]
        assert frames[:2] == [b"", b"\x00\x00"]
        assert noticed == Noticed(heartbeats=1, skipped=1, broken=1)


async def test_our_feed_lives_through_all_of_it(house: House) -> None:
    """Every fault of the stream, by chance and often: what comes is right and in order, and in the end it flows."""
    rates = {fault: 0.03 for fault in Fault if fault.name.startswith(("F14", "F15", "F17", "F12_STREAM"))}
    house.sim.plan = SeededFaults(3, rates)

    async def account() -> KiteAccount:
        return house.account

    feed = KiteFeed(account=account, tokens=house.token, address=house.address, clock=house.clock, rng=random.Random(1))
    feed.subscribe(frozenset({SBIN}))
    price = 600
    async with reading(feed.ticks()) as reader, asyncio.timeout(60):
        while len(house.sim.fired) < len(rates) or not reader.of(list) or reader.of(list)[-1][-1].price < price:
            if len(house.sim.fired) == len(rates):
                house.sim.plan = SeededFaults(0, {})  # enough: now it must flow
            else:
                price += 1
            await house.tick(SBIN, str(price), price)
            await house.clock.advance(SECOND)
        prices = [each.price for batch in reader.of(list) for each in batch]
        assert prices == sorted(prices)
        assert len(set(prices)) > 10


# --- the official client --------------------------------------------------------------------------------------------


async def test_the_official_ticker_connects_and_understands_ticks_and_orders(house: House) -> None:
    token, index = house.token(SBIN), house.token(NIFTY)
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        str(OFFICIAL),
        house.server.ws_root,
        KEY,
        house.session,
        str(token),
        str(index),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert program.stdout is not None

    async def next_line(kind: str) -> Any:
        assert program.stdout is not None
        async for line in program.stdout:
            found, what = json.loads(line)
            assert found != "error", what
            if found == kind:
                return what
        raise AssertionError("the ticker ended")

    try:
        async with asyncio.timeout(60):
            await next_line("connected")
            while house.stream.subscribed(USER) != {token: Mode.FULL, index: Mode.FULL}:  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.01)
            await house.tick(SBIN, "612.35", 900)
            [stock] = await next_line("ticks")
            assert (stock["instrument_token"], stock["mode"], stock["tradable"]) == (token, "full", True)
            assert (stock["last_price"], stock["volume_traded"]) == (612.35, 900)
            assert stock["exchange_timestamp"] == NOON // SECOND
            assert [level["price"] for level in stock["depth"]["sell"]][:2] == [612.4, 612.45]
            await house.tick(NIFTY, "24010.65")
            [nifty] = await next_line("ticks")
            assert (nifty["instrument_token"], nifty["last_price"], nifty["tradable"]) == (index, 24010.65, False)
            order_id = await house.order()
            order = await next_line("order")
            assert (order["order_id"], order["status"], order["filled_quantity"]) == (order_id, "COMPLETE", 10)
            _, errors = await program.communicate()
            assert program.returncode == 0, errors.decode()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()


async def test_our_order_hints_come_from_the_same_stream(house: House) -> None:
    await house.tick(SBIN, "612.35")
    async with aclosing(order_updates(house.account, house.address, house.clock)) as hints, asyncio.timeout(60):
        assert await anext(hints) == ""
        waiting = asyncio.ensure_future(anext(hints))
        order_id = await house.order()
        assert await waiting == order_id
