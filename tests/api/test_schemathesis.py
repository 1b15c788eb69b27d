"""Requests made up from the OpenAPI document, good ones and broken ones, against a real server in this process."""

import asyncio
import logging
import socket
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pytest
import redis as blocking_redis
import schemathesis
import structlog
import uvicorn
from hypothesis import HealthCheck, settings
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from api.audit.ports import ExportWish, Verdict
from api.stream.streams import StreamTerms
from bahi.schema.openapi import openapi_document
from tests.api.test_strategies import holding
from tests.api.world import NOW, open_world
from tests.conftest import HasUrl, _execute, with_database

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    ignored_auth,
]


class AtOnce:
    """The verifier and the export of these requests, of which there are hundreds: the real ones take a process each,
    see test_audit_processes.py."""

    async def verdict(self) -> Verdict:
        return Verdict(running=False, began_at=NOW, ended_at=NOW, verdict={"ok": True})

    async def stream(self, wish: ExportWish) -> AsyncGenerator[bytes, None]:
        yield b"packed"


class Served(NamedTuple):
    """Its address, a trader's and an auditor's token, and a strategy of the trader's."""

    address: str
    token: str
    auditor: str
    strategy_id: int


@contextmanager
def served(redis_url: str, database_url: str) -> Iterator[Served]:
    """The application behind a real server, on an event loop of its own. Its streams end by themselves, soon."""
    started: dict[str, Any] = {}
    ready = threading.Event()

    async def serve() -> None:
        terms = StreamTerms(longest=0.02, per_user=1000)
        async with open_world(redis_url, database_url, stream_terms=terms, verifier=AtOnce(), export=AtOnce()) as world:
            trader = await world.trader()
            started["strategy_id"] = await holding(world, trader, 10)
            await world.archive()
            started["token"] = trader.tokens["access_token"]
            started["auditor"] = (await world.auditor()).tokens["access_token"]
            config = uvicorn.Config(world.app, log_config=None, access_log=False, lifespan="off")
            started["server"] = uvicorn.Server(config)
            with socket.create_server(("127.0.0.1", 0)) as listening:
                started["port"] = listening.getsockname()[1]
                ready.set()  # who connects now waits in the socket's queue until the server takes it
                async with world.working():
                    await started["server"].serve(sockets=[listening])

    def run() -> None:
        try:
            asyncio.run(serve())
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    ready.wait()
    try:
        address = f"http://127.0.0.1:{started['port']}"
        yield Served(address, started["token"], started["auditor"], started["strategy_id"])
    finally:
        if "server" in started:
            started["server"].should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def server(redis_url: str, postgres_server: HasUrl, database_template: str) -> Iterator[Served]:
    name = "test_openapi"
    with blocking_redis.Redis.from_url(redis_url) as client:
        client.flushall()
    _execute(postgres_server.url, f"CREATE DATABASE {name} TEMPLATE {database_template}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with served(redis_url, with_database(postgres_server.url, name)) as found:
            yield found
    finally:
        structlog.reset_defaults()
    _execute(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)")


schema = schemathesis.openapi.from_dict(openapi_document())


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_makes_an_answer_that_is_not_in_the_document(case: Any, server: Served) -> None:
    """Requests that follow the document and requests that break it; some of them name a strategy that exists."""
    address, token, auditor, strategy_id = server
    if case.path.startswith("/audit"):
        token = auditor
    broken = {place.value for place, of in case.meta.components.items() if of.mode is GenerationMode.NEGATIVE}
    if "path" not in broken and case.path_parameters and len(str(case.query)) % 2:
        case.path_parameters["strategy_id"] = strategy_id
    headers = {} if "header" in broken else {"Authorization": f"Bearer {token}"}
    case.call_and_validate(base_url=address, headers=headers, checks=CHECKS)


FOLLOWING = [each for each in CHECKS if each is not negative_data_rejection]
"""What a link leads to takes the place of what was generated, so a request that was to break a rule may keep it."""
BOUGHT = {"symbol": "INFY", "quantity": 1, "buy_time": "10:30", "sell_time": "15:00", "stop_loss": 100}
OF_A_STRATEGY = {
    *("POST /strategy/update", "POST /strategy/start", "POST /strategy/stop", "POST /strategy/settle"),
    *("GET /strategy/status/{strategy_id}", "GET /strategy/{strategy_id}/events", "GET /strategy/{strategy_id}/orders"),
}


def test_what_follows_from_an_answer_is_in_the_document_too(server: Served) -> None:
    """The links from a strategy: its status, changes, start, stop, orders and events, one after the other."""
    asked: Counter[str] = Counter()
    wrong: list[BaseException] = []

    class Linked(schema.include(path_regex="^/strategy/").as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: Any) -> None:
            if case.operation.label == "POST /strategy/create" and case.meta.generation.mode is GenerationMode.POSITIVE:
                case.body = BOUGHT  # one that the exchange lists, so that there is a strategy to follow

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"base_url": server.address, "headers": {"Authorization": f"Bearer {server.token}"}}

        def validate_response(self, response: Any, case: Any, **kwargs: Any) -> None:
            if response.status_code < 300:
                asked[case.operation.label] += 1
            try:
                case.validate_response(response, checks=FOLLOWING)
            except (AssertionError, BaseExceptionGroup) as error:
                wrong.append(error)
                raise

    few = settings(max_examples=15, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck))
    # The same requests may be answered otherwise the second time, by a server that holds more: then the search is over.
    with suppress(FlakyStrategyDefinition):
        run_state_machine_as_test(Linked, settings=few)
    assert wrong == []
    assert len(OF_A_STRATEGY & asked.keys()) >= 4, f"the links led only to {asked}"
