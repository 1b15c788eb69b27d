"""Log lines are JSON, and no secret leaves through them."""

import io
import json
import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bahi.telemetry import logging as bahi_logging
from bahi.telemetry.logging import REDACTED, configure_logging, redact, register_secret


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    monkeypatch.setattr(bahi_logging, "_secrets", set())
    monkeypatch.setattr(bahi_logging, "_known", None)
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging("INFO", stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_and_event(stream: io.StringIO) -> None:
    structlog.get_logger("engine").info("order placed", strategy_id=42, price=Decimal("148.95"))
    [line] = lines(stream)
    assert line["event"] == "order placed"
    assert line["level"] == "info"
    assert line["logger"] == "engine"
    assert line["timestamp"].endswith("Z")
    assert (line["strategy_id"], line["price"]) == (42, "148.95")


def test_the_standard_library_goes_the_same_way(stream: io.StringIO) -> None:
    logging.getLogger("somewhere").warning("took %d ms, password in %s", 7, "postgresql://bahi:hunter2@db/bahi")
    [line] = lines(stream)
    assert line["level"] == "warning"
    assert line["event"] == f"took 7 ms, password in postgresql://bahi:{REDACTED}@db/bahi"


def test_configuring_twice_does_not_print_twice(stream: io.StringIO) -> None:
    configure_logging("INFO", stream=stream)
    logging.getLogger("x").info("once")
    structlog.get_logger("x").debug("below the level")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize(
    "key",
    ["password", "api_key", "API-Secret", "access_token", "request_token", "refresh_token", "Authorization", "secret"],
)
def test_secret_keys_are_redacted_at_any_depth(stream: io.StringIO, key: str) -> None:
    structlog.get_logger().info("asked", **{key: "hunter2"}, body={"list": [{key: "hunter2"}]})
    assert "hunter2" not in stream.getvalue()
    assert lines(stream)[0]["body"] == {"list": [{key: REDACTED}]}


def test_known_secrets_are_masked_anywhere_also_in_tracebacks_and_bytes(stream: io.StringIO) -> None:
    register_secret("s3cr3t-value")
    register_secret("s3cr3t-value-and-more")
    try:
        raise ValueError("the broker said s3cr3t-value-and-more")
    except ValueError:
        structlog.get_logger().exception("failed with s3cr3t-value", raw=b"<s3cr3t-value>", odd={"s3cr3t-value": 1})
        logging.getLogger("lib").exception("and s3cr3t-value", extra={"what": "s3cr3t-value"})
    assert "s3cr3t" not in stream.getvalue()
    assert "-and-more" not in stream.getvalue()
    assert "Traceback" in lines(stream)[0]["exception"]


def test_tokens_are_recognised_by_their_shape(stream: io.StringIO) -> None:
    structlog.get_logger().info("sent", headers="Authorization: Bearer abc.def.ghi and token key123:tok456 x")
    assert not any(part in stream.getvalue() for part in ("abc.def", "key123", "tok456"))


def test_too_short_a_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be masked"):
        register_secret("abc")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values), st.sampled_from(["", "x", "/"]))
def test_whatever_surrounds_it_a_registered_secret_never_gets_through(event: dict[str, Any], around: str) -> None:
    register_secret("THE-REGISTERED-SECRET")
    event["note"] = f"{around}THE-REGISTERED-SECRET{around}"
    event["deep"] = [{"a": (event["note"],)}]
    assert "THE-REGISTERED-SECRET" not in json.dumps(redact(None, "info", event))
