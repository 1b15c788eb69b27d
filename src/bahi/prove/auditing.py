"""What is looked at from the outside when everything has come to its end: the log, the broker's book, their judge."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx
import redis
from msgspec import Struct

from bahi.drill.checks import check, read_history
from bahi.drill.reading import books_of, reading
from bahi.drill.users import Acknowledged
from bahi.servers import EmbeddedRedis
from domain.events import EventParked, OrderOutcomeUnknown, SafetyAbort, StoplossTriggered, SystemRecovery
from eventstore.errors import LogError
from eventstore.keys import price
from projections.prices import decode_price

__all__ = ["Audited", "audit", "is_ready", "judged", "last_price", "verified"]

_BAHI: Final = "from bahi.cli.main import app; app()"
PATIENCE: Final = 300.0
"""Seconds that a command may take, on a machine however busy."""
_REQUESTED: Final = "names the first cause"
"""What a user asks for over REST has the request for its first cause, which is no event; the judge looks for one."""
TOLD: Final = 800
"""Characters of what `bahi verify` says that are worth repeating."""


class Audited(Struct, kw_only=True):
    """What is in the log and in the broker's book. `violations`: what does not hold."""

    orders: int = 0
    events: int = 0
    strategies: int = 0
    epochs: int = 1
    recoveries: int = 0
    stops_hit: int = 0
    unknown: int = 0
    parked: int = 0
    aborted: int = 0
    violations: list[str] = []


def audit(
    home: Path, redis_url: str, database_url: str, users: Sequence[int], acknowledged: Sequence[Acknowledged]
) -> Audited:
    """Reads the whole log and the whole book, and checks all that must hold when everything has come to its end."""
    try:
        return asyncio.run(_audit(home, redis_url, database_url, users, acknowledged))
    except (LogError, RuntimeError, OSError) as error:
        return Audited(violations=[f"the log cannot be read: {type(error).__name__}: {error}"])


async def _audit(
    home: Path, redis_url: str, database_url: str, users: Sequence[int], acknowledged: Sequence[Acknowledged]
) -> Audited:
    async with reading(redis_url, database_url) as log:
        history = await read_history(log)
        books = await books_of(home, users)
        found = await check(log, history, books, users=users, acknowledged=acknowledged, known={})
        kinds = Counter(type(record.event) for record in history.records)
        return Audited(
            orders=len(books.rows),
            events=len(history.records),
            strategies=len({record.strategy_id for record in history.records if record.strategy_id}),
            epochs=len(log.lineage),
            recoveries=kinds[SystemRecovery],
            stops_hit=kinds[StoplossTriggered],
            unknown=kinds[OrderOutcomeUnknown],
            parked=kinds[EventParked],
            aborted=kinds[SafetyAbort],
            violations=found.all(),
        )


def verified(home: Path, environment: Mapping[str, str]) -> list[str]:
    """What `bahi verify` finds, run as anybody may run it."""
    done = _python(environment, "-c", _BAHI, "verify", "--json", "--home", str(home))
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return []
    if not lines:
        return [f"bahi verify ended with {done.returncode}: {done.stderr.strip()[-TOLD:]}"]
    return [f"bahi verify: {json.dumps(json.loads(lines[-1]))[:TOLD]}"]


def judged(home: Path, environment: Mapping[str, str]) -> list[str]:
    """What the independent judge finds, who has the exported history and the broker's book, and no code of ours."""
    history = home / "history.jsonl.gz"
    export = _python(environment, "-c", _BAHI, "archive", "export", str(history), "--force", "--home", str(home))
    if export.returncode:
        return [f"bahi archive export ended with {export.returncode}: {export.stderr.strip()[-TOLD:]}"]
    judge = ("-m", "simulation.independent", str(history), str(home / "paper.db"), "--ended", "--json")
    done = _python(environment, *judge)
    if done.returncode == 0:
        return []
    if not done.stdout.strip():
        return [f"the independent judge ended with {done.returncode}: {done.stderr.strip()[-TOLD:]}"]
    found = [each for each in json.loads(done.stdout)["findings"] if _REQUESTED not in each["what"]]
    return [f"the independent judge: {json.dumps(each)[:TOLD]}" for each in found]


def _python(environment: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    own = {name: value for name, value in os.environ.items() if not name.startswith("BAHI_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**own, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def is_ready(port: int) -> bool:
    """Whether the REST application says so."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


def last_price(server: EmbeddedRedis, symbol: str) -> Decimal | None:
    """The symbol's last price, as the market listener wrote it down; None when there is none, or nobody to ask."""
    try:
        with server.client() as client:
            value: Any = client.get(price(symbol))
    except redis.RedisError:
        return None
    found = decode_price(value)
    return None if found is None else found[0]
