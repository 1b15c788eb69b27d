"""No user sees or changes what is another's: every operation of the OpenAPI document is tried, or has a reason not to.

An operation that is in neither table fails the test, so a new one cannot be forgotten.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from domain.events import BrokerAuthSuccess, UserHalted
from tests.api.conftest import OpenWorld
from tests.api.test_strategies import holding
from tests.api.test_stream import Later
from tests.api.world import PASSWORD, Trader, World, problem


@dataclass(frozen=True)
class Theirs:
    """What belongs to somebody else."""

    strategy_id: int
    cursors: dict[str, str]


Attempt = Callable[[Trader, Theirs], Awaitable[httpx.Response]]


def posting(path: str, **more: Any) -> Attempt:
    return lambda caller, theirs: caller.post(path, {"strategy_id": theirs.strategy_id} | more)


def getting(path: str) -> Attempt:
    return lambda caller, theirs: caller.get(path.format(theirs.strategy_id))


BY_ID: dict[str, Attempt] = {
    "POST /strategy/update": posting("/strategy/update", quantity=1),
    "POST /strategy/start": posting("/strategy/start"),
    "POST /strategy/stop": posting("/strategy/stop", square_off=True),
    "POST /strategy/settle": posting("/strategy/settle", quantity=1),
    "GET /strategy/status/{strategy_id}": getting("/strategy/status/{}"),
    "GET /strategy/{strategy_id}/events": getting("/strategy/{}/events"),
    "GET /strategy/{strategy_id}/orders": getting("/strategy/{}/orders"),
}
"""Operations that name an object: another's answers 404 and changes nothing."""

OWN = {
    "POST /strategy/create": "makes an object of the caller",
    "GET /strategy/list": "lists what is the caller's, see below",
    "POST /broker/connect": "the caller's own account, see below",
    "GET /broker": "the caller's own account, see below",
    "DELETE /broker": "the caller's own account, see below",
    "GET /broker/kite/login-url": "the caller's own api_key, or one that the caller names",
    "POST /halt": "the caller's own latch, see below",
    "GET /halt": "the caller's own latch, see below",
    "DELETE /halt": "the caller's own latch, see below",
}
"""Operations that name nothing: the token says whose."""

PUBLIC = {
    "POST /auth/register": "anybody",
    "POST /auth/login": "anybody",
    "POST /auth/refresh": "who holds the refresh token",
    "POST /auth/logout": "who holds the refresh token",
    "POST /broker/kite/postback": "who can sign with the account's API secret; it wakes a reading of that account",
    "GET /healthz": "of the process",
    "GET /readyz": "of the process",
    "GET /metrics": "of the process, by route and never by user",
}
"""Operations without a caller."""

AUDITORS = {
    "GET /events/stream": "the caller's own unless an auditor's, see test_stream.py",
    "GET /audit/events": "of anybody, for auditors",
    "GET /audit/state": "of anybody, for auditors",
    "GET /audit/diff": "of anybody, for auditors",
    "GET /audit/verify": "of anybody, for auditors",
    "GET /audit/export": "of anybody, for auditors",
    "GET /audit/orders/{tag}": "of anybody, for auditors",
    "GET /audit/users": "of anybody, for auditors",
}
"""Operations that can be on what is others': nobody gets the role for them by registering, see test_audit_access.py."""


def operations(world: World) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in world.app.openapi()["paths"].items()
        for method, operation in methods.items()
    }


async def test_every_operation_is_in_one_of_the_tables(world: World) -> None:
    covered = [*BY_ID, *OWN, *PUBLIC, *AUDITORS]
    missing = "add the operation to a table, and test what it must not do"
    assert sorted(covered) == sorted(operations(world)), missing
    for name, operation in operations(world).items():
        assert (operation["security"] == []) == (name in PUBLIC), name
        named = "strategy_id" in str(operation.get("parameters", "")) or "strategy_id" in str(_body(world, operation))
        assert not named or name in BY_ID or name in AUDITORS, f"{name} names an object: it belongs into BY_ID"


def _body(world: World, operation: dict[str, Any]) -> Any:
    content = operation.get("requestBody", {}).get("content", {})
    if not content:
        return {}
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return world.app.openapi()["components"]["schemas"][name]["properties"]


@pytest.mark.parametrize("name", BY_ID)
async def test_anothers_object_is_not_found_and_nothing_happens(world: World, name: str) -> None:
    alice, bob = await world.trader(), await world.trader()
    theirs = Theirs(await holding(world, alice, 10), {})
    before = await world.history()
    refused = await BY_ID[name](bob, theirs)
    problem(refused, 404, "NOT_FOUND")
    assert await world.history() == before, "no event is appended"
    never = await BY_ID[name](bob, Theirs(2**53 - 1, {}))
    assert _without_id(refused) == _without_id(never), "another's cannot be told from what there never was"
    assert (await BY_ID[name](alice, theirs)).status_code in {200, 202, 409}, "its owner is answered"


def _without_id(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    return body | {"request_id": ""}


async def test_without_a_token_there_is_no_answer_and_no_event(world: World) -> None:
    strategy_id = await (await world.trader()).create()
    before = await world.history()
    for name in [*BY_ID, *OWN, *AUDITORS]:
        method, _, path = name.partition(" ")
        answer = await world.client.request(
            method, path.format(strategy_id=strategy_id, tag="A" * 20), json={"strategy_id": strategy_id}
        )
        problem(answer, 401, "UNAUTHENTICATED")
    assert await world.history() == before


async def test_with_an_expired_token_there_is_no_answer_and_no_event(
    world: World, alice: Trader, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy_id = await alice.create()
    auditor = await world.auditor()
    before = await world.history()
    monkeypatch.setattr("jwt.api_jwt.datetime", Later)
    for name in operations(world):
        if name in PUBLIC:
            continue
        method, _, path = name.partition(" ")
        for caller in (alice, auditor):
            answer = await caller.client.request(
                method, path.format(strategy_id=strategy_id, tag="A" * 20), json={"strategy_id": strategy_id}
            )
            problem(answer, 401, "INVALID_TOKEN")
    assert await world.history() == before


@pytest.mark.parametrize("name", BY_ID)
async def test_an_auditor_is_nobodys_trader(world: World, alice: Trader, name: str) -> None:
    """Reading others' history is for `/audit`, where it is recorded; everywhere else an auditor is a stranger."""
    theirs = Theirs(await holding(world, alice, 10), {})
    auditor = await world.auditor()
    before = await world.history()
    refused = await BY_ID[name](auditor, theirs)
    if name.startswith("GET"):
        problem(refused, 404, "NOT_FOUND")
    else:
        problem(refused, 403, "ROLE_NOT_ALLOWED")
    assert await world.history() == before


@pytest.mark.parametrize("name", [name for name in BY_ID if name.startswith("POST")])
async def test_anothers_idempotency_key_gives_no_answer_of_theirs(world: World, alice: Trader, name: str) -> None:
    bob = await world.trader()
    theirs = Theirs(await holding(world, alice, 10), {})
    for caller in (alice, bob):
        caller.client.headers["Idempotency-Key"] = "the-same"
    hers = await BY_ID[name](alice, theirs)
    assert hers.status_code in {200, 202, 409}
    before = await world.history()
    refused = await BY_ID[name](bob, theirs)
    problem(refused, 404, "NOT_FOUND")
    assert "Idempotency-Replayed" not in refused.headers
    assert await world.history() == before
    again = await BY_ID[name](alice, theirs)
    assert (again.status_code, again.content) == (hers.status_code, hers.content), "her own is still hers"


async def test_a_cursor_is_of_one_user_one_list_and_one_strategy(world: World, alice: Trader, bob: Trader) -> None:
    hers, his = await holding(world, alice, 10), await holding(world, bob, 10)
    other = await holding(world, alice, 10)
    await world.archive()
    page = await alice.get(f"/strategy/{hers}/events", params={"limit": 1})
    asked = {"limit": 1, "cursor": page.json()["next_cursor"]}
    assert asked["cursor"], "there is more, so there is a cursor"
    assert (await alice.get(f"/strategy/{hers}/events", params=asked)).status_code == 200
    problem(await bob.get(f"/strategy/{his}/events", params=asked), 400, "INVALID_CURSOR")
    problem(await bob.get(f"/strategy/{hers}/events", params=asked), 404, "NOT_FOUND")
    for path in (f"/strategy/{other}/events", f"/strategy/{hers}/orders", "/strategy/list"):
        problem(await alice.get(path, params=asked), 400, "INVALID_CURSOR")
    auditor = await world.auditor()
    problem(await auditor.get("/audit/events", params=asked), 400, "INVALID_CURSOR")


async def test_lists_hold_the_callers_own_and_cursors_are_their_users(world: World, alice: Trader, bob: Trader) -> None:
    hers = [await alice.create() for _ in range(3)]
    his = [await bob.create() for _ in range(3)]
    await world.archive()

    async def listed(trader: Trader) -> list[int]:
        return [one["strategy_id"] for one in (await trader.get("/strategy/list")).json()["strategies"]]

    assert (await listed(alice), await listed(bob)) == (hers[::-1], his[::-1])
    cursor = (await alice.get("/strategy/list", params={"limit": 1})).json()["next_cursor"]
    problem(await bob.get("/strategy/list", params={"limit": 1, "cursor": cursor}), 400, "INVALID_CURSOR")
    for owner, strategy_id in ((alice, hers[0]), (bob, his[0])):
        events = (await owner.get(f"/strategy/{strategy_id}/events")).json()["events"]
        assert [event["type"] for event in events] == ["STRATEGY_CREATED"]


async def test_accounts_and_latches_are_each_users_own(world: World, alice: Trader, bob: Trader) -> None:
    body = {"broker": "paper", "api_key": "alice's key", "api_secret": "alice's secret"}
    assert (await alice.post("/broker/connect", body)).status_code == 200
    problem(await bob.get("/broker"), 404, "NOT_FOUND")
    problem(await bob.client.delete("/broker"), 404, "NOT_FOUND")
    assert (await alice.get("/broker")).status_code == 200
    await alice.post("/halt", {})
    assert (await bob.get("/halt")).json()["halted"] is False
    assert (await bob.client.delete("/halt")).status_code == 200
    assert (await alice.get("/halt")).json()["halted"] is True
    assert {one.user_id for one in await world.history(BrokerAuthSuccess, UserHalted)} == {alice.user_id}


async def test_one_idempotency_key_of_two_users_is_two_keys(world: World, alice: Trader, bob: Trader) -> None:
    body = {"symbol": "INFY", "quantity": 1, "buy_time": "10:30", "sell_time": "15:00", "stop_loss": 100}
    hers = (await alice.post("/strategy/create", body, key="the-same")).json()["strategy_id"]
    his = (await bob.post("/strategy/create", body, key="the-same")).json()["strategy_id"]
    assert hers != his
    problem(await bob.get(f"/strategy/status/{hers}"), 404, "NOT_FOUND")


async def test_a_token_of_one_installation_is_none_of_another(opened: OpenWorld) -> None:
    async with opened() as world:
        alice = await world.trader(password=PASSWORD)
    async with opened(keys=("a key of another installation altogether",)) as world:
        headers = {"Authorization": f"Bearer {alice.tokens['access_token']}"}
        problem(await world.client.get("/halt", headers=headers), 401, "INVALID_TOKEN")
