"""What is written can be read: every event, envelope and state, with any value; and what was written long ago."""

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from bahi.schema.history import load
from bahi.schema.samples import samples
from bahi.testing import envelopes, events, instants, states
from domain.events import EVENT_TYPES, StrategyStopRequested
from domain.strategy import State
from domain.values import Tick
from eventstore.envelope import FORMAT, SCHEMAS, NewEvent, Raw, Recorded, decode, decode_page, encode
from eventstore.errors import CorruptEvent
from eventstore.upcasts import Upcasts
from projections.prices import decode_price, encode_price
from projections.runtime import decode_state, encode_state

COMMITTED = Path(__file__).parents[2] / "schemas"


def stored(envelope: bytes, at: int = 1_000) -> Raw:
    return Raw(17, "high", 3, at, envelope)


def enveloped(event: object) -> Raw:
    return stored(msgspec.msgpack.encode([FORMAT, "w-1", 42, 7, "c", "b", "w", event]))


def again(it: Recorded) -> bytes:
    """The envelope of an event that was read, written once more."""
    new = NewEvent(it.event, it.strategy_id, it.user_id, it.correlation_id, it.causation_id)
    return encode(new, it.event_id, it.writer)


@pytest.mark.parametrize("name", EVENT_TYPES)
@settings(max_examples=15)
@given(data=st.data())
def test_an_envelope_of_every_event_is_read_as_it_was_written(name: str, data: st.DataObject) -> None:
    new, at = data.draw(envelopes(events(name))), data.draw(instants())
    written = encode(new, new.event_id, "w")
    it = decode(stored(written, at))
    assert it.event == new.event
    assert type(it.event) is EVENT_TYPES[name]
    assert (it.strategy_id, it.user_id, it.recorded_at) == (new.strategy_id, new.user_id, at)
    assert (it.event_id, it.writer, it.causation_id) == (new.event_id, "w", new.causation_id)
    assert it.correlation_id == (new.correlation_id or new.event_id)
    assert again(it) == written, "seals and hashes rely on the very bytes"
    page = decode_page([stored(written), stored(written)])
    assert page is not None
    assert [each.event for each in page] == [new.event, new.event]


@settings(max_examples=100)
@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers(0, 9) | st.text(), st.lists).map(msgspec.msgpack.encode)
)
def test_what_is_no_envelope_is_named_and_never_read_as_one(envelope: bytes) -> None:
    with pytest.raises(CorruptEvent) as caught:
        decode(stored(envelope))
    assert (caught.value.position, caught.value.stream) == (17, "high")


@settings(max_examples=100)
@given(envelopes(), st.data())
def test_of_an_envelope_that_was_cut_off_nothing_is_read(new: NewEvent, data: st.DataObject) -> None:
    written = encode(new, new.event_id, "w")
    cut = data.draw(st.integers(0, len(written) - 1))
    with pytest.raises(CorruptEvent):
        decode(stored(written[:cut]))


def test_every_schema_version_of_the_past_is_read_and_written_again_in_todays_shape() -> None:
    snapshots, unreadable = load(COMMITTED)
    assert not unreadable
    for snapshot in snapshots:
        for sample in samples(snapshot.shape):
            where = f"{snapshot.type} {sample}"
            it = decode(enveloped(sample))
            assert it.event.schema == SCHEMAS[type(it.event)], where
            today = again(it)
            assert decode(stored(today)) == it, where
            assert again(decode(stored(today))) == today, f"{where} is not stable"
    assert {snapshot.type for snapshot in snapshots} == set(EVENT_TYPES)


def _reason_in_capitals(old: dict[str, Any]) -> dict[str, Any]:
    return {"type": old["type"], "schema": 1, "reason": old["why"].upper()}


@settings(max_examples=50)
@given(st.text())
def test_what_an_upcast_made_needs_no_upcast_once_it_is_written_again(why: str) -> None:
    steps: Upcasts = {"STRATEGY_STOP_REQUESTED": {0: _reason_in_capitals}}
    it = decode(enveloped({"type": "STRATEGY_STOP_REQUESTED", "schema": 0, "why": why}), steps)
    assert it.event == StrategyStopRequested(reason=why.upper())
    assert decode(stored(again(it)), {}) == it
    assert decode(stored(again(it)), steps) == it


@settings(max_examples=150, deadline=None)
@given(states())
def test_every_state_that_can_be_reached_survives_its_two_hashes(state: State) -> None:
    write = encode_state(state, None)
    kept_by_the_script = {"version": str(state.version)}
    where = {"updated_at": str(state.updated_at), "position_in_log": str(state.position_in_log)}
    read = decode_state(state.id, {**write.strategy_set, **kept_by_the_script}, {**write.runtime_set, **where})
    assert read == state


@settings(max_examples=100)
@given(st.decimals(allow_nan=False, allow_infinity=False), instants())
def test_a_price_survives_redis_exactly(price: Any, at: int) -> None:
    assert decode_price(encode_price(Tick("NSE:INFY", price, at))) == (price, at)
