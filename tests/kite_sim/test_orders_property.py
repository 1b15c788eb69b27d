"""For random sequences of orders, changes, cancels, prices and faults: the books balance."""

import asyncio
import json
from collections import defaultdict
from decimal import Decimal
from urllib.parse import urlencode

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.values import SECOND, Side, Tick
from simulation.clock import VirtualClock
from simulation.kite.api import Api
from simulation.kite.delays import Delays
from simulation.kite.endpoints import ROUTES
from simulation.kite.faults import OCCASIONS, Occasion
from simulation.kite.orders import TERMINAL, SimOrder
from simulation.kite.sim import KiteSim
from simulation.kite.wire import Request

from .conftest import FRIDAY_TEN, KEY, SBIN, SECRET, USER

ON_ORDERS = [
    fault
    for fault, occasions in OCCASIONS.items()
    if occasions & {Occasion.PLACE, Occasion.LIFE, Occasion.CANCEL, Occasion.MODIFY}
]
PLACE = st.tuples(
    st.just("place"),
    st.sampled_from(["BUY", "SELL"]),
    st.integers(1, 20),
    st.sampled_from([None, 97, 99, 100, 101, 103]),
    st.sampled_from(["MIS", "MIS", "CNC"]),
    st.sampled_from(["DAY", "DAY", "IOC"]),
)
CHANGE = st.tuples(st.just("modify"), st.integers(0, 30), st.integers(98, 102), st.integers(1, 25))
CANCEL = st.tuples(st.just("cancel"), st.integers(0, 30))
PRICE = st.tuples(st.just("price"), st.integers(97, 103))
WAIT = st.tuples(st.just("wait"), st.integers(0, 120))
FAULT = st.tuples(st.just("fault"), st.sampled_from(ON_ORDERS), st.integers(0, 90))
DEEDS = st.lists(st.one_of(PLACE, PRICE, CHANGE, PLACE, CANCEL, WAIT, FAULT), min_size=15, max_size=60)
RANKS = {"PUT ORDER REQ RECEIVED": 0, "VALIDATION PENDING": 1, "OPEN PENDING": 2, "EXCHANGE GATEWAY QUEUED": 3}


def check(sim: KiteSim) -> None:
    account = sim.accounts[USER]
    fills: defaultdict[str, int] = defaultdict(int)
    values: defaultdict[str, Decimal] = defaultdict(Decimal)
    nets: defaultdict[tuple[str, str], int] = defaultdict(int)
    for trade in account.trades:
        fills[trade.order_id] += trade.quantity
        values[trade.order_id] += trade.quantity * trade.price
        nets[trade.symbol, trade.product] += trade.quantity if trade.side is Side.BUY else -trade.quantity
    for order in account.orders:
        assert order.filled == fills[order.order_id]
        assert order.value == values[order.order_id]
        assert 0 <= order.filled <= order.quantity
        assert (order.status == "COMPLETE") == (order.filled == order.quantity)
        assert (order.order_id in account.live) == (not order.is_terminal)
        check_history(order)
    assert {key: position.net for key, position in account.positions.items()} == dict(nets)
    assert len({order.order_id for order in account.orders}) == len(account.orders)
    assert len({trade.trade_id for trade in account.trades}) == len(account.trades)


def check_history(order: SimOrder) -> None:
    filled = [row["filled_quantity"] for row in order.history]
    states = [row["status"] for row in order.history]
    assert filled == sorted(filled)
    assert [state for state in states if state in TERMINAL] == ([states[-1]] if order.is_terminal else [])
    ranks = [RANKS[state] for state in states if state in RANKS]
    assert ranks == sorted(set(ranks))
    assert [row["exchange_update_timestamp"] or "" for row in order.history] == sorted(
        row["exchange_update_timestamp"] or "" for row in order.history
    )


@given(deeds=DEEDS, delay=st.sampled_from([0, 50_000, 2 * SECOND]))
@settings(max_examples=300)
def test_trades_sum_to_fills_and_positions_are_net_of_trades(deeds: list[tuple], delay: int) -> None:  # type: ignore[type-arg]
    clock = VirtualClock(FRIDAY_TEN)
    sim = KiteSim(clock, delays=Delays.of_each(delay), check_limits=False)
    sim.register(USER, api_key=KEY, api_secret=SECRET)
    header = {"authorization": f"token {KEY}:{sim.open_session(USER)}"}
    api = Api(sim, ROUTES)
    account = sim.accounts[USER]

    def call(method: str, path: str, form: str = "") -> None:
        answer = api.answer(Request(method, path, header, form.encode(), "127.0.0.1"))
        assert answer.status in (200, 400, 404, 500, 502, 503, 504)

    for n, deed in enumerate(deeds):
        match deed:
            case ("place", side, quantity, price, product, validity):
                kind = "order_type=MARKET&market_protection=-1" if price is None else f"order_type=LIMIT&price={price}"
                call(
                    "POST",
                    "/orders/regular",
                    f"exchange=NSE&tradingsymbol=SBIN&transaction_type={side}&quantity={quantity}&product={product}"
                    f"&validity={validity}&tag=T{n}&{kind}",
                )
            case ("modify", which, price, quantity) if account.live:
                order_id = list(account.live)[which % len(account.live)]
                call("PUT", f"/orders/regular/{order_id}", f"price={price}&quantity={quantity}&order_type=LIMIT")
            case ("cancel", which) if account.live:
                call("DELETE", f"/orders/regular/{list(account.live)[which % len(account.live)]}")
            case ("price", price):
                asyncio.run(sim.on_ticks([Tick(symbol=SBIN, price=Decimal(price), at=clock.now())]))
            case ("wait", seconds):
                clock.set(clock.now() + seconds * SECOND)
                sim.settle_now()
            case ("fault", fault, after):
                sim.inject(fault, after=after * SECOND)
        check(sim)
    clock.set(clock.now() + 300 * SECOND)
    sim.settle_now()
    check(sim)
    assert not [order for order in account.orders if order.status in RANKS]  # nothing is stuck for ever


@given(deeds=st.lists(st.one_of(PLACE, PRICE, FAULT), min_size=8, max_size=25))
@settings(max_examples=50)
def test_the_result_does_not_depend_on_how_often_somebody_looked(deeds: list[tuple]) -> None:  # type: ignore[type-arg]
    def run(looks: int) -> list[tuple[object, ...]]:
        clock = VirtualClock(FRIDAY_TEN)
        sim = KiteSim(clock, delays=Delays.of_each(700_000), check_limits=False)
        sim.register(USER, api_key=KEY, api_secret=SECRET)
        header = {"authorization": f"token {KEY}:{sim.open_session(USER)}"}
        api = Api(sim, ROUTES)
        for n, deed in enumerate(deeds):
            match deed:
                case ("place", side, quantity, price, product, validity):
                    form = (
                        f"exchange=NSE&tradingsymbol=SBIN&transaction_type={side}&quantity={quantity}"
                        f"&product={product}&validity={validity}&tag=T{n}&order_type=LIMIT&price={price or 100}"
                    )
                    api.answer(Request("POST", "/orders/regular", header, form.encode(), "127.0.0.1"))
                case ("price", price):
                    sim.tick_now([Tick(symbol=SBIN, price=Decimal(price), at=clock.now())])
                case ("fault", fault, after):
                    sim.inject(fault, after=after * SECOND)
            for _ in range(looks):
                clock.set(clock.now() + 10 * SECOND // looks)
                sim.settle_now()
        account = sim.accounts[USER]
        return [
            (order.order_id, order.status, order.filled, order.value, order.history) for order in account.orders
        ] + [(trade.trade_id, trade.order_id, trade.quantity, trade.price, trade.at) for trade in account.trades]

    assert run(1) == run(5)


FIELDS = st.sampled_from(
    ["exchange", "tradingsymbol", "transaction_type", "quantity", "product", "order_type", "validity", "validity_ttl",
     "price", "trigger_price", "market_protection", "disclosed_quantity", "tag", "autoslice", "variety"]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(["NSE", "SBIN", "BUY", "MIS", "CNC", "MARKET", "LIMIT", "SL", "SL-M", "IOC", "TTL", "-1", "true"]),
    st.integers(-5, 10**30).map(str),
    st.decimals(allow_nan=True).map(str),
    st.text(max_size=25),
)
GOOD = {
    "exchange": "NSE", "tradingsymbol": "SBIN", "transaction_type": "BUY", "quantity": "1", "product": "MIS",
    "order_type": "LIMIT", "price": "100",
}  # fmt: skip


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]),
    path=st.sampled_from(
        ["/orders/regular", "/orders/amo", "/orders/regular/1", "/orders", "/session/token", "/trades"]
    ),
    changed=st.dictionaries(FIELDS, VALUES, max_size=5),
    query=st.text(max_size=20),
    token=st.sampled_from(["", "token x:y", "valid"]),
)
@settings(max_examples=300)
def test_whatever_is_sent_is_answered(method: str, path: str, changed: dict[str, str], query: str, token: str) -> None:
    sim = KiteSim(VirtualClock(FRIDAY_TEN), check_limits=False)
    sim.register(USER, api_key=KEY, api_secret=SECRET)
    sim.tick_now([Tick(symbol=SBIN, price=Decimal(100), at=FRIDAY_TEN)])
    header = f"token {KEY}:{sim.open_session(USER)}" if token == "valid" else token
    form = urlencode({**GOOD, **changed}).encode()

    answer = Api(sim, ROUTES).answer(Request(method, f"{path}?{query}", {"authorization": header}, form, "127.0.0.1"))

    assert json.loads(answer.body)["status"] == ("success" if answer.status == 200 else "error")
    check(sim)
