"""`bahi backup` writes everything into one file, `bahi restore` brings all of it back, or nothing."""

import gzip
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bahi.backup.restoring import SKIPPED
from bahi.database.migrate import migrate
from bahi.database.tables import metadata
from bahi.servers import attach_or_start
from tests.cli.terminal import Done, Installation, bahi, here

SEQUENCES = ("strategy_ids", "user_ids")


@pytest.fixture(scope="session")
def backed_up(day: Installation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The day's installation, backed up while its servers run."""
    file = tmp_path_factory.mktemp("backup") / "day.backup"
    done = day.here("backup", file, "--json")
    assert done.code == 0, done.err
    told = done.object
    assert told["bytes"] == file.stat().st_size
    assert told["rows"]["events"] == told["archived"]["0"] == day.sql("SELECT count(*) FROM events")[0][0]
    assert told["rows"].keys() == {table.name for table in metadata.sorted_tables}
    assert told["paper_book"] is True
    assert file.stat().st_mode & 0o777 == 0o600
    return file


@pytest.fixture
def empty(folder: Path, day: Installation) -> Iterator[Installation]:
    """A HOME with the day's secret keys and nothing else; its servers run."""
    home = folder / "e"
    home.mkdir()
    shutil.copy(day.home / "secret-keys", home)
    with attach_or_start(home) as servers:
        yield Installation(home, servers)


def rows(it: Installation, table: str) -> list[tuple[Any, ...]]:
    return sorted(it.sql(f'TABLE "{table}"'), key=repr)


def book(home: Path) -> list[str]:
    with sqlite3.connect(home / "paper.db") as connection:
        return list(connection.iterdump())


def refused(done: Done, *why: str) -> None:
    assert done.code == 2, done
    told = " ".join(done.err.split())
    assert "nothing was restored" in told
    for each in why:
        assert each in told


def test_what_was_backed_up_is_restored_row_for_row(day: Installation, backed_up: Path, empty: Installation) -> None:
    done = empty.here("restore", backed_up, "--json")
    assert done.code == 0, done.err
    for table in metadata.sorted_tables:
        assert rows(empty, table.name) == rows(day, table.name), table.name
    parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass"
    assert empty.sql(parts) == day.sql(parts)
    for name in SEQUENCES:  # what was given out after the backup is not given out again
        (last,) = day.sql("SELECT last_value FROM pg_sequences WHERE sequencename = %s", name)[0]
        assert empty.sql("SELECT nextval(%s::regclass)", name)[0][0] == last + SKIPPED + 1
    assert book(empty.home) == book(day.home)
    again = empty.here("restore", backed_up)
    refused(again, "is not empty", "an empty installation only")
    for table in metadata.sorted_tables:
        assert rows(empty, table.name) == rows(day, table.name), table.name


def test_the_paper_broker_keeps_its_book_when_it_outlived_the_rest(backed_up: Path, empty: Installation) -> None:
    (empty.home / "paper.db").write_text("what the broker knows")
    done = empty.here("restore", backed_up)
    assert done.code == 0, done.err
    assert "the broker knows best" in done.out.replace("\n", " ")
    assert (empty.home / "paper.db").read_text() == "what the broker knows"


def test_a_row_that_does_not_arrive_as_it_was_spoils_all_of_it(backed_up: Path, empty: Installation) -> None:
    migrate(empty.servers.database_url)
    body = "BEGIN NEW.role := ''operator''; RETURN NEW; END"
    empty.sql(f"CREATE FUNCTION other() RETURNS trigger AS '{body}' LANGUAGE plpgsql")
    empty.sql("CREATE TRIGGER other BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION other()")
    refused(empty.here("restore", backed_up), "users: what was written is not what was backed up")
    assert not any(rows(empty, table.name) for table in metadata.sorted_tables)
    assert not list(empty.home.glob("paper.db*"))


def test_a_file_is_never_written_over(day: Installation, backed_up: Path) -> None:
    before = backed_up.read_bytes()
    done = day.here("backup", backed_up)
    assert done.code == 2
    assert "is there already" in done.err
    assert backed_up.read_bytes() == before
    assert not list(backed_up.parent.glob("*.new"))


def test_a_damaged_file_restores_nothing(backed_up: Path, folder: Path) -> None:
    whole = backed_up.read_bytes()
    choose = random.Random(20260615)
    spoiled = folder / "spoiled"
    plain = gzip.decompress(whole)
    for _ in range(12):
        spoiled.write_bytes(whole[: choose.randrange(len(whole))])
        refused(here("restore", spoiled, home=folder / "h"))
        at = choose.randrange(len(plain))
        other = plain[:at] + bytes([plain[at] ^ 1 << choose.randrange(8)]) + plain[at + 1 :]
        spoiled.write_bytes(gzip.compress(other, 1))
        refused(here("restore", spoiled, home=folder / "h"))
    for content, why in ((b"", "cut short"), (gzip.compress(b"hello, hello"), "damaged"), (b"hello", "damaged")):
        spoiled.write_bytes(content)
        refused(here("restore", spoiled, home=folder / "h"), why)
    refused(here("restore", folder / "nowhere", home=folder / "h"), "cannot be read")
    assert not (folder / "h" / "postgres").exists()


def test_secrets_that_would_not_open_are_named_before_anything_is_done(backed_up: Path, folder: Path) -> None:
    refused(here("restore", backed_up, home=folder / "h"), "sealed with keys of id", "--without-keys")
    assert not (folder / "h" / "postgres").exists()
    refused(
        bahi("restore", backed_up, "--without-keys", BAHI_HOME=str(folder / "h"), BAHI_PARTITIONS="2"),
        "BAHI_PARTITIONS=1",
    )


def test_a_log_of_somebody_else_is_not_restored_under(backed_up: Path, empty: Installation) -> None:
    for name, value in (("epoch", "OTHER"), ("log_id", "OTHR")):
        empty.redis.set(name, value)
    empty.redis.hset("position", "position", 7)
    refused(empty.here("restore", backed_up), "this Redis holds log OTHR, epoch OTHER")
    empty.redis.set("alive:worker", "1", ex=60)
    refused(empty.here("restore", backed_up), "the engine runs here (worker): stop it first")
