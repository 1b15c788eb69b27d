"""Looking makes nothing, finds the servers wherever they run, and leaves an engine alone."""

import asyncio
import datetime as dt
import fcntl
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import psutil
import pytest
from redis import Redis

from bahi.cli import reader
from bahi.clock import SystemClock
from bahi.roles.process import ROLES
from bahi.servers import attach_or_start
from bahi.servers.process import until
from domain.events import ForceStop, StrategyCreated, UserRegistered
from domain.strategy import evolve, initial
from domain.values import Config
from eventstore.envelope import NewEvent
from eventstore.open import open_log
from projections.runtime import DEFAULTS, encode_change
from tests.cli.terminal import bahi, here, start

READERS = [
    ("events",),
    ("events", "--follow"),
    ("replay",),
    ("verify",),
    ("rebuild",),
    ("explain", "123"),
    ("parked", "list"),
    ("parked", "retry", "--all", "--why", "x"),
]


def test_the_roles_are_those_of_the_process() -> None:
    assert tuple(ROLES) == reader.ROLES


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_a_mistyped_home_is_said_and_nothing_is_made(folder: Path, command: tuple[str, ...]) -> None:
    done = here(*command, home=folder / "mistyped")
    assert (done.code, done.out) == (2, "")
    assert f"there is no log in {folder / 'mistyped'}" in done.err
    assert list(folder.iterdir()) == []


def test_the_folder_of_a_demo_is_pointed_at(at_rest: Path, folder: Path) -> None:
    at_rest.rename(folder / "demo")
    done = here("events", home=folder)
    assert done.code == 2
    assert f"--home {folder / 'demo'}" in done.err


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_servers_that_are_away(folder: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    monkeypatch.setenv("BAHI_REDIS_URL", "redis://:hunter2@127.0.0.1:1/0")
    done = here(*command, home=folder / "none")
    assert (done.code, done.out) == (2, "")
    assert "no answer from Redis" in done.err
    assert "hunter2" not in done.err
    assert list(folder.iterdir()) == []


def test_a_redis_without_a_log(redis_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAHI_REDIS_URL", redis_url)
    with Redis.from_url(redis_url) as client:
        client.flushall()
        done = here("events", home=folder / "none")
        assert (done.code, client.dbsize()) == (2, 0)
    assert "there is no log in this Redis" in done.err


def test_a_folder_that_another_process_is_busy_with(at_rest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PATIENCE", 0.1)
    with (at_rest / "servers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4242\n")
        lock.flush()
        done = here("events", home=at_rest)
    assert (done.code, done.out) == (2, "")
    assert "in use by another bahi process (pid 4242)" in done.err


def test_servers_of_another_process_are_used_and_left_running(at_rest: Path) -> None:
    with attach_or_start(at_rest) as servers:
        assert bahi("events", "--json", "--home", at_rest).code == 0
        assert bahi("verify", "--home", at_rest).code == 0
        with Redis.from_url(servers.redis_url) as client:
            assert client.ping()


@pytest.fixture
def leftovers(at_rest: Path) -> Iterator[Path]:
    yield at_rest
    attach_or_start(at_rest).close()  # adopts what a process left, and stops it


def test_an_engine_that_has_come_to_work_on_our_servers_keeps_them(leftovers: Path) -> None:
    with attach_or_start(leftovers) as servers, Redis.from_url(servers.redis_url) as client:
        client.set("alive:worker", "1", ex=600)
    assert bahi("events", "--json", "--home", leftovers).code == 0
    pid = int((leftovers / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
    assert psutil.pid_exists(pid)


def test_a_running_engine_is_looked_at_and_left_alone(at_rest: Path) -> None:
    settings = {"BAHI_CALENDAR": "always-open", "BAHI_HTTP_PORT": "0"}
    with start("run", "--home", at_rest, **settings) as engine:
        assert engine.stderr is not None
        assert "bahi runs archive, worker" in engine.stderr.readline()
        with attach_or_start(at_rest) as servers, Redis.from_url(servers.redis_url) as client:
            assert until(lambda: client.exists(*(f"alive:{role}" for role in reader.ROLES)) == len(reader.ROLES), 90)
        roles = [each for each in here("doctor", "--json", home=at_rest).object["checks"] if each["name"] == "roles"]
        assert [each["state"] for each in roles] == ["ok"]
        assert here("rebuild", home=at_rest).code == 2
        assert here("verify", home=at_rest).code == 0
        assert here("events", "--type", "RUNTIME_STATE_LOADED", "--json", home=at_rest).objects
        engine.terminate()
        engine.communicate(timeout=500)
        assert engine.returncode == 0


def test_it_opens_fast(at_rest: Path) -> None:
    before = os.times()
    done = bahi("events", "--json", "--home", at_rest)
    after = os.times()
    assert done.code == 0
    # of the processor's time, whatever else the machine does: about 1 s, servers included
    assert after.children_user + after.children_system - before.children_user - before.children_system < 10


# --- partitions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def parted(redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A log of four partitions; user n has strategy n."""
    monkeypatch.setenv("BAHI_REDIS_URL", redis_url)
    monkeypatch.setenv("BAHI_DATABASE_URL", database_url)
    with Redis.from_url(redis_url) as client:
        client.flushall()

    async def fill() -> None:
        config = Config(
            symbol="NSE:INFY",
            quantity=1,
            buy_time=dt.time(9, 20),
            sell_time=dt.time(15, 10),
            stop_loss=Decimal("1400.05"),
        )
        for user in range(1, 6):
            log = await open_log(
                redis_url,
                clock=SystemClock(),
                defaults=DEFAULTS,
                partition=user % 4,
                partitions=4,
                allow_weak=True,
            )
            await log.append([NewEvent(UserRegistered(), user_id=user)])
            created = StrategyCreated(config=config)
            after = evolve(initial(user, user), created)
            write = encode_change(initial(user), after, None)
            await log.append([NewEvent(created, user, user)], expected=0, runtime=write)
            await log.append([NewEvent(ForceStop(reason="x"), user, user)])
            await log.aclose()

    asyncio.run(fill())
    return folder / "none"


def test_positions_say_their_partition(parted: Path) -> None:
    told = here("events", "--json", home=parted).objects
    assert sorted(each["position"] for each in told) == sorted(
        [f"{user % 4}-{n + (3 if user == 5 else 0)}" for user in range(1, 6) for n in (1, 2, 3)]
    )
    assert [each["recorded_at"] for each in told] == sorted(each["recorded_at"] for each in told)
    assert "1-6" in here("events", home=parted).out


def test_a_position_of_one_partition_shows_that_one(parted: Path) -> None:
    told = here("events", "--json", "--after", "1-4", home=parted).objects
    assert [each["position"] for each in told] == ["1-5", "1-6"]


def test_a_strategy_is_found_in_its_partition(parted: Path) -> None:
    assert here("replay", 3, "--json", home=parted).object["as_of"]["position"] == "3-3"
    assert here("replay", 3, "--at", "3-2", "--json", home=parted).object["version"] == 1
    assert here("replay", 3, "--at", "2", "--json", home=parted).object["version"] == 1
    assert [each["strategy_id"] for each in here("replay", "--json", home=parted).objects] == [1, 2, 3, 4, 5]
    elsewhere = here("replay", 3, "--at", "1-2", home=parted)
    assert elsewhere.code == 2
    assert "strategy 3 is not in the partition" in elsewhere.err
    which = here("replay", "--at", "2", home=parted)
    assert which.code == 2
    assert "0-2" in which.err


def test_all_partitions_are_verified(parted: Path) -> None:
    done = here("verify", "--json", home=parted)
    assert (done.code, done.object["events"], done.object["strategies"]) == (0, 15, 5)
    with Redis.from_url(os.environ["BAHI_REDIS_URL"]) as client:
        client.hset("{2}:runtime:2", "bought", 3)
    told = here("verify", "--json", home=parted)
    assert told.code == 1
    assert told.object["first_fault"]["position"] == "2-3"
