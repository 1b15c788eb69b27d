"""`bahi events` prints the log: exactly what is in it, in its order."""

import datetime as dt
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from domain.calendar import wall
from domain.events import AuditRead, StoplossTriggered, UserLoggedIn
from eventstore.envelope import NewEvent
from tests.cli.terminal import PROGRAM, Installation, environment, here, start


def test_json_is_the_log_event_by_event(day: Installation) -> None:
    real = day.events()
    told = day.here("events", "--json").objects
    assert [each["position"] for each in told] == list(range(1, len(real) + 1))
    for each, it in zip(told, real, strict=True):
        assert each["type"] == it.event.type
        assert each["class"] == it.event.priority
        assert each["version"] == it.version
        assert (each["strategy_id"] or 0, each["user_id"] or 0) == (it.strategy_id, it.user_id)
        assert (each["event_id"], each["causation_id"]) == (it.event_id, it.causation_id)
        assert dt.datetime.fromisoformat(each["recorded_at"]) == wall(it.recorded_at)
        assert each["recorded_at"].endswith("+05:30")


def test_prices_and_instants_of_an_event_are_exact(day: Installation) -> None:
    told = {each["position"]: each["data"] for each in day.here("events", "--json").objects}
    stops = [it for it in day.events() if isinstance(it.event, StoplossTriggered)]
    assert stops
    for it in stops:
        assert isinstance(it.event, StoplossTriggered)
        tick = told[it.position]["tick"]
        assert str(tick["price"]) == str(it.event.tick.price)
        assert dt.datetime.fromisoformat(tick["at"]) == wall(it.event.tick.at)


def test_the_table_has_a_line_for_every_event(day: Installation) -> None:
    real = day.events()
    head, *lines = day.here("events").lines
    assert head.split()[:3] == ["position", "time", "class"]
    assert len(lines) == len(real)
    for line, it in zip(lines, real, strict=True):
        assert line.split()[0] == str(it.position)
        assert it.event.type in line
        assert f"{it.strategy_id or '–'}/{it.user_id or '–'}" in line
        assert wall(it.recorded_at).isoformat(" ", "milliseconds") in line


def test_only_one_strategy_and_only_some_types(day: Installation) -> None:
    mine = [it for it in day.events() if it.strategy_id == 3]
    assert [each["position"] for each in day.here("events", "--strategy", 3, "--json").objects] == [
        it.position for it in mine
    ]
    some = day.here("events", "--type", "buy-triggered", "--type", "EXECUTE_BUY", "--json").objects
    counted = Counter(it.event.type for it in day.events())
    assert Counter(each["type"] for each in some) == {name: counted[name] for name in ("BUY_TRIGGERED", "EXECUTE_BUY")}


def test_a_range_of_positions(day: Installation) -> None:
    told = day.here("events", "--after", 10, "--until", "0-12", "--json").objects
    assert [each["position"] for each in told] == [11, 12]


@pytest.mark.parametrize("form", ["{:%H:%M:%S.%f}", "{:%Y-%m-%d %H:%M:%S.%f}", "{:%Y-%m-%dT%H:%M:%S.%f+05:30}"])
def test_a_range_of_times(day: Installation, form: str) -> None:
    real = day.events()
    moment = [it.recorded_at for it in real if not isinstance(it.event, AuditRead)][-100]
    told = day.here("events", "--after", form.format(wall(moment)), "--json").objects
    assert [each["position"] for each in told] == [it.position for it in real if it.recorded_at > moment]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--type", "BUY_TRIGERED"), "near: BUY_TRIGGERED"),
        (("--type", "PRICE_TICK"), "never in the log"),
        (("--strategy", "777"), "no strategy 777"),
        (("--after", "soon"), "'soon' is no moment"),
        (("--after", "25:00"), "'25:00' is no moment"),
        (("--after", "2026-02-30 10:00"), "is no moment"),
        (("--until", "7-12"), "no partition 7"),
        (("--until", "12", "--follow"), "--until makes no sense"),
        (("--after", "99999999999999999999"), "is no moment"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(day: Installation, options: tuple[str, ...], said: str) -> None:
    done = day.here("events", *options)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_an_entry_that_cannot_be_read_is_shown_and_the_others_too(own: Installation) -> None:
    last = len(own.events())
    own.redis.xadd("events:low", {"v": 0, "t": 1, "e": b"\xc1 no envelope"}, id=f"{last + 1}-0")
    own.redis.hset("position", "position", last + 1)
    told = own.here("events", "--json").objects
    assert told[-1]["position"] == last + 1
    assert told[-1]["type"] is None
    assert told[-1]["error"]
    assert told[-2]["type"] is not None
    assert "cannot be read" in own.here("events", "--after", last).out


def test_a_reader_that_stops_reading_ends_it_quietly(day: Installation) -> None:
    command = f"set -o pipefail; '{sys.executable}' '{PROGRAM}' events --json --home '{day.home}' | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=500, check=False, env=environment()
    )
    assert len(day.here("events", "--json").out) > 80_000  # more than a pipe holds
    assert len(done.stdout.splitlines()) == 1
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_follow_prints_what_comes_until_it_is_told_to_stop(
    own: Installation, number: signal.Signals, code: int
) -> None:
    last = len(own.events())
    with start("events", "--follow", "--json", "--after", last - 1, "--home", own.home) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        assert f'"position":{last},' in following.stdout.readline()
        own.append(NewEvent(UserLoggedIn(), user_id=3))
        assert f'"position":{last + 1},' in following.stdout.readline()
        following.send_signal(number)
        assert following.stderr.read() == ""
        assert following.wait(120) == code


def test_following_a_strategy_shows_only_its_events(own: Installation) -> None:
    last = len(own.events())
    with start("events", "-f", "--json", "--type", "USER_LOGGED_IN", "--home", own.home, "--after", last) as following:
        assert following.stdout is not None
        own.append(NewEvent(UserLoggedIn(), user_id=3))
        assert f'"position":{last + 1},' in following.stdout.readline()
        following.terminate()


def test_it_starts_the_servers_and_stops_them_again(at_rest: Path) -> None:
    done = here("events", "--json", home=at_rest)
    assert done.code == 0
    assert done.objects
    assert not (at_rest / "servers.json").exists()
    assert not (at_rest / "postgres" / "postmaster.pid").exists()
    again = here("events", "--json", home=at_rest)
    assert again.lines[:-1] == done.lines, "and the reading before"
