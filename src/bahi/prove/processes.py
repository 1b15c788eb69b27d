"""One seeded run of `bahi run` as eight processes that are killed and stopped under load, with their servers.

The faults, and what the traders ask for, are drawn from the seed. When exactly each meets what is decided by the
machine; so a seed that found something finds it again often, not always.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import httpx
from msgspec import Struct

from bahi.database.migrate import migrate
from bahi.drill.running import SETTINGS, Missed, until
from bahi.drill.users import Acknowledged
from bahi.prove.auditing import Audited, audit, is_ready, judged, last_price, verified
from bahi.prove.breaking import DEADLINE, Break, Breaker, draw
from bahi.prove.fleet import Fleet, free_port
from bahi.prove.framing import RESP
from bahi.prove.proxy import Faults, Lose, Proxy, serving
from bahi.prove.traders import Traders
from bahi.servers import EmbeddedPostgres, EmbeddedRedis, ServerError

__all__ = ["FEW", "KINDS", "MEMBERS", "REST", "ProcessRun", "run", "settings_of"]

MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "api": ("api",),
    "worker-1": ("worker",),
    "worker-2": ("worker",),
    "scheduler-1": ("scheduler",),
    "scheduler-2": ("scheduler",),
    "market": ("market",),
    "updates": ("updates",),
    "archive": ("archive",),
}
"""The processes, in the order in which they are stopped at the end."""
FEW: Final[Mapping[str, tuple[str, ...]]] = {
    "api": ("api",),
    "worker-1": ("worker", "scheduler"),
    "worker-2": ("worker", "market", "updates"),
    "archive": ("archive", "scheduler"),
}
"""The same roles in half as many, which start in half the time."""
KINDS: Final = (*(str(each) for each in Break), *(str(each) for each in Lose))
"""Every kind of fault there is."""
STARTS: Final = 300.0
"""Seconds that processes may take to start, on a machine however busy."""
REST: Final = 60.0
"""Seconds within which everything must have come to its end, when nothing breaks any more and all processes run."""
TRADERS: Final = 4
LOAD: Final = 12
"""Strategies that must be there before anything breaks."""
EVERY: Final = 60
"""Appends, deliveries and acknowledgements between two faults of the network, on average."""
_WORTH: Final = (b"\r\nEVALSHA\r\n", b"\r\nXREADGROUP\r\n", b"\r\nXACK\r\n", b"\r\nXAUTOCLAIM\r\n")


class ProcessRun(Struct, frozen=True, kw_only=True):
    """What came of a run.

    `fired` has every kind of fault, also those that did not come. `ended`: processes that ended by themselves and were
    started again, with what they said. `rest`: seconds until everything had come to its end, once nothing broke any
    more and all processes ran again. `violations` each name the seed.
    """

    seed: int
    fired: dict[str, int]
    orders: int
    events: int
    strategies: int
    acknowledged: int
    unanswered: int
    stops_hit: int
    unknown: int
    epochs: int
    recoveries: int
    ended: list[str]
    rest: float
    seconds: float
    violations: list[str]
    story: list[str]

    @property
    def ok(self) -> bool:
        return not self.violations


def settings_of(seed: int, database_url: str) -> dict[str, str]:
    """What every process of a run is started with; where Redis is comes to it."""
    return {
        **SETTINGS,
        "BAHI_DATABASE_URL": database_url,
        "BAHI_SEND_DEADLINE": f"{DEADLINE:g}",
        "BAHI_PAPER_PLAN": f"seed={seed},latency=200ms,partial=0.2,rejected=0.03,rejected_after=0.03,readings=0.03",
    }


def run(
    seed: int,
    home: Path,
    *,
    seconds: float | None = None,
    members: Mapping[str, tuple[str, ...]] = MEMBERS,
    tell: Callable[[str], None] = lambda line: None,
) -> ProcessRun:
    """Faults for `seconds`, 20 to 35 by the seed; then rest, and the audit. `home` is empty or not there; what is in it
    afterwards tells what happened. `members` are the processes with their roles. `tell` hears the story line by line.
    """
    return _Run(seed, home, members, tell).play(seconds)


class _Run:
    def __init__(
        self, seed: int, home: Path, members: Mapping[str, tuple[str, ...]], tell: Callable[[str], None]
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._seed = seed
        self._home = home
        self._members = members
        self._rng = random.Random(f"prove/processes/{seed}")
        self._begun = time.monotonic()
        self._story: list[str] = []
        self._hear = tell
        self._violations: list[str] = []
        self._network = Faults(
            random.Random(f"prove/network/{seed}"),
            every=EVERY,
            eligible=lambda request: any(each in request[:60] for each in _WORTH),
        )
        self._fired: Counter[str] = Counter()
        self._audited = Audited()
        self._rest = 0.0

    def play(self, seconds: float | None) -> ProcessRun:
        lasts = self._rng.uniform(20, 35) if seconds is None else seconds
        acknowledged: list[Acknowledged] = []
        unanswered, ended = 0, list[str]()
        with EmbeddedRedis(self._home) as redis, EmbeddedPostgres(self._home) as postgres:
            migrate(postgres.url)
            if redis.socket is None:
                raise ServerError("the proxy needs a Redis on a unix socket")
            at = redis.socket.with_name("proxy.sock")
            environment = settings_of(self._seed, postgres.url)
            with (
                serving(Proxy(at, redis.socket, RESP, self._network)),
                Fleet(self._home, environment) as fleet,
            ):
                try:
                    acknowledged, unanswered = self._trade(fleet, redis, postgres, at, lasts)
                except (Missed, ServerError, OSError, httpx.HTTPError) as error:
                    self._wrong(f"{type(error).__name__}: {error}")
                ended = [f"{each.name} ended with {each.code}: {each.said}" for each in fleet.ended]
        return ProcessRun(
            seed=self._seed,
            fired={kind: self._fired[kind] for kind in KINDS},
            orders=self._audited.orders,
            events=self._audited.events,
            strategies=self._audited.strategies,
            acknowledged=len(acknowledged),
            unanswered=unanswered,
            stops_hit=self._audited.stops_hit,
            unknown=self._audited.unknown,
            epochs=self._audited.epochs,
            recoveries=self._audited.recoveries,
            ended=ended,
            rest=round(self._rest, 1),
            seconds=round(time.monotonic() - self._begun, 1),
            violations=self._violations,
            story=self._story,
        )

    def _trade(
        self, fleet: Fleet, redis: EmbeddedRedis, postgres: EmbeddedPostgres, proxy: Path, seconds: float
    ) -> tuple[list[Acknowledged], int]:
        port = free_port()
        for name, roles in self._members.items():
            broken = "worker" in roles or self._rng.random() < 0.5
            url = f"unix://{proxy}" if broken else redis.url
            fleet.start(name, roles, port=port if "api" in roles else None, environment={"BAHI_REDIS_URL": url})
        for name in self._members:
            fleet.await_started(name, STARTS)
        self._tell(f"{len(self._members)} processes run; faults for {seconds:.0f} s")

        breaker = Breaker(fleet, redis, postgres, self._network, self._tell)
        with Traders(f"http://127.0.0.1:{port}", TRADERS, self._rng, partial(last_price, redis)) as traders:
            traders.trade()
            until(lambda: traders.strategies >= LOAD, f"{LOAD} strategies are there", STARTS)
            breaker.play(draw(self._rng, seconds - 2), seconds, threading.Event())
            self._fired = Counter({str(kind): count for kind, count in breaker.fired.items()})
            self._fired.update({str(kind): count for kind, count in self._network.fired.items()})
            self._tell(f"all is mended; {traders.strategies} strategies so far")
            for name in self._members:
                fleet.await_started(name, STARTS)
            until(lambda: is_ready(port), "the engine is ready", STARTS)
            healed = time.monotonic()
            self._tell("all processes run again")
            try:
                traders.finish(REST)
            except Missed as missed:
                self._wrong(str(missed))
            self._rest = time.monotonic() - healed
            self._tell(f"at rest after {self._rest:.1f} s")
        for name in self._members:
            try:
                fleet.terminate(name)
            except Missed as missed:
                self._wrong(str(missed))
        self._audited = audit(self._home, redis.url, postgres.url, traders.users, traders.acknowledged)
        environment = {"BAHI_REDIS_URL": redis.url, **settings_of(self._seed, postgres.url)}
        found = [*self._audited.violations, *judged(self._home, environment), *verified(self._home, environment)]
        if not self._audited.orders:
            found.append("no order reached the broker: this run shows nothing")
        for violation in found:
            self._wrong(violation)
        return traders.acknowledged, traders.unanswered

    def _tell(self, line: str) -> None:
        self._story.append(f"{time.monotonic() - self._begun:6.1f} s  {line}")
        self._hear(self._story[-1])

    def _wrong(self, what: str) -> None:
        self._violations.append(f"seed {self._seed}: {what}")
        self._tell(f"violation: {what}")
