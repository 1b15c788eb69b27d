"""Seeds of the simulated world, the same in every run, and every seed that ever showed a violation."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bahi.prove.lives import LivesReport, read_seeds
from eventstore.keys import Keys
from handlers.worker import Worker
from simulation.faults import EVERY, Fault, UnknownFault, parse_faults
from simulation.lives import live
from simulation.stage import GROWN, Stage, open_stage
from simulation.world import STRATEGIES, World
from tests.simulation.living import SEEDS, lived

FIRSTS, EACH = tuple(range(1, 201, 25)), 25
SIZES = (2, 3)
"""Strategies in a life, in turn: the fewer, the more of what goes wrong concerns each."""
TOTAL = LivesReport(fired={str(fault): 0 for fault in Fault})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with open_stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.mark.parametrize("first", FIRSTS)
def test_whatever_goes_wrong_every_invariant_holds_and_everything_ends(stage: Stage, first: int) -> None:
    report = lived(stage, [(seed, SIZES[seed % len(SIZES)]) for seed in range(first, first + EACH)])
    assert report.lives == EACH
    for name, count in report.fired.items():
        TOTAL.fired[name] += count
    TOTAL.lives += report.lives


def test_every_fault_has_struck() -> None:
    """After the lives before: a fault that never strikes is none that was tested."""
    if TOTAL.lives < len(FIRSTS) * EACH:
        pytest.fail("run the whole file: this counts what the lives before it have seen")
    never = [name for name, count in TOTAL.fired.items() if not count]
    assert not never, f"never seen, so not tested: {never}"


def test_what_was_violated_once_is_violated_no_more(stage: Stage) -> None:
    assert lived(stage, read_seeds(SEEDS)).lives > 0


def test_a_life_begins_with_nothing_however_much_its_redis_has_written_before(stage: Stage) -> None:
    """Found by more lives in one process than any test had before: the file was taken away from under its manifest."""
    stage.clear()
    with stage.client() as client:
        client.set("much", "x" * (GROWN + 1))
        server = client.info("server")["run_id"]
    stage.clear()
    with stage.client() as client:
        assert client.info("server")["run_id"] != server
        assert client.keys() == [Keys().log_id.encode()]
    stage.restart_redis()
    with stage.client() as client:
        assert client.keys() == [Keys().log_id.encode()]


def test_several_days_are_one_history(stage: Stage) -> None:
    life = live(stage, 7, days=3)
    assert not life.found
    assert life.types["STRATEGY_STARTED"] >= 10
    assert life.strategy_days == 15


def test_without_faults_nothing_goes_wrong(stage: Stage) -> None:
    life = live(stage, 11, frozenset())
    assert (life.found, life.fired) == ([], {})
    assert life.types["STRATEGY_STOPPED"] == 5


async def waits_for_ever(*_: Any, **__: Any) -> None:
    await asyncio.get_running_loop().create_future()


async def never_waits(*_: Any, **__: Any) -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("owner", "name", "hangs"),
    [(World, "_pass", waits_for_ever), (World, "_pass", never_waits), (Worker, "step", never_waits)],
)
def test_a_life_that_hangs_is_broken_off_and_told_and_the_next_one_lives(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, hangs: Callable[..., Awaitable[None]]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, hangs)
        life = live(stage, 3, frozenset(), patience=1)
    assert "liveness: the life hangs, after 1 s" in life.found[0]
    if hangs is never_waits:
        assert "in never_waits" in life.found[0]
    assert life.story, "what happened until then is told"
    assert live(stage, 3, frozenset()).ok


def test_the_same_seed_tells_the_same_story_to_the_byte(tmp_path: Path) -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", "from bahi.cli.main import app; app()", "simulate", "--seed", "5"],
            env={**os.environ, "PYTHONHASHSEED": hashed, "TZ": zone, "HOME": str(tmp_path)},
            capture_output=True,
            check=True,
        ).stdout
        for hashed, zone in (("1", "UTC"), ("2", "America/Caracas"))
    ]
    assert told[0] == told[1]
    assert b"STRATEGY_STARTED" in told[0]


def test_faults_are_chosen_by_their_names() -> None:
    assert parse_faults(["all"]) == EVERY
    assert parse_faults(["none"]) == frozenset()
    assert parse_faults(["halt", "redis-torn"]) == {Fault.HALT, Fault.REDIS_TORN}
    assert parse_faults(["-halt"]) == EVERY - {Fault.HALT}
    with pytest.raises(UnknownFault, match="there is no fault 'flood'; known are all, none, call-lost"):
        parse_faults(["flood"])


def test_a_file_of_seeds_names_the_line_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "seeds.txt"
    file.write_text("4  # what it was\n\nfour\n")
    with pytest.raises(ValueError, match="line 3: 'four' is no seed"):
        read_seeds(file)
    file.write_text("4\n7 20 # a crowd\n")
    assert read_seeds(file) == [(4, STRATEGIES), (7, 20)]
