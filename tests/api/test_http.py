"""What surrounds every operation: sizes, forms, methods, headers, failures, and what the operator looks at."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from sqlalchemy.exc import OperationalError

from api import bodies
from api.middleware import MAX_BODY
from api.ports import Halt
from bahi.servers import EmbeddedRedis
from domain.events import StrategyCreated
from eventstore.errors import LogLost, LogUnavailable
from tests.api.conftest import OpenWorld
from tests.api.world import STRATEGY, Trader, World, open_world, problem
from tests.conftest import HasUrl, _execute

# --- bodies ----------------------------------------------------------------------------------------------------------


async def test_a_body_of_a_megabyte_is_refused_at_once(world: World, alice: Trader) -> None:
    answer = await alice.client.post("/strategy/create", content=b"x" * 1_000_000)
    problem(answer, 413, "BODY_TOO_LARGE")
    assert answer.headers["connection"] == "close"


async def test_a_body_that_does_not_say_its_size_is_refused_where_it_grows_too_large(
    world: World, alice: Trader
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 8192
            yield b" " * 8192

    problem(await alice.client.post("/strategy/create", content=endless()), 413, "BODY_TOO_LARGE")
    assert sent <= MAX_BODY + 2 * 8192


async def test_an_absurd_size_is_refused(alice: Trader) -> None:
    for declared in ["-1", "1e9", "x", "", "9" * 100, "٥"]:
        headers = [(b"content-length", declared.encode())]
        request = alice.client.build_request("POST", "/halt", content=b"{}")
        request.headers = httpx.Headers([*alice.client.headers.raw, *headers])
        problem(await alice.client.send(request), 413, "BODY_TOO_LARGE")


async def test_the_largest_body_is_still_read(alice: Trader) -> None:
    content = b'{"square_off": false' + b" " * (MAX_BODY - 21) + b"}"
    assert len(content) == MAX_BODY
    headers = {"Content-Type": "application/json"}
    assert (await alice.client.post("/halt", content=content, headers=headers)).status_code == 200


async def test_malformed_json_is_a_problem_of_the_caller(alice: Trader) -> None:
    for content in [b"", b"{", b"\xff", b'{"a":' * 10_000, b"\x00", b'{"symbol":"\\ud800"}', b"{}{}"]:
        for path in ["/strategy/create", "/strategy/update", "/auth/login", "/broker/connect", "/halt"]:
            answer = await alice.client.post(path, content=content, headers={"Content-Type": "application/json"})
            assert problem(answer, answer.status_code, answer.json()["code"])
            assert answer.status_code == 400


async def test_a_body_of_another_kind_is_refused(alice: Trader) -> None:
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]:
        answer = await alice.client.post("/halt", content=b"{}", headers={"Content-Type": kind})
        problem(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_a_body_that_trickles_in_is_given_up(alice: Trader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.05)
    never = asyncio.Event()

    async def trickle() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    headers = {"Content-Type": "application/json"}
    problem(await alice.client.post("/halt", content=trickle(), headers=headers), 408, "REQUEST_TIMEOUT")


# --- methods and paths -----------------------------------------------------------------------------------------------


async def test_an_unknown_path_is_a_problem_document(world: World) -> None:
    for path in ["/", "/strategy", "/strategy/", "/halt/", "/docs", "/redoc", "/../etc/passwd", "/é"]:
        problem(await world.client.get(path), 404, "NOT_FOUND")


async def test_a_method_that_a_path_does_not_have_is_refused_with_those_it_has(world: World) -> None:
    for method, path in [("PUT", "/halt"), ("GET", "/strategy/create"), ("TRACE", "/healthz")]:
        answer = await world.client.request(method, path)
        problem(answer, 405, "METHOD_NOT_ALLOWED")
        allowed = set(answer.headers["allow"].replace(" ", "").split(","))
        assert method not in allowed
        assert allowed <= {"GET", "POST", "DELETE"}
        assert allowed


async def test_every_answer_has_the_headers_of_data(world: World, alice: Trader) -> None:
    answers = [
        await world.client.get("/healthz"),
        await world.client.get("/nowhere"),
        await world.client.post("/halt", content=b"x" * 100_000),
        await alice.get("/halt"),
        await alice.post("/strategy/create", {}),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["cache-control"] == "no-store"
        assert len(answer.headers["x-request-id"]) == 32
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


async def test_a_request_id_is_ours_and_never_the_callers(world: World) -> None:
    answer = await world.client.get("/healthz", headers={"X-Request-ID": "chosen\r\n"[:6]})
    assert answer.headers["x-request-id"] != "chosen"


# --- failures --------------------------------------------------------------------------------------------------------


async def test_what_nobody_expected_is_recorded_and_not_shown(
    world: World, alice: Trader, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: int) -> Halt:
        raise RuntimeError("secret detail of the inside")

    monkeypatch.setattr(world.deps.halts, "get", broken)
    with structlog.testing.capture_logs() as lines:
        answer = await alice.get("/halt")
    body = problem(answer, 500, "INTERNAL_ERROR")
    assert "secret" not in answer.text
    (line,) = [line for line in lines if line["event"] == "request failed"]
    assert line["exc_info"]
    assert body["request_id"] == answer.headers["x-request-id"]
    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["status"], line["user_id"], line["path"]) == (500, alice.user_id, "/halt")


async def test_without_the_database_everything_answers_503_until_it_is_back(
    world: World, alice: Trader, postgres_server: HasUrl
) -> None:
    strategy_id = await alice.create()
    database = world.engine.url.database

    async def let_in(whom: str) -> None:
        """Who is not let in is thrown out too."""
        statements = (
            f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS {whom}',
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'",  # noqa: S608
        )
        await asyncio.to_thread(_execute, postgres_server.url, *statements)

    await let_in("false")
    for answer in (
        await alice.get(f"/strategy/status/{strategy_id}"),
        await alice.post("/strategy/stop", {"strategy_id": strategy_id}, key="k"),
        await alice.post("/halt", {}),
        await world.client.post("/auth/login", json={"email": alice.email, "password": "some password"}),
    ):
        problem(answer, 503, "UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"
    await let_in("true")
    assert (await alice.get(f"/strategy/status/{strategy_id}")).status_code == 200


async def test_without_redis_nothing_is_promised_and_work_resumes_when_it_returns(
    database_url: str, servers_home: Path
) -> None:
    home = servers_home / "alone"
    async with AsyncExitStack() as stack:
        with EmbeddedRedis(home, appendfsync="always") as server:
            world = await stack.enter_async_context(open_world(server.url, database_url))
            alice = await world.trader()
            strategy_id = await alice.create()
        for answer in (
            await alice.get(f"/strategy/status/{strategy_id}"),
            await alice.post("/strategy/create", STRATEGY, key="k"),
            await alice.post("/strategy/stop", {"strategy_id": strategy_id}),
            await alice.post("/halt", {}),
            await alice.client.delete("/halt"),
            await world.client.post("/auth/login", json={"email": alice.email, "password": "some password"}),
        ):
            problem(answer, 503, "UNAVAILABLE")
        assert (await alice.get("/strategy/list")).status_code == 200, "what only the database knows is still told"
        with EmbeddedRedis(home, appendfsync="always"):
            assert (await alice.get(f"/strategy/status/{strategy_id}")).status_code == 200
            assert (await alice.post("/strategy/create", STRATEGY, key="k")).status_code == 201
            assert len(await world.history(StrategyCreated)) == 2


@pytest.mark.parametrize("lost", [LogUnavailable("no answer"), OperationalError("x", {}, Exception())])
async def test_a_halt_that_the_log_did_not_take_is_not_answered_as_done(
    world: World, alice: Trader, monkeypatch: pytest.MonkeyPatch, lost: Exception
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise lost

    monkeypatch.setattr(world.log, "append", away)
    problem(await alice.post("/halt", {}), 503, "UNAVAILABLE")
    assert await world.deps.halts.get(alice.user_id) is not None, "the database has it, and recovery will honour it"
    monkeypatch.undo()
    assert (await alice.post("/halt", {})).json()["halted"] is True


async def test_a_log_that_is_not_ours_is_never_written_to(world: World, alice: Trader, redis: Redis) -> None:
    await redis.set(world.log.keys.epoch, "another incarnation")
    problem(await alice.post("/strategy/create", STRATEGY), 503, "UNAVAILABLE")
    problem(await alice.post("/halt", {}), 503, "UNAVAILABLE")
    await redis.set(world.log.keys.epoch, world.log.epoch)
    assert await world.history(StrategyCreated) == []


async def test_a_state_that_cannot_be_read_is_said_to_be_so(world: World, alice: Trader, redis: Redis) -> None:
    strategy_id = await alice.create()
    await redis.hset(world.log.keys.runtime(strategy_id), "open_quantity", "a few")
    answer = await alice.get(f"/strategy/status/{strategy_id}")
    problem(answer, 500, "STATE_UNREADABLE")
    assert "a few" not in answer.text


# --- health ----------------------------------------------------------------------------------------------------------


async def test_the_process_is_healthy_whatever_else_is(world: World) -> None:
    answer = await world.client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_readiness_asks_every_part_and_names_the_one_that_fails(
    opened: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.system.CHECK_SECONDS", 0.05)
    away: list[Exception] = []

    async def log() -> None:
        for error in away:
            raise error

    async def scheduler() -> None:
        await asyncio.Event().wait()

    async def fine() -> None:
        pass

    async with opened(checks={"log": log, "database": fine}) as world:
        answer = await world.client.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "checks": {"log": "ok", "database": "ok"}})
        away.append(LogLost("the epoch of redis://user:password@host is gone"))
        answer = await world.client.get("/readyz")
        expected = {"ready": False, "checks": {"log": "failing: LogLost", "database": "ok"}}
        assert (answer.status_code, answer.json()) == (503, expected)
    async with opened(checks={"scheduler": scheduler, "feed": fine}) as world:
        answer = await world.client.get("/readyz")
        expected = {"ready": False, "checks": {"scheduler": "failing: TimeoutError", "feed": "ok"}}
        assert (answer.status_code, answer.json()) == (503, expected)


async def test_metrics_count_by_route_and_never_by_what_a_caller_wrote(opened: OpenWorld) -> None:
    registry = CollectorRegistry()
    async with opened(registry=registry) as world:
        alice = await world.trader()
        await alice.get("/strategy/status/4711")
        await world.client.request("BREW", "/coffee/4711")
        answer = await world.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    route = {"method": "GET", "route": "/strategy/status/{strategy_id}"}
    assert registry.get_sample_value("bahi_http_requests_total", route | {"status": "404"}) == 1
    assert registry.get_sample_value("bahi_http_request_seconds_count", route) == 1
    other = {"method": "other", "route": "none", "status": "404"}
    assert registry.get_sample_value("bahi_http_requests_total", other) == 1
    assert "4711" not in answer.text
    assert "BREW" not in answer.text
