"""The adapter of one session: what it sends, what it never sends, and whom it tells."""

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import pytest
from structlog.testing import capture_logs

from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.broker import KiteBroker
from brokers.kite.client import threads
from brokers.port import (
    Accepted,
    BookStatus,
    BrokerUnavailable,
    Done,
    NotPlaced,
    OrderLimits,
    Refused,
    SessionExpired,
    Unanswered,
)
from domain.tags import make_tag
from domain.values import HOUR, SECOND, OrderRequest, Product, Side, Tag
from simulation.clock import VirtualClock
from simulation.kite.faults import Fault
from tests.brokers.conformance import SBIN, request
from tests.kite.conftest import Serve, account
from tests.kite.loopback import OK, Loopback, hangs, serving
from tests.kite.world import INSTRUMENTS, KiteWorld, kite_world

Make = Callable[..., KiteBroker]


class Told:
    """Whom the adapter tells, and what."""

    def __init__(self) -> None:
        self.clock = VirtualClock(1_000)
        self.gates: list[str] = []
        self.refused: list[KiteAccount] = []

    async def gate(self, what: str) -> None:
        self.gates.append(what)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def make(told: Told) -> AsyncIterator[Make]:
    made: list[KiteBroker] = []

    def broker(server: Loopback, *, one: KiteAccount | None = None, timeout: float = 5.0, **address: Any) -> KiteBroker:
        made.append(
            KiteBroker(
                one or account(),
                KiteAddress(root=server.root, timeout=timeout, **address),
                clock=told.clock,
                instruments=INSTRUMENTS,
                gate=told.gate,
                refused=told.refused.append,
                hints=lambda each: _named(each.kite_user_id),
            )
        )
        return made[-1]

    yield broker
    for each in made:
        await each.aclose()


async def _named(name: str) -> AsyncIterator[str]:
    yield name


@pytest.fixture
async def world() -> AsyncIterator[KiteWorld]:
    async with kite_world() as one:
        await one.set_price(SBIN, Decimal("340.05"))
        yield one


def asked(**changes: Any) -> OrderRequest:
    known: dict[str, Any] = {
        "symbol": SBIN,
        "side": Side.SELL,
        "quantity": 10,
        "product": Product.MIS,
        "tag": Tag("B4H1XYZ0000000000042"),
    }
    return OrderRequest(**(known | changes))


def sent(server: Loopback, number: int = 0) -> tuple[str, dict[str, str]]:
    head, _, body = server.requests[number].decode().partition("\r\n\r\n")
    return head.split(" HTTP/")[0], dict(parse_qsl(body, keep_blank_values=True))


def error(message: str, error_type: str) -> bytes:
    return f'{{"status":"error","message":"{message}","data":null,"error_type":"{error_type}"}}'.encode()


# --- what is sent


async def test_a_market_order_goes_out_with_its_protection(make: Make, serve: Serve) -> None:
    server = serve(serving())
    assert await make(server).place(asked()) == Accepted("1953341975595868160")
    assert sent(server) == (
        "POST /orders/regular",
        {
            "variety": "regular", "exchange": "NSE", "tradingsymbol": "SBIN", "transaction_type": "SELL",
            "quantity": "10", "product": "MIS", "order_type": "MARKET", "validity": "DAY",
            "tag": "B4H1XYZ0000000000042", "market_protection": "-1",
        },
    )  # fmt: skip


async def test_a_limit_order_goes_out_with_its_exact_price(make: Make, serve: Serve) -> None:
    server = serve(serving())
    await make(server, algo_id="ALGO7").place(asked(price=Decimal("3.4E+2"), side=Side.BUY, product=Product.CNC))
    _, fields = sent(server)
    assert (fields["order_type"], fields["price"], fields["algo_id"]) == ("LIMIT", "340", "ALGO7")
    assert (fields["transaction_type"], fields["product"]) == ("BUY", "CNC")
    assert "market_protection" not in fields


@pytest.mark.parametrize(("protection", "text"), [("2.5", "2.5"), ("1E+1", "10"), ("-1.0", "-1.0"), ("100", "100")])
async def test_protection_is_written_plainly(make: Make, serve: Serve, protection: str, text: str) -> None:
    server = serve(serving())
    await make(server).place(asked(market_protection=Decimal(protection)))
    assert sent(server)[1]["market_protection"] == text


async def test_a_change_and_a_cancel_name_the_order(make: Make, serve: Serve) -> None:
    server = serve(serving())
    broker = make(server)
    assert await broker.modify("1953341975595868160", price=Decimal("330.050")) == Done()
    assert await broker.cancel("1953341975595868160") == Done()
    line, fields = sent(server)
    assert line == "PUT /orders/regular/1953341975595868160"
    assert (fields["order_type"], fields["price"]) == ("LIMIT", "330.050")
    assert sent(server, 1) == ("DELETE /orders/regular/1953341975595868160", {})


async def test_each_account_goes_out_by_its_own_proxy(make: Make, serve: Serve) -> None:
    server, theirs, mine = serve(serving()), serve(serving()), serve(serving())
    for between, name in ((theirs, "AB0001"), (mine, "AB0002")):
        one = account(kite_user_id=name, egress_proxy=between.root, access_token=f"token-of-{name}")
        await make(server, one=one).place(asked())
    assert server.requests == []
    assert b"token-of-AB0001" in theirs.requests[0]
    assert b"token-of-AB0002" in mine.requests[0]


# --- what is never sent


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"symbol": "NSE:NOSUCHTHING", "side": Side.BUY}, "INSTRUMENT"),
        ({"symbol": "SBIN"}, "INSTRUMENT"),
        ({"symbol": "NSE:"}, "INSTRUMENT"),
        ({"symbol": "NSE:NOSUCHTHING", "price": Decimal(0), "side": Side.SELL}, "TICK_SIZE"),
        ({"tag": "T" * 21}, "TAG"),
        ({"tag": ""}, "TAG"),
        ({"tag": "with-dash"}, "TAG"),
        ({"tag": "tagé"}, "TAG"),
        ({"tag": "TAG\n"}, "TAG"),
        ({"quantity": 0}, "LOT_SIZE"),
        ({"price": Decimal("340.01")}, "TICK_SIZE"),
        ({"price": Decimal(0)}, "TICK_SIZE"),
        ({"price": Decimal("-340.05")}, "TICK_SIZE"),
        ({"price": Decimal("NaN")}, "TICK_SIZE"),
        ({"price": Decimal("Infinity")}, "TICK_SIZE"),
        ({"market_protection": Decimal(0)}, "MARKET_PROTECTION"),
        ({"market_protection": Decimal("100.5")}, "MARKET_PROTECTION"),
        ({"market_protection": Decimal("-2")}, "MARKET_PROTECTION"),
        ({"market_protection": Decimal("NaN")}, "MARKET_PROTECTION"),
    ],
)
async def test_what_kite_would_refuse_is_not_sent(
    make: Make, serve: Serve, changes: dict[str, Any], reason: str
) -> None:
    server = serve(serving())
    answer = await make(server).place(asked(**changes))
    assert isinstance(answer, NotPlaced)
    assert (answer.reason, answer.curable, answer.session) == (reason, False, False)
    assert server.visits == []


@pytest.mark.parametrize("price", [None, Decimal("340.01")])
async def test_what_is_held_can_be_sold_though_it_has_gone_from_the_list(
    make: Make, serve: Serve, price: Decimal | None
) -> None:
    server = serve(serving())
    assert isinstance(await make(server).place(asked(symbol="NSE:DELISTED", side=Side.SELL, price=price)), Accepted)
    assert b"tradingsymbol=DELISTED" in server.requests[0]


@pytest.mark.parametrize("order_id", ["", "abc", "../portfolio", "1/2", "1?x=1", " 1", "१"])
async def test_what_is_no_order_id_is_not_sent(make: Make, serve: Serve, order_id: str) -> None:
    server = serve(serving())
    broker = make(server)
    assert await broker.cancel(order_id) == Refused("UNKNOWN_ORDER")
    assert await broker.modify(order_id, price=Decimal(1)) == Refused("UNKNOWN_ORDER")
    assert server.visits == []


@pytest.mark.parametrize("price", [Decimal(0), Decimal(-1), Decimal("NaN")])
async def test_a_change_to_no_price_is_not_sent(make: Make, serve: Serve, price: Decimal) -> None:
    server = serve(serving())
    assert await make(server).modify("1", price=price) == Refused("TICK_SIZE")
    assert server.visits == []


async def test_a_session_past_its_hour_is_not_used(make: Make, serve: Serve, told: Told) -> None:
    server = serve(serving())
    broker = make(server, one=account(expires_at=told.clock.now() + SECOND))
    assert isinstance(await broker.place(asked()), Accepted)
    await told.clock.advance(SECOND)
    answer = await broker.place(asked())
    assert isinstance(answer, NotPlaced)
    assert (answer.session, answer.curable) == (True, False)
    assert await broker.cancel("1") == Refused("SESSION_EXPIRED")
    assert await broker.modify("1", price=Decimal(1)) == Refused("SESSION_EXPIRED")
    for read in (broker.orders, broker.trades, broker.positions, lambda: broker.quotes([SBIN])):
        with pytest.raises(SessionExpired):
            await read()
    assert len(server.requests) == 1
    assert (told.refused, told.gates) == ([], [])


async def test_after_closing_nothing_is_sent(make: Make, serve: Serve) -> None:
    server = serve(serving())
    broker = make(server)
    await broker.aclose()
    answer = await broker.place(asked())
    assert isinstance(answer, NotPlaced)
    assert (answer.reason, answer.curable, answer.counted) == ("BROKER_UNREACHABLE", True, False)
    with pytest.raises(BrokerUnavailable):
        await broker.orders()
    assert server.visits == []


# --- whom it tells


@pytest.mark.parametrize(
    "said", [error("Token is invalid or has expired.", "TokenException"), error("Invalid `api_key` or `access_token`.",
             "InputException")]
)  # fmt: skip
async def test_that_the_session_is_over_is_told_each_time(make: Make, serve: Serve, told: Told, said: bytes) -> None:
    one = account()
    broker = make(serve(serving(said, status="403 Forbidden")), one=one)
    answer = await broker.place(asked())
    assert isinstance(answer, NotPlaced)
    assert answer.session
    assert await broker.cancel("1") == Refused("SESSION_EXPIRED")
    assert await broker.modify("1", price=Decimal(1)) == Refused("SESSION_EXPIRED")
    for read in (broker.orders, broker.trades, broker.positions):
        with pytest.raises(SessionExpired):
            await read()
    assert told.refused == [one] * 6


async def test_other_refusals_say_nothing_of_the_session(make: Make, serve: Serve, told: Told) -> None:
    broker = make(serve(serving(error("No IPs configured", "PermissionException"), status="403 Forbidden")))
    await broker.place(asked())
    await broker.cancel("1")
    with pytest.raises(BrokerUnavailable):
        await broker.orders()
    assert told.refused == []


async def test_every_reading_passes_the_gate_and_no_order_does(make: Make, serve: Serve, told: Told) -> None:
    server = serve(serving(b'{"status":"success","data":[]}'))
    broker = make(server)
    await broker.place(asked())
    await broker.cancel("1")
    await broker.orders()
    await broker.trades()
    with pytest.raises(BrokerUnavailable):
        await broker.positions()  # a list is none
    assert told.gates == ["read", "read", "read"]


async def test_a_gate_that_stays_shut_lets_nothing_out(serve: Serve, told: Told) -> None:
    async def shut(what: str) -> None:
        raise BrokerUnavailable(f"no room for a {what}")

    server = serve(serving())
    broker = KiteBroker(
        account(),
        KiteAddress(root=server.root),
        clock=told.clock,
        instruments=INSTRUMENTS,
        gate=shut,
        refused=told.refused.append,
        hints=lambda each: _named(each.kite_user_id),
    )
    with pytest.raises(BrokerUnavailable, match="no room"):
        await broker.orders()
    assert server.visits == []


async def test_quotes_are_asked_for_500_at_a_time_and_each_call_passes_the_gate(
    make: Make, serve: Serve, told: Told
) -> None:
    server = serve(serving(b'{"status":"success","data":{"NSE:M&M":{"last_price":340.05}}}'))
    symbols = [f"NSE:S{number}" for number in range(1001)]
    found = await make(server).quotes([*symbols, *symbols])
    assert found["NSE:M&M"].last_price == Decimal("340.05")
    assert [request.split()[1].count(b"i=") for request in server.requests] == [500, 500, 1]
    assert told.gates == ["quote"] * 3


async def test_no_quotes_ask_nobody(make: Make, serve: Serve, told: Told) -> None:
    server = serve(serving())
    assert await make(server).quotes([]) == {}
    assert (server.visits, told.gates) == ([], [])


async def test_hints_are_those_of_the_account(make: Make, serve: Serve) -> None:
    assert [hint async for hint in make(serve(serving())).updates()] == ["AB1234"]


async def test_hints_end_with_the_session_whose_stream_kite_may_keep_open_for_long(told: Told) -> None:
    ended = asyncio.Event()

    async def hints(account: KiteAccount) -> AsyncIterator[str]:
        try:
            yield "151220000000000"
            await asyncio.Event().wait()
        finally:
            ended.set()

    broker = KiteBroker(
        account(),
        KiteAddress(),
        clock=told.clock,
        instruments=INSTRUMENTS,
        gate=told.gate,
        refused=told.refused.append,
        hints=hints,
    )
    updates = broker.updates()
    assert await anext(updates) == "151220000000000"
    waiting = asyncio.ensure_future(anext(updates))
    await broker.aclose()
    with pytest.raises(SessionExpired):
        await waiting
    assert ended.is_set()
    assert told.refused == []


async def test_an_oddity_of_the_book_is_logged_once(make: Make, serve: Serve) -> None:
    row = (
        b'{"order_id":"1","status":"NOVEL","exchange":"NSE","tradingsymbol":"SBIN","transaction_type":"BUY",'
        b'"product":"MIS","quantity":1,"filled_quantity":0,"tag":"x"}'
    )
    broker = make(serve(serving(b'{"status":"success","data":[' + row + b"]}")))
    with capture_logs() as logs:
        for _ in range(3):
            (order,) = await broker.orders()
            assert order.status is BookStatus.OPEN
    assert [(line["event"], line["facts"]) for line in logs] == [("kite_unknown_status", {"status": "NOVEL"})]


async def test_it_names_its_account_and_limits_and_shows_no_secret(make: Make, serve: Serve) -> None:
    broker = make(serve(serving()))
    assert (broker.account, broker.limits) == ("AB1234", OrderLimits())
    assert repr(broker) == "KiteBroker(KiteAccount(user_id=7, kite_user_id='AB1234'))"


async def test_a_call_that_hangs_delays_no_other_order(make: Make, serve: Serve) -> None:
    server = serve(hangs, serving(OK))
    broker = make(server, timeout=0.4)
    hanging = asyncio.create_task(broker.place(asked()))
    await asyncio.to_thread(server.came.get, timeout=10)
    assert isinstance(await broker.place(asked()), Accepted)
    assert not hanging.done()
    assert isinstance(await hanging, Unanswered)


async def test_the_threads_are_those_of_the_process() -> None:
    assert threads() is threads()


# --- at a simulated Kite

UNKNOWN_AND_PLACED = [
    Fault.F1_ACCEPTED_THEN_HANGS,
    Fault.F2_ACCEPTED_THEN_DROPPED,
    Fault.F2_ACCEPTED_HALF_ANSWER,
    Fault.F4A_HTML_AFTER,
    Fault.F6_TIMED_OUT_400,
    Fault.F16_NO_CONTENT_TYPE,
    Fault.F16_LIST_AT_TOP,
    Fault.F16_TRUNCATED_JSON,
]
UNKNOWN_AND_NOT_PLACED = [Fault.F3_DROPPED_BEFORE, Fault.F4B_HTML_BEFORE, Fault.F16_ERROR_WITHOUT_TYPE]


@pytest.mark.parametrize("fault", [*UNKNOWN_AND_PLACED, *UNKNOWN_AND_NOT_PLACED], ids=lambda fault: fault.name)
async def test_a_fault_that_leaves_it_open_is_unknown_and_the_book_tells(world: KiteWorld, fault: Fault) -> None:
    broker, order = world.broker(), request()
    world.sim.inject(fault, "ACCOUNT1")
    assert isinstance(await broker.place(order), Unanswered)
    assert [row.tag for row in await broker.orders()] == ([order.tag] if fault in UNKNOWN_AND_PLACED else [])
    assert world.sim.fired[fault] == 1


async def test_an_order_that_surfaces_later_is_found_by_its_tag(world: KiteWorld) -> None:
    broker, order = world.broker(), request()
    world.sim.inject(Fault.F5_SURFACES_LATER, "ACCOUNT1", after=90 * SECOND)
    assert isinstance(await broker.place(order), Unanswered)
    assert await broker.orders() == []
    await world.advance(90 * SECOND)
    assert [row.tag for row in await broker.orders()] == [order.tag]


async def test_an_address_that_is_not_allowed_says_so(world: KiteWorld) -> None:
    world.sim.inject(Fault.F18_IP_NOT_ALLOWED, "ACCOUNT1")
    answer = await world.broker().place(request())
    assert isinstance(answer, NotPlaced)
    assert (answer.reason, answer.curable) == ("IP_NOT_ALLOWED", False)
    assert await world.broker().orders() == []


@pytest.mark.parametrize(
    "fault",
    [Fault.F16_UNKNOWN_STATUS, Fault.F16_TAG_ONLY_IN_TAGS, Fault.F16_EXTRA_FIELDS, Fault.F16_MISSING_FIELDS,
     Fault.F16_NUMBERS_AS_STRINGS],
    ids=lambda fault: fault.name,
)  # fmt: skip
async def test_an_oddity_of_the_book_hides_no_order(world: KiteWorld, fault: Fault) -> None:
    broker, order = world.broker(), request(price=Decimal("330.00"))
    world.sim.inject(fault, "ACCOUNT1")
    await broker.place(order)
    (row,) = await broker.orders()
    assert (row.tag, row.status, row.quantity, row.filled) == (order.tag, BookStatus.OPEN, 10, 0)
    assert world.sim.fired[fault] == 1


@pytest.mark.parametrize(
    "fault",
    [Fault.F16_MISSING_KEY_FIELDS, Fault.F16_NO_CONTENT_TYPE, Fault.F16_LIST_AT_TOP, Fault.F16_TRUNCATED_JSON,
     Fault.F16_ERROR_WITHOUT_TYPE, Fault.F4C_HTML_READING, Fault.F7_TOO_MANY_READINGS, Fault.READING_HANGS,
     Fault.READING_DROPPED],
    ids=lambda fault: fault.name,
)  # fmt: skip
async def test_a_reading_that_lacks_what_counts_is_no_reading(world: KiteWorld, fault: Fault) -> None:
    broker = world.broker()
    await broker.place(request(tag=make_tag("LOG1", 42, 7, 1)))
    world.sim.inject(fault, "ACCOUNT1")
    with pytest.raises(BrokerUnavailable):
        await broker.orders()
    assert len(await broker.orders()) == 1


async def test_a_session_that_dies_in_the_middle_of_the_day_is_told(world: KiteWorld) -> None:
    broker = world.broker()
    await broker.place(request())
    world.sim.inject(Fault.F13_TOKEN_DIES, "ACCOUNT1")
    answer = await broker.place(request())
    assert isinstance(answer, NotPlaced)
    assert answer.session
    assert world.refused == [world.account()]


async def test_two_orders_with_one_tag_are_both_shown(world: KiteWorld) -> None:
    broker, order = world.broker(), request()
    world.sim.inject(Fault.F19_SECOND_ORDER_WITH_TAG, "ACCOUNT1")
    await broker.place(order)
    await world.advance(HOUR)
    rows = await broker.orders()
    assert [row.tag for row in rows] == [order.tag] * 2
    assert len({row.order_id for row in rows}) == 2


async def test_quotes_come_with_the_last_price(world: KiteWorld) -> None:
    found = await world.broker().quotes([SBIN, "NSE:NOSUCHTHING"])
    assert found[SBIN].last_price == Decimal("340.05")
    assert "NSE:NOSUCHTHING" not in found


async def test_behind_a_route_prefix_everything_works() -> None:
    async with kite_world(route_prefix="/oms") as world:
        await world.set_price(SBIN, Decimal("340.05"))
        broker = world.broker()
        answer = await broker.place(request(price=Decimal("330.00")))
        assert isinstance(answer, Accepted)
        assert await broker.modify(answer.order_id, price=Decimal("331.00")) == Done()
        assert await broker.cancel(answer.order_id) == Done()
        assert [row.status for row in await broker.orders()] == [BookStatus.CANCELLED]
        assert (await broker.trades(), await broker.positions()) == ([], [])
        assert SBIN in await broker.quotes([SBIN])
