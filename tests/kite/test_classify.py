"""What the facts of one request say: accepted, known not placed, or unknown. A wrong "not placed" places it twice."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.kite.classify import changing, placing, reading
from brokers.kite.wire import Reply
from brokers.port import (
    Accepted,
    BrokerUnavailable,
    Done,
    NotPlaced,
    Refused,
    SessionExpired,
    Unanswered,
)

ORDER_ID = "1953341975595868160"
TRAP = "Order request timed out. Please check the order book and confirm before placing again."
JUDGING = ["InputException", "OrderException", "MarginException", "HoldingException", "PermissionException"]
OTHERS = ["NetworkException", "DataException", "GeneralException", "UserException", "TwoFAException", "", "Novel"]


def replied(body: Any, status: int = 200, kind: str = "application/json", **more: Any) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(written=True, status=status, content_type=kind, body=raw, **more)


def error(message: Any, error_type: Any = "InputException", status: int = 400) -> Reply:
    return replied({"status": "error", "message": message, "data": None, "error_type": error_type}, status)


def success(data: Any, status: int = 200) -> Reply:
    return replied({"status": "success", "data": data}, status)


# --- accepted


UNCOUNTED = ("ORDER_LIMIT", "MARKET_CLOSED", "CIRCUIT", "PRICE_TOO_FAR")
"""They say nothing of the order."""


@pytest.mark.parametrize("order_id", [ORDER_ID, "220524001859672", int(ORDER_ID)])
def test_an_order_id_means_accepted_exactly_as_it_is(order_id: str | int) -> None:
    assert placing(success({"order_id": order_id})) == Accepted(str(order_id))
    assert changing(success({"order_id": order_id})) == Done()


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_the_content_type_may_say_more(kind: str) -> None:
    assert placing(replied({"status": "success", "data": {"order_id": ORDER_ID}}, 200, kind)) == Accepted(ORDER_ID)


@pytest.mark.parametrize(
    "data",
    [None, {}, [], "1953341975595868160", {"order_id": None}, {"order_id": ""}, {"order_id": "abc"}, {"order_id": True},
     {"order_id": 1.953341975595868160e18}, {"order_id": -5}, {"order_id": [ORDER_ID]}, {"order_id": "12 34"}],
)  # fmt: skip
def test_success_without_an_order_id_is_unknown(data: Any) -> None:
    assert isinstance(placing(success(data)), Unanswered)
    assert isinstance(changing(success(data)), Unanswered)


@pytest.mark.parametrize("status", [100, 301, 302, 307, 400, 403, 404, 429, 500, 502, 503, 504])
def test_success_under_another_status_is_unknown(status: int) -> None:
    assert isinstance(placing(success({"order_id": ORDER_ID}, status)), Unanswered)
    assert isinstance(changing(success({"order_id": ORDER_ID}, status)), Unanswered)


# --- known not placed


def test_what_was_not_written_is_not_placed() -> None:
    answer = placing(Reply(written=False, trouble="ConnectionRefusedError: refused"))
    assert answer == NotPlaced(
        "BROKER_UNREACHABLE", curable=True, counted=False, text="not sent: ConnectionRefusedError: refused"
    )
    assert changing(Reply(written=False, trouble="x")) == Refused("BROKER_UNREACHABLE")


@pytest.mark.parametrize(
    "reply",
    [
        error("Too many requests", "NetworkException", 429),
        error("", "", 429),
        replied(b"<html>slow down</html>", 429, "text/html"),
        replied(b"", 429, ""),
        Reply(written=True, status=429, trouble="IncompleteRead"),
        error("Too many requests", "NetworkException", 400),
    ],
)
def test_too_many_requests_are_not_placed_and_do_not_count(reply: Reply) -> None:
    answer = placing(reply)
    assert isinstance(answer, NotPlaced)
    assert (answer.reason, answer.curable, answer.counted) == ("TOO_MANY_REQUESTS", True, False)
    assert changing(reply) == Refused("TOO_MANY_REQUESTS")


@pytest.mark.parametrize(
    ("reply", "reason", "curable"),
    [
        (error("Insufficient funds. Required margin is 95417.84 but available margin is 74251.80.", "MarginException"),
         "MARGIN", False),
        (error("something about money", "MarginException"), "MARGIN", False),
        (error("Insufficient funds. Check the orderbook for open orders.", "MarginException"), "MARGIN", False),
        (error("Insufficient stock holding in your account", "HoldingException"), "HOLDING", False),
        (error("Authorise at CDSL first", "HoldingException", 428), "HOLDING", False),
        (error("Market orders without market protection are not allowed via API. Please set market protection or use a "
               "Limit order."), "MARKET_PROTECTION", False),
        (error("No IPs configured for this app. Add allowed IPs on the Kite developer console.", "PermissionException",
               403), "IP_NOT_ALLOWED", False),
        (error("IP is not allowed to place orders for this app. Add it to the list.", "InputException"),
         "IP_NOT_ALLOWED", False),
        (error("IP 2401:4900::1 is not allowed to place orders for this app.", "GeneralException", 403),
         "IP_NOT_ALLOWED", False),
        (error("No IPs configured for this app.", None, 403), "IP_NOT_ALLOWED", False),
        (error("Tick size for this script is 0.10. Kindly enter price in the multiple of tick size for this script"),
         "TICK_SIZE", False),
        (error("Markets are closed right now. Use GTT for placing long-standing instructions instead."),
         "MARKET_CLOSED", True),
        (error("Trigger price for stoploss sell orders cannot be below the lower circuit price. ..."), "CIRCUIT", True),
        (error("LIMIT orders that are far away from the LTP are restricted as per exchange guidelines."),
         "PRICE_TOO_FAR", True),
        (error("Maximum allowed order requests exceeded."), "ORDER_LIMIT", False),
        (error("That API call is not allowed for the authenticated user", "PermissionException", 403),
         "PERMISSION", False),
        (error("Quantity should be a multiple of the lot size"), "LOT_SIZE", False),
        (error("Enter Valid Price", "OrderException"), "REJECTED", True),
        (error("A text that nobody has seen before"), "REJECTED", True),
        (error("A text that nobody has seen before", status=200), "REJECTED", True),
        (error(None, "OrderException"), "REJECTED", True),
    ],
)  # fmt: skip
def test_a_refusal_gives_its_reason_and_whether_asking_again_may_help(reply: Reply, reason: str, curable: bool) -> None:
    answer = placing(reply)
    assert isinstance(answer, NotPlaced)
    assert (answer.reason, answer.curable, answer.session) == (reason, curable, False)
    assert answer.counted is (reason not in UNCOUNTED)


def test_the_largest_order_is_told_where_the_text_has_it() -> None:
    text = (
        "The order quantity 1000 (40 lots) is higher than the maximum quantity of 1,900 (36 lots) allowed by the "
        "exchanges. Please reduce the order quantity."
    )
    answer = placing(error(text))
    assert isinstance(answer, NotPlaced)
    assert (answer.reason, answer.curable) == ("FREEZE_QUANTITY", False)
    assert answer.text.startswith("at most 1900 in one order: The order quantity 1000")


@pytest.mark.parametrize(
    "reply",
    [
        error("Token is invalid or has expired.", "TokenException", 403),
        error("Incorrect `api_key` or `access_token`.", "TokenException", 403),
        error("Invalid `api_key` or `access_token`.", "InputException", 400),
        error("whatever", "TokenException", 401),
        error("Invalid `api_key` or `access_token`.", None, 400),
    ],
)
def test_without_a_session_it_says_so(reply: Reply) -> None:
    answer = placing(reply)
    assert isinstance(answer, NotPlaced)
    assert (answer.reason, answer.curable, answer.session) == ("SESSION_EXPIRED", False, True)
    assert changing(reply) == Refused("SESSION_EXPIRED")
    with pytest.raises(SessionExpired):
        reading(reply)


def test_an_instrument_token_is_no_session() -> None:
    answer = placing(error("Instrument token has expired"))
    assert isinstance(answer, NotPlaced)
    assert not answer.session


# --- unknown


@pytest.mark.parametrize("error_type", [*JUDGING, *OTHERS, "TokenException", None])
@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 599])
def test_any_5xx_is_unknown_whatever_it_says(error_type: str | None, status: int) -> None:
    for message in ("Insufficient funds", "No IPs configured for this app.", "Enter Valid Price", "Too many requests"):
        assert isinstance(placing(error(message, error_type, status)), Unanswered)
        assert isinstance(changing(error(message, error_type, status)), Unanswered)


@pytest.mark.parametrize("error_type", [*JUDGING, *OTHERS, None])
@pytest.mark.parametrize("status", [200, 400, 403])
@pytest.mark.parametrize(
    "text",
    [TRAP, TRAP.upper(), "request 01ab timed out", "Gateway timeout", "Kindly check order book before placing it again",
     "Insufficient funds? The request timed out."],
)  # fmt: skip
def test_an_error_that_sends_us_to_the_order_book_is_unknown(error_type: str | None, status: int, text: str) -> None:
    assert isinstance(placing(error(text, error_type, status)), Unanswered)
    assert isinstance(changing(error(text, error_type, status)), Unanswered)


@pytest.mark.parametrize("error_type", [*OTHERS, None, 17, ["InputException"]])
@pytest.mark.parametrize("status", [200, 400, 403, 404])
def test_an_error_of_no_type_that_judges_the_request_is_unknown(error_type: Any, status: int) -> None:
    assert isinstance(placing(error("Request failed (kitetrade-oms)", error_type, status)), Unanswered)


@pytest.mark.parametrize("status", [408, 409, 425, 499])
def test_a_status_that_speaks_of_time_is_unknown(status: int) -> None:
    assert isinstance(placing(error("Insufficient funds.", "MarginException", status)), Unanswered)


@pytest.mark.parametrize("status", [200, 400, 403, 404, 502, 504])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html><h1>502 Bad Gateway</h1></html>", "text/html"),
        (b'{"status":"success","data":{"order_id":"1"}}', ""),
        (b'{"status":"success","data":{"order_id":"1"}}', "text/html"),
        (b'[{"order_id":"1"}]', "application/json"),
        (b'"1"', "application/json"),
        (b"null", "application/json"),
        (b"", "application/json"),
        (b'{"status":"success","data":{"order_id":"19533', "application/json"),
        (b"\xff\xfe\x00", "application/json"),
        (b'{"data":{"order_id":"1"}}', "application/json"),
        (b'{"status":"partial","data":{"order_id":"1"}}', "application/json"),
        (b'{"status":"error"}', "application/json"),
        (b'{"status":"success","error_type":"NetworkException","data":{"order_id":"1"}}', "application/json"),
        (b'{"a":' * 5000, "application/json"),
        (b'{"status":"success","data":{"order_id":1e99999999999999999999}}', "application/json"),
    ],
)
def test_what_is_not_kites_envelope_is_unknown(body: bytes, kind: str, status: int) -> None:
    assert isinstance(placing(replied(body, status, kind)), Unanswered)
    assert isinstance(changing(replied(body, status, kind)), Unanswered)
    with pytest.raises(BrokerUnavailable):
        reading(replied(body, status, kind))


def test_what_broke_after_it_was_written_is_unknown() -> None:
    for status in (None, 200, 400, 403):
        reply = Reply(
            written=True,
            status=status,
            content_type="application/json",
            body=b'{"status":"error","error_type":"MarginException","message":"Insufficient funds"}',
            trouble="IncompleteRead",
        )
        assert isinstance(placing(reply), Unanswered)
        assert isinstance(changing(reply), Unanswered)
        with pytest.raises(BrokerUnavailable):
            reading(reply)


# --- cancels and changes, readings


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (error("Couldn't find that `order_id`.", "GeneralException", 404), Refused("UNKNOWN_ORDER")),
        (error("Order cannot be cancelled as it is being processed. Try later."), Refused("BEING_PROCESSED")),
        (error("Maximum allowed order modifications exceeded."), Refused("MODIFICATIONS")),
        (error("Something new", "GeneralException", 400), Refused("REJECTED: Something new")),
        (error("Something new"), Refused("REJECTED: Something new")),
    ],
)
def test_a_refused_change_says_why(reply: Reply, answer: Refused) -> None:
    assert changing(reply) == answer


def test_a_reading_gives_its_data_with_exact_numbers() -> None:
    data = reading(replied(b'{"status":"success","data":[{"price":340.05,"order_id":1953341975595868160}]}'))
    assert data == [{"price": Decimal("340.05"), "order_id": 1953341975595868160}]
    assert reading(success([])) == []


@pytest.mark.parametrize(
    "reply",
    [error("x", "NetworkException", 429), error("x", "DataException", 502), error("x", "TokenException", 502),
     error("x", "InputException"), error("x", "PermissionException", 403), success([], 504), Reply(written=False)],
)  # fmt: skip
def test_a_reading_that_is_not_whole_and_successful_is_none(reply: Reply) -> None:
    with pytest.raises(BrokerUnavailable):
        reading(reply)


# --- whatever comes

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_envelopes = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["success", "error", "SUCCESS", None, 1]),
        "data": _values | st.fixed_dictionaries({"order_id": _values | st.just(ORDER_ID)}),
        "message": _values | st.sampled_from([TRAP, "Insufficient funds", "Too many requests"]),
        "error_type": _values | st.sampled_from([*JUDGING, *OTHERS, "TokenException"]),
    },
)
_replies = st.builds(
    Reply,
    written=st.just(True),
    status=st.sampled_from([200, 201, 302, 400, 403, 404, 408, 428, 429, 500, 502, 503, 504]) | st.integers(100, 599),
    content_type=st.sampled_from(["application/json", "text/html", ""]),
    body=st.binary(max_size=40) | (_envelopes | _values).map(lambda body: json.dumps(body).encode()),
    trouble=st.sampled_from(["", "", "", "RemoteDisconnected"]),
)


@given(reply=_replies)
def test_no_answer_is_ever_taken_for_more_than_it_says(reply: Reply) -> None:
    """The rule of the table, said once more and otherwise: what may stand behind each verdict."""
    answer = placing(reply)
    match answer:
        case Accepted(order_id):
            said = json.loads(reply.body)
            assert 200 <= (reply.status or 0) < 300
            assert str(said["data"]["order_id"]) == order_id
            assert order_id.isdigit()
            assert not said.get("error_type")
        case NotPlaced(reason="TOO_MANY_REQUESTS") if reply.status == 429:
            pass
        case NotPlaced():
            said = json.loads(reply.body)
            assert reply.trouble == ""
            assert reply.content_type == "application/json"
            assert (reply.status or 0) < 500
            assert "timed out" not in str(said.get("message"))
            assert said.get("status") == "error" or said.get("error_type")
    match changing(reply):
        case Done():
            assert isinstance(answer, Accepted)
        case Refused() | Unanswered():
            assert not isinstance(answer, Accepted)
