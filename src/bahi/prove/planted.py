"""The tests tested: each planted defect has to be found, by a check of the simulated world or by a test of the suite.

A defect of the world is lived with, seed after seed, until a check finds it; the seed that showed it must then be
without a finding on the sound code, for a check that also cries out without the defect proves nothing. A defect that a
test has to find fails that test, which passes on the sound code.
"""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

import bahi
from bahi.prove.defects import EVERY_DEFECT, Defect
from bahi.prove.planting import plant
from simulation.lives import live
from simulation.stage import Stage, open_stage

__all__ = ["LIMIT", "CheckBroken", "PlantedResult", "UnknownDefect", "campaign", "chosen", "label", "lived_with"]

LIMIT: Final = 300
"""Seeds after which a defect counts as one that survives."""
LONGEST: Final = 600.0
"""Seconds that a test may take."""
ENDS: Final = 60.0
"""Seconds that it may take to end when it is broken off."""
HANGING: Final = "the life hangs"
"""A life that hangs proves no check: the machine may be too slow."""
QUIET: Final = ("-q", "-p", "no:cacheprovider", "--no-header")
CHECKOUT: Final = Path(bahi.__file__).parents[2]


class CheckBroken(RuntimeError):
    """A check could not be run: nothing is proven either way."""


class UnknownDefect(ValueError):
    """There is no defect of that name."""


class PlantedResult(Struct, frozen=True, kw_only=True):
    """How a defect fared. `found_by` is the check, empty if the defect survived; `finding` what it said. `seeds` lives
    were lived until then, the last of `seed`; both are 0 for a test. `false_alarm`: what the same check said of the
    sound code."""

    name: str
    what: str
    found_by: str
    finding: str
    seeds: int
    seed: int
    seconds: float
    why: str = ""
    false_alarm: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.found_by) and not self.false_alarm


def chosen(names: Collection[str]) -> list[Defect]:
    """The defects of these names, all of them for none. Raises UnknownDefect."""
    known = {each.name for each in EVERY_DEFECT}
    if unknown := sorted(set(names) - known):
        raise UnknownDefect(f"there is no defect {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return [each for each in EVERY_DEFECT if not names or each.name in names]


def campaign(
    defects: Sequence[Defect], *, seeds: int = LIMIT, first: int = 1, tell: Callable[[str], None] = lambda _: None
) -> Iterator[PlantedResult]:
    """One defect after the other, each on lives from the seed `first` on. Raises Unfit, CheckBroken."""
    with tempfile.TemporaryDirectory(prefix="bahi-planted-", ignore_cleanup_errors=True) as folder:
        tested = [each for each in defects if each.test]
        lived = [each for each in defects if not each.test]
        if lived:
            with open_stage(Path(folder)) as stage:
                for defect in lived:
                    tell(defect.name)
                    yield lived_with(stage, defect, range(first, first + seeds))
    if tested:
        tell("the tests on the sound code")
        alarms = _pytest(["-m", "pytest", *QUIET, *sorted({each.test for each in tested})])
        for defect in tested:
            tell(defect.name)
            yield _by_test(defect, alarms)


def label(finding: str) -> str:
    """Which check speaks: its first word, and for the judge and for what is out of time the rule."""
    check, _, rest = finding.partition(": ")
    return f"{check} {rest.split(': ')[1]}" if check == "judge" else check


def lived_with(stage: Stage, defect: Defect, seeds: Collection[int]) -> PlantedResult:
    """Lives with the defect until a check that counts finds it. What breaks a life in another way ends it, too."""
    begun = time.perf_counter()
    result = partial(PlantedResult, name=defect.name, what=defect.what)
    lived = 0
    for seed in seeds:
        lived += 1
        with plant(defect.changes):
            found = live(stage, seed, defect.faults).found
        counting = [each for each in found if label(each).startswith(defect.by) and HANGING not in each]
        if counting:
            alarm = next(iter(live(stage, seed, defect.faults).found), "")
            return result(
                found_by=label(counting[0]),
                finding=counting[0],
                seeds=lived,
                seed=seed,
                seconds=round(time.perf_counter() - begun, 1),
                false_alarm=alarm,
            )
        if found:  # it broke down in a way that proves no check
            why = f"seed {seed} found {found[0]}"
            return result(
                found_by="", finding="", seeds=lived, seed=seed, seconds=round(time.perf_counter() - begun, 1), why=why
            )
    seconds = round(time.perf_counter() - begun, 1)
    return result(found_by="", finding="", seeds=lived, seed=0, seconds=seconds, why=f"{lived} lives, and no finding")


def _by_test(defect: Defect, alarms: Sequence[str]) -> PlantedResult:
    """`alarms` are the tests that fail on the sound code."""
    begun = time.perf_counter()
    failed = _pytest(["-m", "bahi.prove.under", defect.name, *QUIET, "-x", defect.test])
    alarm = next((each for each in alarms if each.startswith(defect.test)), "")
    return PlantedResult(
        name=defect.name,
        what=defect.what,
        found_by=failed[0].partition(" - ")[0] if failed else "",
        finding=failed[0] if failed else "",
        seeds=0,
        seed=0,
        seconds=round(time.perf_counter() - begun, 1),
        why=defect.why,
        false_alarm=alarm,
    )


def _pytest(arguments: Sequence[str]) -> list[str]:
    """The tests that failed, by their ids, with why. Raises CheckBroken when they could not be run."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,  # Ctrl-C is for this process, which passes it on
    ) as tests:
        try:
            out, err = tests.communicate(timeout=LONGEST)
        except BaseException:
            _break_off(tests)
            raise
    if tests.returncode == 0:
        return []
    failed = [
        line.removeprefix("FAILED ").removeprefix("ERROR ")
        for line in out.splitlines()
        if line.startswith(("FAILED ", "ERROR "))
    ]
    if tests.returncode != 1 or not failed:
        raise CheckBroken(f"{' '.join(arguments)} exited with {tests.returncode}: {(out + err)[-2000:]}")
    return failed


def _break_off(tests: "subprocess.Popen[str]") -> None:
    """As Ctrl-C does: pytest stops what the tests have started."""
    tests.send_signal(signal.SIGINT)
    try:
        tests.communicate(timeout=ENDS)
    except subprocess.TimeoutExpired:
        tests.kill()
