"""`bahi replay` tells the state as it was, from the log alone."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from domain.calendar import wall
from domain.strategy import State, apply, initial
from eventstore.envelope import Recorded
from tests.cli.terminal import Installation


def folded(events: list[Recorded], strategy_id: int, until: int) -> State:
    """The state by the plainest fold there is."""
    state = initial(strategy_id)
    for it in events:
        if it.position <= until and it.strategy_id == strategy_id and it.version:
            state.user_id = state.user_id or it.user_id
            apply(state, it.event)
            state.updated_at, state.position_in_log = it.recorded_at, it.position
    return state


def same(told: dict[str, Any], state: State) -> bool:
    """Whether every plain field was told exactly, prices digit by digit."""
    instants = {
        "open_at",
        "close_at",
        "buy_at",
        "sell_at",
        "terminated_at",
        "updated_at",
        "settle_after",
        "entries_after",
    }
    for name in State.__struct_fields__:
        value, shown = getattr(state, name), told["strategy_id" if name == "id" else name]
        if name in instants:
            assert (None if shown is None else dt.datetime.fromisoformat(shown)) == (wall(value) if value else None)
        elif isinstance(value, Decimal):
            assert str(shown) == str(value), name
        elif isinstance(value, (dt.date, dt.time)):
            assert shown == value.isoformat(), name
        elif isinstance(value, (bool, int, str)) or value is None:
            assert shown == value, name
    return True


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 1.0])
def test_the_state_of_every_strategy_at_a_position(day: Installation, share: float) -> None:
    events = day.events()
    at = int(len(events) * share)
    told = day.here("replay", "--at", at, "--json").objects
    there = sorted({it.strategy_id for it in events if it.position <= at and it.strategy_id})
    assert [each["strategy_id"] for each in told] == there
    assert all(same(each, folded(events, each["strategy_id"], at)) for each in told)
    assert {each["as_of"]["position"] for each in told} == {at}


def test_every_step_of_one_strategy(day: Installation) -> None:
    events = day.events()
    bought = next(it.strategy_id for it in events if it.event.type == "ORDER_FILLED")
    for it in [it for it in events if it.strategy_id == bought][::4]:
        assert same(
            day.here("replay", bought, "--at", it.position, "--json").object, folded(events, bought, it.position)
        )


def test_the_order_is_told_with_the_state(day: Installation) -> None:
    events = day.events()
    accepted = next(it for it in events if it.event.type == "ORDER_ACCEPTED")
    told = day.here("replay", accepted.strategy_id, "--at", accepted.position, "--json").object
    assert told["lock_state"] == told["order"]["tag"] == accepted.event.tag  # type: ignore[attr-defined]
    assert told["order"]["phase"] == "live"


def test_a_time_means_what_was_known_then(day: Installation) -> None:
    events = day.events()
    fill = next(it for it in events if it.event.type == "ORDER_FILLED")
    just_before = wall(fill.recorded_at - 1)
    known = max(it.position for it in events if it.recorded_at < fill.recorded_at)
    told = day.here("replay", fill.strategy_id, "--at", f"{just_before:%H:%M:%S.%f}", "--json").object
    assert told["as_of"]["position"] == known
    assert told["position"] == "none"
    then = day.here("replay", fill.strategy_id, "--at", wall(fill.recorded_at).isoformat(), "--json").object
    assert then["position"] != "none"


def test_the_tables_say_the_same(day: Installation) -> None:
    table = day.here("replay").out
    for each in day.here("replay", "--json").objects:
        row = next(line for line in table.splitlines()[2:] if line.split()[:1] == [str(each["strategy_id"])])
        assert each["symbol"] in row
        assert each["status"] in row
        assert each["position"] in row
    one = next(each for each in day.here("replay", "--json").objects if each["bought"])
    told = day.here("replay", one["strategy_id"]).out
    assert one["symbol"] in told
    assert f"bought {one['bought']}, sold {one['sold']}, open {one['open_quantity']}" in told
    assert one["order"]["tag"] in told


def test_what_changed_between_two_points(day: Installation) -> None:
    events = day.events()
    trigger = next(it for it in events if it.event.type == "BUY_TRIGGERED")
    before, after = trigger.position - 1, trigger.position
    told = day.here("replay", trigger.strategy_id, "--diff", before, after, "--json").object
    changes = told["changes"]
    assert changes == {
        "version": {"from": trigger.version - 1, "to": trigger.version},
        "buy_due": {"from": False, "to": True},
    }
    assert (told["from"]["position"], told["to"]["position"]) == (before, after)
    assert told["events"] == {"BUY_TRIGGERED": 1}
    assert "buy_due" in day.here("replay", "--diff", before, after).out
    assert "nothing changed" in day.here("replay", trigger.strategy_id, "--diff", after, after).out


def test_what_became_of_all_from_the_beginning_on(day: Installation) -> None:
    events = day.events()
    told = day.here("replay", "--diff", 0, len(events), "--json").objects
    assert [each["strategy_id"] for each in told] == sorted({it.strategy_id for it in events} - {0})
    for each in told:
        mine = [it.event.type for it in events if it.strategy_id == each["strategy_id"]]
        assert each["events"] == {name: mine.count(name) for name in mine}
        assert each["from"] == {"position": 0, "recorded_at": None}
    table = day.here("replay", "--diff", 0, len(events)).out
    assert "1 STRATEGY_CREATED" in table


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("777",), "no strategy 777"),
        (("1", "--at", "99999"), "the log ends at"),
        (("1", "--at", "2001-01-01 10:00"), "before the first event: the log begins on 2026-06-15"),
        (("1", "--at", "1"), "no strategy 1 in this log at 1"),
        (("--at", "9h30"), "'9h30' is no moment"),
        (("--at", "3-10"), "no partition 3"),
        (("--at", "10", "--diff", "1", "2"), "exclude each other"),
        (("--at", "0"), "before the first event: the log begins on 2026-06-15"),
        (("--at", "2099-01-01 10:00"), "has not come yet: the log ends at"),
        (("--diff", "2001-01-01 10:00", "5"), "before the first event: the log begins on 2026-06-15"),
        (("--diff", "0", "2001-01-01 10:00"), "before the first event: the log begins on 2026-06-15"),
        (("--diff", "5", "99999"), "the log ends at"),
        (("--diff", "99999", "5"), "the log ends at"),
        (("--diff", "9", "5"), "9 comes after 5"),
        (("777", "--diff", "1", "5"), "no strategy 777"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(day: Installation, options: tuple[str, ...], said: str) -> None:
    done = day.here("replay", *options)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("strategy", ["0", "-1", "x", "1.5"])
def test_an_id_is_a_positive_number(day: Installation, strategy: str) -> None:
    assert day.here("replay", "--", strategy).code == 2


def test_replay_does_not_look_at_the_live_state(own: Installation) -> None:
    at = len(own.events())
    was = own.here("replay", "--at", at, "--json").out
    for key in own.redis.scan_iter("runtime:*"):
        own.redis.delete(key)
    own.redis.hset("strategy:1", "quantity", 999)
    assert own.here("replay", "--at", at, "--json").out == was
