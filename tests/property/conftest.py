"""Shrinking ends before the run does: a test that takes two minutes is ended, and what it found would be lost."""

from collections.abc import Iterator

import hypothesis.internal.conjecture.engine as conjecture
import pytest


@pytest.fixture(autouse=True, scope="session")
def _shrink_no_longer_than_a_minute() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conjecture, "MAX_SHRINKING_SECONDS", 45)
        yield
