"""Strategies over REST: what is refused and why, what is appended, and what is answered when."""

import asyncio
import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pytest

from api.routes import strategy as routes
from domain.events import (
    Event,
    PositionSettled,
    SchedulerResyncRequired,
    StrategyCreated,
    StrategyRunning,
    StrategyStarted,
    StrategyStartRequested,
    StrategyStopped,
    StrategyStopRequested,
    StrategyUpdated,
)
from domain.strategy import fold
from domain.values import Product, Tick
from eventstore.envelope import NewEvent
from projections.prices import encode_price
from projections.runtime import encode_change
from tests.api.conftest import OpenWorld
from tests.api.orders import bought
from tests.api.world import NOW, STRATEGY, Trader, World, problem, rules


async def test_create_writes_down_exactly_what_was_asked(world: World, alice: Trader) -> None:
    body = STRATEGY | {"product": "CNC", "market_protection": 2.5, "stop_loss": "1480.50"}
    answer = await alice.post("/strategy/create", body)
    assert answer.status_code == 201
    strategy_id = answer.json()["strategy_id"]
    assert answer.headers["location"] == f"/strategy/status/{strategy_id}"
    (created,) = await world.history(StrategyCreated)
    assert (created.strategy_id, created.user_id, created.version) == (strategy_id, alice.user_id, 1)
    assert created.correlation_id == answer.headers["x-request-id"]
    assert isinstance(created.event, StrategyCreated)
    config = created.event.config
    assert (config.symbol, config.quantity, config.product) == ("NSE:INFY", 10, Product.CNC)
    assert (config.buy_time, config.sell_time) == (dt.time(10, 30), dt.time(15, 10))
    assert (str(config.stop_loss), config.market_protection) == ("1480.50", Decimal("2.5"))


async def test_a_symbol_without_exchange_is_one_of_nse(world: World, alice: Trader) -> None:
    strategy_id = await alice.create(symbol="INFY")
    assert (await alice.get(f"/strategy/status/{strategy_id}")).json()["symbol"] == "NSE:INFY"


async def test_a_config_that_breaks_rules_is_refused_with_all_of_them(world: World, alice: Trader) -> None:
    cases: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({"symbol": "NSE:INFI"}, {"symbol": "unknown"}),
        ({"stop_loss": 1480.57}, {"stop_loss": "tick_size"}),
        ({"stop_loss": 0}, {"stop_loss": "range"}),
        ({"stop_loss": -5}, {"stop_loss": "range"}),
        ({"stop_loss": 99_999_999_999}, {"stop_loss": "range"}),
        ({"quantity": 0}, {"quantity": "minimum"}),
        ({"quantity": 9_999_999}, {"quantity": "freeze"}),
        ({"quantity": 10**30}, {"quantity": "maximum"}),
        ({"buy_time": "15:10"}, {"buy_time": "before_sell_time"}),
        ({"buy_time": "15:11"}, {"buy_time": "before_sell_time"}),
        ({"sell_time": "15:15:01"}, {"sell_time": "mis_cutoff"}),
        ({"market_protection": 101}, {"market_protection": "range"}),
        ({"market_protection": -2}, {"market_protection": "range"}),
        ({"product": "NRML"}, {"product": "enum"}),
        ({"strategy_id": 5}, {"strategy_id": "unknown"}),
        ({"user_id": 1}, {"user_id": "unknown"}),
        (
            {"symbol": "NSE:NIX", "stop_loss": 0, "buy_time": "16:00"},
            {"symbol": "unknown", "stop_loss": "range", "buy_time": "before_sell_time"},
        ),
    ]
    for changes, broken in cases:
        assert rules(await alice.post("/strategy/create", STRATEGY | changes)) == broken, changes
        assert await world.history(StrategyCreated) == []


async def test_an_unknown_symbol_comes_with_those_that_were_perhaps_meant(alice: Trader) -> None:
    body = problem(await alice.post("/strategy/create", STRATEGY | {"symbol": "NSE:INFI"}), 422, "VALIDATION_FAILED")
    assert "did you mean NSE:INFY" in body["errors"][0]["message"]


# --- status ----------------------------------------------------------------------------------------------------------


async def test_status_tells_the_state_with_exact_prices_and_offsets(world: World, alice: Trader) -> None:
    strategy_id = await alice.create(stop_loss="1480.50")
    async with world.working():
        assert (await alice.post("/strategy/start", {"strategy_id": strategy_id})).status_code == 200
    answer = await alice.get(f"/strategy/status/{strategy_id}")
    assert '"stop_loss":1480.50' in answer.text
    body = json.loads(answer.text, parse_float=Decimal)
    assert body.pop("updated_at").endswith("+05:30")
    assert body == {
        "strategy_id": strategy_id,
        "status": "running",
        "position": "none",
        "last_action": body["last_action"],
        "last_price": None,
        "symbol": "NSE:INFY",
        "product": "MIS",
        "session_date": "2025-06-03",
        "quantity": 10,
        "filled_quantity": 0,
        "open_quantity": 0,
        "stop_loss": Decimal("1480.50"),
        "buy_time": "10:30:00",
        "sell_time": "15:10:00",
        "buy_at": "2025-06-03T10:30:00+05:30",
        "sell_at": "2025-06-03T15:10:00+05:30",
        "lock_state": "free",
        "exit_reason": None,
        "run": 3,
        "version": 5,
        "position_in_log": str(await world.log.last_position()),
    }


async def test_status_is_sent_again_only_when_it_has_changed(world: World, alice: Trader) -> None:
    path = f"/strategy/status/{(strategy_id := await alice.create())}"
    first = await alice.get(path)
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await alice.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    await alice.post("/strategy/update", {"strategy_id": strategy_id, "quantity": 11})
    changed = await alice.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["quantity"]) == (200, 11)
    assert changed.headers["etag"] != tag


async def test_a_strategy_that_there_never_was_is_not_found(alice: Trader) -> None:
    for path in ["/strategy/status/1", "/strategy/1/events", "/strategy/1/orders"]:
        problem(await alice.get(path), 404, "NOT_FOUND")


async def test_an_id_is_a_number_of_digits(alice: Trader) -> None:
    for given in ["0", "-1", "+1", "1.0", "x", "1e3", "９", " 1", "9" * 30, "1;2", "%00"]:
        assert rules(await alice.get(f"/strategy/status/{given}")).keys() == {"strategy_id"}


# --- update ----------------------------------------------------------------------------------------------------------


async def test_update_appends_what_changes_and_nothing_else(world: World, alice: Trader) -> None:
    strategy_id = await alice.create()
    changes = {"strategy_id": strategy_id, "quantity": 10, "stop_loss": 1500.05}
    answer = await alice.post("/strategy/update", changes)
    assert (answer.status_code, answer.json()["stop_loss"]) == (200, 1500.05)
    (updated,) = await world.history(StrategyUpdated)
    assert updated.event == StrategyUpdated(stop_revision=2, stop_loss=Decimal("1500.05"))
    assert (await alice.post("/strategy/update", changes)).status_code == 200
    assert len(await world.history(StrategyUpdated)) == 1, "asked again, it changes nothing and appends nothing"


async def test_the_timers_of_a_running_strategy_follow(world: World, alice: Trader) -> None:
    strategy_id = await alice.create()
    async with world.working():
        await alice.post("/strategy/start", {"strategy_id": strategy_id})
        answer = await alice.post("/strategy/update", {"strategy_id": strategy_id, "buy_time": "10:45"})
    assert answer.json()["buy_at"] == "2025-06-03T10:45:00+05:30"
    assert [type(one.event) for one in await world.history(StrategyUpdated, SchedulerResyncRequired)] == [
        StrategyUpdated,
        SchedulerResyncRequired,
    ]


async def test_an_update_is_checked_like_a_creation_and_against_the_clock_and_the_price(
    world: World, alice: Trader
) -> None:
    strategy_id = await alice.create()
    async with world.working():
        await alice.post("/strategy/start", {"strategy_id": strategy_id})
    await world.log.redis.set("price:NSE:INFY", encode_price(Tick("NSE:INFY", Decimal("1490.00"), NOW)))
    for changes, broken in (
        ({}, {"": "empty"}),
        ({"buy_time": "09:59"}, {"buy_time": "in_the_past"}),
        ({"buy_time": "15:10"}, {"buy_time": "before_sell_time"}),
        ({"stop_loss": 1490}, {"stop_loss": "at_or_above_price"}),
        ({"stop_loss": 1480.01}, {"stop_loss": "tick_size"}),
        ({"symbol": "NSE:TCS"}, {"symbol": "unknown"}),
        ({"quantity": None}, {"quantity": "type"}),
    ):
        answer = await alice.post("/strategy/update", {"strategy_id": strategy_id} | changes)
        assert rules(answer) == broken, changes
    assert await world.history(StrategyUpdated) == []


async def test_updates_at_once_all_take_effect(world: World, alice: Trader) -> None:
    strategy_id = await alice.create()
    changes: list[dict[str, Any]] = [{"quantity": 20}, {"stop_loss": 1500}, {"sell_time": "15:05"}, {"product": "CNC"}]
    answers = await asyncio.gather(
        *(alice.post("/strategy/update", {"strategy_id": strategy_id} | change) for change in changes)
    )
    assert [answer.status_code for answer in answers] == [200] * 4
    status = (await alice.get(f"/strategy/status/{strategy_id}")).json()
    assert (status["quantity"], status["stop_loss"], status["sell_time"], status["product"]) == (
        20,
        1500,
        "15:05:00",
        "CNC",
    )
    assert [one.version for one in await world.history(StrategyUpdated)] == [2, 3, 4, 5]


# --- start and stop --------------------------------------------------------------------------------------------------


async def test_start_answers_200_when_it_runs_and_says_which_session(world: World, alice: Trader) -> None:
    strategy_id = await alice.create()
    async with world.working():
        answer = await alice.post("/strategy/start", {"strategy_id": strategy_id})
    assert (answer.status_code, answer.json()["status"]) == (200, "running")
    assert answer.json()["session_date"] == "2025-06-03"
    types: tuple[type[Event], ...] = (StrategyStartRequested, StrategyStarted, StrategyRunning)
    story = await world.history(*types)
    assert [type(one.event) for one in story] == list(types)
    assert story[0].correlation_id == story[1].correlation_id == answer.headers["x-request-id"]


async def test_a_buy_time_that_has_passed_arms_the_next_day(world: World, alice: Trader) -> None:
    strategy_id = await alice.create(buy_time="09:30")
    async with world.working():
        answer = await alice.post("/strategy/start", {"strategy_id": strategy_id})
    assert answer.json()["buy_at"] == "2025-06-04T09:30:00+05:30"


async def test_start_and_stop_answer_202_while_no_worker_is_there(
    world: World, alice: Trader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "PATIENCE", 0.05)
    strategy_id = await alice.create()
    asked = {"strategy_id": strategy_id}
    answer = await alice.post("/strategy/start", asked)
    assert (answer.status_code, answer.json()["status"]) == (202, "starting")
    async with world.working():
        monkeypatch.undo()
        stopped = await alice.post("/strategy/stop", asked)
    assert stopped.status_code == 200
    assert stopped.json()["status"] in {"created", "stopped"}


async def test_what_runs_cannot_be_started_and_what_stands_may_be_stopped_again(world: World, alice: Trader) -> None:
    asked = {"strategy_id": await alice.create()}
    async with world.working():
        assert (await alice.post("/strategy/start", asked)).status_code == 200
        problem(await alice.post("/strategy/start", asked), 409, "ALREADY_RUNNING")
        for _ in range(2):
            answer = await alice.post("/strategy/stop", asked)
            assert (answer.status_code, answer.json()["status"]) == (200, "stopped")
        assert (await alice.post("/strategy/start", asked)).status_code == 200, "flat, so it may run again"
    assert len(await world.history(StrategyStopRequested)) == 1
    assert len(await world.history(StrategyStopped)) == 1


async def test_who_is_halted_starts_nothing(world: World, alice: Trader) -> None:
    asked = {"strategy_id": await alice.create()}
    await alice.post("/halt", {})
    problem(await alice.post("/strategy/start", asked), 409, "HALTED")
    assert await world.history(StrategyStartRequested) == []


async def test_a_start_that_the_engine_refuses_later_is_answered_as_refused(
    world: World, alice: Trader, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"strategy_id": await alice.create()}
    started = asyncio.create_task(alice.post("/strategy/start", asked))
    async for recorded in world.log.follow():
        if isinstance(recorded.event, StrategyStartRequested):
            break
    await alice.post("/halt", {})
    async with world.working():
        problem(await started, 409, "START_REFUSED")


# --- settle ----------------------------------------------------------------------------------------------------------


async def test_settling_closes_what_was_closed_elsewhere(world: World, alice: Trader) -> None:
    strategy_id = await holding(world, alice, 10)
    answer = await alice.post("/strategy/settle", {"strategy_id": strategy_id, "quantity": 4})
    assert (answer.status_code, answer.json()["open_quantity"]) == (200, 6)
    assert rules(await alice.post("/strategy/settle", {"strategy_id": strategy_id, "quantity": 7})) == {
        "quantity": "more_than_open"
    }
    (settled,) = await world.history(PositionSettled)
    assert settled.event == PositionSettled(quantity=4, how="USER")


async def test_nothing_is_settled_while_an_order_is_unresolved(world: World, alice: Trader) -> None:
    strategy_id = await holding(world, alice, 10, resolved=False)
    body = {"strategy_id": strategy_id, "quantity": 4}
    problem(await alice.post("/strategy/settle", body), 409, "ORDER_UNRESOLVED")
    problem(await alice.post("/strategy/update", body), 409, "POSITION_OPEN")


async def holding(world: World, trader: Trader, quantity: int, *, resolved: bool = True) -> int:
    """A strategy that has bought: its history is appended as the engine would."""
    strategy_id = await trader.create(quantity=quantity)
    async with world.working():
        await trader.post("/strategy/start", {"strategy_id": strategy_id})
    desk = world.desks[0]
    state, _ = await desk.look(strategy_id)
    story = bought(state, quantity, resolved=resolved)
    await desk.log.append(
        [NewEvent(event, strategy_id, trader.user_id) for event in story],
        expected=state.version,
        runtime=encode_change(state, fold(state, story), None, keep_timer=True),
    )
    return strategy_id


# --- partitions ------------------------------------------------------------------------------------------------------


async def test_with_several_partitions_positions_name_theirs_and_users_stay_apart(opened: OpenWorld) -> None:
    async with opened(partitions=4) as world:
        traders = [await world.trader() for _ in range(5)]
        ids = [await trader.create() for trader in traders]
        for trader, strategy_id in zip(traders, ids, strict=True):
            body = (await trader.get(f"/strategy/status/{strategy_id}")).json()
            assert body["position_in_log"].partition("-")[0] == str(trader.user_id % 4)
            for other in ids:
                if other != strategy_id:
                    problem(await trader.get(f"/strategy/status/{other}"), 404, "NOT_FOUND")
        await world.archive()
        (event,) = (await traders[0].get(f"/strategy/{ids[0]}/events")).json()["events"]
        assert event["position"].startswith(f"{traders[0].user_id % 4}-")
