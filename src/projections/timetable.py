"""What is due when: a fold of the log to the instants at which strategies want to buy and to sell.

Pure. It follows the log (`apply`) from the position at which the states were loaded (`from_states`) and skips the
versions those states hold already. Whoever reads it decides by `due(now)`; an entry stays until it is triggered,
missed, moved, or its run ends, so nothing that is due can be forgotten.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final

from msgspec import Struct

from domain.events import (
    BuyTriggered,
    Event,
    ForceStop,
    SellTriggered,
    StrategyRunning,
    StrategyStarted,
    StrategyStopped,
    StrategyStopRequested,
    StrategyUpdated,
    TriggerMissed,
)
from domain.strategy import State
from domain.values import Instant, Status
from eventstore.envelope import Recorded

__all__ = ["Due", "Starting", "Timer", "Timetable"]


class Timer(StrEnum):
    """Which of a run's two timers."""

    BUY = "BUY"
    SELL = "SELL"


class Due(Struct, frozen=True, gc=False):
    """One timer that has come."""

    due_at: Instant
    timer: Timer
    strategy_id: int
    run: int
    user_id: int
    close_at: Instant


class Starting(Struct, frozen=True, order=True, gc=False):
    """A run that waits to be told that its timers are registered. `cause` is the event that started it, if known."""

    strategy_id: int
    run: int
    user_id: int
    cause: str = ""


class _Run(Struct, gc=False):
    user_id: int
    run: int
    buy_at: Instant
    sell_at: Instant
    close_at: Instant
    buy_pending: bool
    sell_pending: bool


class Timetable:
    """The pending timers of all runs that are alive."""

    def __init__(self) -> None:
        self._runs: dict[int, _Run] = {}
        self._starting: dict[int, Starting] = {}
        self._versions: dict[int, int] = {}
        self._at: dict[Instant, set[tuple[int, Timer]]] = {}
        self._instants: list[Instant] = []
        self.revision: int = 0
        """Changes whenever the set of instants does."""

    @classmethod
    def from_states(cls, states: Iterable[State]) -> "Timetable":
        """The timetable of these states; those of ended runs are needed too, for the versions that they hold."""
        table = cls()
        for state in states:
            table._versions[state.id] = state.version
            if not state.alive:
                continue
            table._begin(
                state.id,
                _Run(
                    state.user_id,
                    state.run,
                    state.buy_at,
                    state.sell_at,
                    state.close_at,
                    not (state.buy_due or state.buy_missed),
                    not state.sell_due,
                ),
            )
            if state.status is Status.STARTING:
                table._starting[state.id] = Starting(state.id, state.run, state.user_id)
        return table

    def __len__(self) -> int:
        """How many timers are pending."""
        return sum(len(timers) for timers in self._at.values())

    # --- reading ----------------------------------------------------------------------------------------------------

    def instants(self) -> tuple[Instant, ...]:
        """The distinct instants at which something is pending, ascending."""
        return tuple(self._instants)

    def next_due(self) -> Instant | None:
        """The first of them."""
        return self._instants[0] if self._instants else None

    def due(self, now: Instant) -> list[Due]:
        """What is pending at or before `now`: the earliest first, exits before entries of the same instant."""
        found: list[Due] = []
        for instant in self._instants:
            if instant > now:
                break
            for strategy_id, timer in self._at[instant]:
                run = self._runs[strategy_id]
                found.append(Due(instant, timer, strategy_id, run.run, run.user_id, run.close_at))
        found.sort(key=lambda each: (each.due_at, each.timer is Timer.BUY, each.strategy_id))
        return found

    def starting(self) -> list[Starting]:
        """The runs that have to be told that their timers are registered, by strategy."""
        return sorted(self._starting.values())

    # --- following --------------------------------------------------------------------------------------------------

    def apply(self, recorded: Recorded) -> None:
        """Fold one event of the log. One that is held already changes nothing."""
        strategy_id, version = recorded.strategy_id, recorded.version
        if not version or version <= self._versions.get(strategy_id, 0):
            return
        self._versions[strategy_id] = version
        event = recorded.event
        if isinstance(event, StrategyStarted):
            self._end(strategy_id)
            self._begin(
                strategy_id,
                _Run(recorded.user_id, version, event.buy_at, event.sell_at, event.close_at, True, True),
            )
            self._starting[strategy_id] = Starting(strategy_id, version, recorded.user_id, recorded.event_id)
        elif (run := self._runs.get(strategy_id)) is not None:
            self._follow(strategy_id, run, event)

    def _follow(self, strategy_id: int, run: _Run, event: Event) -> None:
        match event:
            case BuyTriggered() | TriggerMissed() if event.run == run.run:
                self.settle(strategy_id, run.run, Timer.BUY, event.due_at)
            case SellTriggered() if event.run == run.run:
                self.settle(strategy_id, run.run, Timer.SELL, event.due_at)
            case StrategyUpdated():  # SCHEDULER_RESYNC_REQUIRED follows it and says nothing more
                if event.buy_at is not None and event.buy_at != run.buy_at:
                    self._drop(strategy_id, Timer.BUY, run.buy_at)
                    run.buy_at, run.buy_pending = event.buy_at, True
                    self._add(strategy_id, Timer.BUY, run.buy_at)
                if event.sell_at is not None and event.sell_at != run.sell_at:
                    self._drop(strategy_id, Timer.SELL, run.sell_at)
                    run.sell_at, run.sell_pending = event.sell_at, True
                    self._add(strategy_id, Timer.SELL, run.sell_at)
            case StrategyRunning() if event.run == run.run:
                self._starting.pop(strategy_id, None)
            case StrategyStopRequested() | ForceStop():
                self._starting.pop(strategy_id, None)
            case StrategyStopped():
                self._end(strategy_id)
            case _:
                pass

    def settle(self, strategy_id: int, run: int, timer: Timer, due_at: Instant) -> None:
        """This timer needs nothing more: it is in the log, or too late to be fired at all. A timer of another run or
        instant is left alone."""
        held = self._runs.get(strategy_id)
        if held is None or held.run != run:
            return
        if timer is Timer.BUY and held.buy_at == due_at:
            held.buy_pending = False
        elif timer is Timer.SELL and held.sell_at == due_at:
            held.sell_pending = False
        else:
            return
        self._drop(strategy_id, timer, due_at)

    def told(self, each: Starting) -> None:
        """READY and RUNNING of this run are in the log."""
        if (waiting := self._starting.get(each.strategy_id)) is not None and waiting.run == each.run:
            del self._starting[each.strategy_id]

    def _begin(self, strategy_id: int, run: _Run) -> None:
        self._runs[strategy_id] = run
        for timer, at in _pending(run):
            self._add(strategy_id, timer, at)

    def _end(self, strategy_id: int) -> None:
        self._starting.pop(strategy_id, None)
        if (run := self._runs.pop(strategy_id, None)) is not None:
            for timer, at in _pending(run):
                self._drop(strategy_id, timer, at)

    def _add(self, strategy_id: int, timer: Timer, at: Instant) -> None:
        timers = self._at.get(at)
        if timers is None:
            timers = self._at[at] = set()
            insort(self._instants, at)
            self.revision += 1
        timers.add((strategy_id, timer))

    def _drop(self, strategy_id: int, timer: Timer, at: Instant) -> None:
        timers = self._at.get(at, _NOTHING)
        if (strategy_id, timer) not in timers:
            return
        timers.remove((strategy_id, timer))
        if not timers:
            del self._at[at]
            del self._instants[bisect_left(self._instants, at)]
            self.revision += 1


_NOTHING: Final[set[tuple[int, Timer]]] = set()


def _pending(run: _Run) -> Iterator[tuple[Timer, Instant]]:
    if run.buy_pending:
        yield Timer.BUY, run.buy_at
    if run.sell_pending:
        yield Timer.SELL, run.sell_at
