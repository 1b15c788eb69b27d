"""The chain of seals: silent on what is right, and on every kind of change the right position."""

import random
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from eventstore.envelope import Raw
from eventstore.seal_chain import CHAIN, COVER, SIGNED, Anchor, ChainFault, SealChain, parse_anchor
from eventstore.seal_trust import SealKey, Trust, key_id, parse_public_key, public_bytes, public_pem, sign, vouch
from eventstore.seals import GENESIS, Seal, hints_of, leaf, merkle_root

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(1, 5)]
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
SIZE = 7


def line_of(keys: list[Ed25519PrivateKey]) -> list[SealKey]:
    """Keys that were rotated one after the other."""
    line = []
    for number, key in enumerate(keys, 1):
        public, before = public_bytes(key), keys[number - 2] if number > 1 else None
        line.append(
            SealKey(
                number=number,
                id=key_id(public),
                public_key=public,
                endorsement=before and vouch(before, public),
                acceptance=before and vouch(key, public_bytes(before)),
            )
        )
    return line


def entry(position: int) -> Raw:
    return Raw(position, "high", position, 1000 * position, b"envelope %d" % position)


class History:
    """Entries and the seals over them, each with the hints kept beside it."""

    def __init__(self, seals: int = 6, begins: int = 1) -> None:
        self.entries = {i: entry(i) for i in range(begins, begins + seals * SIZE + 3)}
        self.seals: list[tuple[Seal, bytes]] = []
        previous = GENESIS
        for number in range(1, seals + 1):
            first = begins + (number - 1) * SIZE
            made = self.made(number, first, first + SIZE - 1, previous, KEYS[0] if number < 4 else KEYS[1])
            self.seals.append(made)
            previous = made[0].hash

    def made(self, number: int, first: int, last: int, previous: bytes, key: Ed25519PrivateKey) -> tuple[Seal, bytes]:
        leaves = [leaf(self.entries[i]) for i in range(first, last + 1)]
        until = self.entries[last].recorded_at
        seal = Seal(
            partition=0,
            number=number,
            first=first,
            last=last,
            until=until,
            previous=previous,
            root=merkle_root(leaves),
            sealed_at=until + 5,
            key_id="",
        )
        return sign(key, seal), hints_of(leaves)

    def faults(self, trust: Trust | None = None, *anchors: Anchor, begins: int = 1) -> list[ChainFault]:
        trust = trust or Trust(line_of(KEYS[:2]), [public_bytes(KEYS[0])])
        chain = SealChain(trust, begins=begins, anchors=anchors)
        found: list[ChainFault] = []
        waiting = list(self.seals)
        for position, raw in sorted(self.entries.items()):
            chain.take(position, leaf(raw))
            while waiting and waiting[0][0].last <= position:
                found += chain.seal(*waiting.pop(0))
        for left in waiting:
            found += chain.seal(*left)
        return sorted([*found, *chain.end()], key=lambda fault: fault.position)

    def first(self, *anchors: Anchor) -> tuple[int, str, bool]:
        fault = self.faults(None, *anchors)[0]
        return fault.position, fault.kind, fault.exact


@pytest.fixture
def history() -> History:
    return History()


def test_an_untouched_history_has_no_fault(history: History) -> None:
    anchors = [Anchor(0, seal.number, seal.hash) for seal, _ in history.seals]
    assert history.faults(None, *anchors) == []
    history.seals = [(seal, b"") for seal, _ in history.seals]
    assert history.faults() == []


def test_a_history_may_begin_later(history: History) -> None:
    later = History(begins=1001)
    assert later.faults(begins=1001) == []
    assert [fault.kind for fault in later.faults()][:1] == [CHAIN]


def test_the_root_is_that_of_rfc_6962() -> None:
    def tree(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return leaves[0]
        split = 1
        while split * 2 < len(leaves):
            split *= 2
        return sha256(b"\1" + tree(leaves[:split]) + tree(leaves[split:])).digest()

    for count in range(1, 70):
        leaves = [sha256(bytes([i])).digest() for i in range(count)]
        assert merkle_root(leaves) == tree(leaves)


@pytest.mark.parametrize("seed", range(20))
def test_a_changed_entry_is_named(history: History, seed: int) -> None:
    position = random.Random(seed).randint(1, 6 * SIZE)
    raw = history.entries[position]
    field = ("version", "recorded_at", "stream", "envelope")[seed % 4]
    other = {"version": 0, "recorded_at": raw.recorded_at + 1, "stream": "low", "envelope": raw.envelope + b"\0"}
    history.entries[position] = replace(raw, **{field: other[field]})
    assert [(fault.position, fault.kind) for fault in history.faults()] == [(position, COVER)]


def test_without_hints_the_range_is_named(history: History) -> None:
    history.seals = [(seal, b"") for seal, _ in history.seals]
    history.entries[17] = replace(history.entries[17], envelope=b"other")
    (fault,) = history.faults()
    assert (fault.position, fault.last, fault.kind, fault.exact) == (15, 21, COVER, False)


def test_an_entry_and_its_hint_changed_alike_leave_the_range(history: History) -> None:
    history.entries[17] = replace(history.entries[17], envelope=b"other")
    history.seals[2] = (history.seals[2][0], hints_of(leaf(history.entries[i]) for i in range(15, 22)))
    assert history.first() == (15, COVER, False)


def test_a_changed_hint_alone_is_told_and_is_no_evidence(history: History) -> None:
    seal, hints = history.seals[2]
    history.seals[2] = (seal, hints[:24] + bytes(8) + hints[32:])
    (fault,) = history.faults()
    assert (fault.position, fault.kind) == (18, COVER)
    assert "what it covers was not" in fault.text


@pytest.mark.parametrize("position", [1, 7, 8, 20, 42])
def test_a_missing_entry_is_named(history: History, position: int) -> None:
    del history.entries[position]
    assert history.first() == (position, COVER, True)


def test_swapped_entries_are_named(history: History) -> None:
    history.entries[9], history.entries[30] = history.entries[30], history.entries[9]
    assert [fault.position for fault in history.faults()] == [9, 30]


def test_a_truncated_tail_is_named(history: History) -> None:
    history.entries = {i: raw for i, raw in history.entries.items() if i < 33}
    assert history.first() == (33, COVER, True)


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_deleted_seal_is_named_by_its_first_position(history: History, number: int) -> None:
    del history.seals[number - 1]
    assert history.first() == ((number - 1) * SIZE + 1, CHAIN, True)


def test_the_last_seal_deleted_is_seen_by_who_knew_it(history: History) -> None:
    gone = history.seals.pop()[0]
    assert history.faults() == []
    assert history.first(Anchor(0, gone.number, gone.hash)) == (gone.first, CHAIN, True)


def test_seals_in_another_order_are_named(history: History) -> None:
    history.seals[2], history.seals[3] = history.seals[3], history.seals[2]
    assert history.first()[:2] == (15, CHAIN)


@pytest.mark.parametrize("field", ["root", "until", "sealed_at", "previous", "signature", "key_id"])
def test_a_changed_field_of_a_seal_breaks_its_signature(history: History, field: str) -> None:
    seal, hints = history.seals[2]
    other = {"root": bytes(32), "until": 1, "sealed_at": 2**60, "previous": bytes(32), "key_id": "0" * 16}
    history.seals[2] = (replace(seal, **{field: other.get(field, bytes(64))}), hints)
    faults = history.faults()
    assert {fault.position for fault in faults if fault.kind == SIGNED} == {seal.first}
    assert faults[0].position == seal.first


def test_a_foreign_key_does_not_count(history: History) -> None:
    history.entries[17] = replace(history.entries[17], envelope=b"forged")
    history.seals[2] = history.made(3, 15, 21, history.seals[1][0].hash, STRANGER)
    kinds = {(fault.position, fault.kind) for fault in history.faults()}
    assert kinds == {(15, SIGNED), (15, CHAIN)}  # and the next seal names another one before it


def test_a_seal_made_anew_with_the_right_key_is_told_by_the_next_one(history: History) -> None:
    history.entries[17] = replace(history.entries[17], envelope=b"forged")
    history.seals[2] = history.made(3, 15, 21, history.seals[1][0].hash, KEYS[0])
    assert [(fault.position, fault.kind) for fault in history.faults()] == [(15, CHAIN)]


def test_a_history_sealed_anew_to_its_end_is_told_by_an_anchor(history: History) -> None:
    known = history.seals[4][0]
    history.entries[17] = replace(history.entries[17], envelope=b"forged")
    previous = history.seals[1][0].hash
    for number in range(3, 7):
        seal = history.seals[number - 1][0]
        made = history.made(number, seal.first, seal.last, previous, KEYS[1])
        history.seals[number - 1] = made
        previous = made[0].hash
    assert history.faults() == []
    assert history.first(Anchor(0, 5, known.hash)) == (known.first, CHAIN, True)


def test_a_key_that_was_replaced_seals_no_more(history: History) -> None:
    history.seals[5] = history.made(6, 36, 42, history.seals[4][0].hash, KEYS[0])
    assert history.first() == (36, SIGNED, True)


def test_one_trusted_key_reaches_all_others_in_both_directions() -> None:
    line = line_of(KEYS)
    for key in KEYS:
        assert all(each.id in Trust(line, [public_bytes(key)]) for each in line)
    assert not any(each.id in Trust(line, [public_bytes(STRANGER)]) for each in line)


def test_a_key_without_the_word_of_the_one_before_is_not_reached() -> None:
    line = line_of(KEYS)
    line[2] = replace(line[2], endorsement=vouch(STRANGER, line[2].public_key), acceptance=None)
    trust = Trust(line, [line[0].public_key])
    assert [each.id in trust for each in line] == [True, True, False, False]
    trust = Trust(line, [line[3].public_key])
    assert [each.id in trust for each in line] == [False, False, True, True]


def test_a_record_whose_id_is_not_its_keys_is_not_reached() -> None:
    line = line_of(KEYS)
    forged = public_bytes(STRANGER)
    line[1] = replace(line[1], public_key=forged)
    assert [each.id in Trust(line, [line[0].public_key]) for each in line] == [True, False, False, False]


def test_public_keys_are_read_as_hex_and_as_pem() -> None:
    public = public_bytes(KEYS[0])
    assert parse_public_key(public.hex() + "\n") == parse_public_key(public_pem(public)) == public
    for wrong in ("", "zz", public.hex()[:-2], "-----BEGIN PUBLIC KEY-----\n"):
        with pytest.raises(ValueError):
            parse_public_key(wrong)


def test_anchors_are_read() -> None:
    assert parse_anchor(f"12:{'ab' * 32}") == Anchor(0, 12, b"\xab" * 32)
    assert parse_anchor(f"3-12:{'AB' * 32}") == Anchor(3, 12, b"\xab" * 32)
    for wrong in ("", "12", "12:ab", f"x:{'ab' * 32}"):
        with pytest.raises(ValueError, match="NUMBER:HASH"):
            parse_anchor(wrong)
