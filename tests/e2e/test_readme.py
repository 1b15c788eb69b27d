"""The README's worked example, run as it stands there, and its commands, called as they stand there."""

import datetime as dt
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
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
        timeout=500,
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
        *("events", "explain", "replay", "replay", "verify", "rebuild", "parked", "instruments", "doctor", "bench")
    ]
    tag = re.findall(r'"tag":"([A-Z0-9]{20})"', told)[0]
    for line in lines:
        if line.split()[1] in {"events", "explain", "replay", "verify", "parked"}:
            shell(house, line.replace("TAG", tag).replace("--at 09:20", "").replace("09:20 11:02", "3 9"))


def test_the_history_proves_itself_and_moves_to_an_empty_system(house: House) -> None:
    (commands,) = [block for block in blocks() if "bahi archive export" in block]
    lines = [line.split("#")[0].strip() for line in commands.splitlines()]
    assert [" ".join(line.split()[1:3]) for line in lines] == [
        *("archive status", "archive export", "keys show", "verify --offline", "archive import", "keys rotate")
    ]
    shell(house, "bahi verify")
    elsewhere = House()
    try:
        for line in lines:
            shell(house, f"BAHI_HOME={elsewhere.home} {line}" if "import" in line else line)
        elsewhere.start().ready()
        told = shell(elsewhere, "bahi events")
    finally:
        elsewhere.close()
    assert "SYSTEM_RECOVERY" in told


def test_an_auditor_reads_what_the_readme_says(house: House) -> None:
    (commands,) = [block for block in blocks() if "/audit/events" in block]
    create, *readings = [line.split("  #")[0] for line in commands.splitlines()]
    who = {"email": "auditor@example.com", "password": "an auditor's long pass phrase"}
    shell(house, f'echo "{who["password"]}" | {create} --password-stdin')
    token = httpx.post(f"{house.url}/auth/login", json=who).json()["access_token"]
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    events, state, stream = (
        f"TOKEN={token}; {line}".replace("localhost:8000", "$API").replace("2026-06-15T11:02:00%2B05:30", now)
        for line in readings
    )
    assert "STRATEGY_CREATED" in shell(house, events)
    assert '"status"' in shell(house, state)
    assert "AUDIT_READ" in shell(house, events.replace("strategy_id=1", "type=AUDIT_READ"))
    heard = shell(
        house, stream.replace("curl -N", "timeout 5 curl -sN -H 'Last-Event-ID: '") + " | head -c 300 || true"
    )
    assert heard


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
