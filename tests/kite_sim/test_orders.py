"""The life of an order as the official client sees it."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from kiteconnect.exceptions import GeneralException, InputException, OrderException

from domain.values import MINUTE, SECOND
from simulation.kite.delays import Delays
from simulation.kite.instruments import SimInstrument

from .conftest import MakeWorld, OfficialClient, World


async def test_a_protected_market_order_is_booked_as_a_limit_and_fills_at_the_last_price(
    kite: OfficialClient,
) -> None:
    order_id = await kite.buy(10, tag="MYTAG")

    row = await kite.row(order_id)
    assert (row["status"], row["order_type"], row["price"], row["market_protection"]) == ("COMPLETE", "LIMIT", 816, 0)
    assert (row["filled_quantity"], row["average_price"], row["pending_quantity"]) == (10, 800, 0)
    assert row["tag"] == "MYTAG"
    assert row["tags"] == ["MYTAG", "mktp", "mktp:2.00"]
    assert row["instrument_token"] == 779521
    assert row["order_timestamp"] == dt.datetime(2026, 11, 20, 10)  # noqa: DTZ001 (the client gives naive ones)


async def test_a_protected_price_lies_on_the_tick_grid_toward_the_market(kite: OfficialClient, world: World) -> None:
    await world.price("812.35")

    bought = await kite.row(await kite.buy(1, market_protection=Decimal("1.5")))
    sold = await kite.row(await kite.sell(1, market_protection=Decimal("1.5")))

    assert (bought["price"], sold["price"]) == (824.5, 800.2)
    assert bought["tags"] == ["mktp", "mktp:1.50"]
    assert bought["tag"] is None


async def test_order_ids_are_strings_of_19_digits_that_ascend(kite: OfficialClient) -> None:
    ids = [await kite.buy(1) for _ in range(3)]

    assert all(isinstance(each, str) and len(each) == 19 and each.isdecimal() for each in ids)
    assert ids == sorted(set(ids))


async def test_old_order_ids_begin_with_the_date(make_world: MakeWorld) -> None:
    world = await make_world(order_id_digits=15)

    assert await world.logged_in().buy(1) == "261120000000001"


async def test_the_history_has_every_state_of_an_order(kite: OfficialClient) -> None:
    order_id = await kite.buy(1)

    history = await kite.order_history(order_id)
    assert [row["status"] for row in history] == [
        "PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING", "OPEN", "COMPLETE",
    ]  # fmt: skip
    assert history[0]["instrument_token"] == 1
    assert history[0]["exchange_order_id"] is None
    assert history[0]["exchange_timestamp"] is None
    assert history[-1]["exchange_order_id"] is not None


async def test_interim_states_last_as_long_as_they_are_told_to(make_world: MakeWorld) -> None:
    world = await make_world(delays=Delays.of_each(SECOND))
    await world.price("800")
    kite = world.logged_in()
    order_id = await kite.buy(1)

    seen = [(await kite.row(order_id))["status"]]
    for _ in range(4):
        await world.later(SECOND)
        seen.append((await kite.row(order_id))["status"])

    assert seen == ["PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING", "OPEN", "COMPLETE"]
    assert world.sim.next_due() is None


async def test_the_stamps_of_a_state_do_not_depend_on_when_somebody_looked(make_world: MakeWorld) -> None:
    world = await make_world(delays=Delays.of_each(SECOND))
    await world.price("800")
    kite = world.logged_in()
    order_id = await kite.buy(1)
    await world.later(MINUTE)

    filled = (await kite.trades())[0]["fill_timestamp"]
    assert filled == dt.datetime(2026, 11, 20, 10, 0, 4)  # noqa: DTZ001
    assert (await kite.row(order_id))["exchange_timestamp"] == filled


async def test_a_limit_order_rests_until_the_price_comes(kite: OfficialClient, world: World) -> None:
    order_id = await kite.buy(10, price=Decimal("795.50"))
    assert (await kite.row(order_id))["status"] == "OPEN"

    await world.price("795.55")
    assert (await kite.row(order_id))["status"] == "OPEN"
    await world.price("795.45")

    row = await kite.row(order_id)
    assert (row["status"], row["average_price"]) == ("COMPLETE", 795.45)


async def test_a_market_order_waits_for_the_first_price(make_world: MakeWorld) -> None:
    world = await make_world()
    kite = world.logged_in()
    order_id = await kite.sell(10)
    row = await kite.row(order_id)
    assert (row["status"], row["order_type"], row["price"]) == ("OPEN", "MARKET", 0)

    await world.price("500")

    row = await kite.row(order_id)
    assert (row["status"], row["order_type"], row["price"], row["average_price"]) == ("COMPLETE", "LIMIT", 490, 500)


async def test_a_modification_goes_through_its_states_and_fills_at_the_new_price(
    kite: OfficialClient, world: World
) -> None:
    order_id = await kite.buy(10, price=790)
    await world.later(MINUTE)

    assert await kite.modify_order("regular", order_id, price=Decimal("801.05")) == order_id

    assert (await kite.states(order_id))[3:] == [
        "OPEN", "MODIFY VALIDATION PENDING", "MODIFY PENDING", "MODIFIED", "OPEN", "COMPLETE",
    ]  # fmt: skip
    row = await kite.row(order_id)
    assert (row["modified"], row["price"], row["average_price"]) == (True, 801.05, 800)
    assert row["order_timestamp"] == dt.datetime(2026, 11, 20, 10, 1)  # noqa: DTZ001 (of the change, not the placing)


async def test_a_limit_order_that_becomes_one_at_market_needs_protection(kite: OfficialClient) -> None:
    order_id = await kite.buy(10, price=790)

    with pytest.raises(InputException, match="without market protection"):
        await kite.modify_order("regular", order_id, order_type="MARKET")
    await kite.modify_order("regular", order_id, order_type="MARKET", market_protection=3)

    row = await kite.row(order_id)
    assert (row["status"], row["order_type"], row["price"]) == ("COMPLETE", "LIMIT", 824)


async def test_a_quantity_cannot_be_modified_below_what_is_filled(make_world: MakeWorld) -> None:
    world = await make_world()
    kite = world.logged_in()
    order_id = await kite.buy(10, price=790)

    await kite.modify_order("regular", order_id, quantity=4)
    row = await kite.row(order_id)
    assert (row["quantity"], row["pending_quantity"]) == (4, 4)
    with pytest.raises(InputException, match="Invalid `quantity`"):
        await kite.modify_order("regular", order_id, quantity=-1)


async def test_a_cancelled_row_does_not_balance(kite: OfficialClient) -> None:
    order_id = await kite.buy(10, price=790)

    assert await kite.cancel_order("regular", order_id) == order_id

    assert (await kite.states(order_id))[-2:] == ["CANCEL PENDING", "CANCELLED"]
    row = await kite.row(order_id)
    assert (row["pending_quantity"], row["cancelled_quantity"], row["filled_quantity"]) == (10, 10, 0)


async def test_an_order_between_two_states_can_be_neither_changed_nor_cancelled(make_world: MakeWorld) -> None:
    world = await make_world(delays=Delays(open_pending=SECOND))
    kite = world.logged_in()
    order_id = await kite.buy(10, price=790)

    with pytest.raises(InputException, match=r"cannot be cancelled as it is being processed\. Try later"):
        await kite.cancel_order("regular", order_id)
    with pytest.raises(InputException, match=r"cannot be modified as it is being processed\. Try later"):
        await kite.modify_order("regular", order_id, price=791)
    await world.later(SECOND)
    await kite.cancel_order("regular", order_id)


async def test_an_order_that_is_over_can_be_neither_changed_nor_cancelled(kite: OfficialClient) -> None:
    order_id = await kite.buy(10)

    with pytest.raises(InputException, match="already COMPLETE"):
        await kite.cancel_order("regular", order_id)
    with pytest.raises(InputException, match="already COMPLETE"):
        await kite.modify_order("regular", order_id, price=791)


async def test_an_unknown_order_is_not_found(kite: OfficialClient) -> None:
    for call in (kite.order_history, kite.order_trades):
        with pytest.raises(GeneralException, match="Couldn't find that `order_id`"):
            await call("1953341975595868160")
    with pytest.raises(GeneralException, match="Couldn't find that `order_id`"):
        await kite.cancel_order("regular", "1")


async def test_a_stop_order_waits_for_its_trigger_and_then_for_its_price(kite: OfficialClient, world: World) -> None:
    order_id = await kite.sell(10, order_type="SL", price=789, trigger_price=790)
    assert (await kite.row(order_id))["status"] == "TRIGGER PENDING"

    await world.price("788.5")  # triggers, but lies outside the limit
    row = await kite.row(order_id)
    assert (row["status"], row["order_type"]) == ("OPEN", "SL")
    await world.price("789.05")

    row = await kite.row(order_id)
    assert (row["status"], row["average_price"]) == ("COMPLETE", 789.05)


async def test_a_protected_stop_market_order_is_booked_as_a_stop_with_a_limit(
    kite: OfficialClient, world: World
) -> None:
    with pytest.raises(InputException, match="without market protection"):
        await kite.sell(10, order_type="SL-M", trigger_price=750, market_protection=0)
    order_id = await kite.sell(10, order_type="SL-M", trigger_price=750)
    row = await kite.row(order_id)
    assert (row["status"], row["order_type"], row["price"]) == ("TRIGGER PENDING", "SL", 735)

    await world.price("745")
    assert (await kite.row(order_id))["status"] == "COMPLETE"


async def test_an_ioc_order_is_cancelled_when_it_cannot_fill_at_once(kite: OfficialClient) -> None:
    filled = await kite.row(await kite.buy(5, price=801, validity="IOC"))
    cancelled = await kite.row(await kite.buy(5, price=799, validity="IOC"))

    assert (filled["status"], cancelled["status"]) == ("COMPLETE", "CANCELLED")


async def test_a_ttl_order_is_cancelled_after_its_minutes(kite: OfficialClient, world: World) -> None:
    order_id = await kite.buy(5, price=790, validity="TTL", validity_ttl=2)
    await world.later(2 * MINUTE - 1)
    assert (await kite.row(order_id))["status"] == "OPEN"

    await world.later(1)
    assert (await kite.row(order_id))["status"] == "CANCELLED"


async def test_an_autosliced_order_is_a_parent_and_children_of_the_freeze_quantity(make_world: MakeWorld) -> None:
    world = await make_world(instruments=[SimInstrument(symbol="NSE:SBIN", exchange_token=3045, freeze=100)])
    await world.price("800")
    kite = world.logged_in()
    terms: dict[str, Any] = {
        "variety": "regular", "exchange": "NSE", "tradingsymbol": "SBIN", "transaction_type": "BUY",
        "product": "MIS", "order_type": "LIMIT", "price": 790, "tag": "SLICED",
    }  # fmt: skip

    with pytest.raises(InputException, match="Quantity should be greater than or equal to 101 for order slicing"):
        await kite.place_autoslice_order(quantity=100, **terms)
    placed = await kite.place_autoslice_order(quantity=250, **terms)

    rows = {row["order_id"]: row for row in await kite.orders()}
    children = [rows[child["order_id"]] for child in placed["children"]]
    assert rows[placed["order_id"]]["quantity"] == 100
    assert [child["quantity"] for child in children] == [100, 50]
    assert {child["parent_order_id"] for child in children} == {placed["order_id"]}
    assert children[0]["tags"] == ["SLICED", "autoslice", f"autoslice:{placed['order_id']}"]


async def test_trades_and_positions_follow_the_fills(kite: OfficialClient, world: World) -> None:
    bought = await kite.buy(10)
    await world.price("810.5")
    await kite.sell(4)
    await kite.buy(3, product="CNC")

    trade = (await kite.order_trades(bought))[0]
    assert (trade["quantity"], trade["average_price"], trade["transaction_type"]) == (10, 800, "BUY")
    assert trade["order_timestamp"] == "10:00:00"
    assert len({row["trade_id"] for row in await kite.trades()}) == 3
    positions = await kite.positions()
    mis, cnc = positions["net"]
    assert (mis["product"], mis["quantity"], mis["average_price"], mis["last_price"]) == ("MIS", 6, 800, 810.5)
    assert (mis["buy_quantity"], mis["sell_quantity"], mis["sell_value"], mis["pnl"]) == (10, 4, 3242, 105)
    assert (cnc["product"], cnc["quantity"], cnc["day_buy_value"]) == ("CNC", 3, 2431.5)
    assert positions["day"] == positions["net"]


async def test_the_fields_of_a_row_are_those_of_the_published_samples(kite: OfficialClient) -> None:
    await kite.buy(1, tag="T")
    row = (await kite.orders())[0]

    assert set(row) == {
        "account_id", "placed_by", "order_id", "exchange_order_id", "parent_order_id", "status", "status_message",
        "status_message_raw", "order_timestamp", "exchange_update_timestamp", "exchange_timestamp", "variety",
        "modified", "exchange", "tradingsymbol", "instrument_token", "order_type", "transaction_type", "validity",
        "validity_ttl", "product", "quantity", "disclosed_quantity", "price", "trigger_price", "average_price",
        "filled_quantity", "pending_quantity", "cancelled_quantity", "market_protection", "meta", "tag", "tags",
        "guid",
    }  # fmt: skip
    assert "T" in row["tags"]
    position = (await kite.positions())["net"][0]
    assert set(position) == {
        "tradingsymbol", "exchange", "instrument_token", "product", "quantity", "overnight_quantity", "multiplier",
        "average_price", "close_price", "last_price", "value", "pnl", "m2m", "unrealised", "realised",
        "buy_quantity", "buy_price", "buy_value", "buy_m2m", "sell_quantity", "sell_price", "sell_value", "sell_m2m",
        "day_buy_quantity", "day_buy_price", "day_buy_value", "day_sell_quantity", "day_sell_price",
        "day_sell_value",
    }  # fmt: skip


async def test_an_average_price_is_that_of_all_fills(kite: OfficialClient, world: World) -> None:
    for price, quantity in (("800", 1), ("801", 2)):
        await world.price(price)
        await kite.buy(quantity)

    assert (await kite.positions())["net"][0]["average_price"] == 800.666667


async def test_the_book_is_of_the_day_and_delivered_shares_become_holdings(kite: OfficialClient, world: World) -> None:
    await kite.buy(5, product="CNC")
    resting = await kite.buy(5, price=790)
    await world.later(24 * 60 * MINUTE)
    kite = world.logged_in()

    assert await kite.orders() == []
    assert await kite.trades() == []
    assert await kite.positions() == {"net": [], "day": []}
    assert world.account.holdings["NSE:SBIN"].quantity == 5
    with pytest.raises(GeneralException):
        await kite.order_history(resting)
    assert [order.status for order in world.account.orders] == ["COMPLETE", "CANCELLED"]


async def test_an_order_that_only_says_enter_valid_price_is_no_order(kite: OfficialClient) -> None:
    with pytest.raises((InputException, OrderException), match="Enter Valid Price"):
        await kite.buy(10, price=0)
    assert await kite.orders() == []
