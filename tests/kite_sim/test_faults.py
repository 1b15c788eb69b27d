"""Every fault of the order side: what the caller hears, and what is true in the book."""

import httpx
import pytest
import requests
from kiteconnect.exceptions import (
    DataException,
    GeneralException,
    InputException,
    NetworkException,
    PermissionException,
    TokenException,
)

from domain.values import SECOND
from simulation.kite.delays import Delays
from simulation.kite.faults import AFTER, OCCASIONS, Fault, Occasion, ScriptedFaults, SeededFaults
from simulation.kite.faults import Call as PlanCall

from .conftest import USER, MakeWorld, OfficialClient, World

TAG = "TAG1"


async def tags(world: World) -> list[str | None]:
    """The tags in the book, by a session of its own."""
    return [row["tag"] for row in await world.logged_in().orders()]


# --- placing: what is answered, and whether the order exists


async def test_f1_the_order_exists_and_the_answer_never_comes(world: World) -> None:
    world.sim.inject(Fault.F1_ACCEPTED_THEN_HANGS)

    with pytest.raises(requests.ReadTimeout):
        await world.logged_in(timeout=0.2).buy(tag=TAG)

    assert await tags(world) == [TAG]
    assert world.sim.fired[Fault.F1_ACCEPTED_THEN_HANGS] == 1
    assert await world.logged_in(timeout=0.2).buy()  # only once


@pytest.mark.parametrize("fault", [Fault.F2_ACCEPTED_THEN_DROPPED, Fault.F2_ACCEPTED_HALF_ANSWER])
async def test_f2_the_order_exists_and_the_connection_is_dropped(
    world: World, kite: OfficialClient, fault: Fault
) -> None:
    world.sim.inject(fault)

    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        await kite.buy(tag=TAG)

    assert await tags(world) == [TAG]


async def test_f3_the_connection_is_dropped_and_the_order_does_not_exist(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F3_DROPPED_BEFORE)

    with pytest.raises(requests.ConnectionError):
        await kite.buy(tag=TAG)

    assert await tags(world) == []
    attempt = world.account.attempts[0]
    assert (attempt.tag, attempt.taken, attempt.fault) == (TAG, False, Fault.F3_DROPPED_BEFORE)


@pytest.mark.parametrize(("fault", "exists"), [(Fault.F4A_HTML_AFTER, True), (Fault.F4B_HTML_BEFORE, False)])
async def test_f4_html_says_nothing_about_whether_the_order_exists(world: World, fault: Fault, exists: bool) -> None:
    world.sim.inject(fault, times=2)
    header = world.header()
    form = {
        "exchange": "NSE", "tradingsymbol": "SBIN", "transaction_type": "BUY", "quantity": "1", "product": "MIS",
        "order_type": "LIMIT", "price": "790", "tag": TAG,
    }  # fmt: skip

    answers = [await world.http.post("/orders/regular", headers=header, data=form) for _ in range(2)]

    assert {answer.status_code for answer in answers} == {502, 504}
    assert all(answer.headers["content-type"] == "text/html" for answer in answers)
    assert await tags(world) == ([TAG, TAG] if exists else [])


async def test_f4_the_official_client_calls_html_a_data_exception(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F4C_HTML_READING)

    with pytest.raises(DataException):
        await kite.orders()
    assert await kite.orders() == []


async def test_f5_the_order_surfaces_later_with_the_time_at_which_it_does(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F5_SURFACES_LATER, after=42 * SECOND)

    with pytest.raises(NetworkException) as refused:
        await kite.buy(tag=TAG)
    assert refused.value.code == 503
    await world.later(42 * SECOND - 1)
    assert await tags(world) == []
    assert world.account.orders == []
    await world.later(1)

    row = (await kite.orders())[0]
    assert (row["tag"], row["status"]) == (TAG, "COMPLETE")
    assert row["order_timestamp"].strftime("%H:%M:%S") == "10:00:42"
    assert world.account.attempts[0].taken


async def test_f6_a_400_that_says_timed_out_hides_a_placed_order(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F6_TIMED_OUT_400)

    with pytest.raises(InputException) as refused:
        await kite.buy(tag=TAG)

    assert refused.value.code == 400
    assert str(refused.value) == (
        "Order request timed out. Please check the order book and confirm before placing again."
    )
    assert await tags(world) == [TAG]


async def test_f7_too_many_requests_come_in_bursts(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F7_TOO_MANY_ORDERS, times=2)

    for _ in range(2):
        with pytest.raises(NetworkException, match="Too many requests") as refused:
            await kite.buy(tag=TAG)
        assert refused.value.code == 429
    await kite.buy(tag=TAG)
    assert await tags(world) == [TAG]


async def test_f7_readings_meet_it_too(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F7_TOO_MANY_READINGS)

    await kite.buy()
    with pytest.raises(NetworkException) as refused:
        await kite.orders()
    assert refused.value.code == 429


async def test_a_margin_refusal_leaves_no_row(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.MARGIN_REFUSED)

    with pytest.raises(GeneralException, match=r"Insufficient funds\. Required margin is 8000\.00") as refused:
        await kite.buy(tag=TAG)
    assert refused.value.code == 400
    assert await tags(world) == []


# --- the order's life after it was taken


async def test_f8_an_order_stuck_in_open_pending_fills_later(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F8A_STUCK_OPEN_PENDING, after=90 * SECOND)
    order_id = await kite.buy()
    await world.later(89 * SECOND)
    assert (await kite.row(order_id))["status"] == "OPEN PENDING"
    with pytest.raises(InputException, match="being processed"):
        await kite.cancel_order("regular", order_id)

    await world.later(SECOND)
    assert (await kite.row(order_id))["status"] == "COMPLETE"


@pytest.mark.parametrize(
    ("fault", "ends"), [(Fault.F8B_STUCK_THEN_CANCELLED, "CANCELLED"), (Fault.F8B_STUCK_THEN_FILLED, "COMPLETE")]
)
async def test_f8_a_cancel_stuck_in_cancel_pending_may_be_overtaken_by_a_fill(
    world: World, kite: OfficialClient, fault: Fault, ends: str
) -> None:
    order_id = await kite.buy(price=790)
    world.sim.inject(fault, after=20 * SECOND)

    assert await kite.cancel_order("regular", order_id) == order_id
    await world.price("780")
    await world.later(20 * SECOND - 1)
    assert (await kite.row(order_id))["status"] == "CANCEL PENDING"
    await world.later(1)

    assert (await kite.row(order_id))["status"] == ends


async def test_f8_a_stuck_order_without_any_price_is_cancelled_after_all(make_world: MakeWorld) -> None:
    world = await make_world()
    kite = world.logged_in()
    order_id = await kite.buy()
    world.sim.inject(Fault.F8B_STUCK_THEN_FILLED, after=SECOND)
    await kite.cancel_order("regular", order_id)
    await world.later(SECOND)

    assert (await kite.row(order_id))["status"] == "CANCELLED"


async def test_f9_the_cancel_loses_to_a_fill(world: World, kite: OfficialClient) -> None:
    order_id = await kite.buy(price=790)
    world.sim.inject(Fault.F9_CANCEL_LOSES)

    with pytest.raises(InputException, match=r"^Order cannot be cancelled as it is being processed\. Try later\.$"):
        await kite.cancel_order("regular", order_id)

    row = await kite.row(order_id)
    assert (row["status"], row["filled_quantity"], row["average_price"]) == ("COMPLETE", 10, 790)


async def test_f10_half_fills_and_the_exchange_cancels_the_rest(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F10_HALF_THEN_CANCELLED, after=3 * SECOND)
    order_id = await kite.buy(10)
    row = await kite.row(order_id)
    assert (row["status"], row["filled_quantity"]) == ("OPEN", 5)

    await world.later(3 * SECOND)

    row = await kite.row(order_id)
    assert (row["status"], row["filled_quantity"], row["cancelled_quantity"]) == ("CANCELLED", 5, 5)
    assert (await kite.positions())["net"][0]["quantity"] == 5


async def test_f11_half_fills_and_the_rest_is_stuck_until_it_is_modified(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F11_HALF_THEN_STUCK)
    order_id = await kite.sell(9)
    await world.price("800")
    await world.later(600 * SECOND)
    row = await kite.row(order_id)
    assert (row["status"], row["filled_quantity"], row["pending_quantity"]) == ("OPEN", 4, 5)

    await kite.modify_order("regular", order_id, price=780)

    assert (await kite.row(order_id))["status"] == "COMPLETE"


async def test_half_fills_and_the_rest_follows(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.HALF_THEN_REST, after=2 * SECOND)
    order_id = await kite.buy(10)
    assert (await kite.row(order_id))["filled_quantity"] == 5

    await world.later(2 * SECOND)

    assert (await kite.row(order_id))["status"] == "COMPLETE"
    assert [trade["quantity"] for trade in await kite.order_trades(order_id)] == [5, 5]


async def test_an_order_is_rejected_after_it_was_taken(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.REJECTED_LATER, after=SECOND)
    order_id = await kite.buy(10)
    assert (await kite.row(order_id))["status"] == "VALIDATION PENDING"

    await world.later(SECOND)

    row = await kite.row(order_id)
    assert (row["status"], row["exchange_order_id"], row["exchange_timestamp"]) == ("REJECTED", None, None)
    assert (row["pending_quantity"], row["cancelled_quantity"]) == (0, 0)
    assert row["status_message"].startswith("Insufficient funds. Required margin is ")
    assert row["status_message"].endswith("Check the orderbook for open orders.")
    assert row["status_message_raw"].startswith("RMS:Margin Exceeds,Required:")


async def test_f16_an_undocumented_status_passes(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F16_UNKNOWN_STATUS, after=5 * SECOND)
    order_id = await kite.buy(10)
    documented = {"PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING", "OPEN", "COMPLETE"}
    assert (await kite.row(order_id))["status"] not in documented

    await world.later(5 * SECOND)

    assert (await kite.row(order_id))["status"] == "COMPLETE"


async def test_f16_a_tag_may_stand_in_the_tags_only(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F16_TAG_ONLY_IN_TAGS)
    row = await kite.row(await kite.buy(tag=TAG))

    assert row["tag"] is None
    assert TAG in row["tags"]


async def test_f19_a_second_order_with_the_same_tag_rests_in_the_book(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F19_SECOND_ORDER_WITH_TAG, after=2 * SECOND)
    order_id = await kite.buy(10, tag=TAG)
    assert await tags(world) == [TAG]

    await world.later(2 * SECOND)

    ours, other = await kite.orders()
    assert (ours["order_id"], ours["tag"], other["tag"]) == (order_id, TAG, TAG)
    assert (other["status"], other["quantity"], other["transaction_type"]) == ("OPEN", 10, "BUY")
    assert other["order_id"] != order_id
    assert [order.foreign for order in world.account.orders] == [False, True]
    await kite.cancel_order("regular", other["order_id"])


# --- cancels and changes


@pytest.mark.parametrize(
    ("fault", "status"),
    [(Fault.CANCEL_DONE_UNANSWERED, "CANCELLED"), (Fault.CANCEL_IGNORED_UNANSWERED, "OPEN")],
)
async def test_an_unanswered_cancel_may_or_may_not_be_carried_out(
    world: World, kite: OfficialClient, fault: Fault, status: str
) -> None:
    order_id = await kite.buy(price=790)
    world.sim.inject(fault)

    with pytest.raises(requests.ConnectionError):
        await kite.cancel_order("regular", order_id)

    assert (await kite.row(order_id))["status"] == status


async def test_a_cancel_is_refused_once(world: World, kite: OfficialClient) -> None:
    order_id = await kite.buy(price=790)
    world.sim.inject(Fault.CANCEL_REFUSED)

    with pytest.raises(InputException, match="being processed"):
        await kite.cancel_order("regular", order_id)
    assert (await kite.row(order_id))["status"] == "OPEN"
    await kite.cancel_order("regular", order_id)
    assert (await kite.row(order_id))["status"] == "CANCELLED"


@pytest.mark.parametrize(
    ("fault", "price"), [(Fault.MODIFY_DONE_UNANSWERED, 795), (Fault.MODIFY_IGNORED_UNANSWERED, 790)]
)
async def test_an_unanswered_change_may_or_may_not_be_carried_out(
    world: World, kite: OfficialClient, fault: Fault, price: int
) -> None:
    order_id = await kite.buy(price=790)
    world.sim.inject(fault)

    with pytest.raises(requests.ConnectionError):
        await kite.modify_order("regular", order_id, price=795)

    assert (await kite.row(order_id))["price"] == price


async def test_a_change_is_refused_once(world: World, kite: OfficialClient) -> None:
    order_id = await kite.buy(price=790)
    world.sim.inject(Fault.MODIFY_REFUSED)

    with pytest.raises(InputException, match="being processed"):
        await kite.modify_order("regular", order_id, price=795)
    await kite.modify_order("regular", order_id, price=795)
    assert (await kite.row(order_id))["price"] == 795


# --- sessions, addresses, clocks


async def test_f13_the_session_dies_in_the_middle_of_the_day(world: World) -> None:
    kite, another = world.logged_in(), world.logged_in()
    await kite.buy()
    world.sim.inject(Fault.F13_TOKEN_DIES, USER)

    with pytest.raises(TokenException) as refused:
        await kite.buy(tag=TAG)
    assert refused.value.code == 403
    with pytest.raises(TokenException):
        await another.orders()
    assert await tags(world) == [None]  # a new login works


async def test_f18_the_address_is_not_listed(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F18_IP_NOT_ALLOWED)

    with pytest.raises(PermissionException, match="IP is not allowed to place orders for this app"):
        await kite.buy(tag=TAG)
    assert await tags(world) == []


async def test_f21_the_stamps_are_the_skewed_clocks(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F21_CLOCK_SKEW, after=-90 * SECOND)

    row = await kite.row(await kite.buy())

    assert row["order_timestamp"].strftime("%H:%M:%S") == "09:58:30"
    assert world.sim.fired[Fault.F21_CLOCK_SKEW] == 1


# --- bodies


async def test_f16_a_body_without_content_type(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F16_NO_CONTENT_TYPE)

    with pytest.raises(KeyError):
        await kite.buy(tag=TAG)
    assert await tags(world) == [TAG]


async def test_f16_a_list_at_the_top_of_the_json(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F16_LIST_AT_TOP)

    with pytest.raises(AttributeError):
        await kite.orders()


async def test_f16_truncated_json(world: World, kite: OfficialClient) -> None:
    order_id = await kite.buy(price=790)
    world.sim.inject(Fault.F16_TRUNCATED_JSON, on=Occasion.CANCEL)

    await kite.orders()  # not concerned
    with pytest.raises(DataException):
        await kite.cancel_order("regular", order_id)
    assert (await kite.row(order_id))["status"] == "CANCELLED"


@pytest.mark.parametrize("call", ["place", "read"])
async def test_f16_an_error_without_type_kills_the_official_client(
    world: World, kite: OfficialClient, call: str
) -> None:
    world.sim.inject(Fault.F16_ERROR_WITHOUT_TYPE)

    with pytest.raises(TypeError):
        await (kite.buy(tag=TAG) if call == "place" else kite.orders())
    assert await tags(world) == []


async def test_f16_fields_may_be_added_be_missing_and_numbers_may_be_strings(
    world: World, kite: OfficialClient
) -> None:
    await kite.buy(10, tag=TAG)
    plain = (await kite.orders())[0]

    world.sim.inject(Fault.F16_EXTRA_FIELDS)
    assert set((await kite.orders())[0]) > set(plain)
    world.sim.inject(Fault.F16_MISSING_FIELDS)
    fewer = (await kite.orders())[0]
    assert set(fewer) < set(plain)
    assert {"order_id", "status", "filled_quantity", "quantity", "tag"} <= set(fewer)
    world.sim.inject(Fault.F16_MISSING_KEY_FIELDS)
    assert set(plain) - set((await kite.orders())[0]) == {"filled_quantity"}
    world.sim.inject(Fault.F16_NUMBERS_AS_STRINGS)
    strings = (await kite.orders())[0]
    assert (strings["quantity"], strings["average_price"], strings["modified"]) == ("10", "800", False)
    assert (await kite.orders())[0] == plain


async def test_a_reading_may_hang_or_be_dropped(world: World) -> None:
    kite = world.logged_in(timeout=0.2)
    world.sim.inject(Fault.READING_HANGS)
    with pytest.raises(requests.ReadTimeout):
        await kite.orders()
    world.sim.inject(Fault.READING_DROPPED)
    with pytest.raises(requests.ConnectionError):
        await kite.positions()


# --- scripts and seeds


async def test_a_fault_waits_for_the_user_it_was_meant_for(world: World) -> None:
    world.sim.register("CD5678", api_key="other", api_secret="s")
    world.sim.inject(Fault.F3_DROPPED_BEFORE, "CD5678")

    await world.logged_in().buy()

    assert world.sim.script.waiting() == [(Fault.F3_DROPPED_BEFORE, "CD5678", 1)]
    assert world.sim.fired[Fault.F3_DROPPED_BEFORE] == 0


async def test_a_refused_order_does_not_use_up_a_fault(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F6_TIMED_OUT_400)

    with pytest.raises(InputException, match="Tick size"):
        await kite.buy(price="800.01")
    with pytest.raises(InputException, match="timed out"):
        await kite.buy()


async def test_an_answer_fault_and_a_fate_play_on_one_order(world: World, kite: OfficialClient) -> None:
    world.sim.inject(Fault.F2_ACCEPTED_THEN_DROPPED)
    world.sim.inject(Fault.F10_HALF_THEN_CANCELLED, after=SECOND)

    with pytest.raises(requests.ConnectionError):
        await kite.buy(10, tag=TAG)
    await world.later(SECOND)

    row = (await kite.orders())[0]
    assert (row["status"], row["filled_quantity"]) == ("CANCELLED", 5)


def test_a_script_refuses_what_makes_no_sense() -> None:
    script = ScriptedFaults()

    with pytest.raises(ValueError, match="at least 1"):
        script.inject(Fault.F3_DROPPED_BEFORE, times=0)
    with pytest.raises(ValueError, match="does not play on read"):
        script.inject(Fault.F3_DROPPED_BEFORE, on=Occasion.READ)


def test_every_fault_of_the_list_has_a_member_and_an_occasion() -> None:
    numbers = {fault.name.split("_")[0].rstrip("ABC") for fault in Fault if fault.name[1].isdecimal()}

    assert numbers == {f"F{n}" for n in range(1, 22)}
    assert all(OCCASIONS[fault] for fault in Fault)


def test_a_seed_draws_the_same_in_any_order_of_calls() -> None:
    rates = {Fault.F1_ACCEPTED_THEN_HANGS: 0.2, Fault.F5_SURFACES_LATER: 0.2}
    calls = [PlanCall(occasion=Occasion.PLACE, user_id=USER, key=f"TAG{n}") for n in range(400)]
    first, second = SeededFaults(7, rates), SeededFaults(7, dict(reversed(rates.items())))

    drawn = [first.play(call) for call in calls]

    assert drawn == [second.play(call) for call in reversed(calls)][::-1]
    assert drawn != [SeededFaults(8, rates).play(call) for call in calls]
    seen = [play.fault for play in drawn if play is not None]
    assert 100 < len(seen) < 220
    low, high = AFTER[Fault.F5_SURFACES_LATER]
    assert all(low <= play.after <= high for play in drawn if play and play.fault is Fault.F5_SURFACES_LATER)


def test_rates_of_faults_that_exclude_each_other_sum_to_one_at_most() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        SeededFaults(1, {Fault.F1_ACCEPTED_THEN_HANGS: 0.6, Fault.F5_SURFACES_LATER: 0.6})
    with pytest.raises(ValueError, match="between 0 and 1"):
        SeededFaults(1, {Fault.F1_ACCEPTED_THEN_HANGS: -0.1})


async def test_seeded_faults_play_through_the_server_and_are_counted(make_world: MakeWorld) -> None:
    plan = SeededFaults(3, {Fault.F6_TIMED_OUT_400: 0.5, Fault.F10_HALF_THEN_CANCELLED: 0.5})
    world = await make_world(plan=plan, delays=Delays())
    await world.price("800")
    kite = world.logged_in()
    refused = 0
    for n in range(40):
        try:
            await kite.buy(10, tag=f"TAG{n}")
        except InputException:
            refused += 1
    await world.later(10 * SECOND)

    assert refused == world.sim.fired[Fault.F6_TIMED_OUT_400] > 5
    halves = [order for order in world.account.orders if order.filled == 5]
    assert len(halves) == world.sim.fired[Fault.F10_HALF_THEN_CANCELLED] > 5
    assert all(order.status == "CANCELLED" for order in halves)
    assert len(world.account.orders) == 40


async def test_the_pushing_parts_ask_for_one_fault_at_a_time(world: World) -> None:
    world.sim.inject(Fault.F14_SILENT_STREAM, USER, after=30 * SECOND)

    assert world.sim.plays(Fault.F12_PUSH_LOST, USER) is None
    assert world.sim.plays(Fault.F14_SILENT_STREAM, "CD5678") is None
    play = world.sim.plays(Fault.F14_SILENT_STREAM, USER)
    assert play is not None
    assert play.after == 30 * SECOND
    assert world.sim.plays(Fault.F14_SILENT_STREAM, USER) is None
    assert world.sim.fired == {Fault.F14_SILENT_STREAM: 1}


async def test_a_hung_connection_holds_up_no_other(world: World) -> None:
    world.sim.inject(Fault.READING_HANGS)
    header = world.header()
    async with httpx.AsyncClient(base_url=world.server.root, timeout=0.2, verify=False) as other:  # noqa: S501
        with pytest.raises(httpx.ReadTimeout):
            await other.get("/orders", headers=header)

    assert (await world.http.get("/orders", headers=header)).status_code == 200
