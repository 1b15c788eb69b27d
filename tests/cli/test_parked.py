"""`bahi parked`: what was set aside, and what a person decided about it, recorded."""

import getpass

import pytest

from domain.events import EventParked, ParkedDismissed, ParkedRetried, UserHalted
from eventstore.envelope import NewEvent
from tests.cli.terminal import Installation


@pytest.fixture
def parked(own: Installation) -> Installation:
    """Three events were parked: of strategy 1, of strategy 2, and one that nobody could read."""
    for strategy_id, name, error in (
        (1, "high/31", "ValueError: a"),
        (2, "high/32", "ValueError: b"),
        (0, "low/33", "?"),
    ):
        event = EventParked(parked=name, group="workers", error=error)
        own.append(NewEvent(event, strategy_id=strategy_id, user_id=strategy_id))
    return own


def test_nothing_is_parked(day: Installation) -> None:
    assert day.here("parked", "list").out == "nothing is parked\n"
    assert day.here("parked", "list", "--json").out == ""


def test_the_list(parked: Installation) -> None:
    told = parked.here("parked", "list", "--json").objects
    assert [(each["which"], each["position"], each["strategy_id"], each["state"]) for each in told] == [
        ("high/31", 31, 1, "parked"),
        ("high/32", 32, 2, "parked"),
        ("low/33", 33, None, "parked"),
    ]
    assert told[0]["error"] == "ValueError: a"
    table = parked.here("parked", "list").out
    assert "3 parked" in table
    assert "high/31" in table
    assert "ValueError: b" in table


def test_a_retry_wakes_the_strategy_and_says_who_and_why(parked: Installation) -> None:
    done = parked.here("parked", "retry", "31", "--why", "the mapping was mended", "--json")
    assert done.code == 0
    assert done.object["state"] == "retried"
    it = parked.events()[-1]
    assert isinstance(it.event, ParkedRetried)
    assert it.event.wakes
    assert (it.strategy_id, it.user_id) == (1, 1)
    assert (it.event.parked, it.event.why) == ("high/31", "the mapping was mended")
    assert it.event.who.startswith(f"{getpass.getuser()}@")
    assert [each["which"] for each in parked.here("parked", "list", "--json").objects] == ["high/32", "low/33"]
    everything = parked.here("parked", "list", "--all").out
    assert "retried" in everything
    assert "the mapping was mended" in everything


def test_a_dismissal_wakes_nobody(parked: Installation) -> None:
    done = parked.here("parked", "dismiss", "low/33", "--why", "a test of the operator's", "--who", "asha")
    assert (done.code, done.out) == (0, "low/33 dismissed\n")
    it = parked.events()[-1]
    assert isinstance(it.event, ParkedDismissed)
    assert not it.event.wakes
    assert it.event.who == "asha"


def test_all_at_once(parked: Installation) -> None:
    assert parked.here("parked", "retry", "--all", "--why", "mended").code == 0
    assert [it.event.parked for it in parked.events()[-3:] if isinstance(it.event, ParkedRetried)] == [
        "high/31",
        "high/32",
        "low/33",
    ]
    assert parked.here("parked", "retry", "--all", "--why", "again").code == 2


def test_what_was_retried_and_failed_again_is_parked_again(parked: Installation) -> None:
    parked.here("parked", "retry", "31", "--why", "mended")
    parked.append(NewEvent(EventParked(parked="high/31", group="workers", error="still"), strategy_id=1, user_id=1))
    told = parked.here("parked", "list", "--json").objects[0]
    assert (told["which"], told["error"], told["state"]) == ("high/31", "still", "parked")


def test_a_retried_event_of_a_user_wakes_every_strategy_of_the_user(own: Installation) -> None:
    (position,) = own.append(NewEvent(UserHalted(), user_id=2))
    own.append(NewEvent(EventParked(parked=f"critical/{position}", group="workers", error="x"), user_id=2))
    own.here("parked", "retry", str(position), "--why", "mended")
    strategies = {int(member) for member in own.redis.smembers("user:2:strategies")}
    woken = [it.strategy_id for it in own.events() if isinstance(it.event, ParkedRetried)]
    assert len(strategies) > 1
    assert woken == sorted(strategies)


NONSENSE = [
    (("retry", "99", "--why", "x"), "'99' is not parked; parked: high/31, high/32, low/33"),
    (("dismiss", "--why", "x"), "name what is meant"),
    (("retry", "31", "--all", "--why", "x"), "name what is meant"),
    (("retry", "31", "--why", " "), "--why is a line"),
    (("retry", "31", "--why", "a\x1b[2Jb"), "--why is a line"),
    (("retry", "31"), "Missing option '--why'"),
]


def test_what_makes_no_sense_changes_nothing(parked: Installation) -> None:
    before = len(parked.events())
    for options, said in NONSENSE:
        done = parked.here("parked", *options)
        assert done.code == 2, options
        assert said in done.err, options
    assert len(parked.events()) == before
