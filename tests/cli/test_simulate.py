"""`bahi simulate` and `bahi prove seeds`: the story of a seed, and many of them for programs."""

import json
import subprocess
import sys


def bahi(*args: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from bahi.cli.main import app; app()", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_story_of_a_seed_is_told_to_its_end():
    told = bahi("simulate", "--seed", "3", "--faults", "none")
    assert told.returncode == 0, told.stderr
    assert "STRATEGY_STARTED strategy 41" in told.stdout
    assert "STRATEGY_STOPPED strategy 45" in told.stdout
    assert "everything holds that must" in told.stdout.splitlines()[-1]


def test_an_unknown_fault_is_told_with_those_that_there_are():
    told = bahi("simulate", "--seed", "3", "--faults", "flood")
    assert told.returncode == 2
    assert "there is no fault 'flood'" in told.stderr
    assert "redis-torn" in told.stderr


def test_many_lives_are_added_up_for_programs():
    told = bahi("prove", "seeds", "--from", "5", "--count", "3", "--json")
    assert told.returncode == 0, told.stdout + told.stderr
    said = json.loads(told.stdout)
    assert (said["ok"], said["first"], said["report"]["lives"]) == (True, 5, 3)
    assert said["report"]["strategy_days"] == 15
    assert said["report"]["fired"].keys() >= {"redis-torn", "halt", "reply-lost"}
