"""A hundred seeds that nobody has lived before: on CI others in every run, drawn from the seed that its header says."""

import random
from collections.abc import Iterator

import hypothesis.core
import pytest

from simulation.stage import Stage, open_stage
from tests.simulation.living import lived

BATCHES, EACH = 4, 25


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with open_stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.mark.parametrize("batch", range(BATCHES))
def test_what_nobody_has_lived_before_holds_as_well(stage: Stage, batch: int) -> None:
    chance = random.Random(f"{hypothesis.core.global_force_seed or 0}/{batch}")
    assert lived(stage, [chance.randrange(1_000, 10**9) for _ in range(EACH)]).lives == EACH
