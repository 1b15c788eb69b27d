"""Pages and their cursors."""

import base64
from typing import Any

import pytest

from api.pages import Cursors
from api.problems import Problem
from api.security.keys import SecretKeys
from tests.api.test_strategies import holding
from tests.api.world import KEY, Trader, World, problem, rules


async def pages(trader: Trader, path: str, of: str, limit: int) -> list[list[dict[str, Any]]]:
    found, cursor = [], None
    while True:
        params: dict[str, Any] = {"limit": limit} | ({} if cursor is None else {"cursor": cursor})
        answer = await trader.get(path, params=params)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()[of])
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return found


async def test_strategies_come_newest_first_page_by_page(world: World, alice: Trader) -> None:
    ids = [await alice.create(quantity=number) for number in range(1, 6)]
    await world.archive()
    found = await pages(alice, "/strategy/list", "strategies", 2)
    assert [[one["strategy_id"] for one in page] for page in found] == [ids[:2:-1], ids[2:0:-1], ids[:1]]
    assert found[0][0] == found[0][0] | {"quantity": 5, "status": "created", "stop_loss": 1480.55, "symbol": "NSE:INFY"}
    assert found[0][0]["created_at"] == "2025-06-03T10:00:00+05:30"
    await alice.create()
    await world.archive()
    assert len(await pages(alice, "/strategy/list", "strategies", 200)) == 1


async def test_events_tell_the_story_in_order_with_moments_for_people(world: World, alice: Trader) -> None:
    strategy_id = await holding(world, alice, 10)
    await world.archive()
    path = f"/strategy/{strategy_id}/events"
    found = [event for page in await pages(alice, path, "events", 3) for event in page]
    assert [event["version"] for event in found] == list(range(1, len(found) + 1))
    assert [event["type"] for event in found][:3] == [
        "STRATEGY_CREATED",
        "STRATEGY_START_REQUESTED",
        "STRATEGY_STARTED",
    ]
    positions = [int(event["position"]) for event in found]
    assert positions == sorted(positions)
    started, filled = found[2], next(event for event in found if event["type"] == "ORDER_FILLED")
    assert started["data"]["buy_at"] == "2025-06-03T10:30:00+05:30"
    assert started["data"]["config"]["stop_loss"] == 1480.55
    assert started["causation_id"] == found[1]["event_id"]
    assert started["correlation_id"] == found[1]["correlation_id"]
    assert '"average_price":1490.123456' in (await alice.get(path)).text
    assert filled["data"].pop("tag")
    assert filled["data"] == {"order_id": "O1", "filled": 10, "average_price": 1490.123456}


async def test_an_order_is_one_row_from_intent_to_end(world: World, alice: Trader) -> None:
    strategy_id = await holding(world, alice, 10)
    await world.archive()
    ((order,),) = await pages(alice, f"/strategy/{strategy_id}/orders", "orders", 5)
    assert (order["kind"], order["side"], order["symbol"]) == ("BUY", "BUY", "NSE:INFY")
    assert (order["quantity"], order["filled"], order["average_price"]) == (10, 10, 1490.123456)
    assert (order["order_id"], order["attempt"], order["run"]) == ("O1", 1, 3)
    assert int(order["intent_position"]) < int(order["outcome_position"]) < int(order["final_position"])
    assert order["requested_at"].endswith("+05:30")


async def test_a_page_has_a_size(alice: Trader) -> None:
    for limit in ("0", "201", "-1", "x", "1.5", "9" * 40):
        assert rules(await alice.get("/strategy/list", params={"limit": limit})).keys() == {"limit"}


async def test_an_invented_or_changed_cursor_is_refused(world: World, alice: Trader) -> None:
    strategy_id = await holding(world, alice, 10)
    await world.archive()
    path = f"/strategy/{strategy_id}/events"
    cursor = (await alice.get(path, params={"limit": 1})).json()["next_cursor"]
    changed = "A" + cursor[1:] if cursor[0] != "A" else "B" + cursor[1:]
    invented = base64.urlsafe_b64encode(b"1" * 60).decode()
    for other in ("", "x", "é", "AAAA", cursor[:-2], changed, cursor + "AAAA", invented):
        problem(await alice.get(path, params={"cursor": other}), 400, "INVALID_CURSOR")
    problem(await alice.get(f"/strategy/{strategy_id}/orders", params={"cursor": cursor}), 400, "INVALID_CURSOR")
    problem(await alice.get("/strategy/list", params={"cursor": cursor}), 400, "INVALID_CURSOR")
    assert rules(await alice.get(path, params={"cursor": "x" * 201})) == {"cursor": "string_too_long"}


def test_cursors_survive_a_rotation_of_keys_and_are_bound_to_user_and_list() -> None:
    new = "a second key of the tests, also random enough"
    cursor = Cursors(SecretKeys([KEY])).write(7, "orders/1", 42)
    rotated = Cursors(SecretKeys([new, KEY]))
    assert rotated.read(cursor, 7, "orders/1") == 42
    without = Cursors(SecretKeys([new]))
    for cursors, user_id, of in ((rotated, 8, "orders/1"), (rotated, 7, "orders/2"), (without, 7, "orders/1")):
        with pytest.raises(Problem):
            cursors.read(cursor, user_id, of)
