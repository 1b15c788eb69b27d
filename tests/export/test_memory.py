"""A file of any size is written, checked and imported in the same memory."""

import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from bahi.cli.offline import examine
from eventstore.export import files, writing
from eventstore.export.lines import Filters
from eventstore.export.writing import Wish
from tests.export.conftest import empty
from tests.export.history import history
from tests.export.world import Archived

FEW, MANY = 3_000, 15_000
BOUND = 1.5
"""Five times as many events take so much more memory, at most: what waits for the compressing thread varies."""


@pytest.fixture
async def large(databases: list[str]) -> AsyncIterator[Archived]:
    made = Archived(empty(databases[0]))
    await made.store(history(MANY), seal=500, project=False)
    yield made
    await made.engine.dispose()


async def peak(work: Awaitable[object]) -> int:
    """Bytes that the work had at most at a time."""
    gc.collect()
    tracemalloc.start()
    try:
        await work
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_writing_and_checking_take_no_more_memory_for_more_events(
    large: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what is held at a time, in the proportion of so few events
    monkeypatch.setattr(writing, "PAGE", 500)
    monkeypatch.setattr(files, "_CHUNK", 1 << 16)
    few = Wish(last={0: FEW}, told=Filters(last=str(FEW)))
    await large.export(tmp_path / "warm", few)
    written = [
        await peak(large.export(tmp_path / "few", few)),
        await peak(large.export(tmp_path / "many")),
        await peak(large.export(tmp_path / "some", Wish(told=Filters(users=(2,))))),
    ]
    assert max(written[1:]) < BOUND * written[0], written

    async def looked(name: str) -> None:
        assert examine(tmp_path / name, [await large.public()], quiet=True).ok

    await looked("warm")
    checked = [await peak(looked(name)) for name in ("few", "many")]
    assert max(checked[1:]) < BOUND * checked[0], checked
