"""The README's worked example, run as it stands there, and its commands, called as they stand there."""

import json
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
        *("events", "explain", "replay", "verify", "rebuild", "parked", "instruments", "doctor", "bench")
    ]
    tag = re.findall(r'"tag":"([A-Z0-9]{20})"', told)[0]
    for line in lines:
        if line.split()[1] in {"events", "explain", "replay", "verify", "parked"}:
            shell(house, line.replace("TAG", tag).replace("--at 09:20", ""))


def test_the_example_trades_at_the_simulated_kite(tmp_path: Path) -> None:
    (example,) = [block for block in blocks() if "/auth/register" in block]
    (connect,) = [block for block in blocks() if '"broker": "kite"' in block]
    (paper,) = [line for line in example.splitlines() if line.startswith("post /broker/connect")]
    with subprocess.Popen(
        [BAHI, "kite-sim", "--json", "--port", "0", "--ws-port", "0"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as kite:
        assert kite.stdout is not None
        said = json.loads(kite.stdout.readline())
        house = House(KITE_ROOT=said["root"], KITE_WS_ROOT=said["ws_root"])
        try:
            house.start().ready()
            house.await_ready()
            token = said["customers"][0]["access_token"]
            told = shell(house, example.replace(paper, connect.replace("ACCESS-TOKEN", token)))
        finally:
            house.close()
            kite.terminate()
    assert "running bought" in told
    assert "stopped sold" in told
    assert told.count('"status":"complete"') == 2
    assert '"broker_user_id":"AB0001"' in told
