"""The day of a drill, conducted: time, the market and the users here, the engine in its processes.

The clock stands still while any process has something to do, then moves to whatever comes first.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from bahi.drill.crew import Process
from bahi.drill.link import Died
from bahi.drill.plan import DayPlan
from bahi.drill.users import Users
from domain.values import MINUTE, Duration, Instant, Tick

__all__ = ["Day"]

AFTERMATH: Final[Duration] = 15 * MINUTE
"""How long after the close the day goes on, for orders whose fate is not known yet."""
TURNS: Final = 2_000


class Day:
    """`on_death` is called when a process has died while it was asked something; it puts another in its place."""

    def __init__(
        self,
        plan: DayPlan,
        processes: list[Process],
        users: Users,
        *,
        archives: Callable[[], bool],
        on_death: Callable[["Day", Process], None],
        before_end: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.processes = processes
        self.users = users
        self.now: Instant = plan.open_at - 30 * MINUTE
        self.at_rest: Callable[[], None] | None = None
        """Called once, as soon as every process has nothing more to do."""
        self._timers: list[tuple[Instant, Callable[[], None]]] = []
        """What the drill does itself at a time of the day."""
        self._before_end = before_end
        self._archives = archives
        self._on_death = on_death
        self._due: Instant | None = None

    def play(self) -> None:
        """From before the open to the end of the aftermath."""
        actions = list(self.plan.actions)
        for at, batch in self.plan.batches:
            while actions and actions[0].at <= at:
                action = actions.pop(0)
                self.until(action.at)
                self.users.ask(action, self)
            self.until(at)
            self.market(batch)
        self._before_end()
        self.until(max(self.now, self.plan.close_at) + AFTERMATH)
        self.settle(archive=True)

    def at(self, at: Instant, then: Callable[[], None]) -> None:
        """Does this when the day has come to `at`."""
        self._timers.append((at, then))
        self._timers.sort(key=lambda timer: timer[0])

    def until(self, at: Instant) -> None:
        """Moves on to `at`, stopping wherever something is due."""
        while (due := self._next()) is not None and due <= at:
            self.now = max(due, self.now)
            while self._timers and self._timers[0][0] <= self.now:
                self._timers.pop(0)[1]()
            self.settle()
        self.now = max(at, self.now)

    def market(self, batch: Sequence[Tick]) -> None:
        ticks = [[tick.symbol, str(tick.price), tick.at, tick.volume] for tick in batch]
        for process in list(self.processes):
            if "market" in process.roles:
                answer = self.ask(process, {"do": "ticks", "ticks": ticks, "now": self.now})
                if answer is None or "lost" in answer or answer["matters"] or self.at_rest is not None:
                    self.settle()

    def settle(self, *, archive: bool | None = None) -> None:
        """Lets everything happen that can happen now, in whichever process."""
        for _ in range(TURNS):
            done = 0
            dues: list[Instant] = []
            wanted = self._archives() if archive is None else archive
            for process in list(self.processes):
                if process not in self.processes:  # it died with another
                    continue
                answer = self.ask(process, {"do": "settle", "now": self.now, "archive": wanted})
                if answer is None or "lost" in answer:
                    done += 1
                    continue
                done += answer["done"] if len(self.processes) > 1 else 0
                self.now = max(self.now, answer["now"])
                if answer["due"] is not None:
                    dues.append(answer["due"])
            if not done:
                self._due = min(dues, default=None)
                then, self.at_rest = self.at_rest, None
                if then is not None:
                    then()
                return
        raise RuntimeError(f"the engine does not come to rest at {self.now}")

    def ask(self, process: Process, message: dict[str, Any]) -> dict[str, Any] | None:
        """The answer; None when the process died over it."""
        try:
            return process.ask(message)
        except Died:
            self._on_death(self, process)
            return None

    def _next(self) -> Instant | None:
        times = [self._due, self._timers[0][0] if self._timers else None]
        return min((at for at in times if at is not None), default=None)
