"""The OpenAPI document: complete, correct, and held to what the application really does."""

import json
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from api import models
from api.openapi import _leaves
from bahi.schema.openapi import openapi_document
from tests.api.world import STRATEGY, Trader, World, problem


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    document = openapi_document()
    schemas = document["components"]["schemas"]
    for name, schema_of in schemas.items():
        Draft202012Validator.check_schema(schema_of)
        assert name.isidentifier()
    text = json.dumps(document)
    for reference in {part.partition('"')[0] for part in text.split('"$ref": "')[1:]}:
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    structs = {struct.__name__ for base in (models.Request, models.Answer) for struct in _leaves(base)}
    assert structs <= schemas.keys()


def test_every_route_is_in_the_document_with_an_id_of_its_own_and_its_problems() -> None:
    paths = openapi_document()["paths"]
    operations = [operation for methods in paths.values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    for operation in operations:
        assert operation["summary"]
        expected = {"422", "500", "503"} | (set() if operation["security"] == [] else {"401"})
        assert expected <= operation["responses"].keys(), operation["operationId"]
        if "requestBody" in operation:
            assert {"400", "408", "413", "415"} <= operation["responses"].keys(), operation["operationId"]


def test_bodies_take_prices_as_numbers_or_strings_and_answers_give_numbers() -> None:
    schemas = openapi_document()["components"]["schemas"]
    assert schemas["CreateStrategy"]["properties"]["stop_loss"]["type"] == ["number", "string"]
    assert schemas["StrategyStatus"]["properties"]["stop_loss"] == {"type": "number"}
    for body in _leaves(models.Request):
        assert schemas[body.__name__]["additionalProperties"] is False


async def test_the_document_is_served_to_anybody_and_is_the_committed_one(world: World) -> None:
    answer = await world.client.get("/openapi.json")
    assert answer.json() == json.loads(json.dumps(openapi_document()))


async def test_what_a_day_answers_follows_the_document(world: World, alice: Trader) -> None:
    """Random requests seldom get far: these do, and each answer is held against its schema."""
    seen: set[str] = set()

    async def call(method: str, path: str, body: Any = None, *, route: str = "") -> Any:
        answer = await alice.client.request(method, path, json=body)
        name = f"{method} {route or path}"
        follows(name, answer)
        seen.add(f"{name} {answer.status_code}")
        return answer

    paper = {"broker": "paper", "api_key": "k", "api_secret": "s"}
    await call("POST", "/broker/connect", paper)
    await call("GET", "/broker")
    created = await call("POST", "/strategy/create", STRATEGY)
    asked = {"strategy_id": created.json()["strategy_id"]}
    async with world.working():
        await call("POST", "/strategy/start", asked)
        await call("POST", "/strategy/update", asked | {"stop_loss": "1490.05"})
        await call("POST", "/strategy/stop", asked)
    await call("POST", "/strategy/settle", asked | {"quantity": 1})
    await world.archive()
    await call("GET", "/strategy/list")
    for path in ("/strategy/status/{strategy_id}", "/strategy/{strategy_id}/events", "/strategy/{strategy_id}/orders"):
        await call("GET", path.format(**asked), route=path)
    for method in ("POST", "GET", "DELETE", "GET"):
        await call(method, "/halt", {} if method == "POST" else None)
    await call("DELETE", "/broker")
    await call("GET", "/broker")
    login = {"email": alice.email, "password": "a password of some length"}
    tokens = (await call("POST", "/auth/login", login)).json()
    fresh = (await call("POST", "/auth/refresh", {"refresh_token": tokens["refresh_token"]})).json()
    await call("POST", "/auth/logout", {"refresh_token": fresh["refresh_token"]})
    for path in ("/healthz", "/readyz", "/metrics"):
        await call("GET", path)
    for name in (
        "POST /strategy/create 201",
        "POST /strategy/start 200",
        "POST /strategy/settle 422",
        "GET /broker 404",
    ):
        assert name in seen
    assert len(seen) == 22


def follows(name: str, answer: httpx.Response) -> None:
    document = openapi_document()
    method, _, path = name.partition(" ")
    responses = document["paths"][path][method.lower()]["responses"]
    assert str(answer.status_code) in responses, f"{name} answers {answer.status_code}: {answer.text}"
    content = responses[str(answer.status_code)].get("content", {})
    if not answer.content:
        assert not content, name
        return
    kind = answer.headers["content-type"].partition(";")[0]
    if kind.endswith("json"):
        whole = {"components": document["components"], **content[kind]["schema"]}
        Draft202012Validator(whole).validate(answer.json())
    else:
        assert kind in content
    if kind == "application/problem+json":
        problem(answer, answer.status_code, answer.json()["code"])
