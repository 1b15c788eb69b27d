"""A day with bahi, as a user of the app lives it: `bahi run` as a process, HTTP, real servers, a recorded market.

All users trade at the same time, each with a story of their own (`stories`); then the engine is stopped, started
again, and joined by a second one.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.house import IST, LATE, PASSWORD, House, Trader, clock_in, free_port, until

BAD_ROWS = {
    5: "2026-06-15 09:15:01,INFY,not a price,100",
    7: "yesterday,INFY,1500.00,100",
    9: "2026-06-15 09:15:01,INFY,1500.00",
}
"""By line. The last one lacks the volume."""


def recording(path: Path, seconds: int) -> None:
    """Ticks each fifth of a second: INFY stands at 1500, TCS falls from 3500 by five a second."""
    rows = ["timestamp,symbol,ltp,volume"]
    start = dt.datetime(2026, 6, 15, 9, 15, tzinfo=IST)
    for number in range(seconds * 5):
        at = f"{start + dt.timedelta(milliseconds=200 * number):%Y-%m-%d %H:%M:%S.%f}"
        rows.append(f"{at},INFY,1500.00,{number}")
        rows.append(f"{at},TCS,{3500 - number}.00,{number}")
    for line, row in BAD_ROWS.items():
        rows.insert(line - 1, row)
    path.write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    house = House(BUY_LATE_LIMIT="1")
    ticks = house.home / "ticks.csv"
    recording(ticks, 600)
    house.environment["BAHI_FEED"] = f"file:{ticks}"
    try:
        house.start().ready()
        house.await_ready()
        yield house
    finally:
        house.close()


THE_STORY = [
    *("STRATEGY_STARTED", "STRATEGY_RUNNING", "BUY_TRIGGERED", "EXECUTE_BUY", "ORDER_FILLED"),
    *("SELL_TRIGGERED", "EXECUTE_SELL", "STRATEGY_EXITED", "STRATEGY_STOPPED"),
]


# --- the stories ------------------------------------------------------------------------------------------------------


def buys_and_sells_at_its_times(house: House) -> None:
    trader = Trader(house)
    bought_at, sold_at = clock_in(4), clock_in(7)
    created = trader.create(buy_time=bought_at, sell_time=sold_at)
    before = trader.status(created)
    assert (before["status"], before["position"], before["run"]) == ("created", "none", 0)
    started = trader.start(created)  # 200: it runs within two seconds
    assert started["status"] == "running"
    assert started["session_date"] == dt.datetime.now(IST).date().isoformat()
    held = trader.sees(created, position="bought")
    assert (held["status"], held["filled_quantity"], held["open_quantity"]) == ("running", 10, 10)
    assert held["last_price"] == 1500
    sold = trader.sees(created, status="stopped")
    assert (sold["position"], sold["exit_reason"], sold["open_quantity"]) == ("sold", "SELL", 0)

    def told() -> bool:
        """SQL follows the log by some milliseconds."""
        return [each["status"] for each in trader.orders(created)] == ["complete"] * 2

    until(told, 5, "both orders are listed")
    buy, sell = trader.orders(created)
    for order, side, at in ((buy, "BUY", bought_at), (sell, "SELL", sold_at)):
        assert (order["kind"], order["side"], order["quantity"], order["filled"]) == (side, side, 10, 10)
        assert order["average_price"] == 1500
        requested = dt.datetime.fromisoformat(order["requested_at"]).astimezone(IST)
        late = requested - dt.datetime.combine(requested.date(), dt.time.fromisoformat(at), IST)
        assert dt.timedelta(0) <= late < dt.timedelta(seconds=2)
    until(lambda: trader.events(created)[-1]["type"] == "STRATEGY_STOPPED", 5, "the last event is listed")
    events = trader.events(created)
    types = [event["type"] for event in events]
    assert types[:2] == ["STRATEGY_CREATED", "STRATEGY_START_REQUESTED"]
    told_first = [types.index(name) for name in THE_STORY]
    assert told_first == sorted(told_first)
    assert [event["version"] for event in events if event["version"]] == list(range(1, len(events) + 1))
    assert [event["data"]["tag"] for event in events if event["type"].startswith("EXECUTE_")] == [
        buy["tag"],
        sell["tag"],
    ]
    assert trader.listed("/strategy/list", "strategies")[0]["status"] == "stopped"


def is_stopped_out_of_a_falling_market(house: House) -> None:
    trader = Trader(house)
    watching = trader.armed(symbol="TCS")  # so that the feed is asked for it
    now = until(lambda: house.price("NSE:TCS"), 10, "a price of TCS")
    trader.post("/strategy/stop", strategy_id=watching)
    stop = float(now) - 50  # ten seconds from now
    held = trader.armed(3, symbol="TCS", stop_loss=stop)
    trader.sees(held, position="bought")
    done = trader.sees(held, status="stopped", seconds=30)
    assert (done["position"], done["exit_reason"], done["open_quantity"]) == ("exited_by_sl", "STOPLOSS", 0)
    until(lambda: len(trader.orders(held)) == 2, 5, "both orders are listed")
    assert [order["kind"] for order in trader.orders(held)] == ["BUY", "STOPLOSS"]
    triggered = next(event for event in trader.events(held) if event["type"] == "STOPLOSS_TRIGGERED")
    assert float(triggered["data"]["tick"]["price"]) <= stop


def halts_everything(house: House) -> None:
    trader = Trader(house)
    holding, waiting = trader.armed(3), trader.armed()
    trader.sees(holding, position="bought")
    trader.post("/halt", reason="a bad day")
    assert trader.get("/halt")["halted"] is True
    assert trader.sees(waiting, status="stopped")["exit_reason"] == "HALTED"
    kept = trader.status(holding)
    assert (kept["status"], kept["open_quantity"]) == ("running", 10)
    late = trader.create()
    refused = trader.http.post("/strategy/start", json={"strategy_id": late})
    assert refused.status_code == 409, refused.text
    trader.post("/halt", square_off=True)
    sold = trader.sees(holding, status="stopped")
    assert (sold["position"], sold["open_quantity"]) == ("sold", 0)
    assert trader.http.delete("/halt").json()["halted"] is False
    assert trader.start(late)["status"] == "running"
    trader.post("/strategy/stop", strategy_id=late)


def stops_with_and_without_selling(house: House) -> None:
    trader = Trader(house)
    sold, kept = trader.armed(3), trader.armed(3)
    for each in (sold, kept):
        trader.sees(each, position="bought")
    done = trader.post("/strategy/stop", strategy_id=sold, square_off=True)
    assert (done["status"], done["position"], done["open_quantity"]) == ("stopped", "sold", 0)
    done = trader.post("/strategy/stop", strategy_id=kept)
    assert (done["status"], done["open_quantity"]) == ("stopped", 10)
    assert trader.http.post("/strategy/start", json={"strategy_id": kept}).status_code == 409
    trader.post("/strategy/settle", strategy_id=kept, quantity=10)
    assert trader.status(kept)["open_quantity"] == 0


def changes_times_and_stop_while_running(house: House) -> None:
    trader = Trader(house)
    strategy = trader.armed()
    changed = trader.post("/strategy/update", strategy_id=strategy, buy_time=clock_in(2), stop_loss=1400.0)
    assert changed["stop_loss"] == 1400
    trader.sees(strategy, position="bought")
    refused = trader.http.post("/strategy/update", json={"strategy_id": strategy, "quantity": 20})
    assert refused.status_code == 409
    refused = trader.http.post("/strategy/update", json={"strategy_id": strategy, "stop_loss": 1500.05})
    assert refused.status_code == 422  # at or above the market
    assert refused.json()["errors"][0]["field"] == "stop_loss"
    trader.post("/strategy/update", strategy_id=strategy, sell_time=clock_in(2), stop_loss=1499.95)
    sold = trader.sees(strategy, status="stopped")
    assert (sold["position"], sold["exit_reason"]) == ("sold", "SELL")


def polls_cheaply(house: House) -> None:
    trader = Trader(house)
    strategy = trader.create()
    path = f"/strategy/status/{strategy}"
    tag = trader.http.get(path).headers["etag"]
    unchanged = trader.http.get(path, headers={"if-none-match": tag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    trader.start(strategy)
    changed = trader.http.get(path, headers={"if-none-match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    trader.post("/strategy/stop", strategy_id=strategy)


def repeats_requests_and_logs_in_again(house: House) -> None:
    trader = Trader(house)
    body = {"symbol": "INFY", "quantity": 1, "buy_time": LATE[0], "sell_time": LATE[1], "stop_loss": 1.0}
    body["product"] = "CNC"
    key = {"idempotency-key": "once-only-1"}
    first, again = (trader.http.post("/strategy/create", json=body, headers=key) for _ in range(2))
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert len(trader.listed("/strategy/list", "strategies")) <= 1
    tokens = trader.post("/auth/login", email=trader.email, password=PASSWORD)
    trader.take(tokens)
    trader.post("/auth/refresh", refresh_token=tokens["refresh_token"])
    assert trader.http.post("/auth/login", json={"email": trader.email, "password": "wrong"}).status_code == 401


def sends_nonsense(house: House) -> None:
    trader, other = Trader(house), Trader(house)
    theirs = other.create()
    good: dict[str, Any] = {"symbol": "INFY", "quantity": 1, "stop_loss": 1.0, "product": "CNC"}
    good |= {"buy_time": LATE[0], "sell_time": LATE[1]}

    def refused(status: int, **changes: Any) -> None:
        answer = trader.http.post("/strategy/create", json=good | changes)
        assert answer.status_code == status, (changes, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"]

    refused(422, surprise=1)
    refused(422, quantity=-1)
    refused(422, quantity=10**18)
    refused(422, quantity="ten")
    refused(422, stop_loss=1.01)
    refused(422, symbol="IN\u0000FY")
    refused(422, symbol="NOSUCHSHARE")
    refused(422, sell_time=good["buy_time"])
    refused(413, symbol="A" * 1_000_000)
    assert trader.http.post("/strategy/create", content=b"{").status_code in (400, 422)
    for path in (f"/strategy/status/{theirs}", f"/strategy/{theirs}/events", f"/strategy/{theirs}/orders"):
        assert trader.http.get(path).status_code == 404
    for path in ("start", "stop"):
        assert trader.http.post(f"/strategy/{path}", json={"strategy_id": theirs}).status_code == 404
    assert httpx.get(f"{house.url}/strategy/list").status_code == 401


STORIES: list[Callable[[House], None]] = [
    buys_and_sells_at_its_times,
    is_stopped_out_of_a_falling_market,
    halts_everything,
    stops_with_and_without_selling,
    changes_times_and_stop_while_running,
    polls_cheaply,
    repeats_requests_and_logs_in_again,
    sends_nonsense,
]


@pytest.fixture(scope="module")
def stories(house: House) -> Iterator[dict[str, Future[None]]]:
    """All of them at once, as users are."""
    with ThreadPoolExecutor(len(STORIES)) as pool:
        yield {story.__name__: pool.submit(story, house) for story in STORIES}


@pytest.mark.parametrize("story", [story.__name__ for story in STORIES])
def test_a_user(stories: dict[str, Future[None]], story: str) -> None:
    stories[story].result()


def test_metrics_and_health_are_there(house: House) -> None:
    assert house.get("/healthz").json() == {"status": "ok"}
    assert house.get("/readyz").json()["ready"] is True
    assert "bahi_" in house.get("/metrics").text


# --- stopping and starting again --------------------------------------------------------------------------------------


def test_a_second_engine_on_the_home_shares_the_work(house: House) -> None:
    first = house.processes[0]
    same_port = house.start()
    no_recording = house.start("market", FEED=f"file:{house.home / 'nothing.csv'}")
    second = house.start(port=free_port())
    trader = Trader(house)
    strategies = [trader.armed(7, 9) for _ in range(5)]
    second.ready()
    assert same_port.popen.wait(120) == 2
    assert f"cannot listen on 127.0.0.1:{house.port}" in " ".join(same_port.err.read_text().split())
    assert no_recording.popen.wait(120) == 2
    assert "nothing.csv: cannot be opened" in " ".join(no_recording.err.read_text().split())
    for each in strategies:
        trader.sees(each, status="stopped", position="sold")
    second.terminate(5)
    assert first.lives
    assert house.ready()


def test_the_engine_drains_and_goes_on_where_it_was(house: House) -> None:
    trader = Trader(house)
    later = trader.armed(17, 18, quantity=3)  # after the restart
    holding = trader.armed(3, 8, quantity=4)  # its SELL is due while everything is down
    due_at = clock_in(8)
    missed = trader.armed(buy_time=due_at, quantity=5)  # its BUY as well
    trader.sees(holding, position="bought")
    house.processes[0].terminate(5)
    assert not house.servers()
    ticks = house.home / "ticks.csv"
    recording(ticks, 6)
    due = dt.datetime.combine(dt.datetime.now(IST).date(), dt.time.fromisoformat(due_at), IST)
    until(lambda: dt.datetime.now(IST) > due + dt.timedelta(seconds=1.2), 15, "both times have come and gone")

    again = house.start().ready()
    house.await_ready()
    sold = trader.sees(holding, status="stopped")
    assert (sold["position"], sold["exit_reason"]) == ("sold", "SELL")
    done = trader.sees(missed, status="stopped")
    assert (done["position"], done["exit_reason"]) == ("none", "MISSED")
    assert trader.status(later)["status"] == "running"
    bought = trader.sees(later, position="bought", seconds=30)
    assert bought["filled_quantity"] == 3
    assert trader.sees(later, status="stopped")["position"] == "sold"
    # the market has ended meanwhile; its bad rows are named
    ended = until(lambda: again.lines("feed_ended"), 20, "the recording ends")[0]
    assert ended["skipped"] == len(BAD_ROWS)
    assert [line.split(":")[0] for line in ended["first_skipped"]] == [f"line {number}" for number in BAD_ROWS]


def test_the_log_and_the_book_tell_the_same(house: House) -> None:
    audit = house.audit(finished=False)
    assert all(row.tag in audit.checker.intents for row in audit.rows)
    unended = [state for state in audit.live.values() if state.alive]
    assert not unended, unended
    total = sum((trade.quantity * (1 if trade.side == "BUY" else -1) for trade in audit.trades), 0)
    assert total == 10  # the ten that were settled, not sold
    assert Decimal(1) not in {trade.price for trade in audit.trades}


def test_an_idle_engine_costs_little(house: House) -> None:
    engine = psutil.Process(house.processes[-1].popen.pid)
    until(lambda: engine.cpu_percent(1.0) < 25, 20, "the engine is idle", every=0)
    assert engine.memory_info().rss < 300 * 2**20
