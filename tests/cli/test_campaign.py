"""`bahi campaign` counts for people, for programs and into a file, and its exit code is its verdict."""

from pathlib import Path

import pytest

from bahi.cli.campaign import _markdown, _report, _show
from simulation.kite.faults import Fault
from simulation.kite.tally import CLEAN, Outcome, Tally
from tests.cli.terminal import bahi


def test_a_small_campaign(tmp_path: Path) -> None:
    file = tmp_path / "campaign.md"
    done = bahi("campaign", "--orders", 1, "--strategies", 6, "--jobs", 1, "--seed", 3, "--write", file, "--json")
    assert done.code == 0, done.err
    told = done.object
    assert (told["rounds"], told["violations"]) == (1, [])
    assert told["orders"] >= 6
    assert sum(sum(counts.values()) for counts in told["rows"].values()) >= 6
    written = file.read_text()
    assert f"{told['orders']} orders in 1 rounds from seed 3" in written
    assert f"| {Fault.F1_ACCEPTED_THEN_HANGS.value} |" in written


def test_what_must_not_be_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    total = Tally()
    total.orders = 1_234
    total.rows[CLEAN][Outcome.FILLED] = 1_200
    total.rows[Fault.F2_ACCEPTED_THEN_DROPPED.value][Outcome.FILLED] = 34
    total.fired[Fault.F2_ACCEPTED_THEN_DROPPED.value] = 34
    total.duplicates.append("TAG")
    report = _report(total, seed=5, rounds=2, violations=["seed 5: placed twice: TAG"])
    _show(report)
    shown = capsys.readouterr().out
    assert "not true: no order was placed twice" in " ".join(shown.split())
    assert "seed 5: placed twice: TAG" in shown
    assert "✓ no position was sold twice" in " ".join(shown.split())
    assert "| orders placed twice | 1 |" in _markdown(report, "--seed 5")
    assert f"| {Fault.F2_ACCEPTED_THEN_DROPPED.value} | 34 | 34 |" in _markdown(report, "--seed 5")
