"""Lives for tests: on one stage per module, each told of when something was violated."""

from collections.abc import Iterable
from pathlib import Path

from bahi.prove.lives import LivesReport
from simulation.faults import Fault
from simulation.lives import live
from simulation.stage import Stage

SEEDS = Path(__file__).parents[1] / "seeds.txt"


def lived(stage: Stage, chosen: Iterable[tuple[int, int]]) -> LivesReport:
    """All of them; fails with the violations and the end of the story of the first that had any."""
    report = LivesReport(fired={str(fault): 0 for fault in Fault})
    for seed, strategies in chosen:
        life = live(stage, seed, strategies=strategies)
        report.take(life)
        told = "\n".join(life.story[-60:])
        again = f"bahi simulate --seed {seed} --strategies {strategies}"
        assert not life.found, f"{again}\n" + "\n".join(life.found) + f"\n…\n{told}"
    return report
