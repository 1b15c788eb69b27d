"""A demonstrated day: lived through by the real engine, equal each time, and proven from the log."""

import datetime as dt
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from domain.calendar import load_nse
from domain.values import Tick
from simulation.market import generate_day
from simulation.plan import NoSession, draw_strategies, survey
from simulation.ticks import write_ticks

BAHI = Path(sys.executable).with_name("bahi")
DAY = dt.date(2026, 6, 15)
PRICES = {"NSE:INFY": Decimal("1510"), "NSE:TCS": Decimal("3080"), "NSE:SBIN": Decimal("955")}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "day.csv.gz"
    write_ticks(path, generate_day(DAY, PRICES, seed=3, ticks_per_symbol=1_500))
    return path


def bahi(*args: str | Path) -> str:
    done = subprocess.run([BAHI, *args], capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lived(home: Path, recording: Path, seed: int) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    """The summary, and what happened: type, strategy, prices and quantities of every event, in order."""
    said = bahi("demo", "--ticks", recording, "--strategies", "25", "--seed", str(seed), "--home", home, "--json")
    events = [json.loads(line) for line in bahi("events", "--home", home / "demo", "--json").splitlines()]
    return json.loads(said.splitlines()[-1]), [_essence(event) for event in events]


def _essence(event: dict[str, Any]) -> tuple[Any, ...]:
    data = event["data"]
    told = {name: data.get(name) for name in ("price", "quantity", "filled", "average_price", "stop_loss", "reason")}
    request = data.get("request") or {}
    return event["type"], event["strategy_id"], json.dumps([told, request.get("side"), request.get("quantity")])


def test_a_day_is_the_same_each_time_and_replays_to_the_live_state(tmp_path: Path, recording: Path) -> None:
    summary, once = lived(tmp_path / "once", recording, 5)
    _, again = lived(tmp_path / "again", recording, 5)
    _, other = lived(tmp_path / "other", recording, 6)
    assert once == again
    assert once != other
    assert summary["session_date"] == DAY.isoformat()
    assert summary["strategies"] == 25
    assert summary["ticks"] == sum(1 for _ in generate_day(DAY, PRICES, seed=3, ticks_per_symbol=1_500))
    assert summary["events"] == len(once)
    assert summary["replay_equal"] is True
    assert summary["positions_gapless"] is True
    assert summary["stoplosses"] > 0
    assert summary["sells"] > 0
    orders = summary["orders"]
    assert orders["placed"] == orders["filled"] == sum(kind.startswith("EXECUTE_") for kind, *_ in once)
    assert summary["stoplosses"] + summary["sells"] + orders["denied"] == 25
    assert summary["tick_to_order_ms"]["p50"] > 0


def test_strategies_are_drawn_from_the_seed_and_lie_in_the_session(recording: Path) -> None:
    calendar = load_nse()
    market = survey(generate_day(DAY, PRICES, seed=3, ticks_per_symbol=200), calendar)
    drawn = draw_strategies(market, 200, 7, calendar, dt.time(15, 15))
    assert drawn == draw_strategies(market, 200, 7, calendar, dt.time(15, 15))
    assert drawn != draw_strategies(market, 200, 8, calendar, dt.time(15, 15))
    for config in drawn:
        assert dt.time(9, 15) < config.buy_time < config.sell_time <= dt.time(15, 15)
        assert 0 < config.stop_loss < market.opening[config.symbol] * Decimal("1.001")
        assert config.stop_loss % Decimal("0.05") == 0


def test_ticks_of_a_holiday_are_refused_with_the_day_named() -> None:
    calendar = load_nse()
    at = calendar.instant(dt.date(2021, 4, 14), dt.time(10))
    with pytest.raises(NoSession, match="2021-04-14 has no tick within a trading session"):
        survey([Tick("NSE:INFY", Decimal(1), at)], calendar)
