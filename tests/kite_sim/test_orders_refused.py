"""What is not taken: the order of the checks, the texts, and that nothing of it enters the book."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from kiteconnect.exceptions import GeneralException, InputException, PermissionException

from domain.calendar import instant, load_nse
from domain.values import HOUR, Side
from simulation.kite.accounts import AttemptKind, SimHolding
from simulation.kite.instruments import SimInstrument

from .conftest import MakeWorld, OfficialClient, World

FUTURE = SimInstrument(
    symbol="NFO:SBIN26NOVFUT",
    exchange_token=50001,
    segment="NFO-FUT",
    instrument_type="FUT",
    lot=25,
    freeze=900,
    tick_size=Decimal("0.10"),
    lower_circuit=Decimal(720),
    upper_circuit=Decimal(880),
)


@pytest.fixture
async def futures(make_world: MakeWorld) -> OfficialClient:
    return (await make_world(instruments=[FUTURE])).logged_in()


def terms(**changed: Any) -> dict[str, Any]:
    """A limit order for one lot of the future."""
    base = {"exchange": "NFO", "tradingsymbol": "SBIN26NOVFUT", "quantity": 25, "price": "800.10"}
    return base | changed


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"transaction_type": "HOLD"}, "Invalid `transaction_type`"),
        ({"order_type": "FANCY"}, "Invalid `order_type`"),
        ({"product": "BO"}, "Invalid `product`"),
        ({"validity": "FOREVER"}, "Invalid `validity`"),
        ({"quantity": "ten"}, "Invalid `quantity`"),
        ({"quantity": "1.5"}, "Invalid `quantity`"),
        ({"quantity": -25}, "Invalid `quantity`"),
        ({"quantity": "1e999"}, "Invalid `quantity`"),
        ({"price": "NaN"}, "Invalid `price`"),
        ({"price": None}, "Missing or empty field `price`"),
        ({"exchange": None}, "Missing or empty field `exchange`"),
        ({"tradingsymbol": "GONE"}, "either expired or does not exist"),
        ({"variety": "iceberg"}, "Invalid `variety`"),
        ({"tag": "X" * 21}, "Invalid `tag`"),
        ({"price": "800.05"}, "Tick size for this script is 0.10. Kindly enter price in the multiple of tick size"),
        ({"quantity": 26}, "multiple of the lot size 25"),
        (
            {"quantity": 1000},
            r"The order quantity 1000 \(40 lots\) is higher than the maximum quantity of 900 \(36 lots\) allowed",
        ),
        ({"price": "880.10"}, "higher than the current upper circuit limit of 880"),
        ({"price": "719.90"}, "lower than the current lower circuit limit of 720"),
        ({"order_type": "MARKET", "market_protection": None}, "Market orders without market protection are not"),
        ({"order_type": "MARKET", "market_protection": 0}, "Market orders without market protection are not"),
        ({"order_type": "MARKET", "market_protection": 101}, "Invalid `market_protection`"),
        ({"order_type": "MARKET", "market_protection": -2}, "Invalid `market_protection`"),
        ({"order_type": "SL", "trigger_price": None}, "Missing or empty field `trigger_price`"),
    ],
)
async def test_a_wrong_field_is_an_input_exception(futures: OfficialClient, changed: dict[str, Any], text: str) -> None:
    asked = {"transaction_type": "BUY", "order_type": "LIMIT", "product": "MIS", "variety": "regular"}
    with pytest.raises(InputException, match=text) as refused:
        await futures.place_order(**{**asked, **terms(**changed)})

    assert refused.value.code == 400
    assert await futures.orders() == []


async def test_the_earlier_check_speaks_first(futures: OfficialClient, make_world: MakeWorld) -> None:
    with pytest.raises(InputException, match="Invalid `tag`"):
        await futures.buy(**terms(tag="X" * 21, price="800.05", quantity=26))
    with pytest.raises(InputException, match="Tick size"):
        await futures.buy(**terms(price="899.95", quantity=26))
    with pytest.raises(InputException, match="lot size"):
        await futures.buy(**terms(price="899.90", quantity=1001))


async def test_want_of_margin_is_refused_at_once(make_world: MakeWorld) -> None:
    world = await make_world(account={"cash": Decimal(10_000)})
    await world.price("800")
    kite = world.logged_in()

    with pytest.raises(GeneralException) as refused:  # the client has no MarginException
        await kite.buy(100)
    assert str(refused.value) == "Insufficient funds. Required margin is 16320.00 but available margin is 10000.00."
    assert refused.value.code == 400
    await kite.buy(60)
    with pytest.raises(GeneralException, match="Insufficient funds"):
        await kite.buy(10)
    await kite.sell(60)  # closes: needs nothing


async def test_only_shares_that_are_there_can_be_sold_for_delivery(kite: OfficialClient, world: World) -> None:
    world.account.holdings["NSE:SBIN"] = SimHolding(quantity=5, average_price=Decimal(700))

    with pytest.raises(GeneralException, match="Insufficient stock holding"):
        await kite.sell(6, product="CNC")
    await kite.sell(5, product="CNC", price=900)
    with pytest.raises(GeneralException, match="0 available"):
        await kite.sell(1, product="CNC")


async def test_nothing_is_taken_while_the_market_is_closed(make_world: MakeWorld) -> None:
    world = await make_world(calendar=load_nse())
    await world.price("800")
    kite = world.logged_in()
    resting = await kite.buy(10, price=790)
    await world.later(6 * HOUR)  # 16:00

    with pytest.raises(InputException, match="Markets are closed right now"):
        await kite.buy(10)
    row = await kite.row(resting)
    assert (row["status"], row["exchange_update_timestamp"]) == ("CANCELLED", "2026-11-20 15:30:00")


async def test_an_after_market_order_waits_for_the_next_session(make_world: MakeWorld) -> None:
    world = await make_world(calendar=load_nse())
    await world.price("800")
    kite = world.logged_in()
    with pytest.raises(InputException, match="not accepted during market hours"):
        await kite.buy(10, variety="amo")
    await world.later(8 * HOUR)  # Friday, 18:00
    waiting = await kite.buy(10, variety="amo", price=801)
    given_up = await kite.buy(10, variety="amo", price=801)
    assert (await kite.row(waiting))["status"] == "AMO REQ RECEIVED"
    await kite.modify_order("amo", waiting, price=802)
    assert (await kite.row(waiting))["status"] == "AMO REQ RECEIVED"
    await kite.cancel_order("amo", given_up)
    assert (await kite.row(given_up))["status"] == "CANCELLED AMO"

    world.clock.set(instant(dt.date(2026, 11, 23), dt.time(9, 20)))
    row = await world.logged_in().row(waiting)

    assert (row["status"], row["variety"], row["price"]) == ("COMPLETE", "amo", 802)


async def test_an_unknown_year_is_not_traded_in(make_world: MakeWorld) -> None:
    world = await make_world(calendar=load_nse())
    world.clock.set(instant(dt.date(2090, 1, 2), dt.time(10)))

    with pytest.raises(InputException, match="Markets are closed"):
        await world.logged_in().buy(1)


async def test_order_calls_need_a_listed_address_and_readings_do_not(make_world: MakeWorld) -> None:
    none_listed = await make_world(account={"allowed_ips": frozenset()})
    kite = none_listed.logged_in()
    with pytest.raises(PermissionException, match="No IPs configured for this app"):
        await kite.buy(1)
    assert await kite.orders() == []

    other_listed = await make_world(account={"allowed_ips": frozenset({"192.0.2.7"})})
    with pytest.raises(InputException, match="IP is not allowed to place orders for this app"):
        await other_listed.logged_in().buy(1)
    this_listed = await make_world(account={"allowed_ips": frozenset({"127.0.0.1"})})
    await this_listed.logged_in().buy(1)


async def test_every_order_call_is_remembered_the_refused_ones_too(kite: OfficialClient, world: World) -> None:
    order_id = await kite.buy(10, price=790, tag="FIRST")
    with pytest.raises(InputException):
        await kite.buy(10, price="790.01", tag="SECOND")
    await kite.modify_order("regular", order_id, price=791)
    await kite.cancel_order("regular", order_id)
    with pytest.raises(InputException):
        await kite.cancel_order("regular", order_id)

    seen = [(each.kind, each.tag, each.taken, each.order_id) for each in world.account.attempts]
    assert seen == [
        (AttemptKind.PLACE, "FIRST", True, order_id),
        (AttemptKind.PLACE, "SECOND", False, None),
        (AttemptKind.MODIFY, "FIRST", True, order_id),
        (AttemptKind.CANCEL, "FIRST", True, order_id),
        (AttemptKind.CANCEL, "FIRST", False, order_id),
    ]
    refused = world.account.attempts[1]
    assert (refused.symbol, refused.side, refused.quantity) == ("NSE:SBIN", Side.BUY, 10)
    assert refused.text.startswith("Tick size")


async def test_a_body_that_is_not_text_is_refused_and_remembered(world: World) -> None:
    answer = await world.http.post("/orders/regular", headers=world.header(), content=b"\xff\xfe=1")

    assert answer.status_code == 400
    assert answer.json()["error_type"] == "InputException"
    assert len(world.account.attempts) == 1
