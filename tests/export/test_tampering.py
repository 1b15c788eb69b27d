"""Whatever somebody does to a file who has not the keys, it is told, with the position where it was done."""

import asyncio
import io
import json
import random
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from eventstore.envelope import Raw
from eventstore.export.cloudevents import Source, as_line, as_raw, stored
from eventstore.export.faults import DATA, END, FILE, FILTER, HOLE, MANIFEST, ORDER, SIGNATURE
from eventstore.export.files import Unreadable, read_lines
from eventstore.export.lines import EndLine, Filters, ManifestLine, SealLine, encode, kind_of, read, sealed
from eventstore.export.merkle import Tree
from eventstore.export.writing import Wish
from eventstore.seal_chain import CHAIN, COVER, SIGNED, Anchor
from eventstore.seal_trust import key_id, public_bytes, sign
from eventstore.seals import HINT, leaf, merkle_root
from tests.export.conftest import empty
from tests.export.history import LOG_ID
from tests.export.world import Archived, check, read_file

Lines = list[bytes]
SEAL, COUNT = 50, 330
SEALED = COUNT // SEAL * SEAL
SOURCE = Source(LOG_ID)
TIMES = 12
"""How often each kind is done, each time somewhere else."""


class Files:
    """The lines of one archive's files, the key that they are signed with, and a packed one."""

    def __init__(self, url: str, folder: Path) -> None:
        asyncio.run(self._make(url, folder))

    async def _make(self, url: str, folder: Path) -> None:
        archived = Archived(url)
        await archived.fill(COUNT, seal=SEAL)
        self.key = await archived.public()
        await archived.export(folder / "whole")
        await archived.export(folder / "some", Wish(told=Filters(users=(2, 3))))
        self.whole, self.some = read_file(folder / "whole"), read_file(folder / "some")
        self.packed = (folder / "whole").read_bytes()
        await archived.engine.dispose()


@pytest.fixture(scope="module")
def files(databases: list[str]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        yield Files(empty(databases[0]), Path(folder))


# --- the lines of a file ----------------------------------------------------------------------------------------------


def where(lines: Lines, position: int) -> int:
    """The line of this event."""
    return next(i for i, line in enumerate(lines) if line.startswith(b'{"spec') and at(line) == position)


def at(line: bytes) -> int:
    return as_raw(line, SOURCE).position


def seals(lines: Lines) -> list[int]:
    return [i for i, line in enumerate(lines) if kind_of(line) == "seal"]


def seal_of(line: bytes) -> SealLine:
    found = read(line, "seal")
    assert isinstance(found, SealLine)
    return found


def rewritten(line: bytes, **changes: Any) -> bytes:
    """The line as it would be if the entry had been another: nothing in it contradicts itself."""
    raw = as_raw(line, SOURCE)
    raw = Raw(**{**{name: getattr(raw, name) for name in Raw.__struct_fields__}, **changes})
    return as_line(raw, SOURCE, stored(raw.envelope))


def another_event(line: bytes) -> bytes:
    parts = msgspec.msgpack.decode(as_raw(line, SOURCE).envelope)
    parts[7]["schema"] += 1
    return msgspec.msgpack.encode(parts)


def somewhere(rng: random.Random, first: int = 1, last: int = SEALED) -> int:
    return rng.randint(first, last)


Tamper = Callable[[random.Random, Lines], tuple[int, str]]
"""Changes the lines; the position where it was done, and the kind of fault that tells it."""
KINDS: dict[str, Tamper] = {}


def kind(tamper: Tamper) -> Tamper:
    KINDS[tamper.__name__] = tamper
    return tamper


# --- events -----------------------------------------------------------------------------------------------------------


@kind
def a_changed_byte_of_the_envelope(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng, last=COUNT)
    i = where(lines, position)
    begin = lines[i].index(b'"envelope":"') + 12
    place = rng.randrange(begin, len(lines[i]) - 6)
    other = rng.choice([char for char in b"ABCDEFGHabcdefgh01234567" if char != lines[i][place]])
    lines[i] = lines[i][:place] + bytes([other]) + lines[i][place + 1 :]
    return position, DATA


@kind
def a_changed_number_in_the_data(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng, last=COUNT)
    i = where(lines, position)
    lines[i] = lines[i].replace(b'"schema":1', b'"schema":2')
    return position, DATA


@kind
def another_time_to_read(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng, last=COUNT)
    i = where(lines, position)
    lines[i] = lines[i].replace(b'"time":"2026-', b'"time":"2025-')
    return position, DATA


@kind
def an_attribute_more(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng, last=COUNT)
    i = where(lines, position)
    lines[i] = lines[i][:-1] + b',"approved":true}'
    return position, DATA


@kind
def a_line_written_otherwise(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng, last=COUNT)
    i = where(lines, position)
    lines[i] = json.dumps(json.loads(lines[i])).encode()
    return position, DATA


@kind
def a_line_that_is_no_json(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng, last=COUNT)
    i = where(lines, position)
    lines[i] = lines[i][: rng.randrange(30, len(lines[i]))]
    return position, DATA


@kind
def an_event_written_anew(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng)
    i = where(lines, position)
    lines[i] = rewritten(lines[i], envelope=another_event(lines[i]))
    return position, COVER


@kind
def an_event_written_anew_that_no_seal_covers_yet(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng, SEALED + 1, COUNT)
    i = where(lines, position)
    lines[i] = rewritten(lines[i], envelope=another_event(lines[i]))
    return position, END


@kind
def another_version_or_time_or_class(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng)
    i = where(lines, position)
    raw = as_raw(lines[i], SOURCE)
    changes = [{"version": raw.version + 1}, {"recorded_at": raw.recorded_at - 1}, {"stream": "weird"}]
    lines[i] = rewritten(lines[i], **rng.choice(changes))
    return position, COVER


@kind
def an_event_of_another_place(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng)
    source = somewhere(rng, last=COUNT)
    i = where(lines, position)
    other = as_raw(lines[where(lines, source if source != position else position % COUNT + 1)], SOURCE)
    lines[i] = rewritten(lines[i], envelope=other.envelope)
    return position, COVER


@kind
def a_missing_event(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng, last=COUNT)
    del lines[where(lines, position)]
    return position, HOLE


@kind
def missing_events_in_a_row(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng, last=SEALED - 2)
    for _ in range(rng.randint(2, 30)):
        lines[:] = [line for line in lines if not (line.startswith(b'{"spec') and at(line) == position + _)]
    return position, HOLE


@kind
def a_missing_event_and_all_others_renumbered(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng, last=SEALED - 1)
    i = where(lines, position)
    del lines[i]
    for n in range(i, len(lines)):
        if lines[n].startswith(b'{"spec'):
            lines[n] = rewritten(lines[n], position=at(lines[n]) - 1)
    end = (position + SEAL - 1) // SEAL * SEAL
    return (position, COVER) if position < end else (end, HOLE)


@kind
def an_added_event(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng)
    i = where(lines, position)
    lines.insert(i, lines[i])
    return position, ORDER


@kind
def an_added_event_and_all_others_renumbered(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng)
    i = where(lines, position)
    new = rewritten(lines[i], envelope=another_event(lines[i]))
    for n in range(i, len(lines)):
        if lines[n].startswith(b'{"spec'):
            lines[n] = rewritten(lines[n], position=at(lines[n]) + 1)
    lines.insert(i, new)
    return position, COVER


@kind
def two_events_in_the_other_order(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng)
    i, j = where(lines, position), where(lines, position + 1)
    lines[i], lines[j] = lines[j], lines[i]
    return position, HOLE


@kind
def two_events_that_changed_places(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng)
    i, j = where(lines, position), where(lines, position + 1)
    one, other = lines[i], lines[j]
    lines[i], lines[j] = rewritten(other, position=position), rewritten(one, position=position + 1)
    return position, COVER


# --- seals ------------------------------------------------------------------------------------------------------------


@kind
def a_missing_seal(rng: random.Random, lines: Lines) -> tuple[int, str]:
    i = rng.choice(seals(lines))
    seal = seal_of(lines[i]).plain
    del lines[i]
    return seal.first, CHAIN


@kind
def a_changed_seal(rng: random.Random, lines: Lines) -> tuple[int, str]:
    i = rng.choice(seals(lines))
    line = seal_of(lines[i])
    change = rng.choice([{"root": "00" * 32}, {"until": line.seal.until + 1}, {"sealed_at": line.seal.sealed_at + 1}])
    lines[i] = encode(replace(line, seal=replace(line.seal, **change)))
    return line.seal.first, SIGNED


@kind
def a_seal_of_a_stranger(rng: random.Random, lines: Lines) -> tuple[int, str]:
    i = rng.choice(seals(lines))
    line = seal_of(lines[i])
    lines[i] = encode(sealed(sign(Ed25519PrivateKey.generate(), line.plain), line.hints))
    return line.seal.first, SIGNED


@kind
def a_seal_over_other_events_by_a_stranger(rng: random.Random, lines: Lines) -> tuple[int, str]:
    i = rng.choice(seals(lines))
    line = seal_of(lines[i])
    raws = []
    for position in range(line.seal.first, line.seal.last + 1):
        n = where(lines, position)
        lines[n] = rewritten(lines[n], envelope=another_event(lines[n]))
        raws.append(as_raw(lines[n], SOURCE))
    leaves = [leaf(raw) for raw in raws]
    forged = sign(Ed25519PrivateKey.generate(), replace(line.plain, root=merkle_root(leaves)))
    lines[i] = encode(sealed(forged, b"".join(each[:HINT] for each in leaves)))
    return line.seal.first, SIGNED


@kind
def changed_hints(rng: random.Random, lines: Lines) -> tuple[int, str]:
    i = rng.choice(seals(lines))
    line = seal_of(lines[i])
    hints = bytearray(line.hints)
    place = rng.randrange(len(hints))
    hints[place] ^= 1
    lines[i] = encode(replace(line, hints=bytes(hints)))
    return line.seal.first + place // HINT, COVER


@kind
def seals_that_changed_places(rng: random.Random, lines: Lines) -> tuple[int, str]:
    i, j = sorted(rng.sample(seals(lines), 2))
    first = seal_of(lines[i]).seal.first
    lines[i], lines[j] = lines[j], lines[i]
    return first, CHAIN


# --- the file ---------------------------------------------------------------------------------------------------------


@kind
def a_file_cut_short(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng, 2, COUNT)
    del lines[where(lines, position) :]
    return position, FILE


@kind
def a_missing_end(rng: random.Random, lines: Lines) -> tuple[int, str]:
    del lines[-1]
    return COUNT + 1, FILE


@kind
def a_tail_taken_off(rng: random.Random, lines: Lines) -> tuple[int, str]:
    position = somewhere(rng, SEALED + 1, COUNT)
    del lines[where(lines, position) : -1]
    return position, HOLE


@pytest.mark.parametrize("name", KINDS)
def test_what_was_done_to_a_file_is_told_with_its_position(files: Files, name: str) -> None:
    for number in range(TIMES):
        rng = random.Random(f"{name} {number}")
        lines = list(files.whole)
        position, fault_kind = KINDS[name](rng, lines)
        faults = check(lines, [files.key])[1]
        assert faults, (name, number)
        first = faults[0]
        assert (first.position, first.kind) == (position, fault_kind), (name, number, faults[:3])
        assert first.exact
        assert 1 <= first.line <= len(lines) + 1


def test_who_hides_which_event_it_was_is_told_the_range(files: Files) -> None:
    lines = list(files.whole)
    i = where(lines, 120)
    lines[i] = rewritten(lines[i], envelope=another_event(lines[i]))
    seal = seals(lines)[2]
    line = seal_of(lines[seal])
    mine = leaf(as_raw(lines[i], SOURCE))[:HINT]
    place = (120 - line.seal.first) * HINT
    lines[seal] = encode(replace(line, hints=line.hints[:place] + mine + line.hints[place + HINT :]))
    fault = check(lines, [files.key])[1][0]
    assert (fault.position, fault.last, fault.exact, fault.kind) == (101, 150, False, COVER)


# --- manifest and end -------------------------------------------------------------------------------------------------


def manifest_of(lines: Lines) -> ManifestLine:
    found = read(lines[0], "bahi")
    assert isinstance(found, ManifestLine)
    return found


def end_of(lines: Lines) -> EndLine:
    found = read(lines[-1], "end")
    assert isinstance(found, EndLine)
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"exported_at": "2026-01-01T00:00:00.000000Z"},
        {"partitions": 2},
        {"filters": Filters(users=(2,))},
        {"signed_by": ""},
        {"signed_by": "0123456789abcdef"},
        {"keys": ()},
        {"parts": ()},
    ],
    ids=str,
)
def test_a_changed_manifest_is_told_at_its_line(files: Files, change: dict[str, Any]) -> None:
    lines = list(files.whole)
    line = manifest_of(lines)
    lines[0] = encode(replace(line, manifest=replace(line.manifest, **change)))
    faults = check(lines, [files.key])[1]
    assert faults[0].line == 1
    assert faults[0].kind in (SIGNATURE, MANIFEST)


@pytest.mark.parametrize(
    "change",
    [
        {"first": 2},
        {"last": COUNT - 1},
        {"wanted_last": 10},
        {"archived": COUNT + 1},
        {"seals": None},
        {"partition": 1},
    ],
    ids=str,
)
def test_a_manifest_with_another_part_is_told(files: Files, change: dict[str, Any]) -> None:
    lines = list(files.whole)
    line = manifest_of(lines)
    part = replace(line.manifest.parts[0], **change)
    lines[0] = encode(replace(line, manifest=replace(line.manifest, parts=(part,))))
    assert check(lines, [files.key])[1][0].line == 1


def test_the_manifest_of_another_file_is_told(files: Files) -> None:
    faults = check([files.some[0], *files.whole[1:]], [files.key])[1]
    assert faults[0].kind == FILTER
    faults = check([files.whole[0], *files.some[1:]], [files.key])[1]
    assert faults[0].kind == FILTER


@pytest.mark.parametrize("change", [{"events": 1}, {"lines": 1}, {"seals": 1}, {"left_out": 1}, {"sha256": "0" * 64}])
def test_a_changed_end_is_told_at_its_line(files: Files, change: dict[str, Any]) -> None:
    lines = list(files.whole)
    line = end_of(lines)
    lines[-1] = encode(replace(line, end=replace(line.end, **change)))
    faults = check(lines, [files.key])[1]
    assert (faults[0].line, faults[0].kind) == (len(lines), SIGNATURE)


def resigned(lines: Lines) -> tuple[Lines, bytes]:
    """The same history, sealed and signed anew by somebody else."""
    mine = Ed25519PrivateKey.generate()
    public = public_bytes(mine)
    line = manifest_of(lines)
    key = replace(line.manifest.keys[0], id=key_id(public), public_key=public.hex())
    manifest = replace(line.manifest, keys=(key,), signed_by=key.id)
    lines = [encode(replace(line, manifest=manifest, signature=mine.sign(manifest.body).hex())), *lines[1:]]
    previous = bytes(32)
    for i in seals(lines):
        old = seal_of(lines[i])
        new = sign(mine, replace(old.plain, previous=previous))
        lines[i], previous = encode(sealed(new, old.hints)), new.hash
    end = end_of(lines).end
    digest = sha256(b"".join(line + b"\n" for line in lines[:-1])).hexdigest()
    end = replace(end, sha256=digest, parts=(replace(end.parts[0], hash=previous.hex()),))
    lines[-1] = encode(EndLine(end=end, signature=mine.sign(end.body).hex()))
    return lines, public


def test_a_history_that_somebody_else_sealed_anew_agrees_with_itself_and_is_not_trusted(files: Files) -> None:
    lines, stranger = resigned(files.whole)
    assert not check(lines, None)[1]
    assert not check(lines, [stranger])[1]
    told = check(lines, [files.key])[1]
    assert {fault.kind for fault in told} == {SIGNATURE, SIGNED}
    assert told[0].line == 1
    right = Anchor(0, 3, seal_of(files.whole[seals(files.whole)[2]]).plain.hash)
    assert [fault.kind for fault in check(lines, None, [right])[1]] == [CHAIN]


def test_an_end_without_a_signature_is_told(files: Files) -> None:
    lines = list(files.whole)
    lines[-1] = encode(replace(end_of(lines), signature=""))
    assert [(fault.line, fault.kind) for fault in check(lines, [files.key])[1]] == [(len(lines), SIGNATURE)]


def test_lines_after_the_end_are_told(files: Files) -> None:
    for more in (files.whole[5], files.whole[-1], b"", b"{}"):
        faults = check([*files.whole, more], [files.key])[1]
        assert [(fault.line, fault.kind) for fault in faults] == [(len(files.whole) + 1, ORDER)]


@pytest.mark.parametrize("lines", [[], [b""], [b"{}"], [b"\x00\xff"], [b'{"bahi":"archive/2"}'], [b"[" * 100_000]])
def test_what_is_no_such_file_is_told(lines: Lines) -> None:
    checker, faults = check(lines, None)
    assert len(faults) == 1
    assert faults[0].kind in (FILE, MANIFEST)
    assert checker.manifest is None


# --- what was left out ------------------------------------------------------------------------------------------------


def gaps(lines: Lines) -> list[int]:
    return [i for i, line in enumerate(lines) if kind_of(line) == "left_out"]


def test_what_was_left_out_cannot_be_more_or_less_or_other(files: Files) -> None:
    rng = random.Random(7)
    for _ in range(TIMES):
        lines = list(files.some)
        i = rng.choice(gaps(lines))
        gap: Any = read(lines[i], "left_out")
        first, last = gap.left_out
        changes: list[tuple[bytes | None, set[str]]] = [
            (None, {HOLE}),
            (encode(replace(gap, left_out=(first, last - 1))), {HOLE, ORDER}),
            (encode(replace(gap, left_out=(first, last + 1))), {ORDER, HOLE}),
            (encode(replace(gap, partition=3)), {ORDER}),
            (encode(replace(gap, hashes=gap.hashes[:-1] + b"\0")), {COVER, ORDER, END}),
            (encode(replace(gap, hashes=gap.hashes + bytes(32))), {ORDER}),
            (encode(replace(gap, hashes=b"")), {COVER, ORDER}),
        ]
        changed, kinds = rng.choice(changes)
        lines[i : i + 1] = [] if changed is None else [changed]
        fault = check(lines, [files.key])[1][0]
        assert fault.kind in kinds, (gap.left_out, fault)
        assert fault.position in (0, *range(first - 1, last + 2)) or fault.position % SEAL == 1


def test_hiding_an_event_in_a_whole_file_is_told_with_its_position(files: Files) -> None:
    lines = list(files.whole)
    i = where(lines, 77)
    tree = Tree(26)
    tree.add(leaf(as_raw(lines[i], SOURCE)))
    some: Any = read(files.some[gaps(files.some)[0]], "left_out")
    lines[i] = encode(replace(some, left_out=(77, 77), hashes=b"".join(tree.subtrees)))
    fault = check(lines, [files.key])[1][0]
    assert (fault.kind, fault.position) == (FILTER, 77)


def test_hiding_an_event_that_was_asked_for_breaks_the_signature(files: Files) -> None:
    lines = list(files.some)
    i = next(i for i, line in enumerate(lines) if line.startswith(b'{"spec') and at(line) % SEAL > 2)
    raw = as_raw(lines[i], SOURCE)
    tree = Tree((raw.position - 1) % SEAL)
    tree.add(leaf(raw))
    some: Any = read(files.some[gaps(files.some)[0]], "left_out")
    lines[i] = encode(replace(some, left_out=(raw.position, raw.position), hashes=b"".join(tree.subtrees)))
    seal = next(n for n in seals(lines) if n > i)
    line = seal_of(lines[seal])
    mine = leaf(raw)[:HINT]
    lines[seal] = encode(replace(line, hints=line.hints.replace(mine, b"", 1)))
    assert [fault.kind for fault in check(lines, [files.key])[1]] == [END]


def test_an_event_that_was_not_asked_for_is_told(files: Files) -> None:
    lines = list(files.some)
    i = next(i for i in gaps(lines) if read(lines[i], "left_out").left_out[0] % SEAL > 1)
    gap: Any = read(lines[i], "left_out")
    shown = files.whole[where(files.whole, gap.first)]
    rest = Tree(gap.first % SEAL)
    for position in range(gap.first + 1, gap.last + 1):
        rest.add(leaf(as_raw(files.whole[where(files.whole, position)], SOURCE)))
    lines[i : i + 1] = [shown]
    if gap.count > 1:
        hashes = b"".join(rest.subtrees)
        lines.insert(i + 1, encode(replace(gap, left_out=(gap.first + 1, gap.last), hashes=hashes)))
    fault = check(lines, [files.key])[1][0]
    assert (fault.kind, fault.position) == (FILTER, gap.first)


# --- the packed file --------------------------------------------------------------------------------------------------


def unpacked(packed: bytes) -> tuple[Lines, str]:
    lines: Lines = []
    try:
        for line in read_lines(io.BytesIO(packed)):
            lines.append(line)
    except Unreadable as error:
        return lines, str(error)
    return lines, ""


def test_no_changed_byte_of_the_packed_file_is_missed(files: Files) -> None:
    for number in range(150):
        rng = random.Random(f"flip {number}")
        packed = bytearray(files.packed)
        # the first ten bytes are gzip's own: no content, and no checksum covers them
        packed[rng.randrange(10, len(packed))] ^= 1 << rng.randrange(8)
        lines, why = unpacked(bytes(packed))
        assert why or lines != files.whole
        assert why or check(lines, [files.key])[1]


def test_a_packed_file_that_is_cut_anywhere_is_told(files: Files) -> None:
    for number in range(60):
        rng = random.Random(f"cut {number}")
        lines, why = unpacked(files.packed[: rng.randrange(2, len(files.packed))])
        assert "cut short" in why
        assert lines == files.whole[: len(lines)]


def test_what_is_appended_to_the_packed_file_is_told(files: Files) -> None:
    assert unpacked(files.packed + b"more")[1]
    lines, why = unpacked(files.packed + files.packed)
    assert not why
    assert check(lines, [files.key])[1][0].kind == ORDER
