"""`bahi archive`: how far the history is; out of it as a file that proves itself, and back into an empty one."""

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bahi.cli.offline import CHECKS
from bahi.cli.times import Times
from bahi.settings import Settings
from bahi.wiring import open_house
from tests.cli.terminal import PROGRAM, Installation, bahi, environment, here, start


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


def shown(file: Path) -> list[dict[str, Any]]:
    """The events of a file, as any program that knows CloudEvents finds them."""
    return [line for line in lines_of(file) if "specversion" in line]


def key_of(installation: Installation) -> str:
    key: str = installation.here("keys", "show", "--json").object["keys"][-1]["public_key"]
    return key


# --- status -----------------------------------------------------------------------------------------------------------


def test_the_status_tells_how_far_the_history_is_archived_and_sealed(day: Installation) -> None:
    told = day.here("archive", "status", "--json").object
    (part,) = told["partitions"]
    ((archived, sealed),) = day.sql("SELECT (SELECT position FROM checkpoint), (SELECT max(last) FROM seals)")
    assert (part["archived"], part["sealed"], part["unsealed"]) == (archived, sealed, archived - sealed)
    assert part["log_position"] == archived + part["behind"]
    assert part["seals"] == day.sql("SELECT count(*) FROM seals")[0][0]
    assert sum(month["events"] for month in told["months"]) == archived
    assert [month["month"] for month in told["months"]] == ["2026-06"]
    assert [key["opens"] for key in told["seal_keys"]] == [True]
    assert sum(stream["events"] for stream in part["streams"].values()) == part["log_position"]
    table = day.here("archive", "status")
    assert table.code == 0
    for fact in (f"archived up to position {archived}", f"sealed up to position {sealed}", "2026-06", "Redis holds"):
        assert fact in table.out
    assert part["newest_seal"] in table.out


def test_the_status_tells_that_nothing_can_be_sealed(own: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAHI_SECRET_KEYS", "k" * 40)
    done = own.here("archive", "status")
    assert done.code == 1
    assert "Nothing can be sealed" in done.out
    assert own.here("archive", "status", "--json").object["seal_keys"][0]["opens"] is False


def test_where_nothing_is_it_says_so(folder: Path) -> None:
    for command in (["status"], ["export", str(folder / "x")]):
        done = here("archive", *command, home=folder / "none")
        assert done.code == 2
        assert "there is no archive in" in done.err
    assert list(folder.iterdir()) == []


# --- export and verify --offline --------------------------------------------------------------------------------------


def test_a_file_holds_what_is_archived_and_proves_itself_without_a_server(day: Installation, tmp_path: Path) -> None:
    file = tmp_path / "day.jsonl.gz"
    done = day.here("archive", "export", file)
    assert done.code == 0, done.err
    archived = day.sql("SELECT position FROM checkpoint")[0][0]
    assert f"{archived:,} events" in done.out
    assert "Not in it: users" in done.out
    events = [it for it in day.events() if it.position <= archived]
    assert [(int(it["position"]), it["id"], it["type"]) for it in shown(file)] == [
        (it.position, it.event_id, it.event.type) for it in events
    ]
    (tmp_path / "key").write_text(day.here("keys", "show", "--public").out)
    for key in (tmp_path / "key", key_of(day), f"{'ab' * 32},{key_of(day)}"):
        done = bahi("verify", "--offline", file, "--public-key", key)
        assert done.code == 0, done.out
        assert done.out.count("✓") == len(CHECKS) + 1
    told = here("verify", "--offline", file, "--public-key", key_of(day), "--json").object
    assert told["ok"] is True
    assert all(told["checks"].values())
    assert (told["events"], told["left_out"], told["unreadable"]) == (archived, 0, 0)
    anchor = told["partitions"][0]["newest_seal"]
    assert here("verify", "--offline", file, "--public-key", key_of(day), "--anchor", anchor).code == 0
    wrong = anchor[:-1] + ("0" if anchor[-1] != "0" else "1")
    assert here("verify", "--offline", file, "--public-key", key_of(day), "--anchor", wrong).code == 1


def test_without_a_key_that_is_trusted_nothing_is_proven(day: Installation, tmp_path: Path) -> None:
    file = tmp_path / "day.jsonl.gz"
    assert day.here("archive", "export", file, "--json").object["signed_by"]
    done = here("verify", "--offline", file)
    assert done.code == 1
    assert "only --public-key can tell" in done.out
    told = here("verify", "--offline", file, "--json").object
    assert (told["ok"], told["checks"]["keys_trusted"], told["fault_count"]) == (False, False, 0)
    told = here("verify", "--offline", file, "--public-key", "ab" * 32, "--json").object
    assert (told["ok"], told["checks"]["as_signed"], told["checks"]["seals_signed"]) == (False, False, False)
    done = here("verify", "--offline", file, "--public-key", "no key")
    assert done.code == 2
    assert "Ed25519" in done.err


def test_what_was_changed_is_told_with_line_and_position(day: Installation, tmp_path: Path) -> None:
    file = tmp_path / "day.jsonl.gz"
    assert day.here("archive", "export", file).code == 0
    found = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    i = next(i for i, line in enumerate(found) if b'"ORDER_FILLED"' in line)
    position = int(json.loads(found[i])["position"])
    found[i] = found[i].replace(b'"average_price":"', b'"average_price":"9')
    file.write_bytes(gzip.compress(b"".join(found)))
    told = here("verify", "--offline", file, "--public-key", key_of(day), "--json")
    assert told.code == 1
    fault = told.object["first_fault"]
    assert (fault["line"], fault["position"], fault["kind"]) == (i + 1, position, "data")
    assert "average_price" in fault["text"]
    done = here("verify", "--offline", file, "--public-key", key_of(day))
    assert f"The first fault: line {i + 1}, position {position}: " in done.out


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x1f\x8b", b"PAR1", bytes(100)])
def test_what_is_no_such_file_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    done = here("verify", "--offline", tmp_path / "x", "--public-key", "ab" * 32)
    assert done.code in (1, 2)
    assert "Traceback" not in done.err
    assert here("verify", "--offline", tmp_path / "none").code == 2


FILTERS: dict[str, tuple[list[object], Any]] = {
    "a strategy": (["--strategy", 3], lambda it: it.strategy_id == 3),
    "users": (["--user", 1, "--user", 2], lambda it: it.user_id in (1, 2)),
    "a type": (["--type", "order-filled"], lambda it: it.event.type == "ORDER_FILLED"),
    "positions": (["--first", 50, "--last", 60], lambda it: 50 <= it.position <= 60),
    "all of it": (
        ["--user", 1, "--type", "EXECUTE_BUY", "--first", 20, "--from", "2026-06-15", "--until", "23:59"],
        lambda it: it.user_id == 1 and it.event.type == "EXECUTE_BUY" and it.position >= 20,
    ),
    "another day": (["--from", "2026-06-16"], lambda it: it.recorded_at > 1_781_548_200_000_000),
}


@pytest.mark.parametrize(("options", "wanted"), FILTERS.values(), ids=FILTERS.keys())
def test_a_part_of_it_by_time_position_owner_and_type(
    day: Installation, tmp_path: Path, options: list[object], wanted: Any
) -> None:
    file = tmp_path / "part"
    told = day.here("archive", "export", file, *options, "--json")
    assert told.code == 0, told.err
    archived = told.object["partitions"][0]["archived"]
    assert [int(it["position"]) for it in shown(file)] == [
        it.position for it in day.events() if it.position <= archived and wanted(it)
    ]
    checked = here("verify", "--offline", file, "--public-key", key_of(day), "--json")
    assert checked.code == 0, checked.out
    assert checked.object["events"] == told.object["events"]


def test_moments_are_those_of_the_exchange(day: Installation, tmp_path: Path) -> None:
    events = day.events()
    middle = next(it for it in events if it.event.type == "EXECUTE_BUY")
    moment = Times(Settings.load().zone).wall(middle.recorded_at).isoformat()
    for option, wanted in (
        ("--from", lambda at: at >= middle.recorded_at),
        ("--until", lambda at: at <= middle.recorded_at),
    ):
        file = tmp_path / option
        archived = day.here("archive", "export", file, option, moment, "--json").object["partitions"][0]["archived"]
        assert [int(it["position"]) for it in shown(file)] == [
            it.position for it in events if it.position <= archived and wanted(it.recorded_at)
        ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--type", "ORDER_FILED"], "near: ORDER_FILLED"),
        (["--first", "x"], "no position"),
        (["--from", "soon"], "no moment"),
        (["--from", "12:00", "--until", "11:00"], "later than"),
        (["--first", "3-17"], "no partition 3"),
    ],
)
def test_what_cannot_be_meant_is_told(day: Installation, tmp_path: Path, options: list[str], why: str) -> None:
    done = day.here("archive", "export", tmp_path / "x", *options)
    assert done.code == 2
    assert why in done.err
    assert list(tmp_path.iterdir()) == []


def test_standard_output_takes_the_events_and_nothing_else(day: Installation, tmp_path: Path) -> None:
    command = [sys.executable, PROGRAM, "archive", "export", "-", "--home", day.home]
    done = subprocess.run(command, capture_output=True, check=False, timeout=500, env=environment())
    assert done.returncode == 0
    (tmp_path / "x").write_bytes(done.stdout)
    assert here("verify", "--offline", tmp_path / "x", "--public-key", key_of(day)).code == 0
    assert b"events" in done.stderr
    assert day.here("archive", "export", "-", "--json").code == 2


def test_a_file_that_is_there_is_kept_unless_forced(day: Installation, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    done = day.here("archive", "export", tmp_path / "x")
    assert (done.code, (tmp_path / "x").read_bytes()) == (2, b"mine")
    assert "--force" in done.err
    assert day.here("archive", "export", tmp_path / "x", "--force").code == 0
    assert here("verify", "--offline", tmp_path / "x", "--public-key", key_of(day)).code == 0


def test_a_full_disk_and_a_folder_that_is_not_there_are_told(day: Installation, tmp_path: Path) -> None:
    for file, why in (
        ("/dev/full", "No space left"),
        (tmp_path / "no" / "x", "No such file"),
        (tmp_path, "is a folder"),
    ):
        done = day.here("archive", "export", file)
        assert done.code == 2, file
        assert why in done.err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_no_file(day: Installation, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    process = start("archive", "export", tmp_path / "pipe", "--home", day.home)
    with (tmp_path / "pipe").open("rb"):  # it has begun to write
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=500)
    assert process.returncode in (0, 2, 130)  # the pipe was closed, or the signal came first
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]


def test_without_its_key_a_file_is_written_only_if_that_is_wanted(
    own: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_of(own)
    monkeypatch.setenv("BAHI_SECRET_KEYS", "k" * 40)
    done = own.here("archive", "export", tmp_path / "x")
    assert done.code == 2
    assert "cannot be signed" in done.err
    assert own.here("archive", "export", tmp_path / "x", "--unsigned").code == 0
    told = here("verify", "--offline", tmp_path / "x", "--public-key", key, "--json").object
    assert [name for name, holds in told["checks"].items() if not holds] == ["as_signed"]


def test_an_archive_that_is_not_what_was_sealed_is_not_exported(own: Installation, tmp_path: Path) -> None:
    own.sql("UPDATE events SET envelope = envelope || '\\x00' WHERE position = 40")
    done = own.here("archive", "export", tmp_path / "x")
    assert done.code == 1
    assert "position 40" in done.err
    assert list(tmp_path.iterdir()) == []


def test_an_archive_is_exported_though_redis_is_lost(own: Installation, tmp_path: Path) -> None:
    own.redis.flushall()
    assert own.here("archive", "export", tmp_path / "x", "--json").object["not_archived_yet"] == 0
    assert own.here("archive", "status").code == 0


def test_parquet_needs_its_package_and_says_so(
    day: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.parquet"
    assert day.here("archive", "export", file, "--format", "parquet").code == 0
    assert here("verify", "--offline", file, "--public-key", key_of(day)).code == 0
    assert {each.name for each in tmp_path.iterdir()} == {"x.parquet", "x.parquet.proof.jsonl.gz"}
    assert day.here("archive", "export", "-", "--format", "parquet").code == 2
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for done in (
        day.here("archive", "export", tmp_path / "y.parquet", "--format", "parquet"),
        here("verify", "--offline", file, "--public-key", key_of(day)),
    ):
        assert done.code == 2
        assert "bahi[parquet]" in done.err
    (tmp_path / "x.parquet.proof.jsonl.gz").unlink()
    assert here("verify", "--offline", file).code == 2


# --- import -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(day: Installation, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The day as a file, and the key that it is signed with."""
    file = tmp_path_factory.mktemp("exported") / "day.jsonl.gz"
    assert day.here("archive", "export", file).code == 0
    return file, key_of(day)


async def recovered(home: Path) -> int:
    """What `bahi run` does before anything else. The last position then."""
    async with open_house(Settings.load(home=home)) as house:
        return await house.logs[0].last_position()


def test_an_empty_system_is_restored_and_goes_on(day: Installation, exported: tuple[Path, str], folder: Path) -> None:
    file, key = exported
    done = here("archive", "import", file, "--public-key", key, "--json", home=folder / "h")
    assert done.code == 0, done.err
    told = done.object
    archived = told["partitions"][0]["archived"]
    assert (told["events"], told["keys_trusted"], told["partitions"][0]["archived_before"]) == (archived, True, 0)
    assert told["new_seal_key"]
    again = here("archive", "import", file, "--public-key", key, home=folder / "h")
    assert again.code == 0
    assert "in the archive already" in again.out
    assert asyncio.run(recovered(folder / "h")) > archived
    told = here("verify", "--json", home=folder / "h").object
    assert {name for name, holds in told["checks"].items() if not holds} == set(), told["faults"]
    assert told["strategies"] == day.here("verify", "--json").object["strategies"]
    then = [here("replay", "--at", archived, "--json", home=home).objects for home in (day.home, folder / "h")]
    assert then[0]
    assert then[0] == then[1]


def test_whose_file_it_is_must_be_known_or_waived(exported: tuple[Path, str], folder: Path) -> None:
    file, key = exported
    done = here("archive", "import", file, home=folder / "h")
    assert done.code == 2
    assert "--public-key" in done.err
    assert here("archive", "import", file, "--public-key", key, "--trust-file-keys", home=folder / "h").code == 2
    done = here("archive", "import", file, "--public-key", "ab" * 32, home=folder / "h")
    assert done.code == 1
    assert "no trusted key vouches for" in done.out
    assert not (folder / "h").exists()
    done = here("archive", "import", file, "--trust-file-keys", home=folder / "h")
    assert done.code == 0
    assert "Only the file's own consistency was checked" in done.out


def test_a_changed_file_is_not_imported(exported: tuple[Path, str], folder: Path) -> None:
    file, key = exported
    changed = gzip.decompress(file.read_bytes()).replace(b'"quantity":', b'"quantity":1', 1)
    (folder / "x").write_bytes(gzip.compress(changed))
    done = here("archive", "import", folder / "x", "--public-key", key, home=folder / "h")
    assert done.code == 1
    assert "nothing was imported" in done.out
    told = here("archive", "import", folder / "x", "--public-key", key, "--json", home=folder / "h").object
    assert (told["imported"], told["ok"]) == (False, False)
    assert not (folder / "h").exists()


def test_what_is_here_already_is_not_overwritten(own: Installation, exported: tuple[Path, str], folder: Path) -> None:
    file, key = exported
    own.redis.set("alive:worker", "1", ex=600)
    done = own.here("archive", "import", file, "--public-key", key)
    assert (done.code, "the engine runs here (worker)" in done.err) == (2, True)
    own.redis.delete("alive:worker")
    own.redis.set("epoch", "OTHER")
    own.redis.delete("epochs")
    done = own.here("archive", "import", file, "--public-key", key)
    assert done.code == 2
    assert "two histories" in done.err
    own.redis.flushall()
    own.sql("UPDATE epochs SET epoch = 'ANOTHER'")
    done = own.here("archive", "import", file, "--public-key", key)
    assert done.code == 2
    assert "belongs to log" in done.err


def test_the_number_of_partitions_must_be_that_of_the_file(
    exported: tuple[Path, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAHI_PARTITIONS", "4")
    done = here("archive", "import", exported[0], "--public-key", exported[1], home=folder / "h")
    assert done.code == 2
    assert "BAHI_PARTITIONS=1" in done.err
