"""One moment of the drill: a day is played, at the moment something breaks, and the day goes on with what is left."""

import asyncio
import os
import time
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import psycopg
from msgspec import Struct, field, structs
from sqlalchemy.exc import SQLAlchemyError

from bahi.drill.checks import (
    Books,
    Found,
    check,
    held_back,
    holdings,
    read_history,
    unwatched,
)
from bahi.drill.crew import Process
from bahi.drill.day import Day
from bahi.drill.effects import Armed
from bahi.drill.link import Died
from bahi.drill.plan import DayPlan
from bahi.drill.reading import books_of, reading
from bahi.drill.rows import Moment, Row
from bahi.drill.stage import Stage
from bahi.drill.users import Users
from domain.strategy import State
from domain.values import HOUR, MINUTE, SECOND, Duration, Instant
from eventstore.errors import LogError
from projections.live import live_states

__all__ = ["Result", "Stand"]

T = TypeVar("T")

PATIENT: Final = 20.0
"""Seconds that answers wait for the archive: it is turned by hand here, and on a busy machine slowly."""
IMPATIENT: Final = 0.2
"""Where there is none, nobody shall wait for long."""
OTHERS_FIRST: Final = 0.5
"""How probable it is that the other processes notice what happened before the one that was in the middle of it."""
LOOK_EVERY: Final[Duration] = 5 * SECOND
LOOK_FOR: Final[Duration] = 10 * MINUTE
"""After the break, positions and stops are looked at as soon as nothing is in doubt any more; that must be by then."""


class Result(Struct, kw_only=True):
    """What came of a moment. `trading_after`: seconds of real time from the start of what was killed until the engine
    had done all that there was to do. `exits_held`, `entries_held`: microseconds of the market's time for which they
    waited for the order book. `only_redis`: events that were nowhere but in what was destroyed."""

    moment: Moment
    found: Found = field(default_factory=Found)
    happened_at: Instant = 0
    trading_after: float = 0.0
    exits_held: Duration = 0
    entries_held: Duration = 0
    only_redis: int = 0
    events: int = 0
    orders: int = 0
    acknowledged: int = 0
    torn: int = 0
    epochs: int = 1
    restarted: bool = False
    """Whether processes of the engine were started for it."""
    reopened: int = 0
    seconds: float = 0.0
    load: float = 0.0
    """How many processes wanted the machine's processors then."""


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
        first one on which nothing is broken, and which has to be faultless too; it is the same for all moments."""
        if not self._events:
            quiet = Round(self, structs.replace(moment, archives=1.0, apart=""), 0).play()
            if quiet.found.all():
                return structs.replace(quiet, moment=moment)
            self._events = quiet.events
        return Round(self, moment, self._events).play()


class Round:
    """A day with one moment. `events`: how many such a day has; 0: on this one, nothing is broken."""

    def __init__(self, stand: Stand, moment: Moment, events: int) -> None:
        self._events = events
        self.result = Result(moment=moment)
        self._stand = stand
        self._stage = stand.stage
        self._moment = moment
        self._rng = moment.rng()
        self._patience = IMPATIENT if moment.row is Row.POSTGRES else PATIENT
        self._again_after = moment.again
        self._known: dict[int, bytes] = {}
        self._copied = not moment.copies
        self._broken = False
        self._database_gone = False
        self._processes: list[Process] = []

    def play(self) -> Result:
        begun = time.perf_counter()
        try:
            self._play()
        except (RuntimeError, OSError, LogError, SQLAlchemyError, psycopg.Error) as error:
            self.result.found.broken.append(f"the day broke off: {type(error).__name__}: {error}")
            for process in self._processes:
                process.kill()
        self.result.seconds = time.perf_counter() - begun
        self.result.load = os.getloadavg()[0]
        return self.result

    def _play(self) -> None:
        stand, plan, moment = self._stand, self._stand.plan, self._moment
        strategies = [
            (number, self._stage.users[user], config) for number, (user, config) in enumerate(plan.strategies, 1)
        ]
        self._stage.clear(len(strategies), f"D{moment.seed % 1000:03}")
        users = Users(self._stage.users, [number for number, *_ in strategies], self._stage.tokens())
        day = Day(
            plan,
            self._processes,
            users,
            archives=lambda: self._rng.random() < moment.archives,
            on_death=self._on_death,
            before_end=self._at_the_latest,
        )
        self._day = day
        try:
            for roles in moment.layout:
                self._processes.append(process := stand.process())
                process.open(self._stage.home, roles, day.now, patience=self._patience)
            self._reopened_before = sum(process.reopened for process in self._processes)
            victim = self._processes[0]
            victim.on_stop = self._on_stop
            self._processes[-1].ask({"do": "create", "asked": strategies, "now": day.now})
            day.settle(archive=True)
            if self._events:
                self._arm(victim)
            day.play()
            self._audit(users)
            for process in self._processes:
                process.ask({"do": "arm", "at": []})
                process.ask({"do": "close"})
                stand.give_back(process)
        finally:
            users.close()

    def _arm(self, victim: Process) -> None:
        moment, begins = self._moment, self._stage.redis_position()

        def position(share: float) -> int:
            return begins + int(share * (self._events - begins))

        armed: list[Armed] = [(position(moment.at), moment.then, "kill" if moment.dies else "stop")]
        if moment.copies:
            armed.insert(0, (position(moment.copied_at), 1, "stop"))
        if self._again_after and not moment.dies:
            armed.append((0, self._again_after, "kill"))
        victim.ask({"do": "arm", "at": armed})

    # --- the moment --------------------------------------------------------------------------------------------------

    def _on_stop(self, process: Process) -> None:
        """The process stands still: a copy is made, or what it lives through happens."""
        if not self._copied:
            self._copied = True
            (self._stage.copy_redis if self._moment.row is Row.OLDER_REDIS else self._stage.copy_postgres)()
            return
        self._break()
        self._since = time.perf_counter()
        self._mend()
        if self._rng.random() < OTHERS_FIRST:
            for other in self._processes:
                if other is not process:
                    self._day.ask(other, {"do": "settle", "now": self._day.now, "archive": False})
        self._day.at_rest = self._again

    def _on_death(self, day: Day, process: Process) -> None:
        """The process is gone; the others live on, or go with it. After a while by the market's time all is back."""
        if self._broken and self._again_after:
            self._again_after = 0
            process.kill()
            self._processes.remove(process)
            self._restart([process])
            return
        if self._broken or not self._events:
            raise RuntimeError(f"the process of {', '.join(process.roles)} ended by itself")
        dead = [process] if self._moment.alone else list(self._processes)
        for each in dead:
            self._processes.remove(each)
            each.kill()
        self._break()
        if self._moment.outage:
            day.at(day.now + self._moment.outage, lambda: self._restart(dead))
        else:
            self._restart(dead)

    def _restart(self, dead: list[Process]) -> None:
        self._since = time.perf_counter()
        self._mend()
        self._processes[:0] = [self._heir(process.roles) for process in dead]
        self.result.restarted = True
        self._day.at_rest = self._measure

    def _heir(self, roles: Sequence[str]) -> Process:
        """A new process in the place of a dead one; it, too, may have to die, and even while it recovers."""
        heir = self._stand.new_process()
        if self._again_after:
            heir.ask({"do": "arm", "at": [(0, self._again_after, "kill")]})
        try:
            heir.open(self._stage.home, roles, self._day.now, patience=self._patience)
        except Died as error:
            heir.kill()
            if not self._again_after:
                raise RuntimeError(f"the process of {', '.join(roles)} ended while it started") from error
            self._again_after = 0
            self._since = time.perf_counter()
            return self._heir(roles)
        return heir

    def _at_the_latest(self) -> None:
        """The day had fewer effects than the quiet one: then it happens at its end."""
        if self._broken or not self._events:
            return
        victim = self._processes[0]
        if self._moment.copies and not self._copied:
            self._on_stop(victim)
        if self._moment.dies:
            self._on_death(self._day, victim)
        else:
            self._on_stop(victim)
        self._day.settle()

    def _again(self) -> None:
        """What was under way has ended; what it was that broke is felt at the latest by what begins now."""
        self._day.at_rest = self._measure
        self._day.settle()

    def _measure(self) -> None:
        """Everything that could be done was done: the engine trades."""
        if self._moment.row is not Row.POSTGRES and not self.result.trading_after:
            self.result.trading_after = time.perf_counter() - self._since
            self._look_at(self._day.now + LOOK_EVERY, self._day.now + LOOK_FOR)

    def _break(self) -> None:
        stage, row = self._stage, self._moment.row
        self._broken = True
        self.result.happened_at = self._day.now
        intact = row not in (Row.TORN, Row.TORN_LIVE, Row.EMPTIED, Row.OLDER_REDIS)
        before = stage.redis_position()
        self._known = stage.archived() | (stage.streamed() if intact else {})
        if row in (Row.REDIS, Row.TORN, Row.TORN_LIVE, Row.EMPTIED, Row.OLDER_REDIS, Row.BOTH):
            stage.redis.kill()
        if row in (Row.OLDER_ARCHIVE, Row.POSTGRES, Row.BOTH):
            stage.postgres.kill()
        match row:
            case Row.TORN | Row.TORN_LIVE:
                self.result.torn = stage.tear(self._rng)
            case Row.EMPTIED:
                stage.empty_redis()
            case Row.OLDER_REDIS:
                stage.restore_redis()
            case Row.OLDER_ARCHIVE:
                stage.restore_postgres()
            case _:
                pass
        self._held_before = before

    def _mend(self) -> None:
        """Starts the servers again; what the engine makes of them is its own."""
        stage = self._stage
        if not stage.redis.is_running:
            stage.redis.start()
            reached = max(stage.redis_position(), max(self._known, default=0))
            self.result.only_redis = max(0, self._held_before - reached)
        if self._moment.row is Row.POSTGRES:
            if not self._database_gone:
                self._database_gone = True
                self._day.at(self._day.now + HOUR, self._database_back)
        elif not stage.postgres.is_running:
            stage.postgres.start()

    def _database_back(self) -> None:
        begun = time.perf_counter()
        self._stage.postgres.start()
        self._day.settle(archive=True)
        self.result.trading_after = time.perf_counter() - begun
        self._look_at(self._day.now + LOOK_EVERY, self._day.now + LOOK_FOR)

    # --- looking -----------------------------------------------------------------------------------------------------

    def _look_at(self, at: Instant, until: Instant) -> None:
        """Are all positions and stops there again? As soon as nothing is in doubt."""

        def look() -> None:
            self._day.settle(archive=True)
            states, books, log_ids = self._stand.run(self._see())
            doubtful = [state for state in states if state.settle_after or state.unresolved]
            if doubtful and self._day.now < until:
                self._look_at(self._day.now + LOOK_EVERY, until)
                return
            found = self.result.found
            found.broken += [f"strategy {state.id} is still in doubt" for state in doubtful if state.settle_after]
            held = holdings(books, log_ids)
            for state in states:
                ours, theirs = state.open_quantity + state.surfaced, held.pop(state.id, 0)
                if not state.unresolved and ours != theirs:
                    found.positions.append(
                        f"afterwards strategy {state.id} knew of {ours} shares, the broker of {theirs}"
                    )
            found.positions += [f"afterwards strategy {each} was forgotten" for each, shares in held.items() if shares]
            for process in self._processes:
                if "market" in process.roles:
                    found.stops += unwatched(states, process.ask({"do": "stops"})["stops"])

        self._day.at(at, look)

    def _audit(self, users: Users) -> None:
        self.result.acknowledged = len(users.acknowledged)
        self.result.reopened = sum(process.reopened for process in self._processes) - self._reopened_before
        self._stand.run(self._final(users))

    async def _see(self) -> tuple[list[State], Books, frozenset[str]]:
        async with reading(self._stage.redis.url, self._stage.postgres.url) as log:
            _, states, _ = await live_states(log)
            return states, await books_of(self._stage.home, self._stage.users), log.log_ids

    async def _final(self, users: Users) -> None:
        result = self.result
        async with reading(self._stage.redis.url, self._stage.postgres.url) as log:
            history = await read_history(log)
            books = await books_of(self._stage.home, self._stage.users)
            found = await check(
                log,
                history,
                books,
                users=self._stage.users,
                acknowledged=users.acknowledged,
                known=self._known,
            )
            result.found.add(found)
            result.events = len(history.records)
            result.orders = len(books.rows)
            result.epochs = len(log.lineage)
            result.exits_held, result.entries_held = held_back(history)
