"""The parts of the long campaign: each a command of its own, whose result is kept, so that a broken-off run goes on.

A part's result is the JSON that its command ends with, in a file of the campaign's folder. Lives are parted into
chunks, a file each; so many of them run at the same time. A result that is there is not made again.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from bahi.ending import HEARS
from simulation.points import PointKind
from simulation.scenarios import SCENARIOS

__all__ = ["CHUNK", "SIZES", "Part", "PartFailed", "kept", "parts", "run_parts"]

CHUNK: Final = 100
"""Lives per process: so that its start is little of its time, and little is lost when it is broken off."""
SIZES: Final = (3, 2, 5, 3, 2, 3, 5, 2, 3, 20, 3, 2, 5, 3, 2, 3, 5, 2, 3, 50)
"""How many strategies the lives of a chunk have, in turns: few live faster, many meet more of each other."""
CUTS, CUTS_EACH = 1_500, 100
"""About how many cuts there are of an append-only file, and how many a part makes; the last makes the rest."""


class PartFailed(RuntimeError):
    """A part's command could not do its work; the message has what it said."""


class Part(Struct, frozen=True):
    """`name` is its file's, `args` are those of `bahi`, `weight` what it adds to the progress. One that is `alone` has
    the machine to itself."""

    name: str
    args: tuple[str, ...]
    weight: int
    alone: bool = False


def parts(first: int, lives: int) -> list[Part]:
    """Of a whole campaign whose lives begin with the seed `first`; the long ones come last."""
    prove = ("prove",)
    found = [
        Part("histories", ("history", "check"), 10),
        Part("rolling", (*prove, "rolling"), 100, alone=True),
        Part("processes", (*prove, "processes", "--runs", "5"), 300, alone=True),
        Part("planted", (*prove, "planted"), 600),
    ]
    for scenario in SCENARIOS:
        for kind in PointKind:
            args = (*prove, "points", "--scenario", scenario, "--kind", str(kind))
            found.append(Part(f"points-{scenario}-{kind}", args, 80))
    for start in range(0, CUTS, CUTS_EACH):
        last = ("--to", str(start + CUTS_EACH)) if start + CUTS_EACH < CUTS else ()
        found.append(Part(f"aof-{start:04}", (*prove, "aof", "--from", str(start), *last), 2 * CUTS_EACH))
    for kind, second in product(PointKind, PointKind):
        twice = (*prove, "points", "--double", "--kind", str(kind), "--second", str(second))
        found.append(Part(f"doubles-{kind}-{second}", twice, 600))
    for number, start in enumerate(range(first, first + lives, CHUNK)):
        count = min(CHUNK, first + lives - start)
        size = SIZES[number % len(SIZES)]
        lived = (*prove, "seeds", "--from", str(start), "--count", str(count), "--strategies", str(size))
        found.append(Part(f"lives-{size:02}-{start:08}", lived, count * (1 + size // 10)))
    return found


async def run_parts(home: Path, wanted: Sequence[Part], jobs: int, tell: Callable[[int, int], None]) -> dict[str, Any]:
    """The results by part. `home` is there. Raises PartFailed; what was done until then is kept."""
    total, done = sum(part.weight for part in wanted), 0
    results: dict[str, Any] = {}
    failed: list[PartFailed] = []
    room = asyncio.Semaphore(jobs)

    async def one(part: Part) -> None:
        nonlocal done
        async with room:
            try:
                results[part.name] = await _result(home, part)
            except PartFailed as failure:  # the others go on, and their results are kept
                failed.append(failure)
        done += part.weight
        tell(done, total)

    tell(0, total)
    for part in wanted:
        if part.alone:
            await one(part)
    async with asyncio.TaskGroup() as group:
        for part in wanted:
            if not part.alone:
                group.create_task(one(part))
    if failed:
        raise PartFailed("; ".join(str(failure) for failure in failed))
    return results


def kept(home: Path, wanted: Sequence[Part]) -> dict[str, Any]:
    """The results that are there, by part."""
    files = {part.name: home / f"{part.name}.json" for part in wanted}
    return {name: msgspec.json.decode(file.read_bytes()) for name, file in files.items() if file.exists()}


async def _result(home: Path, part: Part) -> Any:
    if done := kept(home, [part]):
        return done[part.name]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from bahi.cli.main import app; app()", *part.args, "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        process_group=0,  # Ctrl-C is for the campaign alone, which ends its parts
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        while process.returncode is None:
            process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), HEARS)
        raise
    lines = out.strip().splitlines()
    if process.returncode not in (0, 1) or not lines:
        said = err.decode(errors="replace").strip()[-2000:]
        raise PartFailed(f"bahi {' '.join(part.args)} ended with {process.returncode}: {said}")
    result = msgspec.json.decode(lines[-1])
    partly = home / f"{part.name}.part"
    partly.write_bytes(lines[-1])
    partly.replace(home / f"{part.name}.json")
    return result
