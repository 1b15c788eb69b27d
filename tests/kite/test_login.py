"""The login at Kite, through the real client against a Kite server: what is kept, what is refused, what is unknown."""

import datetime as dt
import hashlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from brokers.kite.account import KiteAddress
from brokers.kite.login import KiteLogin, session_end
from brokers.port import BrokerRefused, BrokerUnavailable, Login
from domain.calendar import instant
from domain.values import MINUTE, Instant
from simulation.clock import VirtualClock
from simulation.kite.server import serve
from simulation.kite.sim import KiteSim
from tests.kite.canned import HANGS, answer, canned

DAY = dt.date(2026, 7, 1)
MORNING = instant(DAY, dt.time(8, 30))
KEY, SECRET = "kitekey1234567", "secret-of-the-app-9f8e7d"


def at(text: str) -> Instant:
    there = dt.datetime.fromisoformat(text)
    return instant(there.date(), there.time())


class Kite:
    """A Kite server with one customer, and the login at it."""

    def __init__(self, sim: KiteSim, clock: VirtualClock, address: KiteAddress) -> None:
        self.sim = sim
        self.clock = clock
        self.address = address
        self.login = KiteLogin(address, clock)

    async def with_request_token(self, token: str, *, key: str = KEY, secret: str = SECRET) -> Login:
        return await self.login.authenticate(1, {"api_key": key, "api_secret": secret, "request_token": token})

    async def with_access_token(self, token: str, *, key: str = KEY) -> Login:
        return await self.login.authenticate(1, {"api_key": key, "api_secret": SECRET, "access_token": token})


@pytest.fixture
async def kite() -> AsyncIterator[Kite]:
    clock = VirtualClock(MORNING)
    sim = KiteSim(clock)
    sim.register("AB1234", api_key=KEY, api_secret=SECRET)
    async with serve(sim) as server:
        yield Kite(sim, clock, KiteAddress(root=server.root, login=f"{server.root}/connect/login"))


# --- when a session ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("began", "ends"),
    [
        ("2026-07-01 08:30:00", "2026-07-02 06:00:00"),
        ("2026-07-01 06:00:00", "2026-07-02 06:00:00"),
        ("2026-07-01 05:59:59.999999", "2026-07-01 06:00:00"),
        ("2026-07-01 00:00:00", "2026-07-01 06:00:00"),
        ("2026-12-31 23:59:00", "2027-01-01 06:00:00"),
    ],
)
def test_a_session_ends_at_the_next_six_in_the_morning(began: str, ends: str) -> None:
    assert session_end(at(began)) == at(ends)


# --- good logins -----------------------------------------------------------------------------------------------------


async def test_a_request_token_is_exchanged_for_a_session_that_kite_knows(kite: Kite) -> None:
    login = await kite.with_request_token(kite.sim.login("AB1234"))
    assert login.broker_user_id == "AB1234"
    assert login.expires_at == instant(dt.date(2026, 7, 2), dt.time(6))
    assert login.credentials.keys() == {"api_key", "api_secret", "access_token"}
    assert (login.credentials["api_key"], login.credentials["api_secret"]) == (KEY, SECRET)
    account = kite.sim.account_of(KEY, login.credentials["access_token"])
    assert account is not None
    assert account.user_id == "AB1234"


async def test_an_access_token_is_proved_and_kept(kite: Kite) -> None:
    token = kite.sim.open_session("AB1234")
    login = await kite.with_access_token(token)
    assert (login.broker_user_id, login.credentials["access_token"]) == ("AB1234", token)


async def test_a_route_prefix_is_put_before_the_login_too() -> None:
    clock = VirtualClock(MORNING)
    sim = KiteSim(clock)
    sim.register("AB1234", api_key=KEY, api_secret=SECRET)
    async with serve(sim, route_prefix="/oms") as server:
        kite = Kite(sim, clock, KiteAddress(root=server.root, route_prefix="/oms"))
        assert (await kite.with_request_token(sim.login("AB1234"))).broker_user_id == "AB1234"


# --- refusals --------------------------------------------------------------------------------------------------------


async def test_a_request_token_is_good_once_and_for_minutes(kite: Kite) -> None:
    used = kite.sim.login("AB1234")
    await kite.with_request_token(used)
    old = kite.sim.login("AB1234")
    await kite.clock.advance(10 * MINUTE)
    for token in (used, old, "never-was-one"):
        with pytest.raises(BrokerRefused, match="was used or is older than a few minutes: log in again") as no:
            await kite.with_request_token(token)
        assert token not in no.value.reason


async def test_a_wrong_secret_is_told_from_a_bad_token(kite: Kite) -> None:
    with pytest.raises(BrokerRefused, match="the api_secret is not that of the api_key") as no:
        await kite.with_request_token(kite.sim.login("AB1234"), secret="another-secret-0000")
    assert "another-secret-0000" not in no.value.reason


async def test_a_session_that_has_ended_is_refused_with_the_way_out(kite: Kite) -> None:
    token = kite.sim.open_session("AB1234")
    kite.sim.end_session("AB1234")
    with pytest.raises(BrokerRefused, match=r"the access_token has expired.*: log in again") as no:
        await kite.with_access_token(token)
    assert token not in no.value.reason
    with pytest.raises(BrokerRefused):
        await kite.with_access_token("never-was-one")


async def test_an_api_key_that_kite_does_not_know_is_refused(kite: Kite) -> None:
    with pytest.raises(BrokerRefused):
        await kite.with_request_token(kite.sim.login("AB1234"), key="nobodys")
    with pytest.raises(BrokerRefused):
        await kite.with_access_token(kite.sim.open_session("AB1234"), key="nobodys")


async def test_both_tokens_or_none_are_no_login(kite: Kite) -> None:
    secrets = {"api_key": KEY, "api_secret": SECRET}
    for tokens in ({}, {"access_token": "a", "request_token": "b"}):
        with pytest.raises(BrokerRefused, match="a request_token or an access_token"):
            await kite.login.authenticate(1, secrets | tokens)


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (403, b'{"status":"error","error_type":"TokenException","message":"Token is invalid or has expired."}', "used"),
        (400, b'{"status":"error","error_type":"InputException","message":"Invalid `api_key`."}', "not know this api"),
        (400, b'{"status":"error","error_type":"InputException","message":"Invalid `checksum`."}', "api_secret is not"),
        (
            403,
            b'{"status":"error","error_type":"PermissionException","message":"App is suspended"}',
            "App is suspended",
        ),
        (403, b'{"status":"error","error_type":"UserException","message":null}', "HTTP 403 without a reason"),
        (400, b'{"status":"error","message":"Something else"}', "Something else"),
    ],
)
async def test_what_kite_judges_is_a_refusal(status: int, body: bytes, says: str) -> None:
    async with canned(answer(status, body)) as (root, _):
        kite = Kite(None, VirtualClock(MORNING), KiteAddress(root=root))  # type: ignore[arg-type]  # no server's state
        with pytest.raises(BrokerRefused, match=says):
            await kite.with_request_token("some-request-token")


# --- no answer that says anything ------------------------------------------------------------------------------------

GOOD = b'{"status":"success","data":{"user_id":"AB1234","access_token":"a-new-token","login_time":"x"}}'


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        HANGS,
        b"garbage\r\n\r\n",
        answer(504, b"<html>Gateway time-out</html>", "text/html"),
        answer(502, GOOD),
        answer(200, GOOD[:40]),
        answer(200, GOOD, None),
        answer(200, b"[1, 2]"),
        answer(200, b'{"status":"success","data":null}'),
        answer(200, b'{"status":"success","data":{"user_id":"AB1234"}}'),
        answer(200, b'{"status":"success","data":{"user_id":7,"access_token":"t"}}'),
        answer(200, b'{"status":"success","data":{"user_id":"AB 1234\\n","access_token":"t"}}'),
        answer(200, b'{"status":"success","data":{"user_id":"AB1234","access_token":{}}}'),
        answer(200, b"{}"),
        answer(429, b'{"status":"error","error_type":"NetworkException","message":"Too many requests"}'),
        answer(500, b'{"status":"error","error_type":"TokenException","message":"Token is invalid"}'),
        answer(503, b'{"status":"error","error_type":"NetworkException","message":"OMS is down"}'),
    ],
)
async def test_without_a_whole_answer_nothing_is_called_refused(raw: bytes) -> None:
    async with canned(raw) as (root, seen):
        kite = Kite(None, VirtualClock(MORNING), KiteAddress(root=root, timeout=0.3))  # type: ignore[arg-type]
        with pytest.raises(BrokerUnavailable):
            await kite.with_request_token("some-request-token")
        assert len(seen) == 1, "asked once: a request token is good for one exchange"


async def test_a_kite_that_is_not_there_is_unavailable() -> None:
    async with canned(b"") as (root, _):
        pass
    kite = Kite(None, VirtualClock(MORNING), KiteAddress(root=root))  # type: ignore[arg-type]
    with pytest.raises(BrokerUnavailable, match="not sent"):
        await kite.with_access_token("some-access-token")


async def test_the_login_leaves_through_the_accounts_own_proxy() -> None:
    async with canned(answer(200, GOOD)) as (proxy, seen):
        kite = Kite(None, VirtualClock(MORNING), KiteAddress(root="http://kite.invalid"))  # type: ignore[arg-type]
        login = await kite.login.authenticate(
            1,
            {"api_key": KEY, "api_secret": SECRET, "request_token": "some-request-token"},
            proxy.replace("http://", "http://me:proxy-password@"),
        )
    assert login.broker_user_id == "AB1234"
    (head,) = seen
    assert head.startswith(b"POST http://kite.invalid/session/token ")
    assert b"proxy-authorization: basic" in head.lower()


# --- secrets ---------------------------------------------------------------------------------------------------------


async def test_no_secret_is_in_what_a_login_says_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    """Kite repeats everything that it was told; nothing of it comes through."""
    caplog.set_level(logging.DEBUG)
    request_token, access_token, password = "canary-request-11", "canary-access-22", "canary-proxy-33"
    checksum = hashlib.sha256(f"{KEY}{request_token}{SECRET}".encode()).hexdigest()
    told = {"request_token": [request_token, checksum], "access_token": [access_token]}
    secrets = [KEY, SECRET, password, *(each for tokens in told.values() for each in tokens)]
    said: list[Any] = []
    for status, kind in ((400, "InputException"), (403, "TokenException"), (503, "NetworkException")):
        for name, tokens in told.items():
            echo = " ".join([KEY, SECRET, password, *tokens])
            body = f'{{"status":"error","error_type":"{kind}","message":"no: {echo}"}}'.encode()
            for content_type in ("application/json", f"text/{echo.replace(' ', '-')}"):
                async with canned(answer(status, body, content_type)) as (proxy, _):
                    login = KiteLogin(KiteAddress(root="http://kite.invalid"), VirtualClock(MORNING))
                    through = proxy.replace("http://", f"http://me:{password}@")
                    given = {"api_key": KEY, "api_secret": SECRET, name: tokens[0]}
                    with pytest.raises((BrokerRefused, BrokerUnavailable)) as no:
                        await login.authenticate(1, given, through)
                    said += [str(no.value), repr(no.value), repr(no.value.__cause__), repr(no.value.__context__)]
    said += [caplog.text, repr(Login(broker_user_id="X", credentials={"access_token": access_token}))]
    for text in said:
        own = [secret for secret in secrets if secret in text]
        assert own == [], text
