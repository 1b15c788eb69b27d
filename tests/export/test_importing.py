"""A file restores the archive that it came from, byte for byte, in one transaction; what does not fit is refused."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import SQLAlchemyError

from eventstore.archive import PostgresArchive
from eventstore.envelope import Raw
from eventstore.epochs import Epoch, record
from eventstore.export.lines import Filters
from eventstore.export.writing import Wish
from eventstore.seal_rows import read_keys, read_seals
from eventstore.seal_trust import Trust
from projections.importing import CannotImport
from projections.rebuild import rebuild_sql
from projections.sql import projections
from tests.export.world import Archived, check, read_file


async def test_an_empty_archive_becomes_what_the_other_one_was(
    archived: Archived, other: Archived, tmp_path: Path
) -> None:
    await archived.fill(150)
    await archived.rotate()
    await archived.fill(430)
    await archived.export(tmp_path / "x")
    (done,) = await other.import_file(tmp_path / "x", trusted=[await archived.public()])
    assert (done.before, done.after, done.seals, done.faults) == (0, 430, 4, 0)
    was, now = await archived.tables(), await other.tables()
    assert was.pop("keys") == now.pop("keys")[:2]
    assert now == was
    assert now["order_logs"]
    assert await PostgresArchive(other.engine).entries(0, 430) == await PostgresArchive(archived.engine).entries(0, 430)
    await rebuild_sql(PostgresArchive(other.engine))
    assert (await other.tables())["order_logs"] == was["order_logs"]


async def test_the_history_goes_on_sealed_with_a_new_key_that_vouches_for_the_old_ones(
    archived: Archived, other: Archived, tmp_path: Path
) -> None:
    raws = await archived.fill(430)
    await archived.export(tmp_path / "x")
    await other.import_file(tmp_path / "x")
    async with other.engine.connect() as connection:
        keys = await read_keys(connection)
    mine, theirs = await other.public(), await archived.public()
    assert [key.public_key for key in keys] == [theirs, mine]
    assert keys[0].id in Trust(keys, [mine])
    assert keys[1].id not in Trust(keys, [theirs])  # who has only the old key in mind trusts nobody else
    assert await other.rows("SELECT number FROM seal_keys WHERE private_key IS NULL") == [(1,)]
    await other.store(_more(raws, 70))
    await other.export(tmp_path / "y")
    assert not check(read_file(tmp_path / "y"), [mine])[1]
    async with other.engine.connect() as connection:
        seals = await read_seals(connection, 0)
    assert [seal.key_id for seal, _ in seals] == [keys[0].id] * 4 + [keys[1].id]
    assert seals[4][0].previous == seals[3][0].hash
    assert seals[4][0].first == 401


def _more(raws: list[Raw], count: int) -> list[Raw]:
    from tests.export.history import history

    return history(len(raws) + count)[len(raws) :]


async def test_no_id_of_the_file_is_given_out_again(archived: Archived, other: Archived, tmp_path: Path) -> None:
    await archived.fill(430)
    await archived.export(tmp_path / "x")
    await other.import_file(tmp_path / "x")
    ((strategy, user),) = await other.rows("SELECT nextval('strategy_ids'), nextval('user_ids')")
    ((largest, users),) = await archived.rows("SELECT max(strategy_id), max(user_id) FROM events")
    assert (strategy, user) == (largest + 1, users + 1)


async def test_a_sequence_that_is_further_stays_there(archived: Archived, other: Archived, tmp_path: Path) -> None:
    await archived.fill(30)
    await archived.export(tmp_path / "x")
    await other.execute("ALTER SEQUENCE user_ids RESTART WITH 5000")
    await other.import_file(tmp_path / "x")
    assert await other.rows("SELECT nextval('user_ids')") == [(5000,)]


async def test_importing_twice_changes_nothing(archived: Archived, other: Archived, tmp_path: Path) -> None:
    await archived.fill(230)
    await archived.export(tmp_path / "x")
    await other.import_file(tmp_path / "x")
    was = await other.tables()
    (done,) = await other.import_file(tmp_path / "x")
    assert (done.before, done.after, done.seals) == (230, 230, 0)
    assert await other.tables() == was


@pytest.mark.parametrize("begins", [1, 131, 200, 201, 301, 331])
async def test_a_file_continues_what_is_archived_from_wherever_it_begins(
    archived: Archived, other: Archived, tmp_path: Path, begins: int
) -> None:
    await archived.fill(330)
    await archived.export(tmp_path / "first")
    await other.import_file(tmp_path / "first")
    await archived.fill(560)
    wish = Wish(first={0: begins}, told=Filters(first=str(begins))) if begins > 1 else Wish()
    await archived.export(tmp_path / "second", wish)
    (done,) = await other.import_file(tmp_path / "second")
    assert (done.before, done.after, done.seals) == (330, 560, 2)
    was, now = await archived.tables(), await other.tables()
    assert {**now, "keys": now["keys"][:1]} == was


async def test_several_partitions_are_restored_together(archived: Archived, other: Archived, tmp_path: Path) -> None:
    for partition in range(3):
        await archived.fill(130 + partition, partition=partition, partitions=3)
    await archived.export(tmp_path / "x")
    done = await other.import_file(tmp_path / "x")
    assert [each.after for each in done] == [130, 131, 132]
    was, now = await archived.tables(), await other.tables()
    assert {**now, "keys": now["keys"][:1]} == was


async def test_what_cannot_be_read_is_restored_as_its_bytes_and_told(
    archived: Archived, other: Archived, tmp_path: Path
) -> None:
    raws = await archived.fill(40)
    await archived.store([Raw(41, "low", 0, raws[-1].recorded_at, b"\xc1"), Raw(42, "low", 0, 0, b"")], rest=True)
    await archived.export(tmp_path / "x")
    (done,) = await other.import_file(tmp_path / "x")
    assert (done.faults, [fault.position for fault in done.first_faults]) == (2, [41, 42])
    was, now = await archived.tables(), await other.tables()
    assert now["events"] == was["events"]


async def test_an_event_whose_row_is_not_taken_is_archived_without_it(
    archived: Archived, other: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archived.fill(100)
    await archived.export(tmp_path / "x")
    real = projections.SqlProjections.fold

    async def fold(self: Any, connection: Any, entries: Any) -> Any:
        if any(entry.raw.position == 77 for entry in entries):
            raise ValueError("not this one")
        return await real(self, connection, entries)

    monkeypatch.setattr(projections.SqlProjections, "fold", fold)
    (done,) = await other.import_file(tmp_path / "x")
    assert (done.after, done.faults, done.first_faults[0].position) == (100, 1, 77)
    assert (await other.tables())["events"] == (await archived.tables())["events"]


# --- what does not fit ------------------------------------------------------------------------------------------------


async def refused(other: Archived, path: Path, why: str) -> None:
    """And nothing is different afterwards."""
    was = await other.tables()
    with pytest.raises(CannotImport, match=why):
        await other.import_file(path)
    assert await other.tables() == was
    assert await other.rows("SELECT nextval('user_ids')") != []


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (Wish(told=Filters(users=(1,))), "only what it was filtered for"),
        (Wish(first={0: 50}, told=Filters(first="50")), "positions 1 to 49 are missing"),
        (Wish(last={0: 150}, told=Filters(last="150")), "cut off at 150"),
        (Wish(last={0: 200}, told=Filters(last="200")), "cut off at 200, and the history went on to 230"),
    ],
    ids=["a user", "not from the beginning", "not to the end", "to the end of a seal"],
)
async def test_less_than_everything_is_refused(
    archived: Archived, other: Archived, tmp_path: Path, wish: Wish, why: str
) -> None:
    await archived.fill(230)
    await archived.export(tmp_path / "x", wish)
    await refused(other, tmp_path / "x", why)


async def test_a_gap_before_the_file_is_refused_with_the_positions(
    archived: Archived, other: Archived, tmp_path: Path
) -> None:
    await archived.fill(130)
    await archived.export(tmp_path / "first")
    await other.import_file(tmp_path / "first")
    await archived.fill(330)
    await archived.export(tmp_path / "x", Wish(first={0: 150}, told=Filters(first="150")))
    await refused(other, tmp_path / "x", "reaches to 130, and the file begins with 150: positions 131 to 149")


async def test_the_file_of_another_log_is_refused(archived: Archived, other: Archived, tmp_path: Path) -> None:
    await archived.fill(130)
    await archived.export(tmp_path / "x")
    async with other.engine.begin() as connection:
        await record(connection, 0, [Epoch(number=1, epoch="ANOTHERONE", log_id="ZZZZ")])
    await refused(other, tmp_path / "x", "belongs to log ZZZZ, epoch ANOTHERONE; the file is of HIST")


async def test_another_history_of_the_same_log_is_refused_with_the_position(
    archived: Archived, other: Archived, tmp_path: Path
) -> None:
    await archived.fill(230)
    await archived.export(tmp_path / "x")
    await other.import_file(tmp_path / "x")
    await archived.fill(330)
    await archived.export(tmp_path / "y")
    await other.execute("UPDATE events SET envelope = envelope || '\\x00' WHERE position = 77")
    await refused(other, tmp_path / "y", "position 77 of partition 0 is another entry")
    await archived.export(tmp_path / "z", Wish(first={0: 231}, told=Filters(first="231")))
    await other.execute("UPDATE events SET envelope = envelope || '\\x00' WHERE position = 222")
    await refused(other, tmp_path / "z", "positions 201 to 230 are not in the archive what they are under the seals")


async def test_other_seals_or_keys_than_those_of_the_file_are_refused(
    archived: Archived, other: Archived, tmp_path: Path
) -> None:
    await archived.fill(230)
    await archived.export(tmp_path / "x")
    await other.import_file(tmp_path / "x")
    await archived.fill(330)
    await archived.export(tmp_path / "y")
    await other.execute("UPDATE seals SET sealed_at = sealed_at + 1 WHERE number = 2")
    await refused(other, tmp_path / "y", "seal 2 of partition 0 is another one")
    await other.execute("UPDATE seals SET sealed_at = sealed_at - 1 WHERE number = 2")
    await archived.rotate()
    await archived.fill(430)
    await archived.export(tmp_path / "z")
    await refused(other, tmp_path / "z", "seal key 2 is .* here and .* in the file")


async def test_an_archive_that_lost_its_checkpoint_is_not_taken_for_an_empty_one(
    archived: Archived, other: Archived, tmp_path: Path
) -> None:
    await archived.fill(130)
    await archived.export(tmp_path / "x")
    await other.import_file(tmp_path / "x")
    await other.execute("DELETE FROM checkpoint")
    await refused(other, tmp_path / "x", "holds events")


async def test_a_log_that_went_on_in_another_epoch_is_not_gone_back_to(
    archived: Archived, other: Archived, tmp_path: Path
) -> None:
    await archived.fill(130)
    await archived.export(tmp_path / "x")
    await other.import_file(tmp_path / "x")
    async with other.engine.begin() as connection:
        first = Epoch(number=1, epoch="EPOCHEPOCHEPOCH10", log_id="HIST")
        await record(connection, 0, [first, Epoch(number=2, epoch="LATER", log_id="AB12", after=130, reason="LOST")])
    await archived.fill(200)
    await archived.export(tmp_path / "y")
    await refused(other, tmp_path / "y", "went on in epoch LATER after position 130")


async def test_a_file_that_is_changed_after_the_check_is_refused(
    archived: Archived, other: Archived, tmp_path: Path
) -> None:
    from eventstore.export.files import read_lines
    from projections.importing import import_contents

    await archived.fill(130)
    await archived.export(tmp_path / "x")
    with (tmp_path / "x").open("rb") as file:
        lines = list(read_lines(file))
    was = await other.tables()
    with pytest.raises(CannotImport, match="was changed while it was being read"):
        await import_contents(other.engine, lines, sha256="0" * 64)
    assert await other.tables() == was


# --- nothing is half done ---------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
from pathlib import Path
from tests.export.world import Archived
import projections.importing as importing

real, after = importing._Target._store, int(sys.argv[3])

async def store(self, raws):
    await real(self, raws)
    if self.reached >= after:
        print("there", flush=True)
        await asyncio.sleep(600)

importing._PAGE, importing._Target._store = 50, store
asyncio.run(Archived(sys.argv[1]).import_file(Path(sys.argv[2])))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_an_import_that_ends_on_the_way_has_done_nothing(
    archived: Archived, other: Archived, databases: list[str], tmp_path: Path, how: signal.Signals
) -> None:
    await archived.fill(330)
    await archived.export(tmp_path / "x")
    await asyncio.to_thread(interrupted, [databases[1], str(tmp_path / "x"), "200"], how)
    assert {name: rows for name, rows in (await other.tables()).items() if rows} == {}
    assert await other.rows("SELECT nextval('strategy_ids'), nextval('user_ids')") == [(1, 1)]
    (done,) = await other.import_file(tmp_path / "x")
    assert done.after == 330


def interrupted(arguments: list[str], how: signal.Signals) -> None:
    """A process of its own, ended after it has written something."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", PROGRAM, *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            assert any(line == "there\n" for line in process.stdout)
            process.send_signal(how)
            process.wait(60)
        finally:
            process.kill()


async def test_a_connection_that_breaks_on_the_way_has_done_nothing(
    archived: Archived, other: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import projections.importing as importing

    await archived.fill(330)
    await archived.export(tmp_path / "x")
    monkeypatch.setattr(importing, "_PAGE", 50)
    real = importing._Target._store

    async def store(self: Any, raws: Any) -> None:
        await real(self, raws)
        if self.reached >= 200:
            await archived.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
                " AND pid <> pg_backend_pid()"
            )

    monkeypatch.setattr(importing._Target, "_store", store)
    with pytest.raises(SQLAlchemyError):
        await other.import_file(tmp_path / "x")
    assert {name: rows for name, rows in (await other.tables()).items() if rows} == {}
