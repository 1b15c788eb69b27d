"""An installation with one short trading day in it, and the command line that looks at it.

The day is lived through once per run. Tests that only look share one copy, whose servers run meanwhile; a test that
changes something has a copy of its own.
"""

import csv
import datetime as dt
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bahi.servers import attach_or_start
from domain.calendar import wall
from simulation.market import generate_day
from tests.cli.terminal import Installation, bahi


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("BAHI_") and not name.startswith("BAHI_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("BAHI_CALENDAR", "nse")
    monkeypatch.delenv("COLUMNS", raising=False)  # a test runner's; tables are then as wide as they want to be


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the test's own: short, because the paths of unix sockets are."""
    made = Path(tempfile.mkdtemp(prefix="bahi-cli-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def lived_through(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HOME after its day, its servers stopped. Nobody starts them here: tests get copies."""
    return once(tmp_path_factory, "day", live_through_a_day) / "demo"


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder for the whole run: the first worker of pytest-xdist that wants it makes it, the others wait for it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers' folders
    folder, unfinished = base / name, base / f"{name}.unfinished"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder


def live_through_a_day(made: Path) -> None:
    ticks = made / "ticks.csv"
    with ticks.open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["timestamp", "symbol", "ltp", "volume"])
        for tick in generate_day(dt.date(2026, 6, 15), seed=1, ticks_per_symbol=300):
            at = wall(tick.at).replace(tzinfo=None).isoformat(" ")
            rows.writerow([at, tick.symbol.partition(":")[2], tick.price, tick.volume])
    done = bahi("demo", "--ticks", ticks, "--strategies", 24, "--home", made, "--json")
    assert done.code == 0, done


@pytest.fixture(scope="session")
def day(lived_through: Path) -> Iterator[Installation]:
    """The installation that tests look at. They must leave it as it is."""
    made = Path(tempfile.mkdtemp(prefix="bahi-cli-"))
    home = shutil.copytree(lived_through, made / "h")
    with attach_or_start(home) as servers:
        yield Installation(home, servers)
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def own(lived_through: Path, folder: Path) -> Iterator[Installation]:
    """The same day in an installation that the test may spoil. Its servers run."""
    home = shutil.copytree(lived_through, folder / "h")
    with attach_or_start(home) as servers:
        yield Installation(home, servers)


@pytest.fixture
def at_rest(lived_through: Path, folder: Path) -> Path:
    """The same, its servers stopped."""
    return Path(shutil.copytree(lived_through, folder / "h"))
