"""Sealed boxes, the rotation of keys, and canaries: secrets that are looked for wherever they must not be."""

import io
import json
import logging
from typing import Any

import pytest
import structlog
from prometheus_client import generate_latest
from redis.asyncio import Redis
from sqlalchemy import select, text, update

from api.security.box import SealBroken, SecretBox
from api.security.keys import SecretKeyError, SecretKeys, UnknownKey
from bahi.database.accounts import FIELD, SqlAccounts, rotate_secrets
from bahi.database.tables import broker_accounts, metadata
from tests.api.conftest import OpenWorld
from tests.api.world import PASSWORD, STRATEGY, World

OLD = "the old key, which was random once upon a time"
NEW = "the new key, which is random in these days too"


def box(*keys: str) -> SecretBox:
    return SecretBox(SecretKeys(keys))


# --- the box ---------------------------------------------------------------------------------------------------------


def test_what_is_sealed_opens_for_its_user_and_field_only() -> None:
    sealed = box(OLD).seal(b"secret", user_id=7, field="api_key")
    assert b"secret" not in sealed
    assert box(OLD).open(sealed, user_id=7, field="api_key") == b"secret"
    for user_id, field in ((8, "api_key"), (7, "api_secret"), (-7, "api_key"), (7, "")):
        with pytest.raises(SealBroken, match=f"of user {user_id} does not open"):
            box(OLD).open(sealed, user_id=user_id, field=field)


def test_user_and_field_cannot_be_shifted_into_each_other() -> None:
    sealed = box(OLD).seal(b"secret", user_id=0x61, field="b")
    with pytest.raises(SealBroken):
        box(OLD).open(sealed, user_id=0x6162, field="")


def test_every_sealing_is_another_one() -> None:
    assert len({box(OLD).seal(b"secret", user_id=7, field="f") for _ in range(100)}) == 100


def test_every_bit_of_a_box_matters() -> None:
    sealed = box(OLD).seal(b"secret", user_id=7, field="f")
    for position in range(len(sealed)):
        for damaged in (sealed[:position], bytes([*sealed[:position], sealed[position] ^ 1, *sealed[position + 1 :]])):
            with pytest.raises((SealBroken, UnknownKey)):
                box(OLD).open(damaged, user_id=7, field="f")


def test_an_old_key_still_opens_and_the_newest_one_seals() -> None:
    sealed = box(OLD).seal(b"secret", user_id=7, field="f")
    both = box(NEW, OLD)
    assert both.open(sealed, user_id=7, field="f") == b"secret"
    again = both.reseal(sealed, user_id=7, field="f")
    assert (both.key_id(sealed), both.key_id(again)) == (box(OLD).newest, box(NEW).newest)
    assert both.reseal(again, user_id=7, field="f") == again
    assert box(NEW).open(again, user_id=7, field="f") == b"secret"


def test_a_removed_key_is_named_in_a_clear_error() -> None:
    sealed = box(OLD).seal(b"secret", user_id=7, field="f")
    with pytest.raises(UnknownKey, match=rf"'{box(OLD).newest}'.*not in BAHI_SECRET_KEYS.*put that key back") as error:
        box(NEW).open(sealed, user_id=7, field="f")
    assert OLD not in str(error.value)


def test_unusable_keys_are_refused_without_showing_them() -> None:
    with pytest.raises(SecretKeyError, match="empty"):
        SecretKeys([])
    with pytest.raises(SecretKeyError, match="key 2 of BAHI_SECRET_KEYS has 9 characters") as error:
        SecretKeys([OLD, "too short"])
    assert "too short" not in str(error.value)
    assert OLD not in repr(SecretKeys([OLD]))
    assert len(SecretKeys([SecretKeys.generate()]).subkey("anything")) == 32


# --- in the database -------------------------------------------------------------------------------------------------


async def _connect(world: World, accounts: SqlAccounts, user_id: int) -> None:
    await accounts.connect(
        user_id,
        broker="paper",
        broker_user_id=f"P{user_id}",
        credentials={"api_key": f"key of {user_id}"},
        fingerprint="f",
        egress_proxy=None,
    )


async def test_a_row_moved_to_another_user_does_not_open(world: World) -> None:
    alice, bob = (await world.trader()).user_id, (await world.trader()).user_id
    accounts = SqlAccounts(world.engine, box(OLD))
    for user_id in (alice, bob):
        await _connect(world, accounts, user_id)
    assert await accounts.credentials(alice) == {"api_key": f"key of {alice}"}
    async with world.engine.begin() as connection:
        stolen = await connection.scalar(select(broker_accounts.c.secrets).where(broker_accounts.c.user_id == alice))
        await connection.execute(update(broker_accounts).where(broker_accounts.c.user_id == bob).values(secrets=stolen))
    with pytest.raises(SealBroken, match=f"{FIELD} of user {bob}"):
        await accounts.credentials(bob)


async def test_rotation_reseals_everything_once_and_then_the_old_key_may_go(world: World) -> None:
    users = [(await world.trader()).user_id for _ in range(7)]
    for user_id in users:
        await _connect(world, SqlAccounts(world.engine, box(OLD)), user_id)
    assert await rotate_secrets(world.engine, box(NEW, OLD), batch=3) == 7
    assert await rotate_secrets(world.engine, box(NEW, OLD), batch=3) == 0
    for user_id in users:
        assert await SqlAccounts(world.engine, box(NEW)).credentials(user_id) == {"api_key": f"key of {user_id}"}


async def test_rotation_without_the_old_key_says_which_one_is_missing_and_changes_nothing(world: World) -> None:
    user_id = (await world.trader()).user_id
    await _connect(world, SqlAccounts(world.engine, box(OLD)), user_id)
    with pytest.raises(UnknownKey, match=box(OLD).newest):
        await rotate_secrets(world.engine, box(NEW))
    assert await SqlAccounts(world.engine, box(OLD)).credentials(user_id) == {"api_key": f"key of {user_id}"}


async def test_an_expired_session_gives_no_credentials(world: World) -> None:
    user_id = (await world.trader()).user_id
    accounts = SqlAccounts(world.engine, box(OLD))
    await _connect(world, accounts, user_id)
    assert await accounts.connected() == [user_id]
    await accounts.expired(user_id)
    assert (await accounts.connected(), await accounts.credentials(user_id)) == ([], None)


# --- canaries --------------------------------------------------------------------------------------------------------

CANARIES = {
    "password": "canary-password-4f1d",
    "api_key": "canary-api-key-93ab",
    "api_secret": "canary-api-secret-c07e",
    "access_token": "canary-access-token-1b2c",
    "request_token": "canary-request-token-77f0",
}


async def test_no_secret_is_found_where_it_does_not_belong(
    opened: OpenWorld, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    lines = io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(lines), cache_logger_on_first_use=False)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.WARNING, "httpx")  # that is the test's own client, which shows what it asks for
    try:
        async with opened() as world:
            seen = await _use_everything(world)
            seen |= {
                "metrics": generate_latest(world.deps.registry),
                "objects": repr((world.deps, world.deps.tokens, world.deps.keys, world.engine)).encode(),
                "database": await _dump(world),
            }
            tokens = {name: world.traders[0].tokens[name] for name in ("access_token", "refresh_token")}
    finally:
        structlog.reset_defaults()
    seen |= {"log lines": lines.getvalue().encode(), "logging": caplog.text.encode(), "redis": await _dump_redis(redis)}
    assert b"login refused" in seen["log lines"], "the lines are really captured"
    for place, content in seen.items():
        for name, canary in CANARIES.items():
            assert canary.encode() not in content, f"{name} in {place}"
        for name, token in tokens.items():
            if place != "register":
                assert token.encode() not in content, f"{name} in {place}"


async def _use_everything(world: World) -> dict[str, bytes]:
    email, password = "canary@example.com", CANARIES["password"]
    alice = await world.trader(email, password)
    broker = {"broker": "paper"} | {name: CANARIES[name] for name in ("api_key", "api_secret", "access_token")}
    bad = {**broker, "quantity": "x", CANARIES["request_token"][:5]: 1}
    answers: dict[str, Any] = {
        "wrong login": await world.client.post("/auth/login", json={"email": email, "password": password + "x"}),
        "weak": await world.client.post("/auth/register", json={"email": password + "@a.example", "password": "x"}),
        "refused broker": await alice.post("/broker/connect", bad),
        "kite": await alice.post("/broker/connect", broker | {"broker": "kite"}),
        "broker": await alice.post(
            "/broker/connect", broker | {"request_token": CANARIES["request_token"]}, key="connect-1"
        ),
        "broker again": await alice.get("/broker"),
        "create": await alice.post("/strategy/create", STRATEGY),
        "query": await alice.get("/broker", params={"request_token": CANARIES["request_token"]}),
        "malformed": await alice.client.post(
            "/broker/connect", content=b'{"api_key": "' + CANARIES["api_key"].encode()
        ),
    }
    assert answers["broker"].status_code == 200
    assert answers["malformed"].status_code == 400
    return {name: answer.content + str(answer.headers).encode() for name, answer in answers.items()}


async def _dump(world: World) -> bytes:
    """Every row of every table, as text and as bytes."""
    rows = []
    async with world.engine.connect() as connection:
        for table in metadata.sorted_tables:
            found = (await connection.execute(select(table))).all()
            rows += [
                repr(tuple(bytes(cell) if isinstance(cell, memoryview) else cell for cell in row)) for row in found
            ]
        rows.append(repr((await connection.execute(text("SELECT query FROM pg_stat_activity"))).all()))
    assert any("canary@example.com" in row for row in rows)
    return "\n".join(rows).encode()


async def _dump_redis(redis: Any) -> bytes:
    """Every key and value: streams entry by entry, whatever compression would hide."""
    parts: list[bytes] = []
    for key in await redis.keys("*"):
        parts.append(key)
        match await redis.type(key):
            case b"stream":
                for _, fields in await redis.xrange(key):
                    parts += [name + value for name, value in fields.items()]
            case b"hash":
                parts += [name + value for name, value in (await redis.hgetall(key)).items()]
            case b"set":
                parts += list(await redis.smembers(key))
            case b"string":
                parts.append(await redis.get(key))
            case b"list":
                parts += list(await redis.lrange(key, 0, -1))
            case b"zset":
                parts += list(await redis.zrange(key, 0, -1))
            case other:
                raise AssertionError(f"{key!r} is a {other!r}: dump it too")
    dumped = b"\n".join(parts)
    assert b"BROKER_KEY_SUBMITTED" in dumped
    return dumped


async def test_passwords_are_stored_as_argon2id(world: World) -> None:
    await world.trader(password=PASSWORD)
    dumped = await world_users(world)
    assert all(row["password_hash"].startswith("$argon2id$") for row in dumped)
    assert PASSWORD not in json.dumps(dumped)


async def world_users(world: World) -> list[dict[str, Any]]:
    async with world.engine.connect() as connection:
        rows = await connection.execute(text("SELECT email, password_hash, role FROM users"))
        return [dict(row._mapping) for row in rows]
