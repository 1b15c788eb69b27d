"""The sessions of broker accounts as the engine sees them, and hints between processes, on real servers."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import event, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.security.box import SecretBox
from api.security.keys import SecretKeys
from bahi.database.accounts import SqlAccounts, rotate_secrets
from bahi.database.engine import create_engine
from bahi.database.tables import broker_accounts, users
from bahi.hints import CHANNEL, Hints
from bahi.sessions import BrokerSessions
from brokers.kite.account import KiteAccount
from domain.calendar import instant
from domain.events import BrokerAuthFailed
from domain.values import HOUR, SECOND, Instant
from eventstore.clients import log_client
from eventstore.errors import LogUnavailable
from eventstore.log import EventLog
from simulation.clock import VirtualClock
from tests.one_database import emptied, one_database  # noqa: F401 (fixtures)
from tests.sources.world import history, open_test_log

MORNING = instant(dt.date(2026, 7, 1), dt.time(8, 30))
SIX = instant(dt.date(2026, 7, 2), dt.time(6))
KEY = "a key of the tests, random enough for them"
NEXT_KEY = "another key of the tests, just as random"
PROXY = "http://me:proxy-password@10.0.0.9:3128"


class CountingBox(SecretBox):
    """Counts what it opens."""

    opened = 0

    def open(self, blob: bytes, *, user_id: int, field: str) -> bytes:
        self.opened += 1
        return super().open(blob, user_id=user_id, field=field)


class World:
    def __init__(self, engine: AsyncEngine, log: EventLog, clock: VirtualClock) -> None:
        self.engine = engine
        self.log = log
        self.clock = clock
        self.box = CountingBox(SecretKeys([KEY]))
        self.accounts = SqlAccounts(engine, self.box)
        self.sessions = BrokerSessions(engine, self.box, clock, log_of=lambda user_id: log)

    async def connect(
        self, user_id: int, *, broker: str = "kite", given: str = "token", expires_at: Instant | None = SIX, **more: Any
    ) -> None:
        async with self.engine.begin() as connection:
            known = await connection.scalar(text("SELECT count(*) FROM users WHERE id = :id"), {"id": user_id})
            if not known:
                await connection.execute(
                    insert(users).values(id=user_id, email=f"user{user_id}@example.com", password_hash="x")
                )
        options: dict[str, Any] = {
            "broker_user_id": f"AB{user_id}",
            "credentials": {"api_key": f"key{user_id}", "api_secret": "secret", "access_token": given},
            "fingerprint": "f",
            "egress_proxy": PROXY,
        }
        await self.accounts.connect(user_id, broker=broker, expires_at=expires_at, **(options | more))

    async def later(self) -> None:
        """The view is old enough to be read again."""
        self.clock.set(self.clock.now() + 2 * SECOND)

    async def soon(self, user_id: int) -> KiteAccount:
        """The account as soon as the view has it: after an outage the first reading is not waited for."""
        async with asyncio.timeout(60):
            while True:
                await self.later()
                with suppress(LogUnavailable):
                    if (found := await self.sessions.kite(user_id)) is not None:
                        return found
                await asyncio.sleep(0.01)  # the reading goes on meanwhile, and no session ends of old age

    async def account(self, user_id: int) -> KiteAccount:
        found = await self.sessions.kite(user_id)
        assert found is not None
        return found


@pytest.fixture
async def world(redis: Redis, redis_url: str, database_url: str) -> AsyncIterator[World]:
    clock = VirtualClock(MORNING)
    engine = create_engine(database_url, size=3)
    log = await open_test_log(redis_url, clock)
    world = World(engine, log, clock)
    yield world
    await world.sessions.aclose()
    await log.aclose()
    await engine.dispose()


@asynccontextmanager
async def database_away(engine: AsyncEngine) -> AsyncIterator[None]:
    """New connections fail, and the ones there were are gone."""
    from sqlalchemy.exc import OperationalError

    def refuse(*_: Any) -> None:
        raise OperationalError("connect", {}, Exception("the database is away"))

    await engine.dispose()
    event.listen(engine.sync_engine, "do_connect", refuse)
    try:
        yield
    finally:
        event.remove(engine.sync_engine, "do_connect", refuse)


# --- the view --------------------------------------------------------------------------------------------------------


async def test_a_kite_account_is_what_was_connected_with_its_whole_proxy(world: World) -> None:
    await world.connect(7)
    account = await world.account(7)
    assert (account.user_id, account.kite_user_id, account.api_key) == (7, "AB7", "key7")
    assert (account.access_token, account.egress_proxy, account.expires_at) == ("token", PROXY, SIX)
    row = await world.accounts.get(7)
    assert row is not None
    assert row.egress_proxy == "http://***@10.0.0.9:3128"
    assert row.connected_at is not None
    assert "token" not in repr(account)


async def test_users_are_told_apart_by_broker(world: World) -> None:
    await world.connect(7)
    await world.connect(8, broker="paper", expires_at=None)
    assert await world.sessions.connected("kite") == {7}
    assert await world.sessions.connected("paper") == {8}
    assert [account.user_id for account in await world.sessions.all_kite()] == [7]
    assert await world.sessions.kite(8) is None
    assert await world.sessions.kite(9) is None


async def test_a_session_ends_at_its_time_without_anybody_writing_it(world: World) -> None:
    await world.connect(7)
    await world.connect(8, broker="paper", expires_at=None)
    assert await world.sessions.lasts(7, SIX - 1)
    assert not await world.sessions.lasts(7, SIX)
    assert await world.sessions.lasts(8, SIX + 1000 * HOUR)
    world.clock.set(SIX - 1)
    assert await world.sessions.kite(7) is not None
    world.clock.set(SIX)
    assert await world.sessions.kite(7) is None
    assert await world.sessions.connected("kite") == frozenset()
    assert await world.sessions.all_kite() == []
    assert await world.sessions.connected("paper") == {8}


async def test_credentials_are_opened_when_they_are_new_and_never_again(world: World) -> None:
    await world.connect(7)
    await world.connect(8, broker="paper", expires_at=None)
    for _ in range(5):
        await world.account(7)
        await world.later()
    assert world.box.opened == 1
    await world.connect(7, given="the next one")
    await world.later()
    assert (await world.account(7)).access_token == "the next one"
    assert world.box.opened == 2


async def test_a_rotation_of_the_keys_is_the_same_session(world: World) -> None:
    await world.connect(7)
    before = await world.account(7)
    both = SecretBox(SecretKeys([NEXT_KEY, KEY]))
    sessions = BrokerSessions(world.engine, both, world.clock)
    assert await sessions.kite(7) == before
    assert await rotate_secrets(world.engine, both) == 1
    await world.later()
    assert await sessions.kite(7) == before
    await sessions.aclose()


async def test_what_does_not_open_is_one_users_trouble(world: World) -> None:
    await world.connect(7)
    await world.connect(8)
    async with world.engine.begin() as connection:
        await connection.execute(
            update(broker_accounts).where(broker_accounts.c.user_id == 7).values(secrets=b"no seal of ours")
        )
    assert await world.sessions.connected("kite") == {8}
    assert await world.sessions.kite(7) is None
    await world.connect(7)
    await world.later()
    assert await world.sessions.connected("kite") == {7, 8}


async def test_a_second_is_not_asked_twice(world: World) -> None:
    asked: list[str] = []
    event.listen(world.engine.sync_engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    for _ in range(10):
        await world.sessions.connected("kite")
        await world.sessions.kite(7)
    assert sum("broker_accounts" in one for one in asked) == 1
    await world.later()
    await asyncio.gather(*(world.sessions.kite(user_id) for user_id in range(50)))
    assert sum("broker_accounts" in one for one in asked) == 2


# --- outages ---------------------------------------------------------------------------------------------------------


async def test_the_last_answer_stands_while_the_database_is_away(world: World) -> None:
    await world.connect(7)
    before = await world.account(7)
    async with database_away(world.engine):
        for _ in range(3):
            await world.later()
            assert await world.sessions.kite(7) == before
            assert await world.sessions.connected("kite") == {7}
        world.clock.set(SIX)
        assert await world.sessions.kite(7) is None, "its time is known without the database"
    await world.connect(7, given="after", expires_at=SIX + 24 * HOUR)
    assert (await world.soon(7)).access_token == "after"


async def test_nobody_is_taken_for_disconnected_whose_account_was_never_read(world: World) -> None:
    await world.connect(7)
    async with database_away(world.engine):
        with pytest.raises(LogUnavailable, match="cannot be read"):
            await world.sessions.kite(7)
        with pytest.raises(LogUnavailable):
            await world.sessions.connected("kite")
    assert await world.soon(7) is not None


async def test_a_database_that_hangs_holds_nobody_up_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.connect(7)
    before = await world.account(7)
    monkeypatch.setattr(world.sessions, "PATIENCE", 0.01)
    async with world.engine.begin() as connection:
        await connection.execute(text("LOCK TABLE broker_accounts IN ACCESS EXCLUSIVE MODE"))
        for _ in range(3):
            await world.later()
            assert await world.sessions.kite(7) == before


# --- when Kite ends a session ----------------------------------------------------------------------------------------


async def ends(world: World) -> list[Any]:
    return [(one.user_id, one.event) for one in await history(world.log, BrokerAuthFailed)]


async def test_an_ended_session_is_over_at_once_and_told_of_once(world: World) -> None:
    await world.connect(7)
    await world.connect(8)
    account = await world.account(7)

    async def everybody_says_so() -> None:
        world.sessions.expire(account, "Token is invalid or has expired.")

    await asyncio.gather(*(everybody_says_so() for _ in range(20)))
    assert await world.sessions.kite(7) is None
    assert await world.sessions.connected("kite") == {8}
    await world.sessions.settled()
    row = await world.accounts.get(7)
    assert row is not None
    assert row.status == "expired"
    for _ in range(3):
        await world.later()
        assert await world.sessions.kite(7) is None
        world.sessions.expire(account)
    await world.sessions.settled()
    assert await ends(world) == [(7, BrokerAuthFailed(broker="kite", reason="Token is invalid or has expired."))]


async def test_two_processes_tell_of_it_once(world: World) -> None:
    await world.connect(7)
    other = BrokerSessions(world.engine, world.box, world.clock, log_of=lambda user_id: world.log)
    account, same = await world.account(7), await other.kite(7)
    assert same == account
    world.sessions.expire(account)
    other.expire(account)
    await asyncio.gather(world.sessions.settled(), other.settled())
    assert len(await ends(world)) == 1
    await other.aclose()


async def test_the_session_begun_since_is_left_alone(world: World) -> None:
    await world.connect(7)
    old = await world.account(7)
    await world.connect(7, given="the next one")
    world.sessions.expire(old)  # by a view that does not know the new one yet
    await world.sessions.settled()
    row = await world.accounts.get(7)
    assert row is not None
    assert row.status == "connected"
    await world.later()
    assert (await world.account(7)).access_token == "the next one"
    world.sessions.expire(old)
    await world.sessions.settled()
    assert (await world.account(7)).access_token == "the next one"
    assert len(await ends(world)) == 1, "the old session's end was told once"


async def test_each_session_that_ends_is_told_of(world: World) -> None:
    for number in (1, 2):
        await world.connect(7, given=f"token {number}")
        await world.later()
        world.sessions.expire(await world.account(7))
        await world.sessions.settled()
        await world.later()
        assert await world.sessions.kite(7) is None
    assert len(await ends(world)) == 2


async def test_an_end_during_an_outage_counts_at_once_and_is_written_afterwards(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bahi.sessions.BACK_OFF", (0.01,))
    await world.connect(7)
    account = await world.account(7)
    async with database_away(world.engine):
        world.sessions.expire(account)
        for _ in range(3):
            assert await world.sessions.kite(7) is None
            await world.later()
        assert await ends(world) == []
    async with asyncio.timeout(60):
        await world.sessions.settled()
    row = await world.accounts.get(7)
    assert row is not None
    assert row.status == "expired"
    assert len(await ends(world)) == 1
    await world.later()
    assert await world.sessions.kite(7) is None


async def test_a_view_read_before_the_end_was_written_does_not_revive_the_session(world: World) -> None:
    await world.connect(7)
    account = await world.account(7)
    async with world.engine.begin() as connection:  # the row is locked: the end cannot be written yet
        await connection.execute(text("SELECT 1 FROM broker_accounts WHERE user_id = 7 FOR UPDATE"))
        world.sessions.expire(account)
        for _ in range(3):
            await world.later()
            assert await world.sessions.kite(7) is None
    await world.sessions.settled()
    await world.later()
    assert await world.sessions.kite(7) is None


async def test_a_forgotten_account_is_gone_and_not_told_of(world: World) -> None:
    await world.connect(7)
    account = await world.account(7)
    await world.accounts.disconnect(7)
    await world.later()
    assert await world.sessions.kite(7) is None
    world.sessions.expire(account)
    await world.sessions.settled()
    assert await ends(world) == []


# --- hints -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def processes(redis: Redis, redis_url: str) -> AsyncIterator[list[Hints]]:
    """Two processes, as far as Redis can tell."""
    clients = [log_client(redis_url) for _ in range(2)]
    hints = [Hints(client) for client in clients]
    yield hints
    for each in hints:
        await each.aclose()
    for client in clients:
        await client.aclose()


async def heard(listener: AsyncIterator[str], count: int) -> list[str]:
    async with asyncio.timeout(60):
        return [await anext(listener) for _ in range(count)]


async def test_a_hint_reaches_its_users_listeners_in_every_process(processes: list[Hints]) -> None:
    one, other = processes
    mine, also_mine, theirs, far = one.listen(7), one.listen(7), one.listen(8), other.listen(7)
    for listener in (mine, also_mine, theirs, far):
        assert await heard(listener, 1) == [""], "what happened before is unknown"
    await other.publish(7, "1953341975595868160")
    await one.publish(8, "18")
    await one.publish(7, "")
    await one.publish(7, "17")
    assert await heard(mine, 3) == ["1953341975595868160", "", "17"]
    assert await heard(also_mine, 3) == await heard(far, 3)
    assert await heard(theirs, 1) == ["18"]


async def test_a_process_has_one_subscription_however_many_listen(processes: list[Hints], redis: Redis) -> None:
    listeners = [processes[0].listen(user_id) for user_id in range(20)]
    for listener in listeners:
        await heard(listener, 1)
    ((_, subscribers),) = await redis.pubsub_numsub(CHANNEL)
    assert subscribers == 1


async def test_after_a_reconnect_some_may_have_been_missed(processes: list[Hints], redis: Redis) -> None:
    listener = processes[0].listen(7)
    assert await heard(listener, 1) == [""]
    for _ in range(3):
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert await heard(listener, 1) == [""]
    await processes[1].publish(7, "17")
    assert await heard(listener, 1) == ["17"]


async def test_what_nobody_understands_is_passed_over(processes: list[Hints], redis: Redis) -> None:
    listener = processes[0].listen(7)
    await heard(listener, 1)
    for garbage in (b"", b"\xc1", b"garbage", b"\x92\x07\x11", b"\x93\x07\xa1x\xa1y"):
        await redis.publish(CHANNEL, garbage)
    await processes[1].publish(7, "17")
    assert await heard(listener, 1) == ["17"]


async def test_who_does_not_listen_is_told_that_hints_were_missed(
    processes: list[Hints], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bahi.hints.MOST_WAITING", 5)
    slow, quick = processes[0].listen(7), processes[0].listen(7)
    await heard(slow, 1)
    await heard(quick, 1)
    for number in range(8):
        await processes[1].publish(7, str(number))
        assert await heard(quick, 1) == [str(number)]
    assert await heard(slow, 3) == ["", "6", "7"]


async def test_a_redis_that_is_away_loses_the_hint_and_says_so(redis_url: str) -> None:
    client = log_client("redis://127.0.0.1:1")
    with pytest.raises(LogUnavailable):
        await Hints(client).publish(7, "17")
    await client.aclose()


async def test_listeners_that_end_leave_nothing_behind(processes: list[Hints]) -> None:
    hints = processes[0]
    listener: Any = hints.listen(7)
    await heard(listener, 1)
    await listener.aclose()
    assert hints._listeners == {}
