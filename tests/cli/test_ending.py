"""A command that is told to end ends everything that it has started, and says by which signal with its exit code."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.cli.terminal import PROGRAM, bahi, environment
from tests.e2e.house import until

TERM, HUP, INT = signal.SIGTERM, signal.SIGHUP, signal.SIGINT
COMMANDS = (
    (("prove", "seeds", "--count", "2000"), 1, HUP),
    (("prove", "all", "--seeds", "2000", "--jobs", "2", "--only", "lives"), 2, TERM),
    (("campaign", "--orders", "100000", "--jobs", "1"), 1, TERM),
    (("drill", "--moments", "100", "--jobs", "2"), 2, INT),
)
"""How many Redis servers each has, and what ends it."""


@contextmanager
def serving(*command: str, redis: int) -> Iterator[tuple["subprocess.Popen[str]", list[psutil.Process]]]:
    """The command as soon as its servers run, and all that it has started."""
    with subprocess.Popen(
        [sys.executable, PROGRAM, *command, "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:

        def started() -> list[psutil.Process]:
            found = psutil.Process(process.pid).children(recursive=True)
            try:
                return found if sum(each.name() == "redis-server" for each in found) >= redis else []
            except psutil.NoSuchProcess:  # it has ended since, as some do
                return []

        try:
            yield process, until(started, 60, f"{redis} servers run")
        finally:
            process.kill()  # if it has not ended: nobody would wait for ever


@pytest.mark.parametrize(("command", "redis", "number"), COMMANDS, ids=str)
def test_what_it_has_started_ends_with_it(
    tmp_path: Path, command: tuple[str, ...], redis: int, number: signal.Signals
) -> None:
    home = ("--home", str(tmp_path / "kept")) if "all" in command else ()
    with serving(*command, *home, redis=redis) as (process, started):
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(60) == 128 + number, said
        _, left = psutil.wait_procs(started, 20)
        assert not left


def test_a_demo_that_was_broken_off_is_no_obstacle_to_the_next(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path))
    with serving("demo", *home, redis=1) as (process, _):
        process.terminate()
        assert process.wait(60) == 128 + TERM
    with serving("demo", *home, redis=1) as (process, _):
        process.terminate()
        assert process.wait(60) == 128 + TERM
    (tmp_path / "demo" / ".demo").unlink()
    (tmp_path / "demo" / "paper.db").unlink(missing_ok=True)
    refused = bahi("demo", *home)
    assert refused.code == 2
    assert "is not the folder of an earlier demo" in refused.err
