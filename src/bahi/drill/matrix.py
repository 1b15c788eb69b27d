"""The matrix: every row at so many moments, on one stage or on several at a time."""

import multiprocessing
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Final

from bahi.drill.moments import Result, Stand
from bahi.drill.plan import STRATEGIES, draw_day
from bahi.drill.rows import Moment
from bahi.drill.stage import Stage
from bahi.ending import end_children, end_in_order
from bahi.telemetry.logging import configure_logging

__all__ = ["play"]

_STOPS: Final = 60.0
"""Seconds that the servers of a stage are given to stop."""


def play(
    home: Path,
    wanted: Sequence[Moment],
    seed: int,
    strategies: int = STRATEGIES,
    jobs: int = 1,
    known: Mapping[Moment, Result] = {},
) -> Iterator[Result]:
    """The results of these moments, in their order. `home` is a folder for the servers' data, empty or not there. With
    `jobs` so many stages play at a time, each in a process of its own; the results are the same. What is `known` is not
    played again."""
    new = [moment for moment in wanted if moment not in known]
    with closing(_all(home, new, seed, strategies, jobs)) as played:
        for moment in wanted:
            yield known[moment] if moment in known else next(played)


def _all(home: Path, drawn: Sequence[Moment], seed: int, strategies: int, jobs: int) -> Generator[Result, None, None]:
    if jobs > 1:
        yield from _side_by_side(home, drawn, seed, strategies, jobs)
        return
    with Stage(home, seed) as stage, Stand(stage, draw_day(seed, strategies)) as stand:
        for moment in drawn:
            yield stand.play(moment)


def _side_by_side(home: Path, drawn: Sequence[Moment], seed: int, strategies: int, jobs: int) -> Iterator[Result]:
    """Whichever stage is free plays the next moment."""
    spawn = multiprocessing.get_context("spawn")
    left = list(enumerate(drawn))
    played: dict[int, Result] = {}
    next_one = 0
    with ExitStack() as stack:
        stages: dict[Connection, int] = {}
        for number in range(min(jobs, len(drawn))):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_perform, args=(home / str(number), seed, strategies, theirs), daemon=False)
            process.start()
            theirs.close()
            stack.callback(process.join, _STOPS)
            stack.enter_context(closing(ours))  # which ends it
            stages[ours] = -1
        stack.push(_break_off)
        for stage in stages:
            stages[stage], moment = left.pop(0)
            stage.send(moment)
        while next_one < len(drawn):
            answered = wait([stage for stage, at in stages.items() if at >= 0])
            for stage in [stage for stage in stages if stage in answered]:
                try:
                    played[stages[stage]] = stage.recv()
                except EOFError as error:
                    failed = drawn[stages[stage]]
                    raise RuntimeError(
                        f"the stage that played --row {failed.row} --moment {failed.number} ended by itself"
                    ) from error
                stages[stage] = -1
                if left:
                    stages[stage], moment = left.pop(0)
                    stage.send(moment)
            while next_one in played:
                yield played.pop(next_one)
                next_one += 1


def _break_off(_: type[BaseException] | None, broken: BaseException | None, __: TracebackType | None) -> None:
    """Nobody waits for the moments that are being played."""
    if broken is not None:
        end_children()


def _perform(home: Path, seed: int, strategies: int, conductor: Connection) -> None:
    """A stage in a process of its own, as long as moments come."""
    end_in_order()
    configure_logging("CRITICAL")
    with Stage(home, seed) as stage, Stand(stage, draw_day(seed, strategies)) as stand:
        while True:
            try:
                conductor.send(stand.play(conductor.recv()))
            except (EOFError, BrokenPipeError):  # no more are wanted
                return
