"""A rolling restart: two versions of bahi on one log, while strategies trade.

Every process of the earlier version is replaced by one of this version, then half of them go back, as after a release
that is taken back. Nothing is broken on purpose here: so nobody may end by itself, park or abort anything.

What this version may write and the earlier one cannot read is named beforehand: an event of such a type would be parked
by the earlier one's workers and its strategy aborted, and behind a newer database they do not start.
"""

import io
import json
import os
import random
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import httpx
from msgspec import Struct

from bahi.database.migrate import head
from bahi.drill.running import SETTINGS, Missed, until
from bahi.drill.users import Acknowledged
from bahi.prove.auditing import Audited, audit, is_ready, judged, last_price, verified
from bahi.prove.fleet import Fleet, free_port
from bahi.prove.processes import MEMBERS, REST, STARTS
from bahi.prove.traders import Traders
from bahi.servers import EmbeddedPostgres, EmbeddedRedis, ServerError
from eventstore.envelope import SCHEMAS

__all__ = ["PREVIOUS", "NoHistory", "RollingRun", "roll", "unknown_to", "unpack"]

PREVIOUS: Final = "923d154"
"""The commit that was released before this version."""
TRADERS: Final = 3
WAITS: Final = (1.0, 3.0)
"""Seconds between two things that a trader asks for."""
PAUSE: Final = (0.5, 2.0)
"""Seconds between two replacements, from to."""
_PACKAGES: Final = "src"
_KNOWN: Final = """
import json
from bahi.database.migrate import head
from eventstore.envelope import SCHEMAS
events = {cls.__struct_config__.tag: schema for cls, schema in SCHEMAS.items()}
print(json.dumps({"events": events, "database": head()}))
"""


class NoHistory(RuntimeError):
    """The earlier version is not to be had."""


class RollingRun(Struct, frozen=True, kw_only=True):
    """What came of it. `replaced` and `taken_back` name processes, in their order; `old` and `new` are commits.
    `unknown_to_old`: events and database revisions of this version that the old one does not know."""

    seed: int
    old: str
    new: str
    unknown_to_old: list[str]
    replaced: list[str]
    taken_back: list[str]
    orders: int
    events: int
    strategies: int
    acknowledged: int
    rest: float
    seconds: float
    violations: list[str]
    story: list[str]

    @property
    def ok(self) -> bool:
        return not self.violations


def unpack(ref: str, folder: Path) -> tuple[Path, str]:
    """The packages of that version, below `folder`, and its commit. Raises NoHistory."""
    here = Path(__file__).resolve().parent
    top = _git(here, "rev-parse", "--show-toplevel", what="bahi does not run from a git checkout")
    commit = _git(
        Path(top),
        "rev-parse",
        "--verify",
        f"{ref}^{{commit}}",
        what=f"the checkout {top} does not know the commit {ref}: if it is a shallow clone, fetch its history with "
        "`git fetch --unshallow`, or name another commit with --old",
    )
    packed = subprocess.run(
        ["git", "-C", top, "archive", "--format=tar", commit, _PACKAGES], capture_output=True, check=False
    )
    if packed.returncode:
        raise NoHistory(f"commit {commit} has no folder {_PACKAGES}: {packed.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder / _PACKAGES, commit


def roll(seed: int, home: Path, *, old: str = PREVIOUS, tell: Callable[[str], None] = lambda line: None) -> RollingRun:
    """Raises NoHistory when there is no earlier version to begin with."""
    home.mkdir(parents=True, exist_ok=True)
    code, commit = unpack(old, home / "code")
    here = Path(__file__).resolve().parent
    new = _git(here, "describe", "--always", "--dirty", "--abbrev=40", what="bahi does not run from a git checkout")
    return _Roll(seed, home, code, commit, new, tell).play()


class _Roll:
    def __init__(self, seed: int, home: Path, code: Path, old: str, new: str, tell: Callable[[str], None]) -> None:
        self._seed = seed
        self._home = home
        self._code = code
        self._old = old
        self._new = new
        self._rng = random.Random(f"prove/rolling/{seed}")
        self._hear = tell
        self._begun = time.monotonic()
        self._story: list[str] = []
        self._violations: list[str] = []
        self._replaced: list[str] = []
        self._taken_back: list[str] = []
        self._unknown = unknown_to(code)
        self._rest = 0.0
        self._audited = Audited()

    def play(self) -> RollingRun:
        acknowledged: list[Acknowledged] = []
        with EmbeddedRedis(self._home) as redis, EmbeddedPostgres(self._home) as postgres:
            environment = {
                **SETTINGS,
                "BAHI_REDIS_URL": redis.url,
                "BAHI_DATABASE_URL": postgres.url,
                "BAHI_PAPER_PLAN": f"seed={self._seed},latency=200ms,partial=0.2",
            }
            with Fleet(self._home, environment) as fleet:
                try:
                    acknowledged = self._trade(fleet, redis, postgres, environment)
                except (Missed, ServerError, OSError, httpx.HTTPError) as error:
                    self._wrong(f"{type(error).__name__}: {error}")
                counted = Counter(f"{each.name} ended by itself with {each.code}: {each.said}" for each in fleet.ended)
                for what, times in counted.items():
                    self._wrong(what + (f" ({times} times)" if times > 1 else ""))
        return RollingRun(
            seed=self._seed,
            old=self._old,
            new=self._new,
            unknown_to_old=self._unknown,
            replaced=self._replaced,
            taken_back=self._taken_back,
            orders=self._audited.orders,
            events=self._audited.events,
            strategies=self._audited.strategies,
            acknowledged=len(acknowledged),
            rest=round(self._rest, 1),
            seconds=round(time.monotonic() - self._begun, 1),
            violations=self._violations,
            story=self._story,
        )

    def _trade(
        self, fleet: Fleet, redis: EmbeddedRedis, postgres: EmbeddedPostgres, environment: dict[str, str]
    ) -> list[Acknowledged]:
        port = free_port()

        def start(name: str, code: Path | None) -> None:
            fleet.start(name, MEMBERS[name], port=port if name == "api" else None, code=code)

        for name in MEMBERS:
            start(name, self._code)
        for name in MEMBERS:
            fleet.await_started(name, STARTS)
        self._tell(f"{len(MEMBERS)} processes of {self._old[:12]} run")
        if self._unknown:
            self._tell(f"which does not know {', '.join(self._unknown)}")
        order = list(MEMBERS)
        self._rng.shuffle(order)
        back = sorted(order[: len(order) // 2], key=lambda _: self._rng.random())
        pause = threading.Event()
        with Traders(f"http://127.0.0.1:{port}", TRADERS, self._rng, partial(last_price, redis)) as traders:
            traders.trade()
            for names, code, done, what in (
                (order, None, self._replaced, "this version"),
                (back, self._code, self._taken_back, self._old[:12]),
            ):
                for name in names:
                    pause.wait(self._rng.uniform(*PAUSE))
                    fleet.terminate(name)
                    start(name, code)
                    fleet.await_started(name, STARTS)
                    done.append(name)
                    self._tell(f"{name} is of {what}; {traders.strategies} strategies so far")
            until(lambda: is_ready(port), "the engine is ready", STARTS)
            begun = time.monotonic()
            try:
                traders.finish(REST)
            except Missed as missed:
                self._wrong(str(missed))
            self._rest = time.monotonic() - begun
            self._tell(f"at rest after {self._rest:.1f} s")
        for name in MEMBERS:
            try:
                fleet.terminate(name)
            except Missed as missed:
                self._wrong(str(missed))
        self._audited = audit(self._home, redis.url, postgres.url, traders.users, traders.acknowledged)
        wrong = [*self._audited.violations, *judged(self._home, environment), *verified(self._home, environment)]
        for what, count in (("parked", self._audited.parked), ("aborted", self._audited.aborted)):
            if count:
                wrong.append(f"{count} were {what}, though nothing was broken")
        for each in wrong:
            self._wrong(each)
        return traders.acknowledged

    def _tell(self, line: str) -> None:
        self._story.append(f"{time.monotonic() - self._begun:6.1f} s  {line}")
        self._hear(self._story[-1])

    def _wrong(self, what: str) -> None:
        self._violations.append(f"seed {self._seed}: {what}")
        self._tell(f"violation: {what}")


def unknown_to(code: Path) -> list[str]:
    """What this version knows and the version in that folder does not. Raises NoHistory when that does not run here."""
    theirs = subprocess.run(
        [sys.executable, "-c", _KNOWN],
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        check=False,
    )
    if theirs.returncode:
        raise NoHistory(f"the version in {code} does not run in this environment: {theirs.stderr.strip()[-500:]}")
    known = json.loads(theirs.stdout)
    ours = {str(cls.__struct_config__.tag): schema for cls, schema in SCHEMAS.items()}
    unknown = [f"{name} of schema {each}" for name, each in sorted(ours.items()) if known["events"].get(name) != each]
    return unknown + ([f"database revision {head()}"] if known["database"] != head() else [])


def _git(folder: Path, *asked: str, what: str) -> str:
    """What git answers. Raises NoHistory, which begins with `what`."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *asked], capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoHistory(f"{what}: {error}") from error
    if done.returncode:
        raise NoHistory(f"{what}: {done.stderr.strip()}")
    return done.stdout.strip()
