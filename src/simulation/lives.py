"""Lives by their seeds: each lived on a stage, with what was violated, what went wrong, and its story."""

import time
from collections import Counter
from collections.abc import Collection

from msgspec import Struct, field

from domain.values import Duration
from simulation.faults import EVERY, Fault
from simulation.hanging import HANGS, live_within
from simulation.stage import Stage
from simulation.world import STRATEGIES, World

__all__ = ["Life", "live"]


class Life(Struct, frozen=True, kw_only=True):
    """What came of a seed. `found` is empty when nothing was violated; each entry begins with the rule. `virtual`
    is how much time passed in it, `calls` how many calls to the outside were made."""

    seed: int
    strategies: int
    found: list[str]
    fired: dict[str, int]
    types: dict[str, int]
    story: list[str] = field(default_factory=list)
    virtual: Duration
    strategy_days: int
    orders: int
    calls: int
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.found


def live(
    stage: Stage,
    seed: int,
    enabled: Collection[Fault] = EVERY,
    *,
    strategies: int = STRATEGIES,
    days: int = 1,
    patience: float = HANGS,
) -> Life:
    """One life, the same for the same seed, faults, strategies and days. One that hangs is broken off after `patience`
    seconds and told of. To be called in the main thread."""
    begun = time.perf_counter()
    world = World(stage, seed, enabled, strategies=strategies, days=days)
    live_within(stage, world, patience)
    types: Counter[str] = Counter(record.event.type for record in world.history) or world.watch.types
    return Life(
        seed=seed,
        strategies=strategies,
        found=world.found,
        fired={str(fault): count for fault, count in sorted(world.faults.fired.items())},
        types=dict(sorted(types.items())),
        story=world.story.lines,
        virtual=world.clock.now() - world.began_at,
        strategy_days=len(world.strategies) * days,
        orders=sum(count for name, count in types.items() if name.startswith("EXECUTE_")),
        calls=world.traffic.count,
        seconds=time.perf_counter() - begun,
    )
