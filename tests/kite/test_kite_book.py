"""Rows of Kite's book: what is read of them, what is done without, and what may not be passed over."""

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.kite.book import Quote, orders, positions, quotes, trades
from brokers.port import BookOrder, BookStatus, BrokerPosition, BrokerUnavailable, PartialReading, Trade
from domain.calendar import instant
from domain.tags import make_tag
from domain.values import Product, Side

OURS = make_tag("LOG1", 42, 7, 1)
AT = instant(dt.date(2021, 4, 13), dt.time(10, 30))
ROW: dict[str, Any] = {
    "account_id": "AB1234", "placed_by": "AB1234", "order_id": "1953341975595868160",
    "exchange_order_id": "1100000017283481", "parent_order_id": None, "status": "OPEN", "status_message": None,
    "status_message_raw": None, "order_timestamp": "2021-04-13 10:15:07", "exchange_update_timestamp": None,
    "exchange_timestamp": "2021-04-13 10:15:07", "variety": "regular", "modified": False, "exchange": "NSE",
    "tradingsymbol": "SBIN", "instrument_token": 779521, "order_type": "LIMIT", "transaction_type": "SELL",
    "validity": "DAY", "validity_ttl": 0, "product": "MIS", "quantity": 10, "disclosed_quantity": 0,
    "price": Decimal("333.25"), "trigger_price": 0, "auction_number": None, "average_price": Decimal("340.075"),
    "filled_quantity": 4, "pending_quantity": 6, "cancelled_quantity": 0, "market_protection": 0, "meta": {},
    "tag": OURS, "tags": [OURS, "mktp", "mktp:2.00"], "guid": "01Xabc",
}  # fmt: skip
NEEDED = ["order_id", "status", "exchange", "tradingsymbol", "transaction_type", "product", "quantity",
          "filled_quantity"]  # fmt: skip


class Notices:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def __call__(self, what: str, facts: Mapping[str, str]) -> None:
        self.heard.append(what)


def row(**changes: Any) -> dict[str, Any]:
    return ROW | changes


def without(*names: str, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in row(**changes).items() if name not in names}


def read(*rows: Any) -> list[BookOrder]:
    return orders(list(rows), AT, Notices())


def one(**changes: Any) -> BookOrder:
    (order,) = read(row(**changes))
    return order


def test_a_row_is_read() -> None:
    assert one() == BookOrder(
        order_id="1953341975595868160",
        tag=OURS,
        symbol="NSE:SBIN",
        side=Side.SELL,
        product=Product.MIS,
        quantity=10,
        filled=4,
        average_price=Decimal("340.075"),
        price=Decimal("333.25"),
        status=BookStatus.OPEN,
        placed_at=instant(dt.date(2021, 4, 13), dt.time(10, 15, 7)),
    )


def test_only_what_money_depends_on_is_needed() -> None:
    assert read({name: ROW[name] for name in [*NEEDED, "average_price", "tag"]}) == [
        one(price=None, order_timestamp=None, exchange_timestamp=None)
    ]


def test_numbers_may_be_strings_and_ids_numbers() -> None:
    assert one(quantity="10", filled_quantity="4.0", average_price="340.075", order_id=1953341975595868160) == one()


def test_fields_that_nobody_knows_change_nothing() -> None:
    assert one(surprise={"a": [1]}, another=None) == one()


@pytest.mark.parametrize("status", ["COMPLETE", "complete", " COMPLETE ", "COMPLETED"])
def test_complete_is_complete(status: str) -> None:
    assert one(status=status, filled_quantity=10).status is BookStatus.COMPLETE


@pytest.mark.parametrize("status", ["CANCELLED", "CANCELLED AMO"])
def test_cancelled_is_told_by_its_beginning(status: str) -> None:
    assert one(status=status).status is BookStatus.CANCELLED


def test_a_terminal_row_is_not_asked_to_balance() -> None:
    order = one(status="CANCELLED", pending_quantity=6, cancelled_quantity=0)
    assert (order.quantity, order.filled) == (10, 4)


@pytest.mark.parametrize(
    "status", ["OPEN PENDING", "CANCEL PENDING", "MODIFIED", "TRIGGER PENDING", "AMO REQ RECEIVED"]
)
def test_whatever_is_not_terminal_is_open(status: str) -> None:
    notices = Notices()
    (order,) = orders([row(status=status)], AT, notices)
    assert (order.status, notices.heard) == (BookStatus.OPEN, [])


def test_an_unknown_status_is_open_and_told() -> None:
    notices = Notices()
    (order,) = orders([row(status="EXCHANGE GATEWAY QUEUED")], AT, notices)
    assert (order.status, notices.heard) == (BookStatus.OPEN, ["kite_unknown_status"])


def test_complete_but_not_filled_is_not_over() -> None:
    """Ended short, an exit would be sold again."""
    notices = Notices()
    (order,) = orders([row(status="COMPLETE", filled_quantity=4)], AT, notices)
    assert (order.status, order.filled) == (BookStatus.OPEN, 4)
    assert notices.heard == ["kite_order_complete_but_not_filled"]


@pytest.mark.parametrize("average", [0, None, Decimal(0), "0"])
def test_an_average_price_of_nothing_is_none(average: Any) -> None:
    assert one(filled_quantity=0, average_price=average).average_price is None


@pytest.mark.parametrize(
    ("message", "raw", "reason", "curable"),
    [
        ("Insufficient funds. Required margin is 95417.84 but available margin is 74251.80. Check the orderbook for "
         "open orders.", "RMS:Margin Exceeds,Required:95417.84, Available:74251.80 for entity account-XXXXX",
         "MARGIN", False),
        (None, "RMS:Margin Exceeds,Required:95417.84", "MARGIN", False),
        ("17070 : The price is out of the current execution range", None, "PRICE_TOO_FAR", True),
        ("RMS:Rule: Check circuit limit including square off order exceeds", None, "CIRCUIT", True),
        ("nobody knows", None, "REJECTED", True),
        (None, None, "REJECTED", True),
        (17, ["x"], "REJECTED", True),
    ],
)  # fmt: skip
def test_a_rejected_row_has_a_reason(message: Any, raw: Any, reason: str, curable: bool) -> None:
    order = one(status="REJECTED", status_message=message, status_message_raw=raw, filled_quantity=0)
    assert (order.status, order.reason, order.curable) == (BookStatus.REJECTED, reason, curable)
    assert order.counted is (reason not in ("CIRCUIT", "PRICE_TOO_FAR"))


def test_a_row_that_the_halted_market_rejected_says_nothing_of_the_order() -> None:
    order = one(status="REJECTED", status_message="Markets are closed right now.", filled_quantity=0)
    assert (order.reason, order.curable, order.counted) == ("MARKET_CLOSED", True, False)


# --- stamps


@pytest.mark.parametrize("stamp", [None, "", "yesterday", 17, "0001-01-01 00:00:00", "2021-13-45 10:00:00"])
def test_an_odd_stamp_gives_way_to_the_next_and_then_to_the_readings_time(stamp: Any) -> None:
    known = instant(dt.date(2021, 4, 13), dt.time(10, 15, 7))
    if stamp != "0001-01-01 00:00:00":
        assert one(order_timestamp=stamp).placed_at == known
        assert one(order_timestamp=stamp, exchange_timestamp=stamp).placed_at == AT
    else:
        assert one(order_timestamp=stamp).placed_at < 0


def test_a_stamp_with_an_offset_is_that_instant() -> None:
    assert one(order_timestamp="2021-04-13T04:45:07+00:00") == one()


# --- tags


@pytest.mark.parametrize(
    "where",
    [
        {"tag": OURS, "tags": None},
        {"tag": None, "tags": [OURS]},
        {"tag": None, "tags": ["mktp", "mktp:2.00", OURS]},
        {"tag": "mktp", "tags": [OURS]},
        {"tag": "myown", "tags": ["myown", OURS]},
        {"tag": "", "tags": [OURS, OURS]},
    ],
)
def test_our_tag_is_found_wherever_it_is(where: dict[str, Any]) -> None:
    assert one(**where).tag == OURS


def test_the_tag_may_be_the_only_one_of_the_two_fields() -> None:
    assert [order.tag for order in read(without("tags"), without("tag"))] == [OURS, OURS]


@pytest.mark.parametrize(
    ("where", "tag"),
    [({"tag": None, "tags": ["mktp", "mktp:2.00"]}, None), ({"tag": "theirs", "tags": ["theirs"]}, "theirs"),
     ({"tag": None, "tags": []}, None), ({"tag": 1234, "tags": None}, "1234")],
)  # fmt: skip
def test_other_peoples_tags_are_shown_and_kites_own_are_not(where: dict[str, Any], tag: str | None) -> None:
    assert one(**where).tag == tag


# --- what cannot be understood


@pytest.mark.parametrize("field", NEEDED)
@pytest.mark.parametrize("value", [..., None, "", [], {}, True])
def test_our_row_that_cannot_be_understood_is_told_beside_those_that_can(field: str, value: Any) -> None:
    broken = without(field) if value is ... else row(**{field: value})
    with pytest.raises(PartialReading, match="cannot be understood") as partial:
        read(row(order_id="1", tag="theirs", tags=[]), broken)
    assert [each.order_id for each in partial.value.rows] == ["1"]
    (unread,) = partial.value.unread
    assert (unread.order_id, unread.tag) == (None if field == "order_id" else ROW["order_id"], OURS)
    assert not unread.foreign


@pytest.mark.parametrize(
    "changes",
    [{"quantity": -1}, {"quantity": Decimal("1.5")}, {"quantity": "ten"}, {"filled_quantity": "nan"},
     {"quantity": Decimal("1e999999")}, {"transaction_type": "SHORT"}, {"product": "NRML"}, {"average_price": 0},
     {"average_price": None}, {"average_price": Decimal("-1")}, {"tags": "mktp"}, {"tag": [OURS]}, {"tag": True}],
)  # fmt: skip
def test_our_row_with_senseless_values_is_not_understood(changes: dict[str, Any]) -> None:
    with pytest.raises(PartialReading, match="cannot be understood"):
        one(**changes)


@pytest.mark.parametrize(
    "tags", [{"tag": None, "tags": None}, {"tag": None, "tags": ["mktp"]}, {"tag": "", "tags": []}]
)
def test_a_broken_row_without_anybodys_tag_may_be_ours(tags: dict[str, Any]) -> None:
    with pytest.raises(PartialReading):
        one(**tags, filled_quantity=None)


def test_a_row_without_any_field_for_tags_may_be_ours() -> None:
    with pytest.raises(PartialReading):
        read(without("tag", "tags"))


def test_a_broken_row_with_somebody_elses_tag_hides_no_other() -> None:
    notices = Notices()
    rows = [row(tag="theirs", tags=["theirs"], filled_quantity=None), row()]
    with pytest.raises(PartialReading) as partial:
        orders(rows, AT, notices)
    assert [order.tag for order in partial.value.rows] == [OURS]
    assert [(each.foreign, each.order_id) for each in partial.value.unread] == [(True, ROW["order_id"])]
    assert notices.heard == ["kite_foreign_order_unreadable"]


@pytest.mark.parametrize("product", ["NRML", "MTF", "CO", "BO", "Whatever"])
def test_an_order_of_a_product_that_we_never_trade_is_passed_over_and_told(product: str) -> None:
    notices = Notices()
    rows = [row(product=product, tag=None, tags=[], exchange="NFO", filled_quantity=None), row()]
    assert len(orders(rows, AT, notices)) == 1
    assert notices.heard == ["kite_order_of_other_product"]


@pytest.mark.parametrize("data", [None, {}, "", 17, [None], [[]], [row(), "row"]])
def test_what_is_no_list_of_rows_is_no_reading(data: Any) -> None:
    for reading in (lambda: orders(data, AT, Notices()), lambda: trades(data, AT)):
        with pytest.raises(BrokerUnavailable):
            reading()
    with pytest.raises(BrokerUnavailable):
        positions({"net": data, "day": []}, Notices())


_junk = (
    st.none() | st.booleans() | st.integers() | st.decimals() | st.text(max_size=12) | st.lists(st.text(), max_size=2)
)


@given(changes=st.dictionaries(st.sampled_from(sorted(ROW)), _junk, max_size=4))
def test_whatever_a_row_holds_it_is_read_or_fails_the_reading(changes: dict[str, Any]) -> None:
    try:
        read_rows = read(row(**changes))
    except BrokerUnavailable:
        return
    for order in read_rows:
        assert order.quantity >= 0
        assert order.filled == 0 or order.average_price is not None
    if not read_rows:  # passed over: only what is certainly not ours
        assert OURS not in (changes.get("tag", OURS), *(changes.get("tags", [OURS]) or ()))


# --- trades, positions, quotes

TRADE: dict[str, Any] = {
    "trade_id": "10000000", "order_id": "1953341975595868160", "exchange": "NSE", "tradingsymbol": "SBIN",
    "instrument_token": 779521, "product": "MIS", "average_price": Decimal("420.65"), "quantity": 1,
    "exchange_order_id": "300000000009124", "transaction_type": "BUY", "fill_timestamp": "2021-05-31 09:16:39",
    "order_timestamp": "09:16:39", "exchange_timestamp": "2021-05-31 09:16:39",
}  # fmt: skip


def test_a_trade_is_read() -> None:
    assert trades([TRADE], AT) == [
        Trade(
            trade_id="10000000",
            order_id="1953341975595868160",
            symbol="NSE:SBIN",
            side=Side.BUY,
            quantity=1,
            price=Decimal("420.65"),
            at=instant(dt.date(2021, 5, 31), dt.time(9, 16, 39)),
        )
    ]


@pytest.mark.parametrize("field", ["trade_id", "order_id", "exchange", "transaction_type", "quantity", "average_price"])
def test_a_broken_trade_fails_the_reading(field: str) -> None:
    with pytest.raises(BrokerUnavailable):
        trades([TRADE, TRADE | {field: None}], AT)


POSITION: dict[str, Any] = {
    "tradingsymbol": "SBIN", "exchange": "NSE", "instrument_token": 779521, "product": "CNC", "quantity": -3,
    "overnight_quantity": 0, "multiplier": 1, "average_price": Decimal("308.5"), "pnl": Decimal("-4.5"),
}  # fmt: skip


def test_net_positions_are_read_and_those_of_other_products_passed_over() -> None:
    notices = Notices()
    net = [POSITION, POSITION | {"product": "MIS", "quantity": "0"}, POSITION | {"product": "NRML", "quantity": None}]
    assert positions({"net": net, "day": [POSITION]}, notices) == [
        BrokerPosition(symbol="NSE:SBIN", product=Product.CNC, quantity=-3, average_price=Decimal("308.5")),
        BrokerPosition(symbol="NSE:SBIN", product=Product.MIS, quantity=0),
    ]
    assert notices.heard == ["kite_position_of_other_product"]


@pytest.mark.parametrize("changes", [{"quantity": None}, {"product": None}, {"exchange": 1.5}, {"tradingsymbol": ""}])
def test_a_broken_position_fails_the_reading(changes: dict[str, Any]) -> None:
    with pytest.raises(BrokerUnavailable):
        positions({"net": [POSITION | changes], "day": []}, Notices())


def test_quotes_are_read_as_far_as_they_go() -> None:
    data = {
        "NSE:SBIN": {"last_price": Decimal("340.05"), "lower_circuit_limit": 306, "upper_circuit_limit": "374.05"},
        "NSE:TCS": {"last_price": 0},
        "NSE:ODD": None,
    }
    assert quotes(data) == {
        "NSE:SBIN": Quote(last_price=Decimal("340.05"), lower_circuit=Decimal(306), upper_circuit=Decimal("374.05")),
        "NSE:TCS": Quote(last_price=None, lower_circuit=None, upper_circuit=None),
    }
    with pytest.raises(BrokerUnavailable):
        quotes([])
