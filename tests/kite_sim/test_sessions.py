"""Logging in, the life of the tokens, and what a caller without a valid one hears."""

import datetime as dt
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kiteconnect.exceptions import InputException, TokenException

from domain.calendar import instant
from domain.values import MINUTE

from .conftest import KEY, SECRET, USER, MakeWorld, OfficialClient, World


async def test_a_request_token_becomes_a_session(world: World) -> None:
    kite = world.client(None)

    session = await kite.generate_session(world.sim.login(USER), SECRET)

    assert (session["user_id"], session["api_key"], session["refresh_token"]) == (USER, KEY, "")
    assert session["login_time"] == dt.datetime(2026, 11, 20, 10)  # noqa: DTZ001 (the client gives naive ones)
    assert set(session) == {
        "user_type", "email", "user_name", "user_shortname", "broker", "exchanges", "products", "order_types",
        "avatar_url", "user_id", "api_key", "access_token", "public_token", "enctoken", "refresh_token", "silo",
        "login_time", "meta",
    }  # fmt: skip
    assert (await kite.profile())["user_id"] == USER


async def test_a_request_token_is_good_once(world: World) -> None:
    token = world.sim.login(USER)
    await world.client(None).generate_session(token, SECRET)

    with pytest.raises(TokenException, match=r"Token is invalid or has expired\.") as refused:
        await world.client(None).generate_session(token, SECRET)
    assert refused.value.code == 403


async def test_a_request_token_is_good_for_three_minutes(world: World) -> None:
    just_in_time, too_late = world.sim.login(USER), world.sim.login(USER)

    await world.later(3 * MINUTE - 1)
    await world.client(None).generate_session(just_in_time, SECRET)
    await world.later(1)
    with pytest.raises(TokenException):
        await world.client(None).generate_session(too_late, SECRET)


async def test_the_wrong_secret_and_the_wrong_key_open_nothing(world: World) -> None:
    with pytest.raises(InputException, match="Invalid `checksum`"):
        await world.client(None).generate_session(world.sim.login(USER), "not the secret")
    other = world.client(None)
    other.client.api_key = "another"
    with pytest.raises(TokenException, match="Incorrect `api_key`"):
        await other.generate_session(world.sim.login(USER), SECRET)


@pytest.mark.parametrize(("hour", "dies"), [(10, dt.date(2026, 11, 21)), (5, dt.date(2026, 11, 20))])
async def test_an_access_token_dies_at_six_in_the_morning(
    make_world: MakeWorld, clock: Any, hour: int, dies: dt.date
) -> None:
    if hour < 10:
        clock._now = instant(dt.date(2026, 11, 20), dt.time(hour))
    world = await make_world()
    kite = world.logged_in()

    world.clock.set(instant(dies, dt.time(6)) - 1)
    await kite.profile()
    world.clock.set(instant(dies, dt.time(6)))
    with pytest.raises(TokenException, match="expired") as refused:
        await kite.profile()
    assert refused.value.code == 403


async def test_a_session_ends_with_a_logout_here_or_elsewhere(world: World) -> None:
    here, elsewhere = world.logged_in(), world.logged_in()

    assert await here.invalidate_access_token() is True
    with pytest.raises(TokenException):
        await here.orders()
    await elsewhere.orders()
    world.sim.end_session(USER)
    with pytest.raises(TokenException):
        await elsewhere.orders()
    assert world.sim.account_of(KEY, elsewhere.client.access_token) is None


async def test_a_client_hears_of_its_dead_session(world: World) -> None:
    kite = world.logged_in()
    heard: list[bool] = []
    kite.client.set_session_expiry_hook(lambda: heard.append(True))
    world.sim.end_session(USER)

    with pytest.raises(TokenException):
        await kite.orders()
    assert heard == [True]


async def test_an_ordinary_app_cannot_renew_its_session_and_a_special_one_can(make_world: MakeWorld) -> None:
    ordinary = await make_world()
    with pytest.raises(InputException, match="refresh_token"):
        await ordinary.client(None).renew_access_token("", SECRET)
    with pytest.raises(TokenException):
        await ordinary.client(None).renew_access_token("made up", SECRET)

    special = await make_world(account={"renewable": True})
    kite = special.client(None)
    session = await kite.generate_session(special.sim.login(USER), SECRET)
    special.sim.end_session(USER)
    renewed = await kite.renew_access_token(session["refresh_token"], SECRET)
    assert renewed["access_token"] != session["access_token"]
    await kite.orders()
    assert await kite.invalidate_refresh_token(renewed["refresh_token"]) is True
    with pytest.raises(TokenException):
        await kite.renew_access_token(renewed["refresh_token"], SECRET)


@pytest.mark.parametrize(
    ("header", "status", "error_type"),
    [
        (None, 400, "InputException"),
        ("token", 400, "InputException"),
        ("token onlykey", 400, "InputException"),
        ("Bearer abc:def", 400, "InputException"),
        (f"token {KEY}:wrong", 403, "TokenException"),
        ("token other:wrong", 403, "TokenException"),
    ],
)
async def test_credentials_that_are_garbled_and_those_that_are_wrong(
    world: World, header: str | None, status: int, error_type: str
) -> None:
    answer = await world.http.get("/orders", headers={} if header is None else {"Authorization": header})

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["status"], body["data"], body["error_type"]) == ("error", None, error_type)


async def test_customers_of_one_platform_share_its_key(world: World) -> None:
    world.sim.register("CD5678", api_key=KEY, api_secret=SECRET)
    kite = world.client(None)

    session = await kite.generate_session(world.sim.login("CD5678"), SECRET)

    assert session["user_id"] == "CD5678"
    assert (await kite.profile())["user_id"] == "CD5678"


async def test_the_browser_is_redirected_with_a_request_token(make_world: MakeWorld) -> None:
    world = await make_world(account={"redirect_url": "http://127.0.0.1:1/broker/kite/callback?x=1"})

    answer = await world.http.get("/connect/login", params={"v": 3, "api_key": KEY, "redirect_params": "state=abc&n=2"})

    assert answer.status_code == 302
    target = urlsplit(answer.headers["location"])
    query = {name: values[0] for name, values in parse_qs(target.query).items()}
    assert target.path == "/broker/kite/callback"
    assert (query["status"], query["action"], query["x"], query["state"], query["n"]) == (
        "success", "login", "1", "abc", "2",
    )  # fmt: skip
    await world.client(None).generate_session(query["request_token"], SECRET)


async def test_a_login_without_a_redirect_address_answers_the_token(world: World) -> None:
    answer = await world.http.get("/connect/login", params={"v": 3, "api_key": KEY})
    unknown = await world.http.get("/connect/login", params={"v": 3, "api_key": "nobody"})

    await world.client(None).generate_session(answer.json()["request_token"], SECRET)
    assert unknown.status_code == 400


async def test_profile_and_margins(world: World, kite: OfficialClient) -> None:
    await kite.buy(100)

    assert (await kite.profile())["broker"] == "ZERODHA"
    margins = await kite.margins()
    assert margins["equity"] == await kite.margins("equity")
    assert (margins["equity"]["available"]["cash"], margins["equity"]["net"]) == (10_000_000, 9_984_000)
    assert margins["commodity"]["net"] == 0
    with pytest.raises(InputException):
        await kite.margins("crypto")


async def test_no_text_of_an_account_shows_its_secrets(world: World) -> None:
    token = world.sim.open_session(USER)
    shown = f"{world.account!r} {world.account} {world.sim!r} {world.sim.accounts}"

    assert SECRET not in shown
    assert token not in shown


async def test_the_checksum_is_that_of_key_token_and_secret(world: World) -> None:
    token = world.sim.login(USER)
    form = {"api_key": KEY, "request_token": token, "checksum": sha256(f"{KEY}{token}{SECRET}".encode()).hexdigest()}

    answer = await world.http.post("/session/token", data=form)

    assert answer.status_code == 200
    assert answer.json()["status"] == "success"
