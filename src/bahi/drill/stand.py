"""A stage with the processes of the engine on it, which play one moment's day after the other."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from msgspec import structs

from bahi.drill.crew import Process
from bahi.drill.plan import DayPlan
from bahi.drill.result import Result
from bahi.drill.round import Round
from bahi.drill.rows import Moment
from bahi.drill.stage import Stage

__all__ = ["Stand"]

T = TypeVar("T")


class Stand:
    """A stage with its processes, used for one moment after the other. A context manager."""

    def __init__(self, stage: Stage, plan: DayPlan) -> None:
        self.stage = stage
        self.plan = plan
        self._idle: list[Process] = []
        self._events = 0
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in self._idle:
            process.kill()
        self._runner.__exit__(kind, error, tb)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def process(self) -> Process:
        """An idle one, or a new one."""
        return self._idle.pop() if self._idle else self.new_process()

    def new_process(self) -> Process:
        return Process(self.stage.environment(), self.stage.home / "hosts.log")

    def give_back(self, process: Process) -> None:
        self._idle.append(process)

    def play(self, moment: Moment) -> Result:
        """The moment's day. What the engine did wrong is in the result. How many events a day has is counted on a
        first one on which nothing is broken, and which has to be faultless too."""
        if not self._events:
            quiet = Round(self, structs.replace(moment, archives=1.0), 0).play()
            if quiet.found.all():
                return structs.replace(quiet, moment=moment)
            self._events = quiet.events
        return Round(self, moment, self._events).play()
