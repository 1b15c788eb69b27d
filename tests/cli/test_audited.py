"""Who reads the history at the command line is in the history; and it stays readable when that cannot be."""

import getpass
from pathlib import Path
from typing import Any

import pytest

from domain.events import AuditRead
from tests.cli.terminal import Installation, bahi


def readings(installation: Installation) -> list[AuditRead]:
    return [it.event for it in installation.events() if isinstance(it.event, AuditRead)]


def test_every_reading_of_others_history_is_recorded(own: Installation) -> None:
    events = own.events()
    tag = next(it.event.tag for it in events if it.event.type == "EXECUTE_BUY")  # type: ignore[attr-defined]
    commands: list[tuple[tuple[Any, ...], str, dict[str, str]]] = [
        (
            ("events", "--strategy", 1, "--type", "buy-triggered"),
            "events",
            {"strategy_id": "1", "type": "BUY_TRIGGERED"},
        ),
        (("replay", 1, "--at", 50), "replay", {"strategy_id": "1", "at": "50"}),
        (("replay", "--diff", 5, 50), "diff", {"from": "5", "to": "50"}),
        (("explain", tag), "order", {"order": tag}),
        (("verify",), "verify", {}),
        (("archive", "export", own.home / "out.jsonl.gz", "--unsigned", "--user", 1), "export", {"user_id": "1"}),
    ]
    for number, (command, what, filters) in enumerate(commands, 1):
        done = own.here(*command, "--json")
        assert done.code == 0, done.err
        assert "recorded" not in done.err
        read = readings(own)
        assert len(read) == number
        assert (read[-1].by, read[-1].what) == ("cli", what)
        assert read[-1].filters["os_user"] == getpass.getuser()
        assert filters.items() <= read[-1].filters.items()


def test_a_reading_does_not_show_itself(own: Installation) -> None:
    before = own.events()
    assert [each["position"] for each in own.here("events", "--json").objects] == [it.position for it in before]
    assert own.here("replay", 1, "--json").object["as_of"]["position"] == len(before) + 1, "the reading before it"
    assert len(own.events()) == len(before) + 2


def test_a_stopped_installation_is_read_and_remembers_it(at_rest: Path) -> None:
    assert bahi("replay", 1, "--at", 50, "--home", at_rest).code == 0
    told = bahi("events", "--type", "AUDIT_READ", "--json", "--home", at_rest)
    assert [each["data"]["what"] for each in told.objects] == ["replay"]


@pytest.mark.parametrize("fault", ["another epoch", "full", "behind its archive"])
def test_what_cannot_be_recorded_is_said_and_read_all_the_same(own: Installation, fault: str) -> None:
    if fault == "another epoch":
        own.redis.set("epoch", "restoring:x")
    elif fault == "full":
        own.redis.config_set("maxmemory", 1)
    else:  # a Redis of an older backup: what is appended would take the place of what was lost
        last = len(own.events())
        own.redis.hset("position", "position", last - 5)
    count = sum(own.redis.xlen(f"events:{name}") for name in ("critical", "high", "medium", "low"))
    done = own.here("events", "--until", 20, "--json")
    assert (done.code, len(done.objects)) == (0, 20)
    assert "this reading could not be recorded" in done.err
    assert own.here("verify").code in (0, 1)
    assert sum(own.redis.xlen(f"events:{name}") for name in ("critical", "high", "medium", "low")) == count
