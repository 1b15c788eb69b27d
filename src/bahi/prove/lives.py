"""Many simulated lives, added up: how much was lived through, which faults struck, and what was violated."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from msgspec import Struct, field

from domain.values import Duration
from simulation.faults import EVERY, Fault
from simulation.lives import Life, live
from simulation.stage import open_stage
from simulation.world import STRATEGIES

__all__ = ["Broken", "LivesReport", "add_up", "live_all", "read_seeds"]


class Broken(Struct, frozen=True, kw_only=True):
    """A life in which something was violated."""

    seed: int
    strategies: int = STRATEGIES
    found: list[str]

    @property
    def again(self) -> str:
        """The command that tells its story."""
        many = "" if self.strategies == STRATEGIES else f" --strategies {self.strategies}"
        return f"bahi simulate --seed {self.seed}{many}"


class LivesReport(Struct, kw_only=True):
    """Of some lives, or of all of them. `virtual` is the time that passed in them, in microseconds, `seconds` the time
    that they took. `fired` holds every kind of fault that was enabled, also those that never struck."""

    lives: int = 0
    strategy_days: int = 0
    virtual: Duration = 0
    orders: int = 0
    events: int = 0
    calls: int = 0
    seconds: float = 0.0
    fired: dict[str, int] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.broken

    def take(self, life: Life) -> None:
        self.lives += 1
        self.strategy_days += life.strategy_days
        self.virtual += life.virtual
        self.orders += life.orders
        self.events += sum(life.types.values())
        self.calls += life.calls
        self.seconds += life.seconds
        self.fired = _sum(self.fired, life.fired)
        self.types = _sum(self.types, life.types)
        if life.found:
            self.broken.append(Broken(seed=life.seed, strategies=life.strategies, found=life.found))


def live_all(
    home: Path,
    chosen: Sequence[tuple[int, int]],
    enabled: Collection[Fault] = EVERY,
    *,
    days: int = 1,
    tell: Callable[[Life], None] = lambda _: None,
) -> LivesReport:
    """Lives these seeds with so many strategies each, one after the other, on servers of their own in `home`."""
    report = LivesReport(fired={str(fault): 0 for fault in Fault if fault in enabled})
    with open_stage(home) as stage:
        for seed, strategies in chosen:
            life = live(stage, seed, enabled, strategies=strategies, days=days)
            report.take(life)
            tell(life)
    return report


def add_up(parts: Sequence[LivesReport]) -> LivesReport:
    total = LivesReport()
    for part in parts:
        total.lives += part.lives
        total.strategy_days += part.strategy_days
        total.virtual += part.virtual
        total.orders += part.orders
        total.events += part.events
        total.calls += part.calls
        total.seconds += part.seconds
        total.fired = _sum(total.fired, part.fired)
        total.types = _sum(total.types, part.types)
        total.broken += part.broken
    return total


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """By name, zeros included."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in one | other}


def read_seeds(file: Path) -> list[tuple[int, int]]:
    """The seeds of a file with the strategies of their lives: one in a line, as `SEED [STRATEGIES]`, with what it was
    behind a `#`. Raises ValueError naming the line."""
    found = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        match line.partition("#")[0].split():
            case []:
                continue
            case [seed] if seed.isdecimal():
                found.append((int(seed), STRATEGIES))
            case [seed, strategies] if seed.isdecimal() and strategies.isdecimal():
                found.append((int(seed), int(strategies)))
            case other:
                raise ValueError(f"{file}, line {number}: {' '.join(other)!r} is no seed")
    return found
