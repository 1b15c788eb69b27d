"""The tests tested: planted defects are found, and nothing of them is left. All of them: `bahi prove planted`."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from typer.testing import CliRunner

from bahi.cli.main import app
from bahi.prove.defects import EVERY_DEFECT, Defect
from bahi.prove.planted import UnknownDefect, chosen, label, lived_with
from bahi.prove.planting import Edit, LuaEdit, SourceEdit, Unfit, plant
from simulation.stage import Stage, open_stage

CHECKOUT = Path(__file__).parents[2]
BY_NAME = {each.name: each for each in EVERY_DEFECT}
SHOWN_SOON = (
    "pipeline-instead-of-script",
    "blind-retry-after-time-out",
    "stop-armed-only-at-the-start",
    "time-runs-backwards",
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with open_stage(tmp_path_factory.mktemp("planted")) as stage:
        yield stage


def _code() -> dict[str, CodeType | bytes]:
    """Whatever any of them changes, as it is now."""
    found: dict[str, CodeType | bytes] = {}
    for defect in EVERY_DEFECT:
        for change in defect.changes:
            match change:
                case Edit(function=function):
                    it: Any = function
                    found[f"{it.__module__}.{it.__qualname__}"] = it.__code__
                case LuaEdit(script=script):
                    found[script.sha] = script.text
                case SourceEdit(package=package, file=file):
                    found[file] = (Path(package.__file__ or "").parent / file).read_bytes()
    return found


def test_there_are_as_many_as_were_asked_for_each_with_its_own_name_and_a_check_that_is_to_find_it() -> None:
    assert len(EVERY_DEFECT) >= 25
    assert len(BY_NAME) == len(EVERY_DEFECT)
    for defect in EVERY_DEFECT:
        assert bool(defect.by) != bool(defect.test), defect.name
        assert bool(defect.why) == bool(defect.test), defect.name


@pytest.mark.parametrize("defect", EVERY_DEFECT, ids=lambda each: each.name)
def test_every_defect_fits_the_code_and_leaves_it_as_it_was(defect: Defect) -> None:
    before = _code()
    with plant(defect.changes):
        assert any(_is_changed(change, before) for change in defect.changes)
    assert _code() == before


def _is_changed(change: Edit | LuaEdit | SourceEdit, before: dict[str, CodeType | bytes]) -> bool:
    match change:
        case Edit(function=function):
            it: Any = function
            return bool(it.__code__ != before[f"{it.__module__}.{it.__qualname__}"])
        case LuaEdit(script=script):
            return script.sha not in before
        case SourceEdit(package=package, file=file):
            return (Path(package.__file__ or "").parent / file).read_bytes() != before[file]


def test_a_defect_whose_place_has_gone_does_not_fit() -> None:
    with pytest.raises(Unfit, match="0 times, once was expected"), plant((Edit(label, "no such line", ""),)):
        raise AssertionError("it was planted")


def test_what_comes_before_a_defect_that_does_not_fit_is_taken_out_again() -> None:
    sound = label.__code__
    changes = (Edit(label, 'finding.partition(": ")', 'finding.partition(";")'), Edit(chosen, "no such line", ""))
    with pytest.raises(Unfit), plant(changes):
        raise AssertionError("it was planted")
    assert label.__code__ is sound


def test_a_function_that_was_imported_by_its_name_has_the_defect_too() -> None:
    from bahi.prove.planted import label as imported

    with plant((Edit(label, 'if check == "judge"', 'if check == "jury"'),)):
        assert imported("judge: position 3: stop: forgotten") == "judge"
    assert imported("judge: position 3: stop: forgotten") == "judge stop"


@pytest.mark.parametrize("test", sorted({each.test for each in EVERY_DEFECT if each.test}))
def test_the_tests_that_are_to_find_defects_are_there(test: str) -> None:
    file, _, name = test.partition("::")
    source = (CHECKOUT / file).read_text()
    assert not name or f"def {name}(" in source


@pytest.mark.parametrize("name", SHOWN_SOON)
def test_a_planted_defect_is_found_and_the_same_life_without_it_is_in_order(stage: Stage, name: str) -> None:
    result = lived_with(stage, BY_NAME[name], range(1, 11))
    assert result.ok, result
    assert result.seeds == result.seed
    assert label(result.finding) == result.found_by


def test_a_defect_that_does_nothing_survives(stage: Stage) -> None:
    nothing = (Edit(label, "check, _, rest", "check, _, rest"),)
    harmless = Defect(name="harmless", what="nothing", changes=nothing, by=("7",), faults=frozenset())
    result = lived_with(stage, harmless, range(1, 2))
    assert not result.ok
    assert result.found_by == result.finding == ""


def test_a_name_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UnknownDefect, match=r"no defect .nonsense.*version-not-checked"):
        chosen(["nonsense"])
    done = CliRunner().invoke(app, ["prove", "planted", "--only", "nonsense"])
    assert done.exit_code == 2


def test_the_command_tells_who_found_it(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["prove", "planted", "--only", "wall-clock-in-a-decision", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.splitlines()[-1])
    (result,) = report["results"]
    assert report["ok"]
    assert result["found_by"].startswith("tests/property/test_purity.py::")
