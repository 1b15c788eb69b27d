"""Register, log in, refresh, log out; and what happens to those who try what they may not."""

import asyncio
import base64
import json
import time
from typing import Any

import jwt
import pytest
from argon2 import PasswordHasher
from redis.asyncio import Redis
from sqlalchemy import select, update

from api.rate import AuthLimits
from api.security.keys import SecretKeys
from api.security.passwords import Passwords
from api.security.tokens import ACCESS_SECONDS
from bahi.database.tables import sessions, users
from domain.events import UserLoggedIn, UserRegistered
from tests.api.conftest import OpenWorld
from tests.api.world import KEY, PASSWORD, Trader, World, problem, rules


async def test_a_user_registers_and_is_logged_in(world: World) -> None:
    answer = await world.client.post("/auth/register", json={"email": "Asha@Example.com", "password": PASSWORD})
    assert answer.status_code == 201
    body = answer.json()
    assert body.keys() == {"user_id", "access_token", "refresh_token", "token_type", "expires_in"}
    assert (body["token_type"], body["expires_in"]) == ("Bearer", ACCESS_SECONDS)
    assert answer.headers["cache-control"] == "no-store"
    (registered,) = await world.history(UserRegistered)
    assert (registered.user_id, registered.version) == (body["user_id"], 0)
    assert registered.correlation_id == answer.headers["x-request-id"]


async def test_the_email_is_one_account_however_it_is_written(world: World, alice: Trader) -> None:
    again = {"email": "ALICE@example.com", "password": PASSWORD}
    problem(await world.client.post("/auth/register", json=again), 409, "EMAIL_TAKEN")
    answer = await world.client.post("/auth/login", json=again)
    assert answer.json()["user_id"] == alice.user_id
    assert [one.user_id for one in await world.history(UserLoggedIn)] == [alice.user_id]


async def test_two_registrations_at_once_make_one_user(world: World) -> None:
    body = {"email": "race@example.com", "password": PASSWORD}
    answers = await asyncio.gather(*(world.client.post("/auth/register", json=body) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert len(await world.history(UserRegistered)) == 1


async def test_without_the_log_there_is_no_user(world: World) -> None:
    log = world.log
    epoch, log.epoch = log.epoch, "of another log"
    body = {"email": "early@example.com", "password": PASSWORD}
    problem(await world.client.post("/auth/register", json=body), 503, "UNAVAILABLE")
    log.epoch = epoch
    assert (await world.client.post("/auth/register", json=body)).status_code == 201


async def test_registration_names_each_field_and_its_rule(world: World) -> None:
    cases: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({}, {"email": "required", "password": "required"}),
        ({"email": "no address", "password": PASSWORD}, {"email": "pattern"}),
        ({"email": "a@b.example\n", "password": PASSWORD}, {"email": "characters"}),
        ({"email": "a@b.example\u0000", "password": PASSWORD}, {"email": "pattern"}),
        ({"email": "x" * 250 + "@b.example", "password": PASSWORD}, {"email": "max_length"}),
        ({"email": ["a@b.example"], "password": PASSWORD}, {"email": "type"}),
        ({"email": "a@b.example", "password": "short"}, {"password": "min_length"}),
        ({"email": "a@b.example", "password": "x" * 257}, {"password": "max_length"}),
        ({"email": "a@b.example", "password": "password123"}, {"password": "weak"}),
        ({"email": "a@b.example", "password": "aaaaaaaaaaaa"}, {"password": "weak"}),
        ({"email": "harshad@b.example", "password": "Harshad123"}, {"password": "weak"}),
        ({"email": "a@b.example", "password": PASSWORD, "role": "operator"}, {"role": "unknown"}),
    ]
    for body, broken in cases:
        assert rules(await world.client.post("/auth/register", json=body)) == broken, body
        assert await world.history() == []


async def test_a_wrong_password_and_an_unknown_user_look_the_same(world: World, alice: Trader) -> None:
    wrong = await world.client.post("/auth/login", json={"email": alice.email, "password": "not her password"})
    unknown = await world.client.post("/auth/login", json={"email": "nobody@example.com", "password": PASSWORD})
    first, second = problem(wrong, 401, "BAD_CREDENTIALS"), problem(unknown, 401, "BAD_CREDENTIALS")
    assert {**first, "request_id": ""} == {**second, "request_id": ""}
    assert await world.history(UserLoggedIn) == []


async def test_an_unknown_user_costs_a_password_verification_too(
    world: World, alice: Trader, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    matches = world.deps.passwords._matches

    def watched(stored: str, given: str) -> bool:
        verified.append(stored)
        return matches(stored, given)

    monkeypatch.setattr(world.deps.passwords, "_matches", watched)
    for email in (alice.email, "nobody@example.com"):
        await world.client.post("/auth/login", json={"email": email, "password": "whatever it is"})
    known, dummy = verified
    assert known.split("$")[:4] == dummy.split("$")[:4], "the same parameters, so the same time"


async def test_an_old_hash_is_renewed_at_login(opened: OpenWorld) -> None:
    async with opened() as world:
        alice = await world.trader("alice@example.com")
        old = await _hash_of(world, alice.user_id)
    async with opened(passwords=Passwords(PasswordHasher(time_cost=2, memory_cost=16, parallelism=1))) as world:
        answer = await world.client.post("/auth/login", json={"email": alice.email, "password": PASSWORD})
        assert answer.status_code == 200
        new = await _hash_of(world, alice.user_id)
        assert (old.split("$")[3], new.split("$")[3]) == ("m=8,t=1,p=1", "m=16,t=2,p=1")


async def _hash_of(world: World, user_id: int) -> str:
    async with world.engine.connect() as connection:
        return str(await connection.scalar(select(users.c.password_hash).where(users.c.id == user_id)))


# --- refresh tokens --------------------------------------------------------------------------------------------------


async def _refresh(world: World, token: str) -> Any:
    return await world.client.post("/auth/refresh", json={"refresh_token": token})


async def test_a_refresh_token_is_exchanged_for_new_ones(world: World, alice: Trader) -> None:
    answer = await _refresh(world, alice.tokens["refresh_token"])
    assert answer.status_code == 200
    assert answer.json()["refresh_token"] != alice.tokens["refresh_token"]
    fresh = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert (await world.client.get("/halt", headers=fresh)).status_code == 200


async def test_a_refresh_token_used_twice_ends_the_login_for_both_holders(world: World, alice: Trader) -> None:
    stolen = alice.tokens["refresh_token"]
    thief = (await _refresh(world, stolen)).json()
    problem(await _refresh(world, stolen), 401, "TOKEN_REUSED")
    problem(await _refresh(world, thief["refresh_token"]), 401, "INVALID_TOKEN")
    headers = {"Authorization": f"Bearer {thief['access_token']}"}
    problem(await world.client.get("/halt", headers=headers), 401, "LOGGED_OUT")


async def test_of_many_uses_at_once_at_most_one_succeeds_and_the_login_ends(world: World, alice: Trader) -> None:
    token = alice.tokens["refresh_token"]
    answers = await asyncio.gather(*(_refresh(world, token) for _ in range(5)))
    assert sum(answer.status_code == 200 for answer in answers) == 1
    (won,) = [answer.json() for answer in answers if answer.status_code == 200]
    problem(await _refresh(world, won["refresh_token"]), 401, "INVALID_TOKEN")


async def test_reuse_ends_one_login_and_not_the_others(world: World, alice: Trader) -> None:
    other = (await world.client.post("/auth/login", json={"email": alice.email, "password": PASSWORD})).json()
    await _refresh(world, alice.tokens["refresh_token"])
    await _refresh(world, alice.tokens["refresh_token"])
    assert (await _refresh(world, other["refresh_token"])).status_code == 200


async def test_an_expired_or_invented_refresh_token_is_refused(world: World, alice: Trader) -> None:
    problem(await _refresh(world, "an invented token of some length"), 401, "INVALID_TOKEN")
    async with world.engine.begin() as connection:
        await connection.execute(update(sessions).values(expires_at=sessions.c.created_at))
    problem(await _refresh(world, alice.tokens["refresh_token"]), 401, "INVALID_TOKEN")
    problem(await alice.get("/halt"), 401, "LOGGED_OUT")
    await world.client.post("/auth/login", json={"email": alice.email, "password": PASSWORD})
    async with world.engine.connect() as connection:
        assert len((await connection.execute(select(sessions))).all()) == 1, "a login clears away what has expired"


async def test_logging_out_ends_the_access_token_at_once(world: World, alice: Trader) -> None:
    assert (await alice.get("/halt")).status_code == 200
    for _ in range(2):
        answer = await world.client.post("/auth/logout", json={"refresh_token": alice.tokens["refresh_token"]})
        assert (answer.status_code, answer.content) == (204, b"")
    problem(await alice.get("/halt"), 401, "LOGGED_OUT")
    problem(await _refresh(world, alice.tokens["refresh_token"]), 401, "INVALID_TOKEN")


async def test_refresh_tokens_are_stored_as_hashes(world: World, alice: Trader) -> None:
    async with world.engine.connect() as connection:
        rows = (await connection.execute(select(sessions))).all()
    assert len(rows) == 1
    assert len(rows[0].token_hash) == 32
    assert alice.tokens["refresh_token"] not in repr(rows)


# --- access tokens ---------------------------------------------------------------------------------------------------


def _claims(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def _sign(claims: dict[str, Any], *, key: bytes | None = None, alg: str = "HS256", **headers: Any) -> str:
    keys = SecretKeys([KEY])
    header = {"typ": "at+jwt", "kid": keys.newest} | headers
    return jwt.encode(claims, keys.subkey("access tokens") if key is None else key, algorithm=alg, headers=header)


def _unsigned(header: dict[str, Any], claims: dict[str, Any], signature: str = "") -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)]
    return ".".join([*parts, signature])


def test_our_own_signing_is_what_the_attacks_start_from() -> None:
    assert _claims(_sign({"sub": "1"})) == {"sub": "1"}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_forged_and_foreign_access_tokens_are_refused(world: World, alice: Trader) -> None:
    good = alice.tokens["access_token"]
    claims = _claims(good)
    kid = SecretKeys([KEY]).newest
    header = {"typ": "at+jwt", "kid": kid, "alg": "HS256"}
    assert (await _with(world, _sign(claims))).status_code == 200, "the attacks below differ in one point each"
    signature = good.rpartition(".")[2]
    forged = {
        "empty": "",
        "garbage": "x",
        "dots": "..",
        "alg none": _unsigned(header | {"alg": "none"}, claims),
        "alg None": _unsigned(header | {"alg": "None"}, claims, signature),
        "alg missing": _unsigned({"typ": "at+jwt", "kid": kid}, claims, signature),
        "alg HS512": _sign(claims, alg="HS512"),
        "empty key": _sign(claims, key=b"\0" * 32),
        "another installation's key": _sign(claims, key=SecretKeys(["x" * 32]).subkey("access tokens")),
        "the key of another purpose": _sign(claims, key=SecretKeys([KEY]).subkey("cursors")),
        "unknown kid": _sign(claims, kid="00000000"),
        "kid is a path": _sign(claims, kid="../../dev/null"),
        "jku": _sign(claims, key=b"k" * 32, jku="https://evil.example/keys"),
        "jwk": _sign(claims, key=b"k" * 32, jwk={"kty": "oct", "k": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s"}),
        "crit": _sign(claims, crit=["b64"], b64=False),
        "another type": _sign(claims, typ="JWT"),
        "wrong audience": _sign(claims | {"aud": "another-api"}),
        "wrong issuer": _sign(claims | {"iss": "somebody"}),
        "expired": _sign(claims | {"iat": time.time() - 700, "exp": time.time() - 100}),
        "not yet valid": _sign(claims | {"nbf": time.time() + 100}),
        "without end": _sign({name: value for name, value in claims.items() if name != "exp"}),
        "lives a year": _sign(claims | {"exp": time.time() + 31_536_000}),
        "no subject": _sign({name: value for name, value in claims.items() if name != "sub"}),
        "subject is no number": _sign(claims | {"sub": "1 OR 1=1"}),
        "another's subject": _sign(claims | {"sub": str(alice.user_id + 1)}),
        "truncated": good[:-5],
        "changed payload": _unsigned(header, claims | {"sub": "2"}, signature),
        "a refresh token": alice.tokens["refresh_token"],
    }
    for attack, token in forged.items():
        answer = await _with(world, token)
        assert answer.status_code == 401, attack
        assert answer.headers["www-authenticate"].startswith("Bearer"), attack
        assert answer.json()["code"] in {"INVALID_TOKEN", "UNAUTHENTICATED", "LOGGED_OUT"}, attack


async def _with(world: World, token: str) -> Any:
    return await world.client.get("/halt", headers={"Authorization": f"Bearer {token}"})


async def test_without_a_token_nobody_is_let_in(world: World) -> None:
    for header in [{}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer"}]:
        problem(await world.client.get("/halt", headers=header), 401, "UNAUTHENTICATED")


async def test_a_changed_role_counts_at_once(world: World, alice: Trader) -> None:
    async with world.engine.begin() as connection:
        await connection.execute(update(users).values(role="auditor"))
    claims = _claims(alice.tokens["access_token"])
    login = await world.deps.sessions.find(alice.user_id, claims["sid"])
    assert (claims["role"], login and login.role) == ("trader", "auditor")


async def test_rotated_keys_leave_sessions_alive_and_removed_keys_end_them(opened: OpenWorld) -> None:
    async with opened() as world:
        alice = await world.trader()
    new = "a second key of the tests, also random enough"
    token = alice.tokens["access_token"]
    async with opened(keys=(new, KEY)) as world:
        assert (await _with(world, token)).status_code == 200
    async with opened(keys=(new,)) as world:
        problem(await _with(world, token), 401, "INVALID_TOKEN")


# --- rate limits -----------------------------------------------------------------------------------------------------


async def test_passwords_cannot_be_tried_for_ever_even_from_many_addresses(opened: OpenWorld, redis: Redis) -> None:
    limits = AuthLimits(per_address="1000/minute", logins_per_email="3/5 minutes")
    async with opened(auth_limits=limits) as world:
        alice = await world.trader("alice@example.com")
        for _ in range(3):
            body = {"email": "Alice@example.com", "password": "a guess of some length"}
            problem(await world.client.post("/auth/login", json=body), 401, "BAD_CREDENTIALS")
        right = {"email": alice.email, "password": PASSWORD}
        answer = await world.client.post("/auth/login", json=right)
        problem(answer, 429, "RATE_LIMITED")
        assert 1 <= int(answer.headers["retry-after"]) <= 301
        other = {"email": "bob@example.com", "password": PASSWORD}
        problem(await world.client.post("/auth/login", json=other), 401, "BAD_CREDENTIALS")
        assert not [key for key in await redis.keys("*") if b"alice" in key], "no e-mail address in Redis"


async def test_one_address_cannot_knock_for_ever(opened: OpenWorld) -> None:
    async with opened(auth_limits=AuthLimits(per_address="4/minute")) as world:
        alice = await world.trader()
        for path in ("/auth/login", "/auth/refresh", "/auth/logout"):
            assert (await world.client.post(path, json={})).status_code == 422
        for path in ("/auth/login", "/auth/refresh", "/auth/logout", "/auth/register"):
            problem(await world.client.post(path, json={}), 429, "RATE_LIMITED")
        assert (await alice.get("/halt")).status_code == 200, "who is in is not locked out"
