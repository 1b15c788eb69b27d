"""A day at Kite, as users of the app live it; each story is one of them."""

import datetime as dt
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.e2e.house import IST, clock_after, clock_in, until
from tests.e2e.kite_house import Kite, KiteHouse, KiteTrader

__all__ = ["STORIES", "Day"]

SECOND = 1_000_000
MANY = 200
PUSHED, POSTED = 2, 3
"""Users whose order book is hardly ever read unless something says that it changed."""


class Day:
    """The engine with its Kite, and the traders who must come first."""

    def __init__(self) -> None:
        self.kite = Kite()
        self.house = KiteHouse(self.kite, unpolled=(PUSHED, POSTED))
        try:
            self.engine = self.house.start().ready()
            self.house.await_ready()
        except BaseException:
            self.close()
            raise
        self.kite.trade("NSE:INFY", 1500)
        self.first = KiteTrader(self.house)  # the prices come through this account
        self.pushed = KiteTrader(self.house, connect=False)
        self.posted = KiteTrader(self.house, connect=False, postbacks=True)
        assert (self.pushed.user_id, self.posted.user_id) == (PUSHED, POSTED)

    def close(self) -> None:
        self.house.close()
        self.kite.close()


def told(trader: KiteTrader, strategy_id: int) -> list[str]:
    """The types of the strategy's events once SQL, some milliseconds behind the log, has its end."""
    until(lambda: trader.events(strategy_id)[-1]["type"] == "STRATEGY_STOPPED", 5, "the last event is listed")
    return [event["type"] for event in trader.events(strategy_id)]


# --- the stories ------------------------------------------------------------------------------------------------------


def trades_through_kite_by_its_addresses_alone(day: Day) -> None:
    kite, trader = day.kite, day.first
    kite.trade("NSE:SBIN", 955)
    at = clock_in(4)
    strategy = trader.armed(buy_time=at, symbol="SBIN", stop_loss=900)
    trader.sees(strategy, position="bought", filled_quantity=10, open_quantity=10)
    kite.trade("NSE:SBIN", 899.95)
    done = trader.ends(strategy, "STOPLOSS")
    assert (done["position"], done["open_quantity"]) == ("exited_by_sl", 0)
    types = told(trader, strategy)
    story = [
        *("BUY_TRIGGERED", "EXECUTE_BUY", "ORDER_ACCEPTED", "ORDER_FILLED", "ORDER_FINALIZED"),
        *("STOPLOSS_TRIGGERED", "EXECUTE_STOPLOSS", "STRATEGY_EXITED", "STRATEGY_STOPPED"),
    ]
    assert [types.index(name) for name in story] == sorted(types.index(name) for name in story)
    buy, exit_ = trader.orders(strategy)
    rows = {row["order_id"]: row for row in kite.orders(trader.customer)}
    assert [rows[order["order_id"]]["tag"] for order in (buy, exit_)] == [buy["tag"], exit_["tag"]]
    assert (buy["average_price"], buy["filled"]) == (955, 10)
    due = dt.datetime.combine(dt.datetime.now(IST).date(), dt.time.fromisoformat(at), IST)
    placed = dt.datetime.fromtimestamp(trader.attempts("BUY")[0]["at"] / SECOND, IST)
    assert dt.timedelta(0) <= placed - due < dt.timedelta(seconds=2)
    assert "STOPLOSS" in day.house.says("explain", exit_["order_id"])["kind"]


def hears_of_a_fill_from_the_stream(day: Day) -> None:
    trader = day.pushed
    trader.connect(access_token=trader.customer.access_token)
    day.kite.fault("F8A_STUCK_OPEN_PENDING", trader.customer, after=SECOND)
    strategy = trader.armed(3)
    trader.sees(strategy, position="bought", filled_quantity=10)
    trader.post("/strategy/stop", strategy_id=strategy, square_off=True)
    trader.ends(strategy, "USER")


def hears_of_a_fill_by_postback(day: Day) -> None:
    trader = day.posted
    with day.kite.full_house(trader.customer):
        trader.connect(access_token=trader.customer.access_token)
        day.kite.fault("F8A_STUCK_OPEN_PENDING", trader.customer, after=SECOND)
        strategy = trader.armed(3)
        trader.sees(strategy, position="bought", filled_quantity=10)
        trader.post("/strategy/stop", strategy_id=strategy, square_off=True)
        trader.ends(strategy, "USER")


def learns_of_a_fill_by_polling_alone(day: Day) -> None:
    trader = KiteTrader(day.house, connect=False)
    with day.kite.full_house(trader.customer):
        trader.connect(access_token=trader.customer.access_token)
        day.kite.fault("F8A_STUCK_OPEN_PENDING", trader.customer, after=SECOND)
        strategy = trader.armed(3)
        trader.sees(strategy, position="bought", filled_quantity=10)
        trader.post("/strategy/stop", strategy_id=strategy, square_off=True)
        trader.ends(strategy, "USER")


def has_two_hundred_strategies_due_at_one_second(day: Day) -> None:
    trader = KiteTrader(day.house)
    with ThreadPoolExecutor(4) as pool:
        begun = time.monotonic()
        list(pool.map(lambda _: trader.armed(quantity=1), range(MANY // 20)))
        at = clock_after(4 + 28 * (time.monotonic() - begun))  # as long as it takes to arm the others, and some more
        strategies = list(pool.map(lambda _: trader.armed(buy_time=at, quantity=1), range(MANY)))
    assert dt.datetime.now(IST).time() < dt.time.fromisoformat(at), "they were not armed in time"

    def all_bought() -> bool:
        return sum(row["filled_quantity"] for row in day.kite.orders(trader.customer)) == MANY

    until(all_bought, 60, "all are bought", every=0.5)
    attempts = trader.attempts("BUY")
    assert Counter(each["tag"] for each in attempts) == Counter({each["tag"]: 1 for each in attempts})
    assert [each["text"] for each in attempts if not each["taken"]] == []
    busiest = Counter(each["at"] // SECOND for each in attempts).most_common(1)[0]
    assert busiest[1] <= 8, "two of ten are kept for exits"
    for strategy in strategies:
        trader.sees(strategy, position="bought")
    waited = [line for line in day.engine.lines("order_waited") if line["strategy_id"] in strategies]
    # on a fast machine all but sixteen; on a slow one many are later than the limits would have them
    assert len(waited) == len({line["strategy_id"] for line in waited}) > 0
    assert day.house.metric("bahi_order_wait_seconds_count") >= MANY
    assert day.house.metric("bahi_order_wait_seconds_sum") > sum(line["seconds"] for line in waited) - 1
    last = max(attempts, key=lambda each: each["at"])
    story = day.house.says("explain", last["tag"])
    assert story["timings_ms"]["due_to_decision"] > 15_000
    assert any("waited" in sentence for sentence in story["sentences"]), story["sentences"]


def loses_the_session_and_logs_in_again(day: Day) -> None:
    kite, trader = day.kite, KiteTrader(day.house)
    kite.trade("NSE:TCS", 3080)
    holding = trader.armed(3, symbol="TCS", stop_loss=3000)
    idle = trader.armed(symbol="TCS", stop_loss=2000)
    trader.sees(holding, position="bought")
    kite.logout(trader.customer)
    kite.trade("NSE:TCS", 2999)
    aborted = trader.sees(holding, status="failed")
    assert (aborted["position"], aborted["open_quantity"]) == ("bought", 10)
    assert trader.get("/broker")["status"] == "expired"
    assert trader.status(idle)["status"] == "running"

    def told() -> dict[str, Any]:
        return {event["type"]: event["data"] for event in trader.events(holding)}

    until(lambda: "STRATEGY_STOPPED" in told(), 5, "the end of the run is listed")
    assert told()["SAFETY_ABORT"]["reason"] == "TOKEN_INVALID"
    assert "ALERT_TRIGGERED" in told()
    again = trader.post("/broker/connect", broker="kite", request_token=kite.login(trader.customer))
    assert (again["status"], again["broker_user_id"]) == ("connected", trader.customer.user_id)
    asked = trader.http.post("/strategy/stop", json={"strategy_id": holding, "square_off": True})
    assert asked.status_code in (200, 202), asked.text  # the worker sees the new session within seconds
    trader.sees(holding, position="sold", open_quantity=0)
    trader.post("/strategy/update", strategy_id=idle, buy_time=clock_in(2))
    trader.sees(idle, position="bought")
    trader.post("/strategy/stop", strategy_id=idle, square_off=True)
    trader.ends(idle, "USER")


STORIES: list[Callable[[Day], None]] = [
    has_two_hundred_strategies_due_at_one_second,
    trades_through_kite_by_its_addresses_alone,
    hears_of_a_fill_from_the_stream,
    hears_of_a_fill_by_postback,
    learns_of_a_fill_by_polling_alone,
    loses_the_session_and_logs_in_again,
]
