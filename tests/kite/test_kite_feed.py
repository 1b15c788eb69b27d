"""The live feed: which instruments it asks for, on which connection and account, and what becomes of what comes."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.packets import Mode, Packet
from brokers.kite.subscriptions import Seats
from domain.values import SECOND, Tick
from simulation.kite.encode import HEARTBEAT, encode, frame
from simulation.kite.faults import Fault, Play
from sources.feeds.kite import BACKLOG, KiteFeed
from sources.feeds.port import Connected, Disconnected, FeedError
from tests.kite.stream_world import INFY, NIFTY, NOON, SBIN, TCS, Reader, World, account, reading, tick, token_of


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.serving():
        yield world


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged, by us and by the libraries."""
    caplog.set_level(logging.DEBUG)
    structlog.configure(logger_factory=structlog.stdlib.LoggerFactory())
    yield caplog
    structlog.reset_defaults()


class House:
    """Who may be connected, and what the feed told."""

    def __init__(self, world: World, *accounts: KiteAccount) -> None:
        self.world = world
        self.accounts = list(accounts)
        self.asked = 0
        self.refused: list[KiteAccount] = []
        self.orders: list[tuple[str, str]] = []

    async def account(self) -> KiteAccount | None:
        self.asked += 1
        return self.accounts[0] if self.accounts else None

    async def on_refused(self, refused: KiteAccount) -> None:
        self.refused.append(refused)
        self.accounts = [each for each in self.accounts if each != refused]

    def on_order(self, whose: KiteAccount, order_id: str) -> None:
        self.orders.append((whose.kite_user_id, order_id))

    def feed(self, **more: Any) -> KiteFeed:
        settings: dict[str, Any] = {
            "account": self.account,
            "tokens": token_of,
            "address": self.world.address,
            "clock": self.world.clock,
            "refused": self.on_refused,
            "on_order": self.on_order,
            "rng": random.Random(1),
        }
        return KiteFeed(**(settings | more))


def ticks_of(reader: Reader[Any]) -> list[Tick]:
    return [each for batch in reader.of(list) for each in batch]


def lost(reader: Reader[Any]) -> list[str]:
    return [each.reason for each in reader.of(Disconnected)]


def asked_for(world: World, who: KiteAccount) -> set[str]:
    """The symbols that the server streams in full."""
    wanted = world.server.subscribed(who.kite_user_id)
    assert set(wanted.values()) <= {Mode.FULL}
    return {symbol for symbol in (SBIN, INFY, TCS, NIFTY, *numbered(20)) if token_of(symbol) in wanted}


def numbered(count: int) -> list[str]:
    return [f"NSE:S{n}" for n in range(count)]


async def test_the_symbols_wanted_are_asked_for_in_full_and_no_others(world: World) -> None:
    mine = world.login(account())
    feed = House(world, mine).feed()
    feed.subscribe(frozenset({SBIN, INFY}))
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: asked_for(world, mine) == {SBIN, INFY})
        assert reader.items == [Connected(2)]
        feed.subscribe(frozenset({INFY, TCS}))
        await world.until(lambda: asked_for(world, mine) == {INFY, TCS})
        feed.subscribe(frozenset())
        await world.until(lambda: asked_for(world, mine) == set())
        world.server.on_ticks([tick(SBIN, "1"), tick(INFY, "2")])
        feed.subscribe(frozenset({TCS}))
        await world.until(lambda: asked_for(world, mine) == {TCS})
        assert ticks_of(reader) == []
        assert len(world.server.connections) == 1


async def test_ticks_come_in_the_order_of_their_arrival_with_the_exchange_time(world: World) -> None:
    mine = world.login(account())
    feed = House(world, mine).feed()
    feed.subscribe(frozenset({SBIN, NIFTY}))
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: asked_for(world, mine) == {SBIN, NIFTY})
        sent = [
            [tick(SBIN, "612.35"), tick(NIFTY, "24010.65", volume=0), tick(SBIN, "612.30", NOON + SECOND, 150)],
            [tick(SBIN, "611.95", NOON + SECOND, 151), tick(INFY, "1500")],
            [tick(SBIN, "612.40", NOON, 152)],
        ]
        for batch in sent:
            world.server.on_ticks(batch)
        await world.until(lambda: len(ticks_of(reader)) == 5)
        assert reader.of(list) == [[each for each in batch if each.symbol != INFY] for batch in sent]


async def test_packets_without_the_exchange_time_are_no_ticks(world: World) -> None:
    mine = world.login(account())
    feed = House(world, mine).feed()
    feed.subscribe(frozenset({SBIN, NIFTY}))
    token, index = token_of(SBIN), token_of(NIFTY)
    assert token is not None
    assert index is not None
    price = Decimal(5)
    timeless = [
        *(Packet(token=each, mode=mode, last_price=price) for each in (token, index) for mode in Mode),
    ]
    good = Packet(token=token, mode=Mode.FULL, last_price=price, volume=1, exchange_at=NOON)
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: asked_for(world, mine) == {SBIN, NIFTY})
        world.server.send(frame([encode(each) for each in (*timeless, good)]), mine.kite_user_id)
        await world.until(lambda: len(ticks_of(reader)) == 1)
        assert feed.noticed.timeless == len(timeless)


async def test_garbage_between_the_frames_costs_no_tick(world: World) -> None:
    mine = world.login(account())
    feed = House(world, mine).feed()
    feed.subscribe(frozenset({SBIN}))
    token = token_of(SBIN)
    assert token is not None
    good = encode(Packet(token=token, mode=Mode.FULL, last_price=Decimal(7), volume=100, exchange_at=NOON))
    whole = frame([good])
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: asked_for(world, mine) == {SBIN})
        rng = random.Random(1)
        garbage = [b"", HEARTBEAT, b"\xff\xff", whole[:50], frame([b"odd", good]), whole + b"more", rng.randbytes(500)]
        for each in garbage:
            world.server.send(each, mine.kite_user_id)
            world.server.send(whole, mine.kite_user_id)
        for text in ("", "{", "[]", "null", '{"type": 7}', '{"type": "message", "data": "hello"}', "[" * 100_000):
            world.server.say(text, mine.kite_user_id)
        world.server.send(whole, mine.kite_user_id)
        await world.until(lambda: len(ticks_of(reader)) >= len(garbage) + 3)
        assert ticks_of(reader) == [tick(SBIN, "7.00")] * (len(garbage) + 3)
        assert lost(reader) == []
        assert feed.ignored_texts == 7
        assert feed.noticed.skipped >= 1
        assert feed.noticed.broken >= 3


async def test_after_a_reconnect_everything_is_asked_for_again(world: World) -> None:
    mine = world.login(account())
    feed = House(world, mine).feed()
    feed.subscribe(frozenset({SBIN, INFY}))
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: asked_for(world, mine) == {SBIN, INFY})
        world.server.abort()
        await world.until(lambda: len(lost(reader)) == 1)
        feed.subscribe(frozenset({INFY, TCS}))  # while there is no connection
        await world.pass_until(lambda: asked_for(world, mine) == {INFY, TCS})
        assert reader.items == [Connected(2), Disconnected(lost(reader)[0]), Connected(2)]


async def test_a_server_that_dies_is_waited_for_and_found_again() -> None:
    world = World()
    mine = world.login(account())
    async with world.serving():
        feed = House(world, mine).feed()
        feed.subscribe(frozenset({SBIN}))
        reader: Reader[Any] = Reader(feed.ticks())
        await world.until(lambda: asked_for(world, mine) == {SBIN})
        world.server.abort()
    await world.pass_until(lambda: len(lost(reader)) >= 3)
    async with world.serving():
        await world.pass_until(lambda: asked_for(world, mine) == {SBIN})
        world.server.on_ticks([tick(SBIN, "612.35")])
        await world.until(lambda: len(ticks_of(reader)) == 1)
        await reader.close()


async def test_a_silent_connection_is_told_and_replaced(world: World) -> None:
    mine = world.login(account())
    feed = House(world, mine).feed()
    feed.subscribe(frozenset({SBIN}))
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: asked_for(world, mine) == {SBIN})
        world.server.trouble(Play(Fault.F14_SILENT_STREAM, 60 * SECOND), mine.kite_user_id)
        await world.pass_until(lambda: "no frame for 5 s" in lost(reader))
        await world.pass_until(lambda: reader.items[-1] == Connected(1))


async def test_symbols_spread_over_connections_as_they_need_and_keep_their_place(world: World) -> None:
    mine = world.login(account())
    feed = House(world, mine).feed(each=2)
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: len(world.server.connections) == 1)
        feed.subscribe(frozenset(numbered(5)))
        await world.until(lambda: asked_for(world, mine) == set(numbered(5)))
        assert len(world.server.connections) == 3
        assert reader.items[-1] == Connected(5)
        feed.subscribe(frozenset({SBIN, *numbered(20)[1:5]}))
        await world.until(lambda: asked_for(world, mine) == {SBIN, *numbered(20)[1:5]})
        world.server.on_ticks([tick(symbol, "10") for symbol in numbered(5)])
        await world.until(lambda: len(ticks_of(reader)) == 4)
        assert {each.symbol for each in ticks_of(reader)} == set(numbered(5)[1:])
        assert len(world.server.connections) == 3


async def test_what_there_is_no_room_for_is_reported_and_comes_when_there_is(
    world: World, lines: pytest.LogCaptureFixture
) -> None:
    mine = world.login(account())
    feed = House(world, mine).feed(each=2)
    feed.subscribe(frozenset(numbered(8)))
    assert feed.left_out == dict.fromkeys(numbered(8)[6:], "there is room for 6 instruments")
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: asked_for(world, mine) == set(numbered(6)))
        feed.subscribe(frozenset(numbered(8)[2:]))
        await world.until(lambda: asked_for(world, mine) == set(numbered(8)[2:]))
        assert feed.left_out == {}
        assert reader.items[-1] == Connected(6)
    assert lines.text.count("kite_symbols_left_out") == 1


async def test_unknown_symbols_are_reported_once_and_skipped(world: World, lines: pytest.LogCaptureFixture) -> None:
    mine = world.login(account())
    feed = House(world, mine).feed()
    feed.subscribe(frozenset({SBIN, "NSE:NOBODY"}))
    feed.subscribe(frozenset({SBIN, INFY, "NSE:NOBODY"}))
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: asked_for(world, mine) == {SBIN, INFY})
        assert reader.items == [Connected(2)]
    assert feed.left_out == {"NSE:NOBODY": "it is not among the instruments"}
    assert lines.text.count("NSE:NOBODY") == 1


async def test_a_token_that_stands_for_another_symbol_now_is_noticed_at_the_next_connection(world: World) -> None:
    mine = world.login(account())
    tokens = {SBIN: token_of(SBIN), INFY: token_of(INFY)}
    feed = House(world, mine).feed(tokens=tokens.get)
    feed.subscribe(frozenset({SBIN}))
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: asked_for(world, mine) == {SBIN})
        tokens[SBIN] = token_of(TCS)
        world.server.abort()
        await world.pass_until(lambda: asked_for(world, mine) == {TCS})
        world.server.on_ticks([tick(TCS, "3000")])
        await world.until(lambda: len(ticks_of(reader)) == 1)
        assert ticks_of(reader) == [tick(SBIN, "3000")]


async def test_without_an_account_it_says_so_once_and_begins_when_there_is_one(world: World) -> None:
    house = House(world)
    feed = house.feed()
    feed.subscribe(frozenset({SBIN}))
    async with reading(feed.ticks()) as reader:
        await world.pass_until(lambda: house.asked >= 4)
        assert reader.items == [Disconnected("no account with a session")]
        mine = world.login(account())
        house.accounts.append(mine)
        took = await world.pass_until(lambda: asked_for(world, mine) == {SBIN})
        assert took <= 6 * SECOND


async def test_accounts_that_cannot_be_read_are_asked_for_again(world: World) -> None:
    mine = world.login(account())
    answers: list[KiteAccount | None] = [None, None, mine]

    async def ask() -> KiteAccount | None:
        if (answer := answers.pop(0)) is None:
            raise ConnectionError("the database is away")
        return answer

    async with reading(House(world).feed(account=ask).ticks()) as reader:
        await world.pass_until(lambda: bool(reader.of(Connected)))
        assert reader.items == [Disconnected("the accounts cannot be read: ConnectionError"), Connected(0)]


async def test_a_refused_account_is_reported_and_the_next_takes_its_place(world: World) -> None:
    dead, mine = account("XY0001", "dead"), world.login(account())
    house = House(world, dead, mine)
    feed = house.feed()
    feed.subscribe(frozenset({SBIN}))
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: asked_for(world, mine) == {SBIN})
        assert house.refused == [dead]
        assert reader.items == [
            Disconnected("Kite refuses the stream to the session of XY0001 (403)"),
            Connected(1),
        ]
        assert world.clock.now() == NOON


async def test_refused_accounts_are_not_tried_again_before_a_minute_has_passed(world: World) -> None:
    one, two = account("XY0001", "dead"), account("XY0002", "dead too")
    house = House(world, one, two)

    async def refused(which: KiteAccount) -> None:
        house.refused.append(which)
        house.accounts.reverse()  # whoever stores them does not believe it

    feed = house.feed(refused=refused)
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: lost(reader)[-1:] == ["Kite refused the session, and there is no other"])
        assert house.refused == [one, two]
        await world.clock.advance(50 * SECOND)
        feed.reconnect()
        assert world.server.refusals == [403, 403]
        world.login(one)
        took = await world.pass_until(lambda: bool(reader.of(Connected)))
        assert 8 * SECOND <= took <= 16 * SECOND
        assert world.server.refusals == [403, 403]


async def test_a_new_session_of_a_refused_account_is_used_at_once(world: World) -> None:
    house = House(world, account(session="old"))
    async with reading(house.feed().ticks()) as reader:
        await world.until(lambda: len(lost(reader)) == 2)
        house.accounts.append(world.login(account(session="new")))
        took = await world.pass_until(lambda: bool(reader.of(Connected)))
        assert took <= 6 * SECOND


async def test_a_session_that_ends_in_the_middle_of_the_day_makes_way_for_another(world: World) -> None:
    mine, other = world.login(account()), world.login(account("XY0001", "another"))
    house = House(world, mine, other)
    feed = house.feed()
    feed.subscribe(frozenset({SBIN}))
    async with reading(feed.ticks()):
        await world.until(lambda: asked_for(world, mine) == {SBIN})
        world.logout(mine)
        await world.pass_until(lambda: asked_for(world, other) == {SBIN})
        assert house.refused == [mine]


async def test_a_callback_that_fails_does_not_end_the_feed(world: World) -> None:
    async def refused(_: KiteAccount) -> None:
        house.accounts = [mine]
        raise ConnectionError("the database is away")

    mine = world.login(account())
    house = House(world, account("XY0001", "dead"))
    async with reading(house.feed(refused=refused).ticks()) as reader:
        await world.until(lambda: bool(reader.of(Connected)))


async def test_order_updates_are_passed_on_with_their_account(world: World) -> None:
    mine = world.login(account())
    house = House(world, mine)
    async with reading(house.feed().ticks()):
        await world.until(lambda: len(world.server.connections) == 1)
        row = {"order_id": "1953341975595868160", "status": "OPEN", "quantity": 10, "filled_quantity": 4}
        world.server.on_order(mine.kite_user_id, row | {"placed_by": mine.kite_user_id})
        for text in (
            '{"type": "order", "data": {"order_id": 1953341975595868160}}',
            '{"type": "order", "data": {"status": "COMPLETE"}}',
            '{"type": "order"}',
        ):
            world.server.say(text, mine.kite_user_id)
        await world.until(lambda: len(house.orders) == 4)
        assert house.orders == [("AB1234", "1953341975595868160")] * 2 + [("AB1234", "")] * 2


async def test_what_kite_complains_of_is_surfaced_once(world: World) -> None:
    mine = world.login(account())
    async with reading(House(world, mine).feed().ticks()) as reader:
        await world.until(lambda: len(world.server.connections) == 1)
        for _ in range(3):
            world.server.say('{"type": "error", "data": "Error parsing instrument tokens"}', mine.kite_user_id)
        world.server.say('{"type": "error", "data": {"odd": 1}}', mine.kite_user_id)
        await world.until(lambda: len(lost(reader)) == 2)
        assert reader.items == [
            Connected(0),
            Disconnected("Kite: Error parsing instrument tokens"),
            Connected(0),
            Disconnected("Kite: {'odd': 1}"),
            Connected(0),
        ]


async def test_asked_to_reconnect_it_does_but_not_over_and_over(world: World) -> None:
    mine = world.login(account())
    feed = House(world, mine).feed()
    feed.reconnect()  # there is none yet
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: len(reader.of(Connected)) == 1)
        feed.reconnect()
        await world.pass_until(lambda: len(reader.of(Connected)) == 2)
        assert lost(reader) == ["asked to connect anew"]
        feed.reconnect()
        await world.pass_until(lambda: world.clock.now() >= NOON + 31 * SECOND)
        assert len(reader.of(Connected)) == 2
        feed.reconnect()
        await world.pass_until(lambda: len(reader.of(Connected)) == 3)


async def test_a_slow_reader_gets_every_tick_and_little_waits_meanwhile(world: World) -> None:
    mine = world.login(account())
    read: list[int] = []

    def on_frame(_: int, batch: Sequence[Tick]) -> None:
        read.append(len(batch))

    feed = House(world, mine).feed(on_frame=on_frame)
    feed.subscribe(frozenset({SBIN}))
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: asked_for(world, mine) == {SBIN})
        reader.gate.clear()
        prices = [Decimal(60_000 + n) / 100 for n in range(6_000)]
        for price in prices:
            world.server.on_ticks([Tick(SBIN, price, NOON, 100)])
        await world.until(lambda: len(read) >= BACKLOG)
        for _ in range(500):
            await asyncio.sleep(0)
        assert BACKLOG <= len(read) <= BACKLOG + 2  # the rest is with the sockets
        assert len(ticks_of(reader)) <= 1
        reader.gate.set()
        await world.until(lambda: len(ticks_of(reader)) == len(prices))
        assert [each.price for each in ticks_of(reader)] == prices


async def test_the_moment_of_reception_is_told_with_the_ticks_before_they_are_read(world: World) -> None:
    mine = world.login(account())
    told: list[tuple[int, list[Tick]]] = []
    feed = House(world, mine).feed(on_frame=lambda at, batch: told.append((at, list(batch))))
    feed.subscribe(frozenset({SBIN}))
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: asked_for(world, mine) == {SBIN})
        before = time.perf_counter_ns()
        world.server.on_ticks([tick(SBIN, "612.35")])
        await world.until(lambda: len(ticks_of(reader)) == 1)
        [(at, batch)] = told
        assert before < at < time.perf_counter_ns()
        assert batch == [tick(SBIN, "612.35")]


async def test_an_address_that_can_never_work_is_the_readers_error(world: World) -> None:
    feed = House(world, account()).feed(address=KiteAddress(ws_root="nonsense"))
    with pytest.raises(FeedError, match="not one of a WebSocket server"):
        async for _ in feed.ticks():
            pass


async def test_leaving_closes_all_connections_and_the_feed_can_be_read_again(world: World) -> None:
    mine = world.login(account())
    feed = House(world, mine).feed(each=2)
    feed.subscribe(frozenset(numbered(6)))
    before = asyncio.all_tasks()
    for _ in range(2):
        async with reading(feed.ticks()):
            await world.until(lambda: asked_for(world, mine) == set(numbered(6)))
        await world.until(lambda: not world.server.connections)
    await world.until(lambda: asyncio.all_tasks() <= before)


async def test_no_line_of_the_feed_shows_a_session(world: World, lines: pytest.LogCaptureFixture) -> None:
    dead, mine = account("XY0001", "t0psecret-dead"), world.login(account())
    feed = House(world, dead, mine).feed()
    async with reading(feed.ticks()) as reader:
        await world.until(lambda: bool(reader.of(Connected)))
        world.server.say('{"type": "error", "data": "bad"}', mine.kite_user_id)
        world.server.abort()
        await world.pass_until(lambda: len(reader.of(Connected)) == 3)
        assert "kite_feed_refused" in lines.text
        for text in (lines.text, repr(reader.items)):
            assert "t0psecret" not in text
            assert "apikey-of" not in text


# --- seats ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.sets(st.integers(1, 12)), max_size=8))
def test_seats_are_kept_never_shared_and_never_overfull(wishes: list[set[int]]) -> None:
    seats = Seats(connections=3, each=3)
    before: list[set[int]] = [set(), set(), set()]
    for wish in wishes:
        changes = seats.want({str(token) for token in wish}, int)
        now = [set(seats.on(connection)) for connection in range(3)]
        for old, new, change in zip(before, now, changes, strict=True):
            assert old & wish <= new  # kept
            assert new - old == set(change.added)
            assert old - new == set(change.removed)
            assert len(new) <= 3
        seated = now[0] | now[1] | now[2]
        assert sum(map(len, now)) == len(seated) == min(len(wish), 9)
        assert seats.symbols == {token: str(token) for token in seated}
        assert seats.left_out.keys() == {str(token) for token in wish - seated}
        before = now


def test_two_symbols_never_share_a_token() -> None:
    seats = Seats()
    seats.want({"NSE:NEW", "NSE:OLD"}, lambda _: 7)
    assert seats.symbols == {7: "NSE:NEW"}
    assert seats.left_out == {"NSE:OLD": "its token is that of NSE:NEW"}
