"""Verifying and exporting for auditors: beside the engine, and with what the command line says."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.security.box import SecretBox
from api.security.keys import SecretKeys
from bahi.audit_processes import ProcessExport, ProcessVerifier
from bahi.clock import SystemClock
from bahi.seal_keys import SqlSealKeys
from domain.events import AuditRead
from eventstore.sealing import Sealing
from projections.projector import Projector
from tests.api.conftest import OpenWorld
from tests.api.test_strategies import holding
from tests.api.world import Trader, World, problem, rules
from tests.cli.terminal import here

KEY = "a-key-of-this-test-only-random-enough-for-it"


@pytest.fixture
def environment(redis_url: str, database_url: str, tmp_path: Path) -> dict[str, str]:
    return {
        "BAHI_HOME": str(tmp_path),
        "BAHI_REDIS_URL": redis_url,
        "BAHI_DATABASE_URL": database_url,
        "BAHI_SECRET_KEYS": KEY,
    }


@pytest.fixture
async def world(opened: OpenWorld, environment: dict[str, str]) -> AsyncIterator[World]:
    verifier = ProcessVerifier(environment, SystemClock())
    async with opened(keys=(KEY,), verifier=verifier, export=ProcessExport(environment)) as world:
        yield world
        await verifier.aclose()


async def sealed(world: World) -> None:
    """Everything there is is archived, and under seals of five."""
    keys = SqlSealKeys(SecretBox(SecretKeys([KEY])))
    sealing = Sealing(0, keys, events=5, age=10**12)
    await Projector(world.log, world.engine, world.clock, sealing=sealing).step()


async def verdict(auditor: Trader) -> dict[str, Any]:
    """Asked for until it is there."""
    while True:
        answer = await auditor.get("/audit/verify")
        assert answer.status_code in (200, 202), answer.text
        if answer.status_code == 200:
            told: dict[str, Any] = answer.json()
            return told
        assert answer.headers["retry-after"] == "2"


async def test_the_verdict_is_that_of_the_command_and_is_made_once_for_all(world: World, alice: Trader) -> None:
    for _ in range(6):
        await alice.create()
    await sealed(world)
    auditor, other = await world.auditor(), await world.person("auditor", "second@example.com")
    await sealed(world)
    first, second = await asyncio.gather(verdict(auditor), verdict(other))
    assert first == second
    assert first["ok"] is True, first["verdict"]
    assert first["verdict"]["checks"]["replay_equal"] is True
    assert first["verdict"]["events"] >= 7
    assert {read.user_id for read in await world.history(AuditRead)} == {auditor.user_id, other.user_id}
    async with world.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE events SET envelope = 'x' WHERE position = 4")
    assert (await verdict(auditor))["ok"] is True, "that of a moment ago"
    world.deps.verifier._last = None  # type: ignore[union-attr]  # a minute later
    changed = await verdict(auditor)
    assert changed["ok"] is False
    assert changed["verdict"]["first_fault"]["position"] == 4


async def test_a_verification_that_cannot_be_is_said(opened: OpenWorld, environment: dict[str, str]) -> None:
    nowhere = environment | {"BAHI_REDIS_URL": "redis://127.0.0.1:1/0"}
    verifier = ProcessVerifier(nowhere, SystemClock())
    async with opened(verifier=verifier) as world:
        auditor = await world.auditor()
        answer = await auditor.get("/audit/verify")
        while answer.status_code == 202:
            answer = await auditor.get("/audit/verify")
        assert "could not be carried out" in problem(answer, 503, "NO_VERDICT")["detail"]
        problem(await auditor.get("/audit/export"), 503, "NO_EXPORT")
        await verifier.aclose()


async def test_an_export_proves_itself_offline(world: World, alice: Trader, bob: Trader, tmp_path: Path) -> None:
    await holding(world, alice, 10)
    await bob.create()
    auditor = await world.auditor()
    await sealed(world)
    end = await world.log.last_position()
    answer = await auditor.get("/audit/export")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/gzip"
    assert "history.jsonl.gz" in answer.headers["content-disposition"]
    file = tmp_path / "history.jsonl.gz"
    file.write_bytes(answer.content)
    lines = [msgspec.json.decode(line) for line in gzip.decompress(answer.content).splitlines()]
    assert [int(each["position"]) for each in lines if "specversion" in each] == list(range(1, end + 1))
    async with world.engine.connect() as connection:
        row = await connection.exec_driver_sql("SELECT public_key FROM seal_keys")
        public = bytes(row.scalar_one()).hex()
    done = await asyncio.to_thread(here, "verify", "--offline", file, "--public-key", public)
    assert done.code == 0, done.out + done.err
    file.write_bytes(answer.content[:-50])
    assert (await asyncio.to_thread(here, "verify", "--offline", file, "--public-key", public)).code == 1


async def test_an_export_has_just_what_was_asked_for(world: World, alice: Trader, bob: Trader) -> None:
    hers = await holding(world, alice, 10)
    await bob.create()
    history = await world.history()
    auditor = await world.auditor()
    await sealed(world)

    async def exported(**filters: Any) -> list[int]:
        answer = await auditor.get("/audit/export", params={name.rstrip("_"): each for name, each in filters.items()})
        assert answer.status_code == 200, answer.text
        lines = [msgspec.json.decode(line) for line in gzip.decompress(answer.content).splitlines()]
        return [int(each["position"]) for each in lines if "specversion" in each]

    assert await exported(user_id=bob.user_id) == [it.position for it in history if it.user_id == bob.user_id]
    assert await exported(strategy_id=hers, type=["STRATEGY_CREATED", "ORDER_FILLED"]) == [
        it.position
        for it in history
        if it.event.type in ("STRATEGY_CREATED", "ORDER_FILLED") and it.strategy_id == hers
    ]
    assert await exported(from_=3, until=6) == [3, 4, 5, 6]
    read = (await world.history(AuditRead))[-1].event
    assert isinstance(read, AuditRead)
    assert (read.what, read.filters) == ("export", {"from": "3", "until": "6"})
    assert rules(await auditor.get("/audit/export", params={"from": "yesterday"})).keys() == {"from"}


async def test_there_are_not_more_exports_than_allowed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bahi.audit_processes.AT_ONCE", 0)
    auditor = await world.auditor()
    problem(await auditor.get("/audit/export"), 429, "TOO_MANY_EXPORTS")
