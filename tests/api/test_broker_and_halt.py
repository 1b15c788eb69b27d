"""The broker account and the kill switch."""

from typing import Any

from redis.asyncio import Redis

from api.ports import BrokerRefused, Credentials, Login
from api.routes.broker import PaperLogin
from bahi.database.halts import SqlHalts
from domain.events import BrokerAuthFailed, BrokerAuthSuccess, BrokerKeySubmitted, UserHalted, UserResumed
from tests.api.conftest import OpenWorld
from tests.api.world import Trader, World, problem, rules

PAPER = {"broker": "paper", "api_key": "any key", "api_secret": "any secret"}


async def test_paper_takes_any_key_and_the_story_is_in_the_log(world: World, alice: Trader) -> None:
    answer = await alice.post("/broker/connect", PAPER | {"egress_proxy": "http://10.0.0.1:3128"})
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("connected_at").endswith("+05:30")
    assert len(body.pop("fingerprint")) == 8
    assert body == {
        "broker": "paper",
        "status": "connected",
        "broker_user_id": f"PAPER{alice.user_id}",
        "expires_at": None,
        "egress_proxy": "http://10.0.0.1:3128",
    }
    assert (await alice.get("/broker")).content == answer.content
    story = await world.history(BrokerKeySubmitted, BrokerAuthSuccess)
    assert [one.event.type for one in story] == ["BROKER_KEY_SUBMITTED", "BROKER_AUTH_SUCCESS"]
    assert {one.correlation_id for one in story} == {answer.headers["x-request-id"]}


async def test_the_fingerprint_tells_keys_apart(world: World, alice: Trader, bob: Trader) -> None:
    async def fingerprint(trader: Trader, api_key: str) -> str:
        answer = await trader.post("/broker/connect", PAPER | {"api_key": api_key})
        return str(answer.json()["fingerprint"])

    same, other = await fingerprint(alice, "one"), await fingerprint(alice, "two")
    assert (same != other, await fingerprint(bob, "one") == same) == (True, True)


async def test_credentials_have_a_form(world: World, alice: Trader) -> None:
    cases: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({"api_key": ""}, {"api_key": "min_length"}),
        ({"api_secret": None}, {"api_secret": "type"}),
        ({"api_key": "a\tb"}, {"api_key": "characters"}),
        ({"api_key": "x" * 513}, {"api_key": "max_length"}),
        ({"broker": "zerodha"}, {"broker": "enum"}),
        ({"egress_proxy": "file:///etc/passwd"}, {"egress_proxy": "pattern"}),
        ({"egress_proxy": "http://user:pass word@host:1"}, {"egress_proxy": "pattern"}),
        ({"egress_proxy": "http://host"}, {"egress_proxy": "pattern"}),
        ({"egress_proxy": "http://host:70000"}, {"egress_proxy": "port"}),
        ({"egress_proxy": "http://host:0"}, {"egress_proxy": "port"}),
        ({"user_id": 1}, {"user_id": "unknown"}),
    ]
    for changes, broken in cases:
        assert rules(await alice.post("/broker/connect", PAPER | changes)) == broken, changes
        assert await world.history(BrokerKeySubmitted) == []


async def test_kite_is_not_available_without_a_login_for_it(world: World, alice: Trader) -> None:
    problem(await alice.post("/broker/connect", PAPER | {"broker": "kite"}), 400, "BROKER_NOT_AVAILABLE")
    assert await world.history(BrokerKeySubmitted) == []


class Choosy(PaperLogin):
    async def authenticate(self, user_id: int, credentials: Credentials, egress_proxy: str | None = None) -> Login:
        if credentials["api_key"] != "right":
            raise BrokerRefused("invalid api_key")
        return await super().authenticate(user_id, credentials)


async def test_refused_credentials_leave_the_account_that_was_connected(opened: OpenWorld) -> None:
    async with opened(logins={"paper": Choosy()}) as world:
        alice = await world.trader()
        connected = await alice.post("/broker/connect", PAPER | {"api_key": "right"})
        answer = await alice.post("/broker/connect", PAPER)
        assert "invalid api_key" in problem(answer, 400, "BROKER_AUTH_FAILED")["detail"]
        (failed,) = await world.history(BrokerAuthFailed)
        assert failed.event == BrokerAuthFailed(broker="paper", reason="invalid api_key")
        assert (await alice.get("/broker")).json() == connected.json()


async def test_an_account_is_forgotten_with_its_credentials(world: World, alice: Trader) -> None:
    problem(await alice.get("/broker"), 404, "NOT_FOUND")
    await alice.post("/broker/connect", PAPER)
    answer = await alice.client.delete("/broker")
    assert (answer.status_code, answer.content) == (204, b"")
    problem(await alice.get("/broker"), 404, "NOT_FOUND")
    problem(await alice.client.delete("/broker"), 404, "NOT_FOUND")


# --- the kill switch -------------------------------------------------------------------------------------------------


async def test_a_halt_is_in_the_database_and_in_the_log_when_it_is_answered(
    world: World, alice: Trader, redis: Redis
) -> None:
    answer = await alice.post("/halt", {"square_off": True, "reason": "too hot"})
    body = answer.json()
    assert (answer.status_code, body["halted"], body["square_off"], body["reason"]) == (200, True, True, "too hot")
    assert (await alice.get("/halt")).json() == body
    assert await SqlHalts(world.engine).all() == {alice.user_id: await world.deps.halts.get(alice.user_id)}
    assert await redis.exists(world.log.keys.halt(alice.user_id))
    (halted,) = await world.history(UserHalted)
    assert (halted.user_id, halted.event) == (alice.user_id, UserHalted(square_off=True, reason="too hot"))


async def test_a_second_halt_adds_the_square_off_and_never_takes_it_back(world: World, alice: Trader) -> None:
    asked = [False, True, False]
    answers = [(await alice.post("/halt", {"square_off": one})).json()["square_off"] for one in asked]
    assert answers == [False, True, True]
    assert [one.event for one in await world.history(UserHalted)] == [
        UserHalted(square_off=False),
        UserHalted(square_off=True),
        UserHalted(square_off=True),
    ]


async def test_only_delete_lifts_it(world: World, alice: Trader, redis: Redis) -> None:
    await alice.post("/halt", {})
    for _ in range(2):
        answer = await alice.client.delete("/halt")
        assert (answer.status_code, answer.json()["halted"]) == (200, False)
    assert (await alice.get("/halt")).json()["halted"] is False
    assert not await redis.exists(world.log.keys.halt(alice.user_id))
    assert len(await world.history(UserResumed)) == 2


async def test_a_reason_is_a_line_of_text(world: World, alice: Trader) -> None:
    for reason in ["", "x" * 201, "line\nbreak", "\x1b[31m", 5]:
        assert rules(await alice.post("/halt", {"reason": reason})).keys() == {"reason"}
        assert await world.history(UserHalted) == []
