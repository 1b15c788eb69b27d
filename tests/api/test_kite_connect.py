"""Connecting Kite accounts: what a day needs, whose account it is, and where its orders leave from."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.ports import KiteTerms
from bahi.database.accounts import SqlAccounts
from brokers.kite.account import KiteAddress
from brokers.kite.login import KiteLogin
from domain.events import BrokerAuthFailed, BrokerAuthSuccess, BrokerKeySubmitted
from domain.values import HOUR
from simulation.clock import VirtualClock
from tests.api.conftest import OpenWorld
from tests.api.kite_world import KiteWorld, open_kite_world
from tests.api.test_broker_and_halt import PAPER
from tests.api.test_strategies import holding
from tests.api.world import NOW, Trader, World, problem, rules
from tests.one_database import emptied, one_database  # noqa: F401 (fixtures)

PROXY = "http://10.0.0.9:3128"


@pytest.fixture
async def kite(opened: OpenWorld) -> AsyncIterator[KiteWorld]:
    async with open_kite_world(opened) as kite:
        yield kite


@pytest.fixture
async def world(kite: KiteWorld) -> World:
    return kite.world


def accounts(kite: KiteWorld) -> SqlAccounts:
    found = kite.world.deps.accounts
    assert isinstance(found, SqlAccounts)
    return found


# --- a login a day ---------------------------------------------------------------------------------------------------


async def test_a_request_token_makes_a_session_until_six_tomorrow(kite: KiteWorld, alice: Trader) -> None:
    answer = await kite.connect(alice)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["broker"], body["status"], body["broker_user_id"]) == ("kite", "connected", "AB1234")
    assert body["expires_at"] == "2025-06-04T06:00:00+05:30"
    assert body["egress_proxy"] is None
    assert (await alice.get("/broker")).content == answer.content
    story = await kite.world.history(BrokerKeySubmitted, BrokerAuthSuccess)
    assert [one.event.type for one in story] == ["BROKER_KEY_SUBMITTED", "BROKER_AUTH_SUCCESS"]
    assert {one.correlation_id for one in story} == {answer.headers["x-request-id"]}
    kept = await accounts(kite).kept(alice.user_id, "kite")
    assert kept is not None
    assert kept.keys() == {"api_key", "api_secret", "access_token"}
    assert kite.sim.account_of(kept["api_key"], kept["access_token"]) is not None


async def test_an_access_token_is_taken_when_kite_knows_it(kite: KiteWorld, alice: Trader) -> None:
    keys = kite.customer("AB1234")
    token = {"access_token": kite.sim.open_session("AB1234")}
    answer = await alice.post("/broker/connect", {"broker": "kite"} | keys | token)
    assert (answer.status_code, answer.json()["broker_user_id"]) == (200, "AB1234")


async def test_the_next_day_needs_the_request_token_alone(kite: KiteWorld, alice: Trader) -> None:
    first = (await kite.connect(alice, egress_proxy="http://me:pw@10.0.0.9:3128")).json()
    kite.pass_time(24 * HOUR)
    assert (await alice.get("/broker")).json() == first | {"status": "expired"}
    answer = await alice.post("/broker/connect", kite.login("AB1234"))
    assert answer.status_code == 200, answer.text
    renewed = {"connected_at": answer.json()["connected_at"], "expires_at": "2025-06-05T06:00:00+05:30"}
    assert answer.json() == first | renewed
    kept = await accounts(kite).kept(alice.user_id, "kite")
    assert kept is not None
    assert kept["egress_proxy"] == "http://me:pw@10.0.0.9:3128", "the proxy stays, its password too"
    assert kite.login_there.proxies == ["http://me:pw@10.0.0.9:3128"] * 2


async def test_the_first_time_needs_everything(kite: KiteWorld, alice: Trader) -> None:
    kite.customer("AB1234")
    assert rules(await alice.post("/broker/connect", {"broker": "kite"})) == {
        "api_key": "required",
        "api_secret": "required",
        "request_token": "required",
    }
    assert rules(await alice.post("/broker/connect", kite.login("AB1234") | {"api_key": "k"})) == {
        "api_secret": "required"
    }
    both = kite.login("AB1234") | {"api_key": "k", "api_secret": "s", "access_token": "t"}
    assert rules(await alice.post("/broker/connect", both)) == {"access_token": "conflict"}
    assert await kite.world.history(BrokerKeySubmitted) == []


async def test_another_key_is_another_app_with_a_secret_of_its_own(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    again = kite.login("AB1234")
    assert rules(await alice.post("/broker/connect", again | {"api_key": "another"})) == {"api_secret": "required"}
    keys = {name: str(getattr(kite.sim.accounts["AB1234"], name)) for name in ("api_key", "api_secret")}
    for given in ({"api_key": keys["api_key"]}, {"api_secret": keys["api_secret"]}):
        answer = await alice.post("/broker/connect", kite.login("AB1234") | given)
        assert answer.status_code == 200, answer.text


async def test_another_users_keys_complete_nothing(kite: KiteWorld, alice: Trader, bob: Trader) -> None:
    await kite.connect(alice)
    assert rules(await bob.post("/broker/connect", kite.login("AB1234"))).keys() == {"api_key", "api_secret"}


async def test_a_refusal_says_what_to_do_and_changes_nothing(kite: KiteWorld, alice: Trader) -> None:
    before = (await kite.connect(alice)).json()
    used = kite.login("AB1234")
    await alice.post("/broker/connect", used)
    connected = (await alice.get("/broker")).json()
    refused = problem(await alice.post("/broker/connect", used), 400, "BROKER_AUTH_FAILED")
    assert "was used or is older than a few minutes" in refused["detail"]
    assert "GET /broker/kite/login-url" in refused["detail"]
    wrong = kite.login("AB1234") | {"api_secret": "not the secret of the app"}
    assert (
        "the api_secret is not"
        in problem(await alice.post("/broker/connect", wrong), 400, "BROKER_AUTH_FAILED")["detail"]
    )
    assert (await alice.get("/broker")).json() == connected
    assert connected["fingerprint"] == before["fingerprint"]
    failed = [one.event for one in await kite.world.history(BrokerAuthFailed)]
    assert len(failed) == 2
    assert "keyab1234" not in refused["detail"] + str(failed), "of the key there is a fingerprint only"


async def test_a_kite_that_does_not_answer_is_not_a_refusal(opened: OpenWorld) -> None:
    async with open_kite_world(opened) as kite:
        kite.login_there.login = KiteLogin(KiteAddress(root="http://127.0.0.1:1"), VirtualClock(NOW))
        alice = await kite.world.trader()
        answer = await kite.connect(alice)
        assert "not sent: Connection" in problem(answer, 503, "BROKER_UNAVAILABLE")["detail"]
        assert answer.headers["retry-after"] == "5"
        assert await kite.world.history(BrokerAuthFailed) == []
        problem(await alice.get("/broker"), 404, "NOT_FOUND")


# --- on which terms --------------------------------------------------------------------------------------------------


async def test_simulated_prices_and_real_orders_do_not_go_together(kite: KiteWorld, alice: Trader) -> None:
    kite.set_terms(real_prices=False)
    refused = problem(await kite.connect(alice), 409, "FEED_NOT_KITE")
    assert "stops would follow prices that are not the market's" in refused["detail"]
    assert (await alice.post("/broker/connect", PAPER)).status_code == 200
    assert KiteTerms().real_prices is False


async def test_a_kite_account_is_one_users(kite: KiteWorld, alice: Trader, bob: Trader) -> None:
    await kite.connect(alice, egress_proxy=PROXY)
    account = kite.sim.accounts["AB1234"]
    keys = {"api_key": account.api_key, "api_secret": account.api_secret}
    answer = await bob.post("/broker/connect", kite.login("AB1234") | keys)
    assert "AB1234 is connected by another user" in problem(answer, 409, "BROKER_ACCOUNT_TAKEN")["detail"]
    problem(await bob.get("/broker"), 404, "NOT_FOUND")
    assert (await alice.get("/broker")).json()["status"] == "connected"
    (failed,) = await kite.world.history(BrokerAuthFailed)
    assert (failed.user_id, failed.event) == (
        bob.user_id,
        BrokerAuthFailed(broker="kite", reason="BROKER_ACCOUNT_TAKEN"),
    )


SAME_EGRESS: list[tuple[str | None, str | None]] = [
    (None, None),
    (PROXY, PROXY),
    (PROXY, "https://10.0.0.9:3128"),
    (PROXY, "http://someone:else@10.0.0.9:3128"),
    ("http://a:b@proxy.example:1080", "http://PROXY.example:1080"),
]


@pytest.mark.parametrize(("hers", "his"), SAME_EGRESS)
async def test_two_clients_do_not_share_an_address(
    kite: KiteWorld, alice: Trader, bob: Trader, hers: str | None, his: str | None
) -> None:
    assert (await kite.connect(alice, "AB1234", egress_proxy=hers)).status_code == 200
    keys = kite.customer("CD5678")
    given = kite.login("CD5678") | keys | ({} if his is None else {"egress_proxy": his})
    refused = problem(await bob.post("/broker/connect", given), 409, "EGRESS_SHARED")["detail"]
    assert "one client" in refused
    assert "a family" in refused
    assert "someone" not in refused
    assert await kite.world.history(BrokerAuthFailed) == []
    other = await bob.post("/broker/connect", given | {"egress_proxy": "http://10.0.0.10:3128"})
    assert other.status_code == 200, "the request token was not spent on the refusal"


async def test_a_family_may_share(kite: KiteWorld, alice: Trader, bob: Trader) -> None:
    kite.set_terms(family=True)
    assert (await kite.connect(alice, "AB1234")).status_code == 200
    assert (await kite.connect(bob, "CD5678")).status_code == 200


async def test_paper_traders_share_what_they_like(kite: KiteWorld, alice: Trader, bob: Trader) -> None:
    assert (await kite.connect(alice)).status_code == 200
    assert (await bob.post("/broker/connect", PAPER)).status_code == 200


async def test_of_two_that_come_at_once_one_has_the_address(kite: KiteWorld) -> None:
    traders = [await kite.world.trader() for _ in range(4)]
    names = [f"AB{number}" for number in range(4)]
    answers = await asyncio.gather(*(kite.connect(one, name) for one, name in zip(traders, names, strict=True)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    for answer in answers:
        if answer.status_code == 409:
            problem(answer, 409, "EGRESS_SHARED")


async def test_a_proxy_can_be_taken_away_again(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice, egress_proxy=PROXY)
    answer = await alice.post("/broker/connect", kite.login("AB1234") | {"egress_proxy": None})
    assert (answer.status_code, answer.json()["egress_proxy"]) == (200, None)


async def test_a_proxys_password_is_sealed_and_never_shown(kite: KiteWorld, alice: Trader) -> None:
    answer = await kite.connect(alice, egress_proxy="https://user%40x:p%2Fw@Proxy.example:3128")
    assert answer.json()["egress_proxy"] == "https://***@Proxy.example:3128"
    for broken in (
        "http://host:99999",
        "socks5://host:1",
        "http://a b@host:1",
        "http://user:pa@ss@host:1",
        7,
        "host:1",
    ):
        given = kite.login("AB1234") | {"egress_proxy": broken}
        answer = await alice.post("/broker/connect", given)
        assert rules(answer).keys() == {"egress_proxy"}, broken
        assert str(broken) not in answer.json()["detail"]


# --- strategies that depend on an account ----------------------------------------------------------------------------


async def other_account(kite: KiteWorld, trader: Trader) -> Any:
    return await kite.connect(trader, "CD5678")


async def test_another_account_may_come_when_nothing_depends_on_the_first(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    await alice.create()
    answer = await other_account(kite, alice)
    assert (answer.status_code, answer.json()["broker_user_id"]) == (200, "CD5678")
    assert (await alice.post("/broker/connect", PAPER)).status_code == 200
    answer = await alice.post("/broker/connect", PAPER | kite.login("CD5678") | kite_keys(kite, "CD5678"))
    assert answer.status_code == 200


def kite_keys(kite: KiteWorld, kite_user_id: str) -> dict[str, Any]:
    account = kite.sim.accounts[kite_user_id]
    return {"api_key": account.api_key, "api_secret": account.api_secret, "broker": "kite"}


async def test_shares_keep_the_account_that_they_are_in(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    strategy_id = await holding(kite.world, alice, 10)
    refused = problem(await other_account(kite, alice), 409, "BROKER_IN_USE")["detail"]
    assert str(strategy_id) in refused
    problem(await alice.post("/broker/connect", PAPER), 409, "BROKER_IN_USE")
    problem(await alice.client.delete("/broker"), 409, "BROKER_IN_USE")
    assert (await alice.get("/broker")).json()["broker_user_id"] == "AB1234"
    same = await alice.post("/broker/connect", kite.login("AB1234"))
    assert same.status_code == 200, "the same account may log in at any time"
    settled = await alice.post("/strategy/settle", {"strategy_id": strategy_id, "quantity": 10})
    assert settled.status_code == 200, settled.text
    assert (await alice.client.delete("/broker")).status_code == 204


async def test_shares_on_paper_are_never_sold_at_kite(kite: KiteWorld, alice: Trader) -> None:
    await alice.post("/broker/connect", PAPER)
    await holding(kite.world, alice, 10)
    keys = kite.customer("AB1234")
    given = kite.login("AB1234") | keys
    problem(await alice.post("/broker/connect", given), 409, "BROKER_IN_USE")
    assert await kite.world.history(BrokerAuthFailed) == []


async def test_a_strategy_about_to_buy_keeps_its_account(kite: KiteWorld, alice: Trader) -> None:
    await kite.connect(alice)
    strategy_id = await alice.create()
    async with kite.world.working():
        assert (await alice.post("/strategy/start", {"strategy_id": strategy_id})).status_code == 200
    kite.world.clock.time = NOW + HOUR // 2 - HOUR // 60
    problem(await other_account(kite, alice), 409, "BROKER_IN_USE")
    kite.world.clock.time = NOW
    assert (await alice.post("/broker/connect", kite.login("CD5678") | kite_keys(kite, "CD5678"))).status_code == 200


async def test_a_state_that_cannot_be_read_is_not_taken_for_flat(kite: KiteWorld, alice: Trader, redis: Any) -> None:
    await kite.connect(alice)
    strategy_id = await alice.create()
    await redis.hset(kite.world.log.keys.strategy(strategy_id), "quantity", "garbage")
    problem(await other_account(kite, alice), 409, "BROKER_IN_USE")
