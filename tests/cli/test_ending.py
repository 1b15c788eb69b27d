"""A command that is told to end ends everything that it has started, and says by which signal with its exit code."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.cli.terminal import PROGRAM, environment
from tests.e2e.house import until

SERVERS = {"redis-server", "postgres"}
LIVES = ("--seeds", "2000", "--jobs", "2", "--only", "lives")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", [("prove", "seeds", "--count", "2000"), ("prove", "all", *LIVES)], ids=" ".join)
def test_its_servers_end_with_it(tmp_path: Path, command: tuple[str, ...], number: signal.Signals) -> None:
    home = ("--home", tmp_path / "kept") if "all" in command else ()
    with subprocess.Popen(
        [sys.executable, PROGRAM, *command, *home, "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        its = psutil.Process(process.pid)
        wanted = 2 if "all" in command else 1

        def serving() -> list[psutil.Process]:
            names = [each for each in its.children(recursive=True) if each.name() in SERVERS]
            return names if sum(each.name() == "redis-server" for each in names) == wanted else []

        until(serving, 60, "its servers run")
        started = its.children(recursive=True)
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(60) == 128 + number, said
        assert "Traceback" not in said
        _, left = psutil.wait_procs(started, 20)
        assert not left
