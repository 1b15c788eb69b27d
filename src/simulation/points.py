"""Crash points, enumerated: in a golden scenario the n-th call to the outside fails, for every n until none is left.

A call can fail in four kinds, once or persistently; two calls can fail in one run. After each fault everything recovers
by itself, the scenario goes on to its end, and is judged as any simulated life is; besides, what the scenario is for
must have come about, or the log must say why it did not.
"""

import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from domain.values import SECOND, Duration, Instant
from simulation.enacted import Enacted
from simulation.hanging import HANGS, live_within
from simulation.scenarios import Scenario
from simulation.stage import Stage
from simulation.wire import Crossing, Verdict

__all__ = ["PERSISTS", "REACH", "Point", "PointKind", "Strike", "calls", "doubles", "enact", "points"]

PERSISTS: Final[Duration] = 10 * SECOND
"""How long a persistent fault strikes every call of its process."""


REACH: Final = 12
"""How many calls after the first fault the second one comes at most."""


class PointKind(StrEnum):
    """How a call fails. The values are names on the command line and in tables."""

    BEFORE = "before"
    """It is never made, and its process gets an error."""
    AFTER_EFFECT = "after-effect"
    """It is made, and its process dies before it hears of it."""
    REPLY_LOST = "reply-lost"
    """It is made, and its process gets an error."""
    CANCELLED = "cancelled"
    """It is never made: its process dies while it waits to make it, and its tasks are cancelled."""


class Strike(Struct, frozen=True):
    """The `n`-th call fails, counted from 1 at the start or, for the second of two strikes, from the first on. A
    persistent one strikes every further call of the same process until PERSISTS is over."""

    kind: PointKind
    n: int
    persistent: bool = False


class Point(Struct, frozen=True, kw_only=True):
    """One run of a scenario. `struck` names the calls that failed, at most the first of each strike; `fired` counts all
    that did. `reasons` is why the scenario did not come about as meant. `found` is empty when nothing was violated, and
    then no `story` is kept."""

    scenario: str
    strikes: tuple[Strike, ...]
    fired: int
    struck: tuple[str, ...]
    as_meant: bool
    reasons: tuple[str, ...]
    found: tuple[str, ...]
    story: tuple[str, ...] = ()
    calls: int
    seconds: float

    @property
    def kind(self) -> PointKind:
        return self.strikes[0].kind

    @property
    def persistent(self) -> bool:
        return self.strikes[0].persistent

    @property
    def n(self) -> int:
        return self.strikes[0].n


def calls(stage: Stage, scenario: Scenario) -> list[str]:
    """The calls of the scenario's window when none fails, in their order: the n-th is struck first by `points`' n."""
    run = _Struck(stage, scenario, ())
    live_within(stage, run, HANGS)
    if run.found:
        raise AssertionError(f"without any fault {scenario.name} violates: {run.found}")
    return run.names


def points(
    stage: Stage, scenario: Scenario, kind: PointKind, persistent: bool = False, *, first: int = 1, step: int = 1
) -> Iterator[Point]:
    """One point for every `step`-th call from the `first` on, until a run has no such call any more."""
    n = first
    while (point := enact(stage, scenario, [Strike(kind, n, persistent)])).fired:
        yield point
        n += step


def doubles(
    stage: Stage,
    scenario: Scenario,
    kind: PointKind,
    second: PointKind,
    *,
    first: int = 1,
    step: int = 1,
    reach: int = REACH,
) -> Iterator[Point]:
    """Two faults in one run: for each n, the m-th call after the n-th fails as well, for m = 1 … `reach`."""
    n = first
    while True:
        for m in range(1, reach + 1):
            point = enact(stage, scenario, [Strike(kind, n), Strike(second, m)])
            if not point.struck:
                return
            if len(point.struck) < 2:
                break  # the scenario was over before
            yield point
        n += step


def enact(stage: Stage, scenario: Scenario, strikes: Sequence[Strike] = ()) -> Point:
    """One run. One that hangs is broken off and told of."""
    begun = time.perf_counter()
    run = _Struck(stage, scenario, strikes)
    live_within(stage, run, HANGS)
    outcome = run.outcome
    return Point(
        scenario=scenario.name,
        strikes=tuple(strikes),
        fired=run.fired,
        struck=tuple(run.struck),
        as_meant=outcome is not None and outcome.as_meant,
        reasons=outcome.reasons if outcome is not None else (),
        found=tuple(run.found),
        story=tuple(run.story.lines) if run.found else (),
        calls=run.passed,
        seconds=time.perf_counter() - begun,
    )


class _Struck(Enacted):
    """A scenario in which the given strikes happen, one after the other."""

    def __init__(self, stage: Stage, scenario: Scenario, strikes: Sequence[Strike]) -> None:
        super().__init__(stage, scenario)
        self.fired = 0
        self.struck: list[str] = []
        self.names: list[str] = []
        self._waiting = list(strikes)
        self._counted = 0
        self._lasting: list[tuple[str, Instant, PointKind]] = []

    async def passing(self, crossing: Crossing) -> bool:
        self._counted += 1
        self.names.append(repr(crossing))
        name, now = crossing.wire.name, self.clock.now()
        if self._waiting and self._counted == self._waiting[0].n:
            strike = self._waiting.pop(0)
            self._counted = 0
            self.struck.append(repr(crossing))
            if strike.persistent:
                self._lasting.append((name, now + PERSISTS, strike.kind))
            await self._strike(crossing, strike.kind)
            return True
        for whom, until, kind in self._lasting:
            if whom == name and now < until:
                await self._strike(crossing, kind)
                return True
        return False

    async def _strike(self, crossing: Crossing, kind: PointKind) -> None:
        self.fired += 1
        self.story.tell(self.clock.now(), "fault", f"{kind} at {crossing!r}")
        match kind:
            case PointKind.BEFORE:
                self.traffic.release(crossing, Verdict.LOSE)
            case PointKind.REPLY_LOST:
                self.traffic.release(crossing, Verdict.SWALLOW)
                self.stir()
            case PointKind.AFTER_EFFECT:
                self.traffic.release(crossing, Verdict.FREEZE)
                await self.traffic.rest()
                await self.die(self.processes[crossing.wire.name])
            case PointKind.CANCELLED:
                await self.die(self.processes[crossing.wire.name])
