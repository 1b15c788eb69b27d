"""Postbacks and the login's address: what Kite tells us by itself, and what of it is believed."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import structlog

from api.dependencies import Dependencies
from api.rate import AuthLimits
from eventstore.errors import LogUnavailable
from simulation.kite.postbacks import pushed
from tests.api.conftest import OpenWorld
from tests.api.kite_world import PAGE, KiteWorld, open_kite_world
from tests.api.test_broker_and_halt import PAPER
from tests.api.world import Trader, World, problem, rules
from tests.one_database import emptied, one_database  # noqa: F401 (fixtures)

PATH = "/broker/kite/postback"


@pytest.fixture
async def kite(opened: OpenWorld) -> AsyncIterator[KiteWorld]:
    async with open_kite_world(opened, family=True) as kite:
        yield kite


@pytest.fixture
async def world(kite: KiteWorld) -> World:
    return kite.world


def row(kite_user_id: str = "AB1234", order_id: str = "1953341975595868160") -> dict[str, Any]:
    """An order of the book, as far as a postback needs one."""
    return {
        "placed_by": kite_user_id,
        "order_id": order_id,
        "order_timestamp": "2025-06-03 10:00:01",
        "status": "COMPLETE",
        "quantity": 10,
        "filled_quantity": 10,
        "average_price": 1500.1,
        "guid": None,
        "meta": {},
    }


def signed(kite: KiteWorld, kite_user_id: str = "AB1234", **changes: Any) -> dict[str, Any]:
    """What Kite sends, as the simulated one does."""
    return pushed(row(kite_user_id), kite.sim.accounts[kite_user_id].api_secret) | changes


async def post(kite: KiteWorld, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await kite.world.client.post(PATH, content=content, headers=headers)


# --- hints -----------------------------------------------------------------------------------------------------------


async def test_a_signed_postback_is_a_hint_for_its_user_and_nothing_more(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    before = await kite.world.history()
    answer = await post(kite, signed(kite))
    assert (answer.status_code, answer.content) == (200, b"")
    assert kite.hints == [(alice.user_id, "1953341975595868160")]
    assert await kite.world.history() == before, "the order book says what is true"


async def test_it_may_come_under_any_content_type_and_more_than_once(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
        assert (await post(kite, signed(kite), **{"content-type": kind})).status_code == 200
    assert kite.hints == [(alice.user_id, "1953341975595868160")] * 4


async def test_it_is_believed_after_the_session_has_ended_too(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    kite.pass_time(24 * 3600 * 1_000_000)
    assert (await post(kite, signed(kite))).status_code == 200


async def test_what_the_signature_does_not_cover_changes_nothing(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    changed = signed(kite, status="REJECTED", filled_quantity=10**30, quantity="garbage", new_field=[1])
    assert (await post(kite, changed)).status_code == 200
    assert kite.hints == [(alice.user_id, "1953341975595868160")]


# --- refusals --------------------------------------------------------------------------------------------------------


async def test_a_wrong_signature_is_refused_whatever_is_wrong_with_it(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    good = signed(kite)
    wrong: list[dict[str, Any]] = [
        good | {"checksum": ""},
        {name: value for name, value in good.items() if name != "checksum"},
        good | {"checksum": "0" * 64},
        good | {"checksum": good["checksum"][:-1]},
        good | {"checksum": "é" * 64},
        good | {"order_id": "1953341975595868161"},
        good | {"order_timestamp": "2025-06-03 10:00:02"},
        good | {"user_id": "CD5678"},
        pushed(row(), kite.sim.accounts["AB1234"].api_key),
    ]
    for body in wrong:
        problem(await post(kite, body), 403, "POSTBACK_REFUSED")
    assert kite.hints == []
    assert (await post(kite, good | {"checksum": good["checksum"].upper()})).status_code == 200


async def test_one_users_secret_signs_for_that_user_alone(kite: KiteWorld, alice: Trader, bob: Trader) -> None:
    await kite.connect(alice, "AB1234")
    await kite.connect(bob, "CD5678")
    forged = pushed(row("AB1234"), kite.sim.accounts["CD5678"].api_secret)
    problem(await post(kite, forged), 403, "POSTBACK_REFUSED")
    assert (await post(kite, signed(kite, "CD5678"))).status_code == 200
    assert kite.hints == [(bob.user_id, "1953341975595868160")]


async def test_an_unknown_account_is_answered_as_a_wrong_signature(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    await alice.post("/broker/connect", PAPER)
    kite.customer("CD5678")
    refused = [await post(kite, body) for body in (signed(kite), signed(kite, "CD5678"), signed(kite, checksum="0"))]
    bodies = [answer.json() | {"request_id": ""} for answer in refused]
    assert bodies[0] == bodies[1] == bodies[2]
    assert [answer.status_code for answer in refused] == [403] * 3


async def test_an_unknown_account_costs_a_secret_to_be_opened_as_a_known_one_does(
    kite: KiteWorld, alice: Trader, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kite.connect(alice)
    opened: list[int] = []
    box: Any = kite.world.deps.accounts._box  # type: ignore[attr-defined]
    whole = box.open

    def counted(blob: bytes, **of: Any) -> bytes:
        opened.append(len(blob))
        return bytes(whole(blob, **of))

    monkeypatch.setattr(box, "open", counted)
    await post(kite, signed(kite))
    await post(kite, signed(kite, user_id="ZZ9999"))
    assert len(opened) == 2


async def test_what_is_no_postback_is_told_so(kite: KiteWorld) -> None:
    for raw in (b"", b"{", b"\xff\xfe", b'{"user_id": "AB1234"'):
        problem(await post(kite, raw), 400, "MALFORMED_JSON")
    for raw in (b"null", b"[]", b"7", b'"text"', b"[" * 5000):
        assert rules(await post(kite, raw)) == {"": "type"}
    assert rules(await post(kite, {})).keys() == {"user_id", "order_id", "order_timestamp"}
    good = row() | {"user_id": "AB1234", "checksum": "0"}
    for changes in ({"order_id": 17}, {"order_id": "x y"}, {"order_id": "x" * 65}, {"user_id": None}, {"checksum": 7}):
        assert rules(await post(kite, good | changes)).keys() == changes.keys()
    problem(await post(kite, b'{"x": "' + b"x" * 70_000 + b'"}'), 413, "BODY_TOO_LARGE")
    assert kite.hints == []


async def test_an_address_may_not_ask_without_end(opened: OpenWorld) -> None:
    limits = AuthLimits(per_address="100/minute", logins_per_email="100/minute", postbacks_per_address="3/minute")
    async with opened(auth_limits=limits) as world:
        answers = [await world.client.post(PATH, json={}) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [422] * 3 + [429] * 2
        assert int(answers[-1].headers["retry-after"]) > 0


async def test_a_hint_that_goes_nowhere_is_not_answered_as_done(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    deps: Dependencies = kite.world.app.state.dependencies

    async def away(user_id: int, order_id: str) -> None:
        raise LogUnavailable("no answer from Redis")

    object.__setattr__(deps, "hint", away)
    problem(await post(kite, signed(kite)), 503, "UNAVAILABLE")


async def test_neither_checksum_nor_payload_is_logged(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    good = signed(kite)
    forged = hashlib.sha256(b"a forged one").hexdigest()
    with structlog.testing.capture_logs() as lines:
        await post(kite, good)
        await post(kite, good | {"checksum": forged})
        await post(kite, good | {"order_id": 7})
    said = json.dumps(lines, default=str)
    assert "postback_refused" in said
    for secret in (good["checksum"], forged, "1953341975595868160", "AB1234"):
        assert secret not in said


# --- where to log in -------------------------------------------------------------------------------------------------


async def login_url(trader: Trader, **params: str) -> str:
    answer = await trader.get("/broker/kite/login-url", params=params)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["login_url"])


async def test_the_login_url_is_made_of_the_stored_key(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    assert await login_url(alice) == f"{PAGE}?v=3&api_key=keyab1234"
    kite.pass_time(24 * 3600 * 1_000_000)
    assert await login_url(alice) == f"{PAGE}?v=3&api_key=keyab1234", "that is when it is needed"


async def test_a_first_login_names_its_key(kite: KiteWorld, alice: Trader) -> None:
    hint = problem(await alice.get("/broker/kite/login-url"), 404, "NOT_FOUND")["detail"]
    assert "?api_key=" in hint
    assert await login_url(alice, api_key="another") == f"{PAGE}?v=3&api_key=another"
    await alice.post("/broker/connect", PAPER)
    problem(await alice.get("/broker/kite/login-url"), 404, "NOT_FOUND")


async def test_parameters_of_the_redirect_are_encoded(kite: KiteWorld, alice: Trader) -> None:
    found = await login_url(alice, api_key="k", redirect_params="state=a&b=c/d?e")
    assert found == f"{PAGE}?v=3&api_key=k&redirect_params=state%3Da%26b%3Dc%2Fd%3Fe"
    for params in ({"redirect_params": "a b"}, {"redirect_params": "x" * 513}, {"api_key": "a&b=c"}, {"api_key": ""}):
        assert rules(await alice.get("/broker/kite/login-url", params=params)).keys() == params.keys()
    assert rules(await alice.get("/broker/kite/login-url", params={"apikey": "k"})) == {"apikey": "unknown"}


async def test_the_login_page_can_be_another(kite: KiteWorld, alice: Trader) -> None:
    kite.set_terms(login_page="http://127.0.0.1:9/connect/login")
    assert await login_url(alice, api_key="k") == "http://127.0.0.1:9/connect/login?v=3&api_key=k"


async def test_many_postbacks_at_once_are_all_heard(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    secret = kite.sim.accounts["AB1234"].api_secret
    answers = await asyncio.gather(*(post(kite, pushed(row(order_id=str(n)), secret)) for n in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(int(order_id) for _, order_id in kite.hints) == list(range(20))
