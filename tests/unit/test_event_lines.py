"""The lines about archived events are the same whichever way they are written, and no secret leaves through them."""

import io
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bahi.bench.trading_days import trading_days
from bahi.telemetry import event_lines
from bahi.telemetry import logging as bahi_logging
from bahi.telemetry.event_lines import write_event_lines
from bahi.telemetry.logging import REDACTED, configure_logging, register_secret
from domain.events import (
    AlertTriggered,
    Event,
    OrderRejected,
    SafetyAbort,
    StrategyStopRequested,
    UserRegistered,
)
from domain.values import Abort, Code, Severity, Tag
from eventstore.envelope import Recorded
from projections.log_lines import lines_of, write_lines

Writer = Callable[[int, Sequence[Recorded]], None]


@pytest.fixture(autouse=True)
def _no_secrets_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in (("_secrets", set()), ("_known", None), ("_in_json", ())):
        monkeypatch.setattr(bahi_logging, name, value)
    level = logging.getLogger().level
    logging.getLogger().setLevel("INFO")
    yield
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()


@contextmanager
def stdout(stream: io.StringIO | None = None) -> Iterator[io.StringIO]:
    """Where the lines go, for the time of the block; nobody else listens, not even pytest."""
    stream = stream or io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()
    configure_logging(logging.getLevelName(level), stream=stream)
    try:
        yield stream
    finally:
        root.handlers[:] = handlers


def recorded(event: Event, position: int = 1, **given: Any) -> Recorded:
    about: dict[str, Any] = {"event_id": "w-1", "strategy_id": 42, "user_id": 7, "correlation_id": "w-0"}
    about |= {"causation_id": "", "writer": "w"} | given
    return Recorded(position, 3, 1_795_000_000_000_000, event=event, **about)


def written(writer: Writer, *events: Recorded) -> list[dict[str, Any]]:
    """What a writer says, but when it says it."""
    with stdout() as stream:
        writer(2, events)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    for line in lines:
        assert line.pop("timestamp").endswith("Z")
    return lines


def day(events: int = 3000) -> list[Recorded]:
    days = itertools.islice(trading_days(strategies=100), events)
    return [recorded(new.event, position) for position, new in enumerate(days, 1)]


def test_they_say_what_structlog_says_of_every_event_of_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = written(write_lines, *day())
    assert {line["type"] for line in usual} >= {"EXECUTE_BUY", "ORDER_REJECTED", "ORDER_DENIED"}
    assert {line["level"] for line in usual} == {"info", "error"}
    plain = [it for it in day() if not free(it)]
    slow = written(write_lines, *plain)
    monkeypatch.setattr(event_lines, "write_lines", None)  # and they say it themselves
    fast = written(write_event_lines, *plain)
    assert fast == slow
    assert [list(line) for line in fast] == [list(line) for line in slow]  # in the same order
    assert len(fast) > 2000


def free(it: Recorded) -> bool:
    return any(isinstance(getattr(it.event, name), dict) for name in it.event.__struct_fields__)


def test_the_order_of_the_events_is_the_order_of_the_lines() -> None:
    """Also of those that have to be looked at more closely."""
    assert written(write_event_lines, *day()) == written(write_lines, *day())


texts = st.one_of(
    st.text(),
    st.builds(
        "{}{}{}".format,
        st.text(max_size=5),
        st.sampled_from(
            [
                "THE-SECRET",
                'quo"ted\\secret\n',
                "ünïcode-secret",
                "Bearer abc.def",
                "token key:tok",
                "https://me:word@host",
                "bearer",
                "TOKEN  a:b",
                "K",
            ]
        ),
        st.text(max_size=5),
    ),
)


@given(texts, texts, st.dictionaries(st.sampled_from(["password", "api_key", "price", "THE-SECRET"]), texts))
def test_what_is_masked_one_way_is_masked_the_other(reason: str, text: str, facts: dict[str, str]) -> None:
    for secret in ("THE-SECRET", 'quo"ted\\secret\n', "ünïcode-secret"):
        register_secret(secret)
    events = [
        recorded(OrderRejected(tag=Tag("T"), reason=reason, curable=True, text=text), 1),
        recorded(StrategyStopRequested(reason=text), 2, causation_id=reason),
        recorded(SafetyAbort(run=1, reason=Abort.OPERATOR, facts=facts), 3),
        recorded(AlertTriggered(severity=Severity.WARNING, code=Code.OVERSOLD, at=1, facts=facts), 4),
    ]
    fast = written(write_event_lines, *events)
    assert fast == written(write_lines, *events)
    assert "THE-SECRET" not in json.dumps(fast)


def test_a_secret_shows_in_no_line_and_the_others_stay_whole() -> None:
    register_secret("s3cr3t")
    stops = [StrategyStopRequested(reason=reason) for reason in ("USER", "with s3cr3t in it", "OPERATOR")]
    lines = written(write_event_lines, *(recorded(stop, position) for position, stop in enumerate(stops, 1)))
    assert [line["data"]["reason"] for line in lines] == ["USER", f"with {REDACTED} in it", "OPERATOR"]


def test_the_level_decides() -> None:
    rejected = recorded(OrderRejected(tag=Tag("T"), reason="MARGIN", curable=True))
    assert [line["event"] for line in written(write_event_lines, rejected)] == list(lines_of(rejected.event))
    logging.getLogger().setLevel("WARNING")
    assert [line["event"] for line in written(write_event_lines, rejected)] == ["ERROR_LOGGED"]
    logging.getLogger().setLevel("CRITICAL")
    assert written(write_event_lines, rejected) == []


def test_whoever_listens_besides_hears_them_too(caplog: pytest.LogCaptureFixture) -> None:
    with stdout() as stream:
        logging.getLogger("bahi").addHandler(caplog.handler)
        try:
            write_event_lines(0, [recorded(StrategyStopRequested())])
        finally:
            logging.getLogger("bahi").removeHandler(caplog.handler)
    assert len(caplog.records) == len(stream.getvalue().splitlines()) == 1


def test_what_is_bound_to_the_context_is_said_too() -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        [line] = written(write_event_lines, recorded(StrategyStopRequested()))
    assert line["request_id"] == "r-1"


def test_most_events_have_no_line() -> None:
    assert written(write_event_lines, recorded(UserRegistered())) == []
    assert written(write_event_lines) == []


def test_a_closed_output_stops_nobody() -> None:
    with stdout() as stream:
        stream.close()
        write_event_lines(0, [recorded(StrategyStopRequested())])
