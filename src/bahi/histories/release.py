"""The histories of a release: which there are, and recording all of them into one folder."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from bahi.histories.checking import check_folder
from bahi.histories.files import Head, HistoryError
from bahi.histories.kite_day import play_kite
from bahi.histories.recording import Recorder, Written, missing_types, write
from bahi.histories.shapes import construct
from bahi.histories.stories import quiet, recovered, surfaced, troubled
from eventstore.envelope import Raw

__all__ = ["PLANNED", "Planned", "record_release", "release_of"]


Played = Coroutine[Any, Any, tuple[list[Raw], Recorder]]
"""The log of a day, and what was decided in it."""


class Planned(Struct, frozen=True):
    """A history to record. `lossy`: the end of its log is lost on the way. Without `play` it is constructed."""

    name: str
    about: str
    play: Callable[[Path, int], Played] | None = None
    lossy: bool = False


async def _kite(_home: Path, seed: int) -> tuple[list[Raw], Recorder]:
    return await play_kite(seed)


PLANNED: Final = (
    Planned("quiet", "A paper day on which nothing fails: updates, stops, halts, a second run, an audit.", quiet),
    Planned("troubled", "A paper day on which the broker fails, sessions end and events are parked.", troubled),
    Planned("recovered", "A paper day on which Redis is lost twice, and nobody is there for an hour.", recovered, True),
    Planned("surfaced", "A paper day on which orders show after they were given up, and nobody closes it.", surfaced),
    Planned("kite", "Minutes at a Kite that fails in its ways, with workers that die.", _kite),
    Planned("shapes", "Constructed, not lived: every type of event in every shape that its schema allows."),
)


def release_of() -> str:
    """The folder of this program's release: `v0.1` for any 0.1.x."""
    return "v" + ".".join(installed("bahi").split(".")[:2])


def record_release(folder: Path, seed: int, run: Callable[[Played], tuple[list[Raw], Recorder]]) -> Iterator[Written]:
    """Records one after the other; `run` runs a coroutine to its end. The folder is there when all of them are.

    Raises HistoryError when it holds something already, when a history differs from itself at once, or when a type of
    the catalogue is in none of them.
    """
    if folder.exists() and any(folder.iterdir()):
        raise HistoryError(f"{folder} is not empty: what a release recorded is never recorded anew; name a new folder")
    types: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="bahi-histories-") as work:
        for plan in PLANNED:
            written = _record(plan, Path(work), seed, run)
            types += written.types
            yield written
        if missing := missing_types(types):
            raise HistoryError(
                f"no history has an event of type {', '.join(missing)}: let one come about, or try a seed"
            )
        for checked in check_folder(Path(work)):
            if checked.differences:
                raise HistoryError(f"{checked.history}: replaying it differs at once: {checked.differences[0]}")
        shutil.copytree(work, folder, dirs_exist_ok=True)


def _record(plan: Planned, folder: Path, seed: int, run: Callable[[Played], tuple[list[Raw], Recorder]]) -> Written:
    head = Head(
        bahi="",
        name=plan.name,
        version=installed("bahi"),
        seed=seed,
        about=plan.about,
        constructed=plan.play is None,
    )
    if plan.play is None:
        return write(folder, head, construct(), Recorder())
    with tempfile.TemporaryDirectory(prefix="bahi-history-", ignore_cleanup_errors=True) as home:
        raws, recorder = run(plan.play(Path(home), seed))
    return write(folder, head, raws, recorder, lossy=plan.lossy)
