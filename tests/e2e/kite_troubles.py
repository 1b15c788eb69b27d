"""A day on which all sorts of things go wrong at Kite, and a worker dies; each story is a user who lives through it.

The worker is a process of its own, so that it can be killed alone.
"""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from domain.events import OrderFilled, OrderFinalized
from domain.tags import parse_tag
from tests.e2e.house import clock_in, until
from tests.e2e.kite_house import Kite, KiteHouse, KiteTrader, Survived

__all__ = ["STORIES", "TroubledDay"]

SECOND = 1_000_000
STOPS = {"NSE:INFY": 1500, "NSE:SBIN": 955, "NSE:TCS": 3080, "NSE:RELIANCE": 1490, "NSE:WIPRO": 243, "NSE:TITAN": 3790}
"""Symbols, each with a stop of its own, and what they cost."""


class TroubledDay:
    """The engine in two processes, its Kite, and the account that the prices come through."""

    def __init__(self) -> None:
        self.kite = Kite()
        self.house = KiteHouse(
            self.kite, REQUEST_TIMEOUT="2", CLOCK_SKEW="0.5", QUARANTINE_CRASH="1", QUARANTINE_AMBIGUOUS="4"
        )
        try:
            self.rest = self.house.start("archive", "updates", "market", "scheduler", "api").ready()
            self.worker = self.house.start("worker").ready()
            self.house.await_ready()
        except BaseException:
            self.close()
            raise
        for symbol, price in STOPS.items():
            self.kite.trade(symbol, price)
        self.first = KiteTrader(self.house)
        self.survived: list[Survived] = []
        self.bought = [threading.Event() for _ in range(3)]
        """By story: its strategies hold their shares; before that nobody is killed."""

    def close(self) -> None:
        self.house.close()
        self.kite.close()


# --- the stories ------------------------------------------------------------------------------------------------------


def its_worker_dies_with_orders_in_flight(day: TroubledDay) -> None:
    """Twice: when the first of six orders is at Kite, and when all are."""
    kite, trader = day.kite, KiteTrader(day.house)
    strategies: list[int] = []
    for count in (1, 6):
        for fault, how in (
            ("F1_ACCEPTED_THEN_HANGS", {}),
            ("F2_ACCEPTED_THEN_DROPPED", {}),
            ("F5_SURFACES_LATER", {"after": 2 * SECOND}),
        ):
            kite.fault(fault, trader.customer, times=2, **how)
        assert all(event.wait(120) for event in day.bought)
        before = len(trader.attempts())
        at = clock_in(3)
        batch = [trader.armed(buy_time=at, quantity=3) for _ in range(6)]
        until(lambda n=before + count: len(trader.attempts()) >= n, 20, "orders are at Kite", every=0)
        day.worker.kill()
        day.worker = day.house.start("worker").ready()
        strategies += batch

        def settled(strategy: int) -> bool:
            status = trader.status(strategy)
            return status["lock_state"] == "free" and (status["position"] == "bought" or status["status"] == "stopped")

        for strategy in batch:
            until(lambda strategy=strategy: settled(strategy), 30, f"strategy {strategy} is settled")
    rows = kite.orders(trader.customer)
    assert max(Counter(row["tag"] for row in rows).values()) == 1, "an order was placed twice"
    at_kite: Counter[int] = Counter()
    for row in rows:
        parts = parse_tag(row["tag"])
        assert parts is not None
        at_kite[parts.strategy_id] += row["filled_quantity"]
    assert {each: trader.status(each)["filled_quantity"] for each in strategies} == {
        each: at_kite[each] for each in strategies
    }


def its_order_updates_are_lost_repeated_and_out_of_order(day: TroubledDay) -> None:
    kite, trader = day.kite, KiteTrader(day.house)
    faults = ("F12_PUSH_LOST", "F12_PUSH_DUPLICATED", "F12_PUSH_REORDERED", "F12_STREAM_GAP")
    kite.fault("HALF_THEN_REST", trader.customer, times=4, after=SECOND)
    for fault in faults:
        kite.fault(fault, trader.customer, times=2 if fault != "F12_STREAM_GAP" else 1)
    at = clock_in(3)
    strategies = [trader.armed(buy_time=at, symbol="INFY", quantity=10) for _ in range(4)]
    for strategy in strategies:
        trader.sees(strategy, position="bought", filled_quantity=10, lock_state="free")
    day.bought[1].set()
    for fault in faults:
        assert kite.fired(fault) >= 1, fault
    records = day.house.records()
    for strategy in strategies:
        mine = [each.event for each in records if each.strategy_id == strategy]
        assert [event.filled for event in mine if isinstance(event, OrderFilled)] in ([5, 10], [10])
        assert [event.filled for event in mine if isinstance(event, OrderFinalized)] == [10]
    day.survived += [Survived(fault, "polling", "fills of two parts", "all filled, each part once") for fault in faults]


def its_prices_are_disturbed(day: TroubledDay) -> None:
    """A stop is armed on each symbol; after each trouble of the stream, the next one is hit."""
    kite, trader = day.kite, day.first
    at = clock_in(4)
    holding = {
        symbol: trader.armed(buy_time=at, symbol=symbol, stop_loss=int(price * 0.95)) for symbol, price in STOPS.items()
    }
    for strategy in holding.values():
        trader.sees(strategy, position="bought")
    day.bought[0].set()
    left = iter(holding.items())

    def hit(fault: str, noticed: str) -> None:
        """The next symbol falls under its stop."""
        symbol, strategy = next(left)
        fallen = round(STOPS[symbol] * 0.94 * 20) / 20
        kite.trade(symbol, fallen)
        trader.ends(strategy, "STOPLOSS", 30)
        triggered = next(each for each in trader.events(strategy) if each["type"] == "STOPLOSS_TRIGGERED")
        assert float(triggered["data"]["tick"]["price"]) == fallen
        day.survived.append(Survived(fault, noticed, f"{symbol} at {fallen:g}", "the stop fired"))

    def events(kind: str) -> list[Any]:
        return [each for each in day.house.records() if each.event.type == kind]

    for fault in ("F17_UNKNOWN_PACKET", "F17_EMPTY_FRAME", "F17_TRUNCATED_FRAME"):
        kite.fault(fault, trader.customer)
        until(lambda fault=fault: kite.fired(fault), 10, fault)
    hit("F17 odd frames", "log kite_frame_odd")
    assert len(day.rest.lines("kite_frame_odd")) == 1

    kite.fault("F15_STREAM_ABORTED", trader.customer)
    until(lambda: kite.fired("F15_STREAM_ABORTED"), 10, "the stream is cut")
    hit("F15 cut", "PRICE_FEED_ERROR")
    assert any("broke off" in each.event.reason for each in events("PRICE_FEED_ERROR"))

    kite.fault("F14_SILENT_STREAM", trader.customer, after=60 * SECOND)
    until(lambda: kite.fired("F14_SILENT_STREAM"), 10, "the stream is silent")
    hit("F14 silent", "PRICE_STREAM_DISCONNECTED, FEED_SILENT")
    silences = events("PRICE_STREAM_DISCONNECTED")
    assert len(silences) == 1
    assert 5 * SECOND <= silences[0].event.silence < 8 * SECOND
    assert [each.event.facts["feed"] for each in events("ALERT_TRIGGERED") if each.event.code == "FEED_SILENT"] == [
        "kite"
    ]
    assert len(events("PRICE_STREAM_RESTORED")) == 1

    kite.logout(trader.customer)  # F13; the prices now come through another account
    until(lambda: trader.get("/broker")["status"] == "expired", 20, "the session is known to be over")
    assert (
        trader.post("/broker/connect", broker="kite", request_token=kite.login(trader.customer))["status"]
        == "connected"
    )
    hit("F13 session over", "BROKER_AUTH_FAILED, 403")
    assert [each.user_id for each in events("BROKER_AUTH_FAILED")] == [trader.user_id]


def its_token_stands_for_another_share(day: TroubledDay) -> None:
    """F20: overnight two shares have each other's token; the morning's list says so."""
    kite, trader = day.kite, KiteTrader(day.house)
    kite.trade("NSE:LT", 3980)
    kite.trade("NSE:ITC", 405)
    holding = trader.armed(3, symbol="LT", stop_loss=3900)
    watching = trader.armed(symbol="ITC")
    trader.sees(holding, position="bought")
    day.bought[2].set()
    until(lambda: day.house.price("NSE:ITC") == 405, 20, "ITC has a price")
    kite.rest("NSE:LT")
    kite.rest("NSE:ITC")
    loaded = len(day.rest.lines("instruments_loaded"))
    kite.post("/sim/tokens", first="NSE:LT", second="NSE:ITC")
    dump = day.house.home / "instruments.csv"
    dump.write_bytes(kite.instruments(trader.customer, "NSE"))
    day.house.says("instruments", "--import", str(dump))
    until(lambda: len(day.rest.lines("instruments_loaded")) > loaded, 20, "the new list is known")

    def seen() -> bool:
        kite.trade("NSE:LT", 3981)
        return day.house.price("NSE:LT") == 3981

    until(seen, 30, "LT's price comes under its new token", every=0.2)
    kite.trade("NSE:ITC", 404)
    until(lambda: day.house.price("NSE:ITC") == 404, 30, "and that of ITC")
    assert trader.status(holding)["status"] == "running", "ITC's price is far under LT's stop"
    assert "STOPLOSS_TRIGGERED" not in [each["type"] for each in trader.events(holding)]
    kite.trade("NSE:LT", 3899)
    trader.ends(holding, "STOPLOSS")
    trader.post("/strategy/stop", strategy_id=watching)
    day.survived.append(
        Survived("F20 tokens swapped", "the morning's list", "ITC at 404, LT at 3899", "LT's stop fired by LT")
    )


STORIES: list[Callable[[TroubledDay], None]] = [
    its_prices_are_disturbed,
    its_worker_dies_with_orders_in_flight,
    its_order_updates_are_lost_repeated_and_out_of_order,
    its_token_stands_for_another_share,
]
