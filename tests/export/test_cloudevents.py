"""A line of an event: CloudEvents 1.0, and the entry's exact bytes, whatever they are."""

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.events import EVENT_TYPES
from eventstore.envelope import Raw
from eventstore.export.cloudevents import CORRUPT, NotAnEntry, Source, as_line, as_raw, stored
from tests.export.history import history

SOURCE = Source("A1B2")
OWN = {"specversion", "id", "source", "type", "time", "subject", "datacontenttype", "dataschema", "data"}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def line_of(raw: Raw, source: Source = SOURCE) -> bytes:
    return as_line(raw, source, stored(raw.envelope))


def attributes(line: bytes) -> dict[str, Any]:
    """As the standard wants them: names of plain lower case, values of its types, no empty or odd strings."""
    found: dict[str, Any] = json.loads(line)
    assert b"\n" not in line
    assert {"specversion", "id", "source", "type"} <= found.keys()
    for name, value in found.items():
        assert re.fullmatch("[a-z0-9]{1,20}", name)
        if name == "data":
            continue
        assert isinstance(value, str | int), name
        if isinstance(value, str):
            assert value or name == "envelope", name
            assert not _CONTROL.search(value), name
    if "time" in found:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", found["time"])
    return found


def test_every_event_of_a_day_is_a_cloud_event_and_its_bytes_come_back() -> None:
    for raw in history(60):
        line = line_of(raw)
        it = attributes(line)
        assert as_raw(line, SOURCE) == raw
        assert it["specversion"] == "1.0"
        assert it["source"] == "/bahi/A1B2/0"
        assert it["position"] == str(raw.position)
        assert it["recordedat"] == str(raw.recorded_at)
        assert it["type"] == it["data"]["type"]
        assert it["type"] in EVENT_TYPES
        assert abs(it["version"]) < 2**31
        assert it["data"] == msgspec.msgpack.decode(raw.envelope)[7]
        assert it.get("subject") == (
            f"strategy/{it['strategyid']}" if "strategyid" in it else f"user/{it['userid']}" if "userid" in it else None
        )


def test_the_time_is_that_of_the_record_to_the_microsecond() -> None:
    (raw,) = history(1)
    late = Raw(1, raw.stream, raw.version, 1_795_000_000_000_001, raw.envelope)
    assert attributes(line_of(late))["time"] == "2026-11-18T11:06:40.000001Z"


def test_with_several_partitions_a_position_names_its_own() -> None:
    (raw,) = history(1)
    source = Source("A1B2", 3, several=True)
    it = attributes(line_of(raw, source))
    assert (it["source"], it["position"]) == ("/bahi/A1B2/3", "3-1")
    assert as_raw(line_of(raw, source), source) == raw
    for another in (Source("A1B2", 3), Source("A1B2", 2, several=True), Source("ZZZZ", 3, several=True)):
        with pytest.raises(NotAnEntry):
            as_raw(line_of(raw, source), another)


ODD = [
    b"",
    b"\xc1",
    b"not an envelope",
    msgspec.msgpack.encode([1, "id"]),
    msgspec.msgpack.encode([1, "id", 1, 1, "c", "", "w", {"type": 5}]),
    msgspec.msgpack.encode([1, "id", 1, 1, "c", "", "w", {}]),
    msgspec.msgpack.encode([1, "id", 1, 1, "c", "", "w", {"type": "X"}, "more"]),
    msgspec.msgpack.encode([1, "id", 1, 1, "c", "", "w", {"type": "X", "of": msgspec.msgpack.Ext(3, b"x")}]),
    msgspec.msgpack.encode([1, "id", 1, 1, "c", "", "w", {"type": CORRUPT}]),
]


@pytest.mark.parametrize("envelope", ODD, ids=repr)
def test_what_is_no_event_is_exported_as_its_bytes(envelope: bytes) -> None:
    raw = Raw(57, "low", 2**40, 0, envelope)
    it = attributes(line_of(raw))
    assert it["type"] == CORRUPT
    assert it["id"] == "bahi.corrupt-57"
    assert "data" not in it
    assert as_raw(line_of(raw), SOURCE) == raw


def test_an_event_that_this_program_does_not_know_is_shown_all_the_same() -> None:
    envelope = msgspec.msgpack.encode([9, "id", 1, 2**60, "c\n", "", "", {"type": "TOMORROW", "schema": 7, "of": [1]}])
    raw = Raw(57, "low", 1, -5, envelope)
    it = attributes(line_of(raw))
    assert (it["type"], it["data"]["of"], it["userid"]) == ("TOMORROW", [1], str(2**60))
    assert it["correlationid"] == "c\ufffd"
    assert "time" not in it
    assert as_raw(line_of(raw), SOURCE) == raw


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.floats() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.binary(max_size=50)
    | st.builds(
        lambda *parts: msgspec.msgpack.encode([1, *parts]),
        st.text(),
        st.integers(0, 2**64 - 1),
        st.integers(-5, 2**63),
        st.text(),
        st.text(),
        st.text(),
        st.dictionaries(st.text() | st.just("type"), _json, max_size=4),
    ),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**63 - 1),
)
def test_any_bytes_come_back_and_are_written_in_one_way(envelope: bytes, at: int, version: int) -> None:
    raw = Raw(2**62, "medium", version, at, envelope)
    line = line_of(raw)
    attributes(line)
    again = as_raw(line, SOURCE)
    assert again == raw
    assert line_of(again) == line
