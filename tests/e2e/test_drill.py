"""`bahi drill` breaks everything that can be broken, at a moment each here, and finds nothing lost; or says what."""

import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bahi.drill.checks import Found
from bahi.drill.damage import DEEPEST, tear
from bahi.drill.kept import Kept
from bahi.drill.matrix import play
from bahi.drill.moments import Result
from bahi.drill.report import COLUMNS, document
from bahi.drill.rows import EVERY, Row, draw_moment
from bahi.drill.tally import tally
from tests.cli.terminal import Done, bahi

SMALL = ("--strategies", "10", "--seed", "3")
NEW_EPOCH = (Row.TORN, Row.EMPTIED, Row.OLDER_REDIS)
"""With the engine's processes dead as well, nobody can say that nothing is missing."""


class Drilled(NamedTuple):
    done: Done
    report: Path
    results: Path


@pytest.fixture(scope="module")
def drilled(tmp_path_factory: pytest.TempPathFactory) -> Drilled:
    """Every row at one moment of a small day."""
    folder = tmp_path_factory.mktemp("drill")
    report, results = folder / "recovery.md", folder / "results"
    files = ("--report", report, "--results", results)
    return Drilled(bahi("drill", "--moments", 1, *SMALL, "--json", *files, timeout=500), report, results)


def row(drilled: Drilled, which: Row) -> dict[str, Any]:
    (found,) = [each for each in drilled.done.object["rows"] if each["row"] == which]
    return found


@pytest.mark.parametrize("which", EVERY)
def test_nothing_acknowledged_is_lost(drilled: Drilled, which: Row) -> None:
    found = row(drilled, which)
    assert found["violations"] == []
    assert found["moments"] == found["died"] + found["lived"] == 1
    assert found["acknowledged"] > 10
    assert found["orders"] > 5
    assert max(each["max"] for each in (found["restarted"], found["lived_on"]) if each) > 0
    if which in NEW_EPOCH:
        assert found["epochs"] == 1


def test_the_drill_ends_well_and_leaves_a_document(drilled: Drilled) -> None:
    done, report, _ = drilled
    assert done.code == 0, done
    assert done.object["ok"] is True
    text = report.read_text()
    for each in EVERY:
        assert f"| {each} | 1 | 0 | 0 | 0 | 0 | 0 | 0 |" in text
    assert "--seed 3 --strategies 10" in text


def test_moments_played_again_side_by_side_are_the_same_in_the_same_order(drilled: Drilled, tmp_path: Path) -> None:
    before = Kept(drilled.results, 10).results
    wanted = [draw_moment(Row.WORKER, 0, 3), draw_moment(Row.EMPTIED, 0, 3)]
    again = list(play(tmp_path / "two", wanted, 3, 10, jobs=2))
    assert [each.moment for each in again] == wanted
    assert not [what for each in again for what in each.found.all()]
    assert [each.happened_at for each in again] == [before[each].happened_at for each in wanted]


def test_a_drill_that_was_broken_off_goes_on_where_it_was(tmp_path: Path) -> None:
    file, told = tmp_path / "results", Found(lost=["what was told before"])
    before = Result(moment=draw_moment(Row.EMPTIED, 0, 3), found=told, load=2.5)
    kept = Kept(file, 10)
    kept.begin("as it was asked")
    kept.keep(before)
    drill = ("drill", *SMALL, "--row", "redis-emptied", "--results", file, "--report", tmp_path / "report.md")
    done = bahi(*drill, "--moments", 2, "--json", timeout=300)
    assert done.code == 1
    (row,) = done.object["rows"]
    assert row["moments"] == 2
    assert [each["what"] for each in row["violations"]] == told.lost  # it is said again, and not played again
    kept = Kept(file, 10)
    assert kept.results.pop(before.moment) == before
    assert list(kept.results) == [draw_moment(Row.EMPTIED, 1, 3)]
    assert len(kept.asked) == 2
    assert not Kept(file, 11).results  # another day
    # and all that is there, without playing any more
    report = bahi(*drill, "--moments", 0, "--json")
    assert report.object["rows"] == done.object["rows"]
    text = (tmp_path / "report.md").read_text()
    assert "- `bahi drill as it was asked`" in text
    assert "load" in text
    assert len(Kept(file, 10).asked) == 2


def test_a_file_that_holds_no_results_is_refused(tmp_path: Path) -> None:
    for text, what in (("{}\n", "line 1 of"), ("[1]\n", "line 1 of"), ("{", "ends within a line")):
        (tmp_path / "results").write_text(text)
        done = bahi("drill", "--results", tmp_path / "results")
        assert done.code == 2
        assert what in done.err


def test_bahi_run_itself_survives_what_its_servers_do_not(tmp_path: Path) -> None:
    done = bahi("drill", "--moments", 0, "--real", 2, "--row", "both-killed", "--json", timeout=500)
    assert done.code == 0, done
    (found,) = done.object["real"]
    assert found["moments"] == 2
    assert found["orders"] > 5


def test_what_does_not_hold_is_told_with_how_to_see_it_again() -> None:
    lost = Found(lost=["an answer"], duplicates=["an order, twice"])
    results = [Result(moment=draw_moment(Row.TORN, number, 7)) for number in range(3)]
    results[1].found = lost
    counted = tally(Row.TORN, results)
    assert not counted.ok
    assert (counted.lost_acknowledged, counted.duplicate_orders, counted.forgotten_positions) == (1, 1, 0)
    assert [each.again for each in counted.violations] == ["--row torn-aof --moment 1 --seed 7"] * 2
    text = document([counted], [], "--moments 3 --seed 7")
    assert "- `--row torn-aof --moment 1 --seed 7`: an order, twice" in text
    assert f"| {' | '.join(COLUMNS)} |" in text


@pytest.mark.parametrize("layout", ["appendonlydir/appendonly.aof.1.incr.aof", "appendonly.aof"])
def test_the_append_only_file_is_torn_at_its_end(tmp_path: Path, layout: str) -> None:
    file = tmp_path / layout
    file.parent.mkdir(exist_ok=True)
    whole = random.Random(1).randbytes(3 * DEEPEST)
    sizes = set()
    for seed in range(20):
        file.write_bytes(whole)
        torn = tear(tmp_path, random.Random(seed))
        sizes.add(torn.bit_length())
        assert 1 <= torn <= DEEPEST
        assert file.read_bytes() == whole[:-torn]
        file.write_bytes(whole)
        assert tear(tmp_path, random.Random(seed), keep=len(whole) - 7) == min(torn, 7)
    assert len(sizes) > 5  # a few bytes are as likely as many


def test_a_folder_with_something_in_it_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("of somebody's")
    done = bahi("drill", "--home", tmp_path)
    assert done.code == 2
    assert "is not empty" in done.err
    assert (tmp_path / "something").read_text() == "of somebody's"
