"""`bahi doctor` looks at everything, makes nothing, shows no secret."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from domain.events import EventParked
from eventstore.envelope import NewEvent
from tests.cli.terminal import Done, Installation, here, start


@pytest.fixture(autouse=True)
def _a_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAHI_HTTP_PORT", "0")


def checks(done: Done) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in done.object["checks"]}


def test_a_healthy_installation(day: Installation) -> None:
    done = day.here("doctor", "--json")
    found = checks(done)
    assert done.code == 0, found
    assert done.object["ok"] is True
    for name in ("python", "settings", "home", "redis", "database", "schema", "log", "clock", "archive", "secret keys"):
        assert found[name]["state"] == "ok", found[name]
    assert found["roles"]["state"] == "skipped"
    assert f"{len(day.events())} events" in found["log"]["found"]
    table = day.here("doctor")
    assert table.code == 0
    assert "✓" in table.out
    assert "all is well" in table.out


def test_no_secret_is_shown(day: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    key = (day.home / "secret-keys").read_text().strip()
    assert key not in day.here("doctor").out + day.here("doctor", "--json").out
    monkeypatch.setenv("BAHI_SECRET_KEYS", "k" * 20 + "0123456789abcdefghij")
    monkeypatch.setenv("BAHI_REDIS_URL", "redis://:hunter2-hunter2@127.0.0.1:1/0")
    monkeypatch.setenv("BAHI_DATABASE_URL", "postgresql+psycopg://u:hunter2-hunter2@127.0.0.1:1/x")
    for options in ((), ("--json",)):
        done = day.here("doctor", *options)
        assert done.code == 1
        assert "hunter2" not in done.out + done.err
        assert "0123456789abcdefghij" not in done.out + done.err


def test_nothing_is_made_where_nothing_is(folder: Path) -> None:
    done = here("doctor", "--json", home=folder / "not" / "yet")
    assert done.code == 0
    assert checks(done)["log"]["state"] == "skipped"
    assert list(folder.iterdir()) == []


def test_a_home_that_is_no_folder(folder: Path) -> None:
    (folder / "file").write_text("")
    done = here("doctor", "--json", home=folder / "file" / "home")
    assert done.code == 1
    assert checks(done)["home"]["state"] == "failed"


def test_settings_that_cannot_be_used(day: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAHI_PARTITIONS", "many")
    done = day.here("doctor", "--json")
    assert done.code == 1
    assert "BAHI_PARTITIONS" in checks(done)["settings"]["found"]


def test_what_is_wrong_is_found_one_by_one(own: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    own.append(NewEvent(EventParked(parked="high/31", group="workers", error="x")))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("BAHI_HTTP_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("BAHI_PARTITIONS", "4")
        own.redis.config_set("appendfsync", "everysec")
        own.redis.set("alive:worker", "1", ex=600)
        (own.home / "secret-keys").chmod(0o644)
        own.sql("UPDATE alembic_version SET version_num = '0000'")
        own.sql("UPDATE epochs SET epoch = 'ANOTHER'")
        found = checks(own.here("doctor", "--json"))
    failed = {name for name, check in found.items() if check["state"] == "failed"}
    assert failed == {"redis", "schema", "partitions", "roles", "secret keys", "archive", "port"}
    assert "appendfsync is everysec, must be always" in found["redis"]["found"]
    assert "BAHI_PARTITIONS=1" in found["partitions"]["todo"]
    assert all(found[name]["todo"] for name in failed)


def test_parked_events_and_a_lag_are_worth_a_look(own: Installation) -> None:
    own.append(NewEvent(EventParked(parked="high/31", group="workers", error="x")))
    found = checks(own.here("doctor", "--json"))
    assert found["parked"]["state"] == "warning"
    assert "1 event behind" in found["archive"]["found"]


def test_a_clock_behind_the_log(own: Installation) -> None:
    own.redis.hset("position", "recorded_at", 4_102_444_800_000_000)
    done = own.here("doctor", "--json")
    assert done.code == 1
    assert "in the future" in checks(done)["clock"]["found"]


def test_a_message_that_nobody_finishes(own: Installation) -> None:
    own.redis.set("alive:worker", "1", ex=600)
    last = len(own.events())
    own.redis.xgroup_setid("events:high", "workers", "0")
    own.redis.xreadgroup("workers", "dead", {"events:high": ">"}, count=1)
    held = (own.redis.xrange("events:high", count=1) or [])[0][0]
    own.redis.execute_command("XCLAIM", "events:high", "workers", "dead", 0, held, "IDLE", 60_000)  # type: ignore[no-untyped-call]
    found = checks(own.here("doctor", "--json"))
    assert found["lanes"]["state"] == "failed"
    assert "1 in hand" in found["lanes"]["found"]
    assert len(own.events()) == last


def test_kite_is_looked_at_when_prices_are_its(day: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    with start("kite-sim", "--port", 0, "--ws-port", 0, "--json") as sim:
        assert sim.stdout is not None
        monkeypatch.setenv("BAHI_KITE_ROOT", json.loads(sim.stdout.readline())["root"])
        found = checks(day.here("doctor", "--json"))
        sim.terminate()
        sim.wait(120)
    assert found["kite"]["state"] == "ok", found["kite"]
    assert found["kite sessions"]["state"] == "skipped"
    assert found["instruments"]["state"] == "warning"
    assert "none yet" in found["instruments"]["found"]
    away = day.here("doctor", "--json")
    assert away.code == 1
    assert checks(away)["kite"]["state"] == "failed"
