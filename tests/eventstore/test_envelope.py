"""The envelope: every event survives it, old ones are read for ever, damaged ones are named."""

import msgspec
import pytest

from domain.events import BuyTriggered, StrategyStopRequested
from eventstore.envelope import FORMAT, Ids, NewEvent, Raw, decode, encode, owner_of
from eventstore.errors import CorruptEvent


def raw(envelope: bytes) -> Raw:
    return Raw(17, "high", 3, 1_000, envelope)


def enveloped(event: object, *, layout: int = FORMAT) -> Raw:
    return raw(msgspec.msgpack.encode([layout, "w-1", 42, 7, "c", "b", "w", event]))


def test_an_envelope_is_a_plain_array_with_the_event_as_a_map():
    new = NewEvent(BuyTriggered(run=2, due_at=5), strategy_id=42, user_id=7)
    assert msgspec.msgpack.decode(encode(new, "w-1", "w")) == [
        *(1, "w-1", 42, 7, "w-1", "", "w"),
        {"type": "BUY_TRIGGERED", "schema": 1, "run": 2, "due_at": 5},
    ]


UPCASTS = {
    "PURCHASE_DUE": {
        # schema 0 had seconds, schema 1 was renamed and got microseconds
        -1: lambda old: old | {"at": old["at"] + 1},
        0: lambda old: {"type": "BUY_TRIGGERED", "schema": 1, "run": old["run"], "due_at": old["at"] * 1_000_000},
    }
}


def test_an_event_of_an_earlier_schema_goes_through_every_step():
    recorded = decode(enveloped({"type": "PURCHASE_DUE", "schema": -1, "run": 2, "at": 4}), UPCASTS)
    assert recorded.event == BuyTriggered(run=2, due_at=5_000_000)
    assert recorded.event_id == "w-1"


def test_an_earlier_schema_of_a_type_that_still_reads_is_upcast_all_the_same():
    steps = {"STRATEGY_STOP_REQUESTED": {0: lambda old: old | {"reason": old["reason"].upper(), "schema": 1}}}
    old = {"type": "STRATEGY_STOP_REQUESTED", "schema": 0, "reason": "user"}
    assert decode(enveloped(old), steps).event == StrategyStopRequested(reason="USER")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (raw(b""), "truncated"),
        (raw(b"\xc1garbage"), "MessagePack"),
        (raw(msgspec.msgpack.encode({"not": "an array"})), "not an envelope"),
        (enveloped({"type": "BUY_TRIGGERED", "run": 2, "due_at": 5}, layout=9), "not an envelope of format 1"),
        (enveloped(["BUY_TRIGGERED"]), "not a map"),
        (enveloped({"type": "NEVER_HEARD_OF"}), "NEVER_HEARD_OF"),
        (enveloped({"type": "BUY_TRIGGERED", "run": "two", "due_at": 5}), "int"),
        (enveloped({"type": "BUY_TRIGGERED", "schema": 2, "run": 2, "due_at": 5}), "schema 2 of BUY_TRIGGERED"),
    ],
)
def test_an_entry_that_cannot_be_read_is_named(entry, reason):
    with pytest.raises(CorruptEvent, match=reason) as caught:
        decode(entry)
    assert (caught.value.position, caught.value.stream) == (17, "high")


def test_of_an_unreadable_event_its_owner_may_still_be_known():
    owner = owner_of(enveloped({"type": "NEVER_HEARD_OF"}).envelope)
    assert (owner.event_id, owner.strategy_id, owner.user_id) == ("w-1", 42, 7)
    assert owner_of(b"\xc1").strategy_id == 0


def test_ids_count_in_base_36_under_their_writers_name():
    ids = Ids("w", start=35)
    assert [ids.next(), ids.next()] == ["w-z", "w-10"]
