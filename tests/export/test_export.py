"""A file holds what the archive holds, and proves it; filtered, it still does."""

import base64
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from domain.values import SECOND
from eventstore.archive import PostgresArchive
from eventstore.envelope import Raw
from eventstore.export.faults import SIGNATURE
from eventstore.export.lines import Filters, LeftOut, kind_of, read
from eventstore.export.part_writing import ArchiveDamaged
from eventstore.export.reading import Contents
from eventstore.export.writing import Wish
from eventstore.seal_chain import CHAIN, SIGNED, Anchor
from tests.export.history import LOG_ID, MORNING
from tests.export.world import Archived, check, read_file


def entries(found: list[bytes]) -> list[Raw]:
    return [item for _, item in Contents(found) if isinstance(item, Raw)]


async def test_everything_comes_out_as_it_is_and_proves_itself(archived: Archived, tmp_path: Path) -> None:
    raws = await archived.fill(250)
    manifest = await archived.export(tmp_path / "x")
    found = read_file(tmp_path / "x")
    assert entries(found) == raws
    assert [kind_of(line) for line in found if kind_of(line) != "specversion"] == ["bahi", "seal", "seal", "end"]
    checker, faults = check(found, [await archived.public()])
    assert not faults
    assert manifest.complete
    assert (checker.events, checker.left_out, checker.seals, checker.corrupt) == (250, 0, 2, 0)
    assert manifest.parts[0].source == f"/bahi/{LOG_ID}/0"
    assert checker.heads[0].number == 2


async def test_the_same_archive_gives_the_same_file(archived: Archived, tmp_path: Path) -> None:
    await archived.fill(130)
    for name in ("one", "two"):
        await archived.export(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


async def test_an_archive_without_events_or_without_seals_gives_a_file_too(archived: Archived, tmp_path: Path) -> None:
    await archived.fill(3, seal=1000)
    await archived.execute("DELETE FROM events", "DELETE FROM checkpoint")
    await archived.export(tmp_path / "empty")
    assert not check(read_file(tmp_path / "empty"), [await archived.public()])[1]


async def test_what_is_archived_meanwhile_is_not_in_the_file(archived: Archived, tmp_path: Path) -> None:
    from eventstore.export.writing import plan

    raws = await archived.fill(150)
    manifest = await plan(archived.engine, Wish(), now=MORNING, private=await archived.private())
    await archived.fill(500)
    await archived.write(tmp_path / "x", manifest, await archived.private())
    found = read_file(tmp_path / "x")
    assert entries(found) == raws
    assert not check(found, [await archived.public()])[1]


async def test_corrupt_entries_are_exported_without_losing_a_byte(archived: Archived, tmp_path: Path) -> None:
    raws = await archived.fill(20)
    odd = [Raw(21 + i, "low", 0, raws[-1].recorded_at, bytes([0xC1, i]) * i) for i in range(5)]
    await archived.store(odd, rest=True)
    await archived.export(tmp_path / "x")
    found = read_file(tmp_path / "x")
    checker, faults = check(found, [await archived.public()])
    assert not faults
    assert checker.corrupt == 5
    assert entries(found) == raws + odd
    assert [json.loads(line)["type"] for line in found[21:26]] == ["bahi.corrupt"] * 5


# --- filters ----------------------------------------------------------------------------------------------------------


def owner(raw: Raw) -> tuple[int, int, str]:
    import msgspec

    it = msgspec.msgpack.decode(raw.envelope)
    return it[2], it[3], it[7]["type"]


FILTERS = {
    "a user": Filters(users=(2,)),
    "two strategies": Filters(strategies=(3, 9)),
    "a type": Filters(types=("ORDER_FILLED", "STRATEGY_CREATED")),
    "a user's type": Filters(users=(3, 4), types=("EXECUTE_BUY",)),
    "nobody": Filters(users=(77,)),
}


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS.keys())
async def test_a_filtered_file_holds_what_was_asked_for_and_its_seals_still_hold(
    archived: Archived, tmp_path: Path, filters: Filters
) -> None:
    raws = await archived.fill(430, seal=64)
    await archived.export(tmp_path / "x", Wish(told=filters))
    found = read_file(tmp_path / "x")
    checker, faults = check(found, [await archived.public()])
    assert not faults
    wanted = [
        raw
        for raw in raws
        for strategy, user, kind in (owner(raw),)
        if (not filters.users or user in filters.users)
        and (not filters.strategies or strategy in filters.strategies)
        and (not filters.types or kind in filters.types)
    ]
    assert entries(found) == wanted
    assert checker.events + checker.left_out == 430
    assert checker.seals == 6
    if not wanted:
        gaps = [read(line, "left_out") for line in found if kind_of(line) == "left_out"]
        assert [bool(gap.hashes) for gap in gaps if isinstance(gap, LeftOut)] == [False] * 6 + [True]


RANGES = {
    "inside one seal": (70, 75),
    "over several": (60, 210),
    "from the first": (1, 64),
    "seal by seal": (65, 192),
    "after the last seal": (395, 400),
    "to the end": (200, 430),
    "beyond": (420, 10_000),
    "none": (300, 200),
}


@pytest.mark.parametrize("wanted", RANGES.values(), ids=RANGES.keys())
async def test_a_range_of_positions(archived: Archived, tmp_path: Path, wanted: tuple[int, int]) -> None:
    raws = await archived.fill(430, seal=64)
    first, last = wanted
    wish = Wish(first={0: first}, last={0: last}, told=Filters(first=str(first), last=str(last)))
    manifest = await archived.export(tmp_path / "x", wish)
    found = read_file(tmp_path / "x")
    checker, faults = check(found, [await archived.public()])
    assert not faults
    assert entries(found) == [raw for raw in raws if first <= raw.position <= last]
    part = manifest.parts[0]
    sealed = [seal for seal in range(1, 7) if (seal - 1) * 64 < min(last, 430) and seal * 64 >= first and first <= last]
    assert checker.seals == len(sealed)
    if part.seals is not None:
        assert (part.seals.first, part.seals.last) == (sealed[0], sealed[-1])
    assert checker.left_out <= 2 * 63


async def test_a_range_of_time_with_an_owner(archived: Archived, tmp_path: Path) -> None:
    raws = await archived.fill(300, seal=50)
    since, until = raws[99].recorded_at, raws[199].recorded_at + SECOND // 8
    filters = Filters(since="a", until="b", users=(2, 3))
    await archived.export(tmp_path / "x", Wish(since=since, until=until, told=filters))
    found = read_file(tmp_path / "x")
    assert not check(found, [await archived.public()])[1]
    assert entries(found) == [raw for raw in raws[99:200] if owner(raw)[1] in (2, 3)]


async def test_times_before_the_first_event_and_after_the_last_give_an_empty_file(
    archived: Archived, tmp_path: Path
) -> None:
    await archived.fill(30)
    for name, wish in (("before", Wish(until=MORNING - 1)), ("after", Wish(since=MORNING + 10**12))):
        await archived.export(tmp_path / name, wish)
        checker, faults = check(read_file(tmp_path / name), [await archived.public()])
        assert (checker.events, faults) == (0, [])


# --- partitions, keys, anchors ----------------------------------------------------------------------------------------


async def test_several_partitions_are_one_file(archived: Archived, tmp_path: Path) -> None:
    raws = [await archived.fill(120 + partition, partition=partition, partitions=3) for partition in range(3)]
    await archived.export(tmp_path / "all")
    found = read_file(tmp_path / "all")
    checker, faults = check(found, [await archived.public()])
    assert not faults
    assert Counter(part.partition for part, item in Contents(found) if isinstance(item, Raw)) == {
        0: 120,
        1: 121,
        2: 122,
    }
    assert entries(found) == [raw for some in raws for raw in some]
    assert json.loads(found[1])["position"] == "0-1"
    only = Wish(first={1: 100}, told=Filters(first="1-100"))
    await archived.export(tmp_path / "one", only)
    found = read_file(tmp_path / "one")
    assert not check(found, [await archived.public()])[1]
    assert entries(found) == raws[1][99:]
    assert checker.heads.keys() == {0, 1, 2}


async def test_one_trusted_key_reaches_all_keys_in_either_direction(archived: Archived, tmp_path: Path) -> None:
    await archived.fill(100, seal=50)
    keys = [await archived.public()]
    for upto in (200, 300):
        await archived.rotate()
        await archived.fill(upto, seal=50)
        keys.append(await archived.public())
    await archived.export(tmp_path / "x")
    found = read_file(tmp_path / "x")
    for key in keys:
        assert not check(found, [key])[1]
    stranger = await _stranger()
    kinds = Counter(fault.kind for fault in check(found, [stranger])[1])
    assert kinds == {SIGNED: 6, SIGNATURE: 2}


async def _stranger() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().public_key().public_bytes_raw()


async def test_an_unsigned_file_satisfies_nobody_who_trusts_a_key(archived: Archived, tmp_path: Path) -> None:
    await archived.fill(120)
    await archived.export(tmp_path / "x", signed=False)
    found = read_file(tmp_path / "x")
    assert not check(found, None)[1]
    assert {fault.kind for fault in check(found, [await archived.public()])[1]} == {SIGNATURE}


async def test_anchors_tell_whether_it_is_the_history_that_was_seen_before(archived: Archived, tmp_path: Path) -> None:
    await archived.fill(300, seal=50)
    key = await archived.public()
    await archived.export(tmp_path / "all")
    await archived.export(tmp_path / "late", Wish(first={0: 120}, told=Filters(first="120")))
    rows = await archived.rows("SELECT number, root FROM seals ORDER BY number")
    whole, late = read_file(tmp_path / "all"), read_file(tmp_path / "late")
    from eventstore.seal_rows import read_seals

    async with archived.engine.connect() as connection:
        hashes = {seal.number: seal.hash for seal, _ in await read_seals(connection, 0)}
    assert len(rows) == len(hashes) == 6
    for number in hashes:
        right, wrong = Anchor(0, number, hashes[number]), Anchor(0, number, bytes(32))
        assert not check(whole, [key], [right])[1]
        assert [fault.kind for fault in check(whole, [key], [wrong])[1]] == [CHAIN]
        told = [fault.kind for fault in check(late, [key], [right])[1]]
        assert told == ([] if number >= 2 else [CHAIN])
    (fault,) = check(late, [key], [Anchor(0, 2, bytes(32))])[1]
    assert "the seal before" in fault.text
    (fault,) = check(whole, [key], [Anchor(0, 7, bytes(32))])[1]
    assert (fault.kind, fault.position) == (CHAIN, 301)
    (fault,) = check(whole, [key], [Anchor(4, 1, bytes(32))])[1]
    assert "partition 4" in fault.text


# --- an archive that is not what was sealed ---------------------------------------------------------------------------

DAMAGES = {
    "a changed byte": ("UPDATE events SET envelope = envelope || '\\x00' WHERE position = 77", 77),
    "a changed version": ("UPDATE events SET version = version + 1 WHERE position = 130", 130),
    "a missing row": ("DELETE FROM events WHERE position = 41", 41),
    "a missing row after the last seal": ("DELETE FROM events WHERE position = 330", 330),
    "a missing seal": ("DELETE FROM seals WHERE number = 2", 101),
    "another signature": ("UPDATE seals SET signature = '\\x00' WHERE number = 2", 101),
    "another root": ("UPDATE seals SET root = sha256('x') WHERE number = 2", 101),
}


@pytest.mark.parametrize(("damage", "position"), DAMAGES.values(), ids=DAMAGES.keys())
async def test_nothing_is_exported_that_is_not_what_was_sealed(
    archived: Archived, tmp_path: Path, damage: str, position: int
) -> None:
    await archived.fill(350)
    await archived.execute(damage)
    for wish in (Wish(), Wish(told=Filters(users=(1,)))):
        with pytest.raises(ArchiveDamaged) as refused:
            await archived.export(tmp_path / "x", wish)
        assert refused.value.position == position
    assert not os.listdir(tmp_path)


async def test_the_bytes_are_those_of_the_archive(archived: Archived, tmp_path: Path) -> None:
    await archived.fill(50, rest=True)
    await archived.export(tmp_path / "x")
    shown = {
        int(it["position"]): base64.b64decode(it["envelope"])
        for it in map(json.loads, read_file(tmp_path / "x"))
        if "envelope" in it
    }
    stored = await PostgresArchive(archived.engine).entries(0, 50)
    assert shown == {raw.position: raw.envelope for raw in stored}
