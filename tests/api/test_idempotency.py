"""Idempotency-Key: a write that is repeated is carried out once, whatever dies in between."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, select, update

from bahi.database.idempotency import SqlIdempotency
from bahi.database.tables import idempotency_keys
from domain.events import Event, PositionSettled, StrategyCreated, StrategyStartRequested, UserHalted
from eventstore.errors import LogUnavailable
from tests.api.test_strategies import holding
from tests.api.world import STRATEGY, Trader, World, problem


async def test_the_same_request_gets_the_same_answer_and_is_done_once(world: World, alice: Trader) -> None:
    first = await alice.post("/strategy/create", STRATEGY, key="k-1")
    again = await alice.post("/strategy/create", STRATEGY, key="k-1")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
    assert len(await world.history(StrategyCreated)) == 1
    assert (await alice.post("/strategy/create", STRATEGY, key="k-2")).content != first.content


async def test_the_same_key_for_another_request_is_refused(world: World, alice: Trader) -> None:
    created = await alice.post("/strategy/create", STRATEGY, key="k-1")
    before = await world.history()
    others: list[tuple[str, dict[str, Any]]] = [
        ("/strategy/create", STRATEGY | {"quantity": 11}),
        ("/strategy/update", {"strategy_id": created.json()["strategy_id"], "quantity": 3}),
        ("/halt", {}),
    ]
    for path, body in others:
        problem(await alice.post(path, body, key="k-1"), 422, "IDEMPOTENCY_KEY_REUSED")
    assert await world.history() == before


async def test_a_refusal_is_repeated_too_but_not_one_of_the_form(world: World, alice: Trader) -> None:
    wrong = STRATEGY | {"stop_loss": 0.01, "symbol": "NSE:NONE"}
    first = await alice.post("/strategy/create", wrong, key="k-1")
    again = await alice.post("/strategy/create", wrong, key="k-1")
    assert (first.status_code, first.content) == (422, again.content)
    assert (await alice.post("/strategy/create", {}, key="k-2")).status_code == 422
    assert (await alice.post("/strategy/create", STRATEGY, key="k-2")).status_code == 201


async def test_at_once_one_is_carried_out_and_the_others_are_told_so(world: World, alice: Trader) -> None:
    answers = await asyncio.gather(*(alice.post("/strategy/create", STRATEGY, key="k-1") for _ in range(6)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    made = {answer.content for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    for answer in answers:
        if answer.status_code == 409:
            problem(answer, 409, "IDEMPOTENCY_KEY_BUSY")
    assert len(await world.history(StrategyCreated)) == 1


async def test_a_key_is_a_plain_word(world: World, alice: Trader) -> None:
    for key in ["", " ", "a b", "é", "x" * 256, "a\x00", "k;drop"]:
        header = [(b"idempotency-key", key.encode("latin-1"))]
        answer = await alice.client.request("POST", "/strategy/create", json=STRATEGY, headers=header)
        assert problem(answer, 422, "VALIDATION_FAILED")["errors"][0]["field"] == "Idempotency-Key"
        assert await world.history(StrategyCreated) == []


async def test_an_attempt_that_failed_is_carried_out_by_the_next_under_the_same_id(
    world: World, alice: Trader, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any, **__: Any) -> None:
        raise LogUnavailable("no answer")

    monkeypatch.setattr(world.log, "append", lost)
    answer = await alice.post("/strategy/create", STRATEGY, key="k-1")
    problem(answer, 503, "UNAVAILABLE")
    assert answer.headers["retry-after"] == "1"
    monkeypatch.undo()
    reserved = await _row(world)
    answer = await alice.post("/strategy/create", STRATEGY, key="k-1")
    assert (answer.status_code, answer.json()) == (201, {"strategy_id": reserved["reserved_id"]})


class Died(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("operation", ["create", "settle", "start", "halt"])
async def test_an_attempt_that_died_after_its_append_is_recognised_by_the_log(
    world: World, alice: Trader, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    strategy_id = await holding(world, alice, 10) if operation == "settle" else await alice.create()
    attempts: dict[str, tuple[str, dict[str, Any], type[Event]]] = {
        "create": ("/strategy/create", STRATEGY, StrategyCreated),
        "settle": ("/strategy/settle", {"strategy_id": strategy_id, "quantity": 4}, PositionSettled),
        "start": ("/strategy/start", {"strategy_id": strategy_id}, StrategyStartRequested),
        "halt": ("/halt", {"square_off": True}, UserHalted),
    }
    path, body, kind = attempts[operation]
    before = len(await world.history(kind))

    async def die(*_: Any) -> None:
        raise Died

    monkeypatch.setattr(SqlIdempotency, "answered", die)
    monkeypatch.setattr(SqlIdempotency, "give_up", die)
    async with world.working():
        with pytest.raises((Died, BaseExceptionGroup)):
            await alice.post(path, body, key="k-1")
        monkeypatch.undo()
        problem(await alice.post(path, body, key="k-1"), 409, "IDEMPOTENCY_KEY_BUSY")
        await _dies(world)
        again = await alice.post(path, body, key="k-1")
        assert again.is_success, again.text
        replayed = await alice.post(path, body, key="k-1")
    assert (replayed.status_code, replayed.content) == (again.status_code, again.content)
    assert len(await world.history(kind)) == before + 1
    if operation == "settle":
        assert again.json()["open_quantity"] == 6


async def test_a_key_is_forgotten_after_a_day(world: World, alice: Trader) -> None:
    first = await alice.post("/strategy/create", STRATEGY, key="k-1")
    async with world.engine.begin() as connection:
        await connection.execute(update(idempotency_keys).values(expires_at=func.now()))
    second = await alice.post("/strategy/create", STRATEGY | {"quantity": 7}, key="k-1")
    assert (second.status_code, second.json() != first.json()) == (201, True)
    async with world.engine.begin() as connection:
        await connection.execute(update(idempotency_keys).values(expires_at=func.now()))
    await alice.post("/halt", {}, key="k-2")
    assert (await _row(world))["key"] == "k-2", "what has expired goes when a new key comes"


async def _row(world: World) -> dict[str, Any]:
    async with world.engine.connect() as connection:
        return dict((await connection.execute(select(idempotency_keys))).one()._mapping)


async def _dies(world: World) -> None:
    """Time passes, until whoever held the key must be dead."""
    async with world.engine.begin() as connection:
        await connection.execute(update(idempotency_keys).values(locked_until=func.now()))
