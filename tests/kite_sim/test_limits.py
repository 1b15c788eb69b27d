"""Kite's rate limits: fixed windows of the server's clock, counted per account."""

import datetime as dt

import pytest
from kiteconnect.exceptions import InputException, NetworkException

from domain.calendar import instant
from domain.values import DAY, MINUTE, SECOND
from simulation.kite.faults import Fault
from simulation.kite.limits import Counters, Limit, SimLimits

from .conftest import FRIDAY_TEN, SBIN, USER, MakeWorld, OfficialClient, World


@pytest.fixture
async def limited(make_world: MakeWorld) -> World:
    world = await make_world(check_limits=True)
    await world.price("800")
    return world


async def test_the_eleventh_order_call_of_a_calendar_second_is_refused(limited: World) -> None:
    kite = limited.logged_in()
    await limited.later(SECOND - 1)
    for _ in range(10):
        await kite.buy(1)

    with pytest.raises(NetworkException, match="Too many requests") as refused:
        await kite.buy(1)
    assert refused.value.code == 429
    await limited.later(1)  # the next calendar second begins, a microsecond later
    await kite.buy(1)


async def test_changes_cancels_and_refused_orders_count_too(limited: World) -> None:
    kite = limited.logged_in()
    order_id = await kite.buy(1, price=790)
    for n in range(4):
        with pytest.raises(InputException):
            await kite.buy(1, price="790.01")
        await kite.modify_order("regular", order_id, price=791 + n)
    await kite.cancel_order("regular", order_id)

    with pytest.raises(NetworkException):
        await kite.cancel_order("regular", order_id)


async def test_readings_have_a_limit_of_their_own(limited: World) -> None:
    kite = limited.logged_in()
    for _ in range(10):
        await kite.orders()

    with pytest.raises(NetworkException):
        await kite.positions()
    await kite.buy(1)


async def test_one_account_does_not_use_up_anothers_limit(limited: World) -> None:
    limited.sim.register("CD5678", api_key="apikey", api_secret="s")
    kite, other = limited.logged_in(), limited.client(limited.sim.open_session("CD5678"))
    for _ in range(10):
        await kite.buy(1)

    await other.buy(1)


async def test_windows_are_those_of_the_servers_own_clock(limited: World) -> None:
    kite = limited.logged_in()
    for _ in range(10):
        await kite.buy(1)
    limited.sim.inject(Fault.F21_CLOCK_SKEW, after=SECOND)

    await kite.buy(1)


async def test_limits_can_be_switched_off(kite: OfficialClient) -> None:
    for _ in range(25):
        await kite.buy(1)


async def test_an_order_is_modified_twenty_five_times_at_most(limited: World) -> None:
    kite = limited.logged_in()
    order_id = await kite.buy(1, price=700)
    for n in range(25):
        await limited.later(SECOND)
        await kite.modify_order("regular", order_id, price=701 + n)

    await limited.later(SECOND)
    with pytest.raises(InputException, match="Maximum allowed order modifications exceeded"):
        await kite.modify_order("regular", order_id, price=750)
    assert (await kite.row(order_id))["price"] == 725
    assert limited.sim.accounts[USER].orders[0].symbol == SBIN


def test_a_minute_has_400_order_calls_and_a_day_5000() -> None:
    counters = Counters(SimLimits(orders_per_second=None))
    breaches = [counters.take(Limit.ORDERS, FRIDAY_TEN + n * 100_000) for n in range(401)]
    assert breaches == [None] * 400 + ["minute"]
    assert counters.take(Limit.ORDERS, FRIDAY_TEN + MINUTE) is None

    counters = Counters(SimLimits(orders_per_second=None, orders_per_minute=None))
    assert [counters.take(Limit.ORDERS, FRIDAY_TEN) for _ in range(5_001)][-2:] == [None, "day"]
    midnight = instant(dt.date(2026, 11, 21), dt.time())
    assert counters.take(Limit.ORDERS, midnight - 1) == "day"
    assert counters.take(Limit.ORDERS, midnight) is None
    assert counters.take(Limit.ORDERS, FRIDAY_TEN + DAY) is None


def test_quotes_have_one_call_a_second_and_history_three() -> None:
    counters = Counters(SimLimits())

    assert [counters.take(Limit.QUOTES, FRIDAY_TEN) for _ in range(2)] == [None, "second"]
    assert [counters.take(Limit.HISTORICAL, FRIDAY_TEN) for _ in range(4)] == [None] * 3 + ["second"]
    assert counters.take(Limit.NONE, FRIDAY_TEN) is None


async def test_the_days_limit_says_so(make_world: MakeWorld) -> None:
    world = await make_world(check_limits=True, limits=SimLimits(orders_per_day=2))
    kite = world.logged_in()
    for _ in range(2):
        await kite.buy(1, price=1)

    with pytest.raises(NetworkException, match="Maximum allowed order requests exceeded") as refused:
        await kite.buy(1, price=1)
    assert refused.value.code == 429
