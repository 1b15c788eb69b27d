"""Roles as processes of their own, killed at any moment: nothing is lost, nothing is done twice, everybody finishes."""

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from msgspec import msgpack

from domain.events import EventParked, Intent, OrderFinalized
from domain.values import Priority
from eventstore.keys import GROUP, Keys
from tests.e2e.house import PASSWORD, House, Trader, clock_in, until

SETTINGS = {
    # a sender that died is known to be dead after 1 + 1 + 0.2 s, and its order to be absent 1 s later
    "SEND_DEADLINE": "1",
    "REQUEST_TIMEOUT": "1",
    "CLOCK_SKEW": "0.2",
    "QUARANTINE_CRASH": "1",
    # the broker takes its time, so that death often comes between the intent and the answer
    "PAPER_PLAN": "seed=5,latency=300ms,partial=0.2",
}
ROLES = ("api", "worker", "worker", "scheduler", "scheduler", "market", "updates", "archive")
"""The first one owns the servers."""
TRADERS = 5
SEED = int(os.environ.get("BAHI_TEST_SEED", "20261120"))
"""Of the moments of death."""


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    house = House(**SETTINGS)
    try:
        house.start("api").ready()
        for role in ROLES[1:]:
            house.start(role)
        for process in house.processes:
            process.ready()
        house.await_ready()
        yield house
    finally:
        house.close()


@pytest.fixture(scope="module")
def traders(house: House) -> list[Trader]:
    with ThreadPoolExecutor(TRADERS) as pool:
        return list(pool.map(lambda _: Trader(house), range(TRADERS)))


@pytest.fixture(autouse=True)
def _logged_in(traders: list[Trader]) -> None:
    for trader in traders:
        trader.stay_logged_in()


def each(traders: list[Trader], work: Callable[[Trader], Any]) -> list[Any]:
    """Done by all of them at once."""
    with ThreadPoolExecutor(len(traders)) as pool:
        return list(pool.map(work, traders))


def arm(traders: list[Trader], count: int, choose: random.Random, *, first: float, spread: int) -> dict[int, Trader]:
    """So many strategies each, due some seconds from now."""
    plans = [
        [
            (first + choose.uniform(0, spread), choose.randint(2, 4), choose.choice(["INFY", "TCS"]))
            for _ in range(count)
        ]
        for _ in traders
    ]

    def some(number: int) -> list[int]:
        return [traders[number].armed(buy, buy + hold, symbol=symbol) for buy, hold, symbol in plans[number]]

    with ThreadPoolExecutor(len(traders)) as pool:
        armed = list(pool.map(some, range(len(traders))))
    return {strategy: trader for trader, mine in zip(traders, armed, strict=True) for strategy in mine}


def all_done(armed: dict[int, Trader], seconds: float) -> None:
    for strategy, trader in armed.items():
        trader.sees(strategy, seconds, status="stopped", lock_state="free")


def test_fifty_strategies_due_at_one_second_trade_once_each(house: House, traders: list[Trader]) -> None:
    buy, sell = clock_in(6), clock_in(8)

    def ten(trader: Trader) -> list[int]:
        return [trader.armed(buy_time=buy, sell_time=sell) for _ in range(10)]

    armed = each(traders, ten)
    all_done({strategy: trader for trader, mine in zip(traders, armed, strict=True) for strategy in mine}, 30)
    audit = house.audit()
    placed = Counter((row.side, audit.checker.intents[row.tag].record.strategy_id) for row in audit.rows)
    assert set(placed.values()) == {1}
    assert len(placed) == 100
    assert {state.exit_reason for state in audit.live.values()} == {"SELL"}


def test_workers_and_everybody_else_may_be_killed(house: House, traders: list[Trader]) -> None:
    choose = random.Random(SEED)
    others = iter(["scheduler", "market", "updates", "archive"])
    enough = threading.Event()

    def trade(trader: Trader) -> list[int]:
        """One strategy after the other as long as the killing goes on."""
        mine = []
        while not enough.wait(0.4):
            mine.append(trader.create(6, 8))
            assert trader.http.post("/strategy/start", json={"strategy_id": mine[-1]}).status_code in (200, 202)
        return mine

    with ThreadPoolExecutor(TRADERS) as pool:
        trading = {trader: pool.submit(trade, trader) for trader in traders}
        try:
            until(lambda: house.books()[0], 20, "an order is placed")
            for number in range(10):
                living = until(lambda: [each for each in house.living("worker") if each.started], 20, "a worker works")
                if number in (4, 8):  # an order was sent and is not answered yet: all workers die
                    sent = len(house.books()[0])
                    until(lambda sent=sent: len(house.books()[0]) > sent, 20, "an order is sent", every=0.02)
                    victims = house.living("worker")
                else:
                    time.sleep(choose.uniform(0, 0.5))  # the moment of death, by the seed
                    victims = [choose.choice(living)]
                if number % 3 == 0:
                    victims.append(choose.choice(house.living(next(others))))
                for dead in victims:
                    dead.kill()
                    house.start(*dead.roles)
        finally:
            enough.set()
    armed = {strategy: trader for trader, mine in trading.items() for strategy in mine.result()}
    for process in house.living():
        process.ready()
    for strategy, trader in armed.items():
        trader.stop_if_for_another_day(strategy)
    all_done(armed, 40)
    check_story(house.audit())


# --- the servers ------------------------------------------------------------------------------------------------------


def suspended(server: psutil.Process, *, go_on: bool = False) -> None:
    """A server that is there and does not answer, as behind a broken network; or goes on."""
    for each in (server, *server.children(recursive=True)):
        (each.resume if go_on else each.suspend)()


def not_ready(house: House, part: str) -> bool:
    answer = house.get("/readyz")
    return answer.status_code == 503 and answer.json()["checks"][part] != "ok"


def refused_for_now(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["code"] == "UNAVAILABLE"


def test_redis_may_fall_silent(house: House, traders: list[Trader]) -> None:
    armed = arm(traders, 4, random.Random(2), first=4, spread=8)
    redis = house.servers()["redis"]
    suspended(redis)
    try:
        until(lambda: not_ready(house, "log"), 10, "readiness names the log")
        with ThreadPoolExecutor(2) as pool:
            reading = pool.submit(traders[0].http.get, f"/strategy/status/{next(iter(armed))}")
            writing = pool.submit(traders[1].http.post, "/halt", json={})
            refused_for_now(reading.result())
            refused_for_now(writing.result())
    finally:
        suspended(redis, go_on=True)
    house.await_ready(10)
    traders[1].http.delete("/halt")  # it is not known whether it was done
    all_done(armed, 40)
    check_story(house.audit())


def test_postgresql_may_fall_silent(house: House, traders: list[Trader]) -> None:
    armed = arm(traders, 4, random.Random(5), first=4, spread=4)
    postgres = house.servers()["postgres"]
    suspended(postgres)
    try:
        until(lambda: not_ready(house, "database"), 10, "readiness names the database")
        with ThreadPoolExecutor(1) as pool:
            login = {"email": traders[0].email, "password": PASSWORD}
            asked = pool.submit(traders[0].http.post, "/auth/login", json=login)
            until(lambda: house.stopped(armed), 40, "trading goes on meanwhile")
            refused_for_now(asked.result())
    finally:
        suspended(postgres, go_on=True)
    house.await_ready(10)
    all_done(armed, 10)


def test_both_servers_may_be_killed(house: House, traders: list[Trader]) -> None:
    armed = arm(traders, 6, random.Random(3), first=4, spread=6)
    choose = random.Random(4)
    for name in ("redis", "postgres", "redis"):
        time.sleep(choose.uniform(0.5, 2))
        dead = until(lambda name=name: house.servers().get(name), 10, f"there is a {name}")
        dead.kill()
        until(lambda name=name, dead=dead: house.servers().get(name, dead).pid != dead.pid, 20, f"another {name}")
    house.await_ready(20)
    all_done(armed, 40)
    check_story(house.audit())


def test_the_servers_outlive_their_owner_and_are_adopted(house: House, traders: list[Trader]) -> None:
    armed = arm(traders, 2, random.Random(7), first=4, spread=2)
    before = house.servers()
    (owner,) = house.living("api")
    owner.kill()
    until(lambda: house.stopped(armed), 30, "the others trade on")
    assert house.servers() == before
    house.start("api").ready()
    house.await_ready()
    assert house.servers() == before
    all_done(armed, 10)
    before["redis"].kill()  # which is now no child of its owner's
    until(lambda: house.servers().get("redis", before["redis"]) != before["redis"], 10, "there is another Redis")
    house.await_ready(10)
    check_story(house.audit())


FOREIGN = """
local position = redis.call('HINCRBY', KEYS[2], 'position', 1)
local version = KEYS[3] and redis.call('HINCRBY', KEYS[3], 'version', 1) or 0
local time = redis.call('HGET', KEYS[2], 'recorded_at')
redis.call('XADD', KEYS[1], position .. '-0', 'v', version, 't', time, unpack(ARGV))
return position
"""
"""An entry that no append wrote, with the next position."""


def test_damaged_events_are_parked_and_only_their_strategy_ends(house: House, traders: list[Trader]) -> None:
    trader = traders[0]
    damaged, sound = trader.armed(), trader.armed(6, 8)
    log, keys = house.redis(), Keys()
    streams = [keys.streams[each] for each in Priority]
    owned = json.dumps({"not": "msgpack"}).encode()
    envelope = msgpack.encode([1, "x-1", damaged, trader.user_id, "", "", "x", {"type": "NO_SUCH_EVENT", "schema": 1}])
    positions = [log.eval(FOREIGN, 2, stream, keys.position, "e", owned) for stream in streams]
    positions.append(log.eval(FOREIGN, 2, streams[0], keys.position, "something", "else"))
    positions.append(log.eval(FOREIGN, 3, streams[1], keys.position, keys.strategy(damaged), "e", envelope))
    failed = trader.sees(damaged, status="failed")
    assert failed["last_action"] == "STOPPED: ABORT"
    assert trader.sees(sound, status="stopped")["position"] == "sold"
    audit = house.audit()
    assert sorted(audit.checker.unreadable) == positions
    parked = [record.event.parked for record in audit.records if isinstance(record.event, EventParked)]
    assert sorted(int(name.split("/")[1]) for name in parked) == positions
    until(lambda: not any(log.xpending(stream, GROUP)["pending"] for stream in streams), 10, "all are acknowledged")
    until(lambda: any(not event["data"] for event in trader.events(damaged)), 10, "the damaged event is listed")


def test_all_roles_drain_at_once(house: House) -> None:
    last = house.living("api")
    others = [process for process in house.living() if process not in last]
    with ThreadPoolExecutor(len(others)) as pool:
        list(pool.map(lambda process: process.terminate(10), others))
    last[0].terminate(10)
    assert not house.servers()


def check_story(audit: Any) -> None:
    """Every intent has ended, and as the book says."""
    ended = {record.event.tag: record.event for record in audit.records if isinstance(record.event, OrderFinalized)}
    intents = {record.event.tag for record in audit.records if isinstance(record.event, Intent)}
    assert ended.keys() == intents
    for row in audit.rows:
        assert ended[row.tag].filled == row.filled, row
