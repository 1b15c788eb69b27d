"""What is broken under the processes of an installation, and when: drawn from a seed, carried out in real time."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

import psutil
from msgspec import Struct

from bahi.prove.fleet import Fleet
from bahi.prove.proxy import Faults
from bahi.servers import EmbeddedPostgres, EmbeddedRedis

__all__ = ["Break", "Breaker", "Planned", "draw"]


class Break(StrEnum):
    WORKER_KILLED = "worker-killed"
    SCHEDULER_KILLED = "scheduler-killed"
    MARKET_KILLED = "market-killed"
    UPDATES_KILLED = "updates-killed"
    ARCHIVE_KILLED = "archive-killed"
    API_KILLED = "api-killed"
    WORKER_PAUSED = "worker-paused"
    """Shorter than the time after which others take over what it held."""
    WORKER_PAUSED_PAST_TAKEOVER = "worker-paused-past-takeover"
    WORKER_PAUSED_PAST_DEADLINE = "worker-paused-past-deadline"
    """Longer than an intent may be sent: when it wakes up, it must not send."""
    SCHEDULER_PAUSED = "scheduler-paused"
    MARKET_PAUSED = "market-paused"
    UPDATES_PAUSED = "updates-paused"
    ARCHIVE_PAUSED = "archive-paused"
    REDIS_KILLED = "redis-killed"
    REDIS_PAUSED = "redis-paused"
    POSTGRES_KILLED = "postgres-killed"
    POSTGRES_PAUSED = "postgres-paused"


DEADLINE: Final = 3.0
"""Seconds after which an intent is not sent any more, in these runs."""
TAKEOVER: Final = 2.0
_KILLED: Final = {
    Break.WORKER_KILLED: "worker",
    Break.SCHEDULER_KILLED: "scheduler",
    Break.MARKET_KILLED: "market",
    Break.UPDATES_KILLED: "updates",
    Break.ARCHIVE_KILLED: "archive",
    Break.API_KILLED: "api",
}
_PAUSED: Final = {
    Break.WORKER_PAUSED: ("worker", 0.2, TAKEOVER - 0.3),
    Break.WORKER_PAUSED_PAST_TAKEOVER: ("worker", TAKEOVER + 0.2, DEADLINE - 0.1),
    Break.WORKER_PAUSED_PAST_DEADLINE: ("worker", DEADLINE + 0.5, 3 * DEADLINE),
    Break.SCHEDULER_PAUSED: ("scheduler", 0.5, 4.0),
    Break.MARKET_PAUSED: ("market", 0.5, 4.0),
    Break.UPDATES_PAUSED: ("updates", 0.5, 6.0),
    Break.ARCHIVE_PAUSED: ("archive", 0.5, 5.0),
}
_SERVERS: Final = {
    Break.REDIS_KILLED: (0.0, 1.5),
    Break.REDIS_PAUSED: (0.3, 6.0),
    Break.POSTGRES_KILLED: (0.0, 2.5),
    Break.POSTGRES_PAUSED: (0.5, 5.0),
}


class Planned(Struct, frozen=True):
    """`at`: seconds after the start. `lasts`: until what was killed is started again, or what was stopped goes on.
    `which`: of several processes of a role."""

    at: float
    what: Break
    lasts: float
    which: int


def draw(rng: random.Random, seconds: float) -> list[Planned]:
    """Something breaks every second or two, mended or not what broke before; each kind comes before any comes twice."""
    plan: list[Planned] = []
    at = rng.uniform(1.0, 2.0)
    bag: list[Break] = []
    while at < seconds:
        if not bag:
            bag = list(Break)
            rng.shuffle(bag)
        what = bag.pop()
        if what in _KILLED:
            lasts = rng.choice((0.0, rng.uniform(0, 3.0)))
        else:
            lasts = rng.uniform(*(_SERVERS[what] if what in _SERVERS else _PAUSED[what][1:]))
        plan.append(Planned(at, what, lasts, rng.randrange(64)))
        at += rng.uniform(0.5, 2.5)
    return plan


class Breaker:
    """Carries out a plan. What cannot be done at its time, since its victim is dead or stopped, is not counted."""

    def __init__(
        self,
        fleet: Fleet,
        redis: EmbeddedRedis,
        postgres: EmbeddedPostgres,
        network: Faults | None,
        tell: Callable[[str], None],
    ) -> None:
        self.fired: Counter[Break] = Counter()
        self._fleet = fleet
        self._redis = redis
        self._postgres = postgres
        self._network = network
        self._tell = tell
        self._mends: list[tuple[float, str, Callable[[], None]]] = []
        """When, whose, and how."""
        self._stopped: set[str] = set()
        """Servers."""

    def play(self, plan: Sequence[Planned], seconds: float, enough: threading.Event) -> None:
        """Returns after so many seconds, or `enough`, with everything mended."""
        begun = time.monotonic()
        if self._network is not None:
            self._network.turn(True)
        left = list(plan)
        while (now := time.monotonic() - begun) < seconds and not enough.is_set():
            for mend in [each for each in self._mends if each[0] <= now]:
                self._mends.remove(mend)
                mend[2]()
            if left and left[0].at <= now:
                self._break(left.pop(0), now)
            times = [seconds, *(each[0] for each in self._mends), *(each.at for each in left[:1])]
            enough.wait(max(0.0, min(times) - (time.monotonic() - begun)))
        if self._network is not None:
            self._network.turn(False)
        for _, _, mend_now in sorted(self._mends, key=lambda each: each[0]):
            mend_now()
        self._mends.clear()

    def _break(self, planned: Planned, now: float) -> None:
        what = planned.what
        if what in _SERVERS:
            done = self._break_server(planned, now)
        else:
            role = _KILLED[what] if what in _KILLED else _PAUSED[what][0]
            done = self._break_process(planned, role, now)
        if done:
            self.fired[what] += 1

    def _break_process(self, planned: Planned, role: str, now: float) -> bool:
        fleet = self._fleet
        able = [name for name in sorted(fleet.living()) if role in fleet.roles(name) and not fleet.is_paused(name)]
        if not able:
            return False
        name = able[planned.which % len(able)]
        if planned.what in _KILLED:
            done = fleet.kill(name)
            self._mend_later(now + planned.lasts, name, lambda: fleet.again(name))
        else:
            done = fleet.pause(name)
            self._mend_later(now + planned.lasts, name, lambda: (fleet.go_on(name), None)[1])
        self._tell(f"{planned.what}: {name}, for {planned.lasts:.1f} s")
        return done

    def _break_server(self, planned: Planned, now: float) -> bool:
        server = self._redis if planned.what in (Break.REDIS_KILLED, Break.REDIS_PAUSED) else self._postgres
        if server.name in self._stopped:
            return False
        self._stopped.add(server.name)
        self._tell(f"{planned.what}: for {planned.lasts:.1f} s")
        if planned.what in (Break.REDIS_KILLED, Break.POSTGRES_KILLED):
            server.kill()
            mend = server.start
        else:
            family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
            _signal(family, signal.SIGSTOP)
            mend = lambda: _signal(family, signal.SIGCONT)  # noqa: E731

        def mended() -> None:
            mend()
            self._stopped.discard(server.name)

        self._mend_later(now + planned.lasts, server.name, mended)
        return True

    def _mend_later(self, at: float, whose: str, how: Callable[[], None]) -> None:
        self._mends.append((at, whose, how))


def _signal(family: Sequence[psutil.Process], number: signal.Signals) -> None:
    for each in family:
        try:
            os.kill(each.pid, number)
        except ProcessLookupError:  # a connection's process that has ended meanwhile
            continue
