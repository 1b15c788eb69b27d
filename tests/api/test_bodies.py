"""Parsing bodies: exact, strict, and every fault at once."""

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from api import answers
from api.bodies import parse
from api.models import CreateStrategy, Login, UpdateStrategy
from api.problems import Problem
from tests.api.world import STRATEGY


def body(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in (STRATEGY | changes).items() if value is not ...}).encode()


def raw(field: str, literal: str) -> bytes:
    """The body with a field's JSON written literally."""
    return body(**{field: "HERE"}).replace(b'"HERE"', literal.encode())


def faults(content: bytes) -> dict[str, str]:
    with pytest.raises(Problem) as caught:
        parse(content, CreateStrategy)
    assert (caught.value.status, caught.value.code) == (422, "VALIDATION_FAILED")
    return {error.field: error.rule for error in caught.value.errors}


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("0.1", "0.1"),
        ("148.95", "148.95"),
        ("148.950", "148.950"),
        ('"148.95"', "148.95"),
        ("1480", "1480"),
        ("1e3", "1000"),
        ("14.8e1", "148"),
        ("123456789012.12345678", "123456789012.12345678"),
        ("0.30000000", "0.30000000"),
        ("-1", "-1"),
        ("0e5", "0E+5"),
    ],
)
def test_a_price_keeps_the_digits_that_were_sent(literal: str, value: str) -> None:
    price = parse(raw("stop_loss", literal), CreateStrategy).stop_loss
    assert (price, str(price)) == (Decimal(value), value)


@given(st.decimals(min_value=Decimal("0.01"), max_value=Decimal(10_000_000), places=2))
def test_any_price_goes_in_and_comes_out_exactly(price: Decimal) -> None:
    there = parse(raw("stop_loss", str(price)), CreateStrategy).stop_loss
    assert there == price
    assert json.loads(answers.encode({"p": there}), parse_float=Decimal, parse_int=Decimal) == {"p": price}


@pytest.mark.parametrize(
    "literal",
    [
        *("1e400", "1e99", "1e-99", "9" * 13, "9" * 5000, "0.123456789", "1e999999999", "-1e12"),
        *('"NaN"', '"Infinity"', '"-inf"', '" 1"', '"1 "', '"1_0"', '"١٤٨"', '"1e3"', '"0x10"', '"01"', '""', '"+1"'),
        *('"1\\n"', '"1\\u0000"', '"1.5.5"', '".5"', '"5."'),
    ],
)
def test_a_price_beyond_all_reason_is_refused(literal: str) -> None:
    assert faults(raw("stop_loss", literal)) == {"stop_loss": "number"}


@pytest.mark.parametrize("literal", ["true", "null", "[]", "{}", "[1]"])
@pytest.mark.parametrize("field", ["quantity", "stop_loss", "buy_time", "symbol", "market_protection"])
def test_a_value_of_another_type_is_refused(field: str, literal: str) -> None:
    assert faults(raw(field, literal)) == {field: "type"}


@pytest.mark.parametrize("literal", ['"10"', "10.0", "1e1", "10.5", "true", '"ten"'])
def test_a_quantity_is_an_integer_and_nothing_that_looks_like_one(literal: str) -> None:
    assert faults(raw("quantity", literal)) == {"quantity": "type"}


@pytest.mark.parametrize(("literal", "rule"), [("0", "minimum"), ("-5", "minimum"), ("9" * 40, "maximum")])
def test_an_absurd_quantity_is_refused(literal: str, rule: str) -> None:
    assert faults(raw("quantity", literal)) == {"quantity": rule}


@pytest.mark.parametrize(("text", "time"), [("09:20", dt.time(9, 20)), ("15:09:59", dt.time(15, 9, 59))])
def test_a_time_is_the_exchanges_wall_clock(text: str, time: dt.time) -> None:
    assert parse(body(buy_time=text), CreateStrategy).buy_time == time


@pytest.mark.parametrize(
    "text",
    ["9:20", "24:00", "09:60", "09:20:60", "09:20Z", "09:20:00+05:30", "09:20:00.5", "0920", "", "09:20\n", "٠٩:٢٠"],
)
def test_any_other_time_is_refused(text: str) -> None:
    assert faults(body(buy_time=text)) == {"buy_time": "pattern"}


@pytest.mark.parametrize(
    ("symbol", "rule"),
    [
        *(
            (bad, "pattern")
            for bad in ("", "nse:infy", "NSE:", "NSE:IN FY ", "NSE:A;DROP", "N:INFY", "NSE:INFY:X", "ИНФО")
        ),
        *(("NSE:INFY" + control, "pattern") for control in ("\x00", "\t", "\x7f", "\u202e", "\u0085")),
        ("NSE:INFY\n", "characters"),
        ("NSE:" + "X" * 61, "max_length"),
    ],
)
def test_a_symbol_of_other_characters_is_refused(symbol: str, rule: str) -> None:
    assert faults(body(symbol=symbol)) == {"symbol": rule}


def test_every_fault_is_named_at_once() -> None:
    assert faults(body(symbol=..., quantity="10", buy_time="9", stop_loss="x", leverage=5, product="NRML")) == {
        "symbol": "required",
        "quantity": "type",
        "buy_time": "pattern",
        "stop_loss": "number",
        "leverage": "unknown",
        "product": "enum",
    }


def test_a_pattern_is_explained_and_not_shown() -> None:
    with pytest.raises(Problem) as caught:
        parse(b'{"email": "nobody", "password": "x"}', Login)
    assert caught.value.errors[0].message == "must be an e-mail address"


def test_an_unknown_field_is_named_without_what_could_harm_a_terminal() -> None:
    assert faults(body(**{"\x1b[2J" + "x" * 100: 1})) == {"�[2J" + "x" * 60: "unknown"}


@pytest.mark.parametrize("content", [b"[]", b"1", b'"x"', b"null", b"true"])
def test_a_body_is_an_object(content: bytes) -> None:
    assert faults(content) == {"": "type"}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b" ", b"{", b"{]", b"{'a': 1}", b'{"a": NaN}', b'{"a": 01}', b'{"a": 1}}', b'{"a": 1},', b"\xff\xfe{}"),
        *(b'{"symbol": "\xff"}', b'{"symbol": "\\ud800"}', b'{"a":' * 5000, b'{"symbol": "\n"}', b'{"a": .5}'),
        b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    ],
)
def test_what_is_not_json_is_malformed(content: bytes) -> None:
    with pytest.raises(Problem) as caught:
        parse(content, CreateStrategy)
    assert (caught.value.status, caught.value.code) == (400, "MALFORMED_JSON")


@given(st.binary(max_size=200))
def test_no_bytes_whatever_do_more_than_be_refused(content: bytes) -> None:
    with pytest.raises(Problem):
        parse(content, CreateStrategy)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(CreateStrategy.__struct_fields__, _json)))
def test_no_value_of_any_field_does_more_than_be_refused(values: dict[str, Any]) -> None:
    try:
        parse(json.dumps(STRATEGY | values).encode(), CreateStrategy)
    except Problem as refused:
        assert refused.status in {400, 422}  # noqa: PT017 - it may also be accepted


def test_a_field_left_out_of_an_update_is_not_a_change_and_null_is_no_value() -> None:
    asked = parse(b'{"strategy_id": 1, "stop_loss": 5.5}', UpdateStrategy)
    assert (asked.stop_loss, asked.quantity) == (Decimal("5.5"), UNSET)
    with pytest.raises(Problem) as caught:
        parse(b'{"strategy_id": 1, "stop_loss": null, "quantity": null}', UpdateStrategy)
    assert {error.field: error.rule for error in caught.value.errors} == {"stop_loss": "type", "quantity": "type"}
