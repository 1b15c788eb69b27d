"""Who may do what: every operation of the OpenAPI document, by every role."""

import pytest
from redis.asyncio import Redis

from domain.events import AuditRead
from tests.api.conftest import OpenWorld
from tests.api.test_tenants import AUDITORS, PUBLIC, operations
from tests.api.world import STRATEGY, Trader, World, problem

PATH = {"strategy_id": "1", "tag": "A" * 20}


async def called(caller: Trader, name: str) -> int:
    method, _, path = name.partition(" ")
    answer = await caller.client.request(method, path.format(**PATH), json={} if method == "POST" else None)
    if answer.status_code == 403:
        problem(answer, 403, "ROLE_NOT_ALLOWED")
    return answer.status_code


async def test_auditors_read_and_never_write(world: World) -> None:
    auditor = await world.auditor()
    before = len(await world.history())
    for name in operations(world):
        method = name.partition(" ")[0]
        if name in PUBLIC or name.endswith("/stream"):
            continue
        assert (await called(auditor, name) == 403) == (method != "GET"), name
    appended = (await world.history())[before:]
    assert {type(one.event) for one in appended} == {AuditRead}
    assert (await auditor.post("/strategy/create", STRATEGY, key="once")).status_code == 403


@pytest.mark.parametrize("role", ["trader", "operator"])
async def test_nobody_else_reads_what_is_others(world: World, role: str) -> None:
    caller = await world.person(role)
    before = await world.history()
    for name in operations(world):
        refused = name in AUDITORS
        if name.startswith("GET") and name not in PUBLIC and not name.endswith("/stream"):  # which never ends
            assert (await called(caller, name) == 403) == refused, name
    assert await world.history() == before


async def test_nobody_becomes_an_auditor_by_registering(world: World) -> None:
    body = {"email": "eve@example.com", "password": "a password of some length", "role": "auditor"}
    problem(await world.client.post("/auth/register", json=body), 422, "VALIDATION_FAILED")
    trader = await world.trader("eve@example.com")
    problem(await trader.get("/audit/events"), 403, "ROLE_NOT_ALLOWED")


async def test_a_role_that_was_taken_away_counts_at_once(world: World) -> None:
    auditor = await world.auditor()
    assert (await auditor.get("/audit/events")).status_code == 200
    async with world.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE users SET role = 'trader' WHERE role = 'auditor'")
    problem(await auditor.get("/audit/events"), 403, "ROLE_NOT_ALLOWED")


async def test_every_reading_is_in_the_log_before_it_is_answered(world: World, alice: Trader) -> None:
    strategy_id = await alice.create()
    await world.archive()
    auditor = await world.auditor()
    for path, params, what, filters in [
        ("/audit/events", {"strategy_id": strategy_id, "limit": 7}, "events", {"strategy_id": str(strategy_id)}),
        ("/audit/state", {"at": 2}, "state", {"at": "2"}),
        ("/audit/diff", {"from": 1, "to": 2}, "diff", {"from": "1", "to": "2"}),
        (f"/audit/orders/{'A' * 20}", {}, "order", {"tag": "A" * 20}),
        ("/audit/users", {}, "users", {}),
        ("/audit/state", {"at": 99999}, "state", {"at": "99999"}),
    ]:
        answer = await auditor.get(path, params=params)
        read = (await world.history(AuditRead))[-1]
        assert (read.user_id, read.event.by, read.event.what) == (auditor.user_id, "api", what)  # type: ignore[attr-defined]
        assert filters.items() <= read.event.filters.items()  # type: ignore[attr-defined]
        assert read.correlation_id == answer.headers["x-request-id"]


async def test_what_cannot_be_recorded_is_not_read(opened: OpenWorld, redis: Redis) -> None:
    async with opened() as world:
        auditor = await world.auditor()
        await redis.config_set("maxmemory", "1")
        try:
            answer = await auditor.get("/audit/events")
        finally:
            await redis.config_set("maxmemory", "0")
        problem(answer, 503, "UNAVAILABLE")
        await world.archive()
        assert (await auditor.get("/audit/events")).status_code == 200


async def test_auditors_see_no_secret_and_no_address(world: World, alice: Trader) -> None:
    credentials = {"broker": "paper", "api_key": "alice's very own key", "api_secret": "alice's very own secret"}
    assert (await alice.post("/broker/connect", credentials)).status_code == 200
    await alice.create()
    await world.archive()
    auditor = await world.auditor()
    seen = "".join([(await auditor.get(path)).text for path in ("/audit/events", "/audit/state", "/audit/users")])
    assert "BROKER_AUTH_SUCCESS" in seen
    for secret in ("very own", "@example.com", "password"):
        assert secret not in seen
