"""Good-till-triggered orders, driven by the official client."""

import json
from typing import Any

import pytest
from kiteconnect.exceptions import GeneralException, InputException

from domain.values import DAY, SECOND

from .conftest import OfficialClient, World


def leg(side: str = "SELL", quantity: int = 10, price: float = 780, **terms: Any) -> dict[str, Any]:
    asked = {"transaction_type": side, "quantity": quantity, "order_type": "LIMIT", "product": "MIS", "price": price}
    return asked | terms


async def single(kite: OfficialClient, trigger: float = 785, **terms: Any) -> int:
    placed = await kite.place_gtt("single", "SBIN", "NSE", [trigger], 800, [leg(**terms)])
    number: int = placed["trigger_id"]
    return number


async def test_a_trigger_waits_and_tells_everything_that_was_asked(kite: OfficialClient) -> None:
    number = await single(kite)
    row = await kite.get_gtt(number)
    assert (row["id"], row["user_id"], row["type"], row["status"]) == (number, "AB1234", "single", "active")
    assert (row["created_at"], row["expires_at"]) == ("2026-11-20 10:00:00", "2027-11-20 10:00:00")
    assert row["condition"] == {
        "exchange": "NSE", "tradingsymbol": "SBIN", "last_price": 800, "trigger_values": [785],
        "instrument_token": 779521,
    }  # fmt: skip
    assert row["orders"] == [
        {
            "exchange": "NSE", "tradingsymbol": "SBIN", "transaction_type": "SELL", "quantity": 10,
            "order_type": "LIMIT", "product": "MIS", "price": 780, "result": None,
        }
    ]  # fmt: skip
    assert await kite.get_gtts() == [row]


async def test_a_trigger_below_the_price_fires_when_it_is_reached_and_places_its_order(
    kite: OfficialClient, world: World
) -> None:
    number = await single(kite)
    await world.price("785.05")
    assert (await kite.get_gtt(number))["status"] == "active"
    await world.later(SECOND)
    await world.price("785")

    row = await kite.get_gtt(number)
    assert (row["status"], row["updated_at"]) == ("triggered", "2026-11-20 10:00:01")
    result = row["orders"][0]["result"]
    assert (result["triggered_at"], result["order_result"]["status"]) == (785, "success")
    order = await kite.row(result["order_result"]["order_id"])
    assert (order["status"], order["order_type"], order["price"], order["average_price"]) == (
        "COMPLETE",
        "LIMIT",
        780,
        785,
    )
    await world.price("700")
    assert len(await kite.orders()) == 1


async def test_a_trigger_above_the_price_fires_from_below(kite: OfficialClient, world: World) -> None:
    number = await single(kite, 815, side="BUY", price=816)
    await world.price("790")
    assert (await kite.get_gtt(number))["status"] == "active"
    await world.price("815.5")
    assert (await kite.get_gtt(number))["status"] == "triggered"


@pytest.mark.parametrize(("price", "placed"), [("770", 0), ("850", 1)])
async def test_of_two_legs_the_one_that_is_reached_is_placed(
    kite: OfficialClient, world: World, price: str, placed: int
) -> None:
    legs = [leg(price=765), leg(price=845)]
    number = (await kite.place_gtt("two-leg", "SBIN", "NSE", [775, 840], 800, legs))["trigger_id"]
    await world.price(price)
    results = [order["result"] for order in (await kite.get_gtt(number))["orders"]]
    assert results[1 - placed] is None
    assert results[placed]["order_result"]["status"] == "success"
    assert [order["price"] for order in await kite.orders()] == [legs[placed]["price"]]


async def test_an_order_that_is_refused_when_it_is_placed_says_why(kite: OfficialClient, world: World) -> None:
    number = await single(kite, product="CNC")
    await world.price("780")
    row = await kite.get_gtt(number)
    result = row["orders"][0]["result"]["order_result"]
    assert (row["status"], result["status"], result["order_id"]) == ("triggered", "failed", "")
    assert "Insufficient stock holding" in result["rejection_reason"]
    assert await kite.orders() == []


async def test_a_triggered_order_may_rest_unfilled(kite: OfficialClient, world: World) -> None:
    await single(kite, price=786)
    await world.price("784")
    (order,) = await kite.orders()
    assert (order["status"], order["filled_quantity"]) == ("OPEN", 0)


async def test_triggers_outlive_the_day_and_the_session(kite: OfficialClient, world: World) -> None:
    number = await single(kite)
    await world.later(DAY)
    world.sim.end_session("AB1234")
    await world.price("780")
    assert (await world.logged_in().get_gtt(number))["status"] == "triggered"


async def test_a_trigger_expires_after_a_year_and_leaves_the_list_a_week_later(
    kite: OfficialClient, world: World
) -> None:
    number = await single(kite)
    await world.later(365 * DAY)
    kite = world.logged_in()
    assert [each["status"] for each in await kite.get_gtts()] == ["expired"]
    await world.price("700")
    assert await kite.orders() == []
    await world.later(8 * DAY)
    kite = world.logged_in()
    assert await kite.get_gtts() == []
    assert (await kite.get_gtt(number))["status"] == "expired"


async def test_a_trigger_is_changed_and_deleted_while_it_waits(kite: OfficialClient, world: World) -> None:
    number = await single(kite)
    changed = await kite.modify_gtt(number, "single", "SBIN", "NSE", [770], 800, [leg(price=765)])
    assert changed == {"trigger_id": number}
    await world.price("780")
    row = await kite.get_gtt(number)
    assert (row["status"], row["condition"]["trigger_values"], row["orders"][0]["price"]) == ("active", [770], 765)

    assert await kite.delete_gtt(number) == {"trigger_id": number}
    await world.price("700")
    assert [each["status"] for each in await kite.get_gtts()] == ["deleted"]
    assert await kite.orders() == []
    with pytest.raises(InputException, match="deleted already"):
        await kite.delete_gtt(number)
    with pytest.raises(InputException):
        await kite.modify_gtt(number, "single", "SBIN", "NSE", [770], 800, [leg()])


async def test_nobody_sees_anothers_trigger(kite: OfficialClient, world: World) -> None:
    number = await single(kite)
    world.sim.register("ZZ9", api_key="other", api_secret="secret")
    header = {"Authorization": f"token other:{world.sim.open_session('ZZ9')}"}
    assert (await world.http.get("/gtt/triggers", headers=header)).json()["data"] == []
    assert (await world.http.get(f"/gtt/triggers/{number}", headers=header)).status_code == 404
    assert (await world.http.delete(f"/gtt/triggers/{number}", headers=header)).status_code == 404
    for unknown in (number + 1, "x", "²"):
        with pytest.raises(GeneralException):
            await kite.get_gtt(unknown)


GOOD = {
    "type": "single",
    "condition": {"exchange": "NSE", "tradingsymbol": "SBIN", "trigger_values": [785], "last_price": 800},
    "orders": [{"exchange": "NSE", "tradingsymbol": "SBIN", **leg()}],
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "triple"},
        {"type": "two-leg"},
        {"condition": {**GOOD["condition"], "tradingsymbol": "NONE"}},  # type: ignore[dict-item]
        {"condition": {**GOOD["condition"], "trigger_values": [800]}},  # type: ignore[dict-item]
        {"condition": {**GOOD["condition"], "trigger_values": []}},  # type: ignore[dict-item]
        {"condition": {**GOOD["condition"], "trigger_values": ["a"]}},  # type: ignore[dict-item]
        {"condition": {**GOOD["condition"], "trigger_values": [float("nan")]}},  # type: ignore[dict-item]
        {"condition": {}},
        {"condition": []},
        {"orders": []},
        {"orders": [{}]},
        {"orders": [{**GOOD["orders"][0], "order_type": "MARKET"}]},  # type: ignore[dict-item]
        {"orders": [{**GOOD["orders"][0], "quantity": 0}]},  # type: ignore[dict-item]
        {"orders": [{**GOOD["orders"][0], "price": -1}]},  # type: ignore[dict-item]
        {"orders": [{**GOOD["orders"][0], "tradingsymbol": "INFY"}]},  # type: ignore[dict-item]
    ],
)
async def test_a_trigger_that_makes_no_sense_is_refused(world: World, wrong: dict[str, Any]) -> None:
    header = world.header()
    asked = {name: each if isinstance(each, str) else json.dumps(each) for name, each in (GOOD | wrong).items()}
    answer = await world.http.post("/gtt/triggers", data=asked, headers=header)
    assert (answer.status_code, answer.json()["error_type"]) == (400, "InputException")
    assert (await world.http.get("/gtt/triggers", headers=header)).json()["data"] == []


async def test_garbage_is_refused(world: World) -> None:
    header = world.header()
    for name, garbage in (("condition", "{"), ("orders", "[" * 5_000), ("condition", ""), ("orders", "null")):
        asked = {key: each if isinstance(each, str) else json.dumps(each) for key, each in GOOD.items()}
        answer = await world.http.post("/gtt/triggers", data=asked | {name: garbage}, headers=header)
        assert answer.status_code == 400
