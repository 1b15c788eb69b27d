"""`bahi history`: what it says of golden histories, and how it exits."""

import gzip
import shutil
from pathlib import Path

import pytest

from domain.events import OrderFilled
from domain.strategy import HANDLERS, State
from tests.cli.terminal import bahi, here

CURRENT = next(iter(sorted((Path(__file__).parents[1] / "histories").glob("v*"))))

NAMES = {"quiet", "troubled", "recovered", "surfaced", "kite", "shapes"}


def test_histories_that_are_folded_as_ever_are_listed() -> None:
    done = here("history", "check", CURRENT)
    assert done.code == 0
    assert "✓ every event is read, every state and every decision is the same" in done.out
    assert all(name in done.out for name in NAMES)


def test_json_tells_everything() -> None:
    done = here("history", "check", CURRENT.parent, "--json")
    told = done.object
    assert (done.code, told["ok"]) == (0, True)
    assert {it["history"] for it in told["histories"]} == NAMES
    assert all(it["differences"] == [] and len(it["digest"]) == 64 for it in told["histories"])


def test_a_difference_is_told_with_its_place_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rightly = HANDLERS[OrderFilled]

    def wrongly(state: State, event: OrderFilled) -> None:
        rightly(state, event)
        state.bought += 1

    monkeypatch.setitem(HANDLERS, OrderFilled, wrongly)
    done = here("history", "check", CURRENT)
    assert done.code == 1
    assert "✗ not true: every event is read" in done.out
    assert "state: bought: expected " in done.out
    assert "→ mend evolve; or, if it is meant, say why in changes.toml: field = 'bought'" in done.out
    assert here("history", "check", CURRENT, "--json").object["ok"] is False


def test_what_cannot_be_used_is_one_line_and_2(tmp_path: Path) -> None:
    assert here("history", "check", tmp_path).code == 2
    shutil.copytree(CURRENT, tmp_path / "v0.1")
    file = tmp_path / "v0.1" / "quiet.jsonl.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-100]))
    done = bahi("history", "check", tmp_path)
    assert done.code == 2
    assert "quiet.jsonl.gz does not end with its own count" in done.err
    assert "Traceback" not in done.err


def test_a_folder_that_holds_something_is_not_recorded_into() -> None:
    done = bahi("history", "record", CURRENT)
    assert done.code == 2
    assert "is not empty" in done.err
