"""A slice of what `bahi prove` does at length: a run of real processes, some cuts of Redis' file, and its refusals."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bahi.prove.aof import Cutting
from bahi.prove.breaking import Break, draw
from bahi.prove.processes import FEW, KINDS, run
from bahi.prove.rolling import NoHistory, unpack
from tests.cli.terminal import here

FRESH = int(os.environ.get("BAHI_TEST_SEED") or random.SystemRandom().randrange(1_000_000))
"""Another one each time; what it finds is repeated with BAHI_TEST_SEED."""
CUTS = 12


def test_a_plan_is_drawn_from_its_seed_and_each_kind_comes_before_any_comes_twice() -> None:
    plan = draw(random.Random(3), 120)
    assert plan == draw(random.Random(3), 120)
    assert {planned.what for planned in plan[: len(Break)]} == set(Break)
    assert [planned.at for planned in plan] == sorted(planned.at for planned in plan)


def test_real_processes_are_killed_and_stopped_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    print(f"BAHI_TEST_SEED={FRESH}")
    found = run(FRESH, tmp_path / "home", seconds=8, members=FEW)
    assert found.ok, "\n".join([*found.story, *found.violations])
    assert tuple(found.fired) == KINDS
    assert sum(found.fired.values()) >= 3, found.fired
    assert found.acknowledged > 0


@pytest.fixture(scope="module")
def cutting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cutting]:
    with Cutting(tmp_path_factory.mktemp("aof"), seed=5) as cutting:
        yield cutting


def test_a_day_is_cut_before_and_within_every_command(cutting: Cutting) -> None:
    golden = cutting.golden
    assert golden.orders >= 6
    assert len(golden.names) >= 300
    assert golden.names.count("MULTI") == golden.names.count("EXEC") > 20
    assert len(cutting.cuts) == 2 * len(golden.names) + 1
    assert [cut.number for cut in cutting.cuts] == list(range(len(cutting.cuts)))
    assert {cut.ahead for cut in cutting.cuts if not cut.inside} == {0}
    assert max(cut.ahead for cut in cutting.cuts) > 3


@pytest.mark.parametrize("part", range(CUTS))
def test_after_a_cut_the_day_comes_to_its_end(cutting: Cutting, part: int) -> None:
    """One cut of each part of the file, drawn anew each time."""
    size = len(cutting.cuts) / CUTS
    number = int((part + random.Random(f"{FRESH}/{part}").random()) * size)
    print(f"bahi prove aof --from {number} --to {number + 1}; BAHI_TEST_SEED={FRESH}")
    result = cutting.run(number)
    assert result.ok, result.violations


def test_a_log_that_was_cut_before_it_had_begun_begins(cutting: Cutting) -> None:
    """Redis killed within the very first start: no epoch yet, and so nothing that could be lost."""
    first = next(number for number, name in enumerate(cutting.golden.names) if name == "XGROUP")
    result = cutting.run(2 * first)
    assert result.ok, result.violations
    assert result.recovered == ""


def test_a_recorded_day_is_found_again(tmp_path: Path) -> None:
    with Cutting(tmp_path, seed=5) as first:
        golden = first.golden
    with Cutting(tmp_path, seed=5) as second:
        assert second.golden == golden


def test_without_history_there_is_no_other_version(tmp_path: Path) -> None:
    with pytest.raises(NoHistory, match="does not know the commit feedbee: if it is a shallow clone"):
        unpack("feedbee", tmp_path)
    done = here("prove", "rolling", "--old", "feedbee", "--home", str(tmp_path / "home"))
    assert done.code == 2
    assert "git fetch --unshallow" in done.err


def test_the_other_version_is_unpacked_whole(tmp_path: Path) -> None:
    code, commit = unpack("HEAD", tmp_path)
    assert len(commit) == 40
    assert (code / "eventstore" / "append.lua").exists()


def test_a_report_for_programs_names_every_fault_kind(tmp_path: Path) -> None:
    done = here("prove", "aof", "--from", "0", "--to", "2", "--seed", "5", "--home", str(tmp_path), "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out.splitlines()[-1])
    assert (report["ok"], report["first"], report["last"], report["run"]) == (True, 0, 2, 2)
    assert report["violations"] == []
