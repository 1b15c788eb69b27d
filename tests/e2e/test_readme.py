"""The README's worked example, run as it stands there, and its commands, called as they stand there."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.house import BAHI, House

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    house = House()
    try:
        house.start().ready()
        house.await_ready()
        yield house
    finally:
        house.close()


def blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def shell(house: House, script: str) -> str:
    path = f"{BAHI.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=house.environment | {"API": house.url, "PATH": path, "BAHI_HOME": str(house.home)},
        cwd=house.home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_example_buys_and_sells_and_the_commands_tell_of_it(house: House) -> None:
    (example,) = [block for block in blocks() if "/auth/register" in block]
    told = shell(house, example)
    assert "running bought" in told
    assert "stopped sold" in told
    assert told.count('"status":"complete"') == 2

    (commands,) = [block for block in blocks() if "bahi events" in block]
    lines = [line.split("#")[0].strip() for line in commands.splitlines() if line.strip()]
    assert [line.split()[1] for line in lines] == [
        *("events", "explain", "replay", "verify", "rebuild", "parked", "doctor", "bench")
    ]
    tag = re.findall(r'"tag":"([A-Z0-9]{20})"', told)[0]
    for line in lines:
        if line.split()[1] in {"events", "explain", "replay", "verify", "parked"}:
            shell(house, line.replace("TAG", tag).replace("--at 09:20", ""))
