"""`bahi explain` tells one order's story as the log has it."""

from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from msgspec import structs

from bahi.cli.story import tell
from bahi.cli.times import Times
from domain.events import Intent, OrderFilled, OrderRecovered, StoplossTriggered
from domain.tags import make_tag
from domain.values import SECOND, Kind, Product
from eventstore.envelope import NewEvent, Recorded
from tests.cli.terminal import Installation


def intents(day: Installation) -> list[Recorded]:
    return [it for it in day.events() if isinstance(it.event, Intent)]


def test_every_order_is_explained_by_its_tag_with_its_events_in_their_order(day: Installation) -> None:
    events = day.events()
    for it in intents(day)[:8]:
        assert isinstance(it.event, Intent)
        tag = it.event.tag
        told = day.here("explain", tag, "--json").object
        mine = [each.position for each in events if getattr(each.event, "tag", None) == tag]
        assert [step["position"] for step in told["steps"] if step["step"] != "cause"] == mine
        assert told["tag"] == tag
        assert told["strategy_id"] == it.strategy_id
        assert told["user_id"] == it.user_id
        assert told["request"]["quantity"] == it.event.request.quantity
        cause = told["steps"][0]
        assert cause["event_id"] == it.causation_id or cause["step"] != "cause"
        assert told["timings_ms"]["decision_to_end"] >= 0


def test_the_brokers_number_is_as_good_as_the_tag(day: Installation) -> None:
    accepted = next(it for it in day.events() if it.event.type == "ORDER_ACCEPTED")
    tag, order_id = accepted.event.tag, accepted.event.order_id  # type: ignore[attr-defined]
    by_number = day.here("explain", order_id, "--json").object
    assert by_number == day.here("explain", tag.lower(), "--json").object
    assert (by_number["tag"], by_number["order_id"]) == (tag, order_id)


def test_a_stoploss_is_explained_by_its_tick(day: Installation) -> None:
    stop = next(it for it in day.events() if isinstance(it.event, StoplossTriggered))
    assert isinstance(stop.event, StoplossTriggered)
    order = next(it for it in intents(day) if it.causation_id == stop.event_id)
    assert isinstance(order.event, Intent)
    told = day.here("explain", order.event.tag)
    assert told.code == 0
    assert "was at or under the stop" in told.out
    assert f"{stop.event.tick.price:,.2f}" in told.out
    assert "STRATEGY_EXITED: STOPLOSS" in told.out
    as_object = day.here("explain", order.event.tag, "--json").object
    assert as_object["outcome"] == "complete"
    assert as_object["filled"] == order.event.request.quantity
    assert [step["type"] for step in as_object["afterwards"]][-1] == "STRATEGY_STOPPED"
    assert as_object["timings_ms"]["tick_to_decision"] == (order.recorded_at - stop.event.tick.at) / 1000


def test_an_order_that_time_woke_names_its_trigger_and_how_long_it_waited_for_its_turn(day: Installation) -> None:
    buy = next(it for it in intents(day) if it.event.type == "EXECUTE_BUY")
    assert isinstance(buy.event, Intent)
    trigger = next(it for it in day.events() if it.event_id == buy.causation_id)
    later = trigger.recorded_at + 3 * SECOND
    held_up = structs.replace(buy, event=structs.replace(buy.event, cause=""), causation_id="", recorded_at=later)
    mine = [it for it in day.events() if it.strategy_id in (buy.strategy_id, 0)]
    history = [held_up if it.event_id == buy.event_id else it for it in mine]
    times = Times(ZoneInfo("Asia/Kolkata"))
    alone = tell(buy.event.tag, history, times)
    assert alone is not None
    assert alone.steps[0].it == trigger
    assert alone.timings["cause → decision"] == 3 * SECOND
    assert not any("waited" in sentence for sentence in alone.sentences), "nothing says what it waited for"
    others = [later - SECOND, later - 2 * SECOND, later + SECOND]
    among_others = tell(buy.event.tag, history, times, others)
    assert among_others is not None
    waited = next(sentence for sentence in among_others.sentences if "waited" in sentence)
    assert waited.startswith("It waited 3.000 s for its turn: 2 other orders of the account were placed meanwhile")


def test_the_checks_are_what_the_log_knew_when_it_was_decided(day: Installation) -> None:
    buy = next(it for it in intents(day) if it.event.type == "EXECUTE_BUY")
    assert isinstance(buy.event, Intent)
    checks = day.here("explain", buy.event.tag, "--json").object["checks"]
    assert checks == {
        "status": "running",
        "position": "none",
        "open_quantity": "0",
        "lock": "free",
        "due": "buy",
        "halted": "no",
        "attempt": "1",
    }


@pytest.mark.parametrize("order", ["777777777", "no-such-order", "  "])
def test_an_order_that_is_not_there(day: Installation, order: str) -> None:
    done = day.here("explain", order)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1


def test_a_tag_of_ours_that_was_never_used_says_what_it_would_be(day: Installation) -> None:
    log_id = day.redis.get("log_id")
    assert isinstance(log_id, bytes)
    done = day.here("explain", make_tag(log_id.decode(), 2, 3, 35))
    assert done.code == 2
    assert "order 35 of run 3 of strategy 2" in done.err


def test_a_tag_of_another_log(day: Installation) -> None:
    done = day.here("explain", make_tag("0000", 2, 3, 1))
    assert done.code == 2
    assert "is of the log 0000" in done.err


def test_an_order_that_is_only_in_the_archive_is_explained_just_the_same(own: Installation) -> None:
    orders = [it.event.tag for it in intents(own)[:4] if isinstance(it.event, Intent)]
    was = [own.here("explain", tag, "--json").object for tag in orders]
    ((archived,),) = own.sql("SELECT max(position) FROM events")
    assert archived >= max(step["position"] for told in was for step in told["steps"])
    for name in ("critical", "high", "medium", "low"):
        own.redis.xtrim(f"events:{name}", minid=f"{archived + 1}-0", approximate=False)
    assert [own.here("explain", tag, "--json").object for tag in orders] == was
    assert own.here("explain", was[0]["order_id"], "--json").object == was[0]


def test_an_order_that_the_log_had_lost_is_told_from_its_recovery_on(own: Installation) -> None:
    created = next(it for it in own.events() if it.event.type == "STRATEGY_STARTED")
    log_id = own.redis.get("log_id").decode()  # type: ignore[union-attr]
    tag = make_tag(log_id, created.strategy_id, created.version, 77)
    recovered = OrderRecovered(
        tag=tag,
        kind=Kind.BUY,
        run=created.version,
        number=77,
        order_id="240615000000001",
        symbol="NSE:INFY",
        quantity=7,
        product=Product.MIS,
        placed_at=created.recorded_at,
    )
    filled = OrderFilled(tag=tag, order_id=recovered.order_id, filled=7, average_price=Decimal("1500.05"))
    own.append(*(NewEvent(event, created.strategy_id, created.user_id) for event in (recovered, filled)))
    told = own.here("explain", tag, "--json").object
    assert (told["recovered"], told["order_id"], told["filled"]) == (True, recovered.order_id, 7)
    assert told["request"]["side"] == "BUY"
    assert [step["step"] for step in told["steps"]] == ["recovered", "fill"]
    text = own.here("explain", recovered.order_id).out
    assert "was lost with the end of the log" in text
    assert "BUY 7 NSE:INFY (MIS): order 77 of its run" in text
    assert own.here("explain", intents(own)[0].event.tag, "--json").object["recovered"] is False  # type: ignore[attr-defined]
