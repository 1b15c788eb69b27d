"""One process of a simulated world: it starts as `bahi run ROLE` does, is stepped, dies, and is started again."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, Final

from domain.events import SystemRecovery
from domain.facts import Policy
from domain.values import SECOND, Duration, Instant
from eventstore.archive import OUTAGES, PostgresArchive
from eventstore.envelope import NewEvent
from eventstore.errors import LogLost, LogUnavailable, NeedsRecovery
from eventstore.keys import Keys
from eventstore.log import EventLog
from eventstore.open import open_log
from eventstore.patience import TIMER
from eventstore.witness import Witness
from handlers.desk import Desk
from projections.recovery import recover
from projections.runtime import DEFAULTS
from simulation.outside import ProcessClock, SimulatedTimer
from simulation.roles import Role
from simulation.wire import Wire

__all__ = ["Kind", "Process", "State"]

TRY_AGAIN: Final[tuple[Duration, ...]] = (SECOND // 10, SECOND // 2, 2 * SECOND, 5 * SECOND)
"""How long a process waits after a call that was not answered; the last again and again."""


class Kind(StrEnum):
    """What a process does: one role each, as when they are spread over hosts."""

    WORKER = "worker"
    SCHEDULER = "scheduler"
    MARKET = "market"
    UPDATES = "updates"
    ARCHIVE = "archive"
    API = "api"


class State(StrEnum):
    STARTING = "starting"
    IDLE = "idle"
    STEPPING = "stepping"
    WAITING = "waiting"
    """For the log, or for PostgreSQL, to answer again."""
    LOST = "lost"
    """The log is not the one that it was: the process is to be started anew."""
    BROKEN = "broken"
    """An error that nothing explains: a defect."""


class Process:
    """`equip` makes the role when the log is open. `restoring` is held while the log is restored: one at a time."""

    def __init__(
        self,
        name: str,
        kind: Kind,
        wire: Wire,
        clock: ProcessClock,
        *,
        redis_url: str,
        archive: PostgresArchive,
        policy: Policy,
        chance: random.Random,
        restoring: asyncio.Lock,
        desk: Callable[[EventLog, "Process"], Desk],
        equip: Callable[[Desk, "Process"], Role],
        writer: str,
        rounds: Callable[[], int],
    ) -> None:
        self.name = name
        self.kind = kind
        self.wire = wire
        self.clock = clock
        self.state = State.STARTING
        self.paused_until: Instant = 0
        self.retry_at: Instant = 0
        self.moves = self.wakes = -1
        """How many appends, and how many with something for a worker, there had been when it was stepped last."""
        self.leisure = 1
        """After how many appends more it looks again, should there be other things to do."""
        self.error: BaseException | None = None
        self._due: Instant | None = None
        """When its role said that it has something to do, after its last step."""
        self._timer = SimulatedTimer(clock)
        self.log: EventLog | None = None
        self.role: Role | None = None
        self._redis_url = redis_url
        self._archive = archive
        self._policy = policy
        self._chance = chance
        self._restoring = restoring
        self._make_desk = desk
        self._equip = equip
        self._writer = writer
        self._opened = 0
        """How often the log was opened; each time it writes under another name, as real processes do."""
        self._rounds = rounds
        self._witness: Witness | None = None
        self.looked = -1
        """At how many joinings and restarts it bore witness last."""
        self._setbacks = 0
        self.joins = False
        """It waits until everybody else has heard of it."""
        self.look_at: Instant = 0
        self._looked_at: Instant = 0
        self._looking: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._run(self._start(), State.STARTING)

    def step(self, *, news: bool, timers: bool) -> None:
        """`news`: something may have been appended since the last step; `timers`: some strategy's time may have
        come."""
        unsure = self._setbacks > 0
        self._run(self._step(news=news or unsure, timers=timers or unsure), State.STEPPING)

    def look(self) -> None:
        """Bears witness, beside whatever it does."""
        assert self._witness is not None  # noqa: S101 (it has joined)
        self._looked_at = self.clock.now() - self.clock.offset
        with self.wire.inside():
            work = self._bear_witness(self._witness)
            self._looking = asyncio.get_running_loop().create_task(work, name=f"{self.name} looks")
        self.wire.aside = self._looking

    def wants_to_look(self, now: Instant, *, joining: bool) -> bool:
        """Whether somebody has joined or Redis was restarted since it looked last; or somebody is `joining` and waits
        for it to look: a real process does so many times a second."""
        if self.looked == self._rounds() and not (joining and self._looked_at < now):
            return False
        return self.looked >= 0 and self.look_at <= now and (self._looking is None or self._looking.done())

    def kill(self) -> None:
        """As kill -9. Wait for the traffic to rest afterwards."""
        self.wire.cut()

    async def bury(self) -> None:
        """Its connections are closed, as the operating system would."""
        if self.role is not None:
            self.role.drop()
        if self._witness is not None:
            await self._witness.aclose()
        if self.log is not None:
            await self.log.aclose()

    def due(self) -> Instant | None:
        """When it is to be stepped by the clock."""
        if self.state is State.WAITING:
            return self.retry_at
        if self.state is not State.IDLE or self._due is None:
            return None
        return self._due - self.clock.offset  # when its own clock will show it

    def hurry(self) -> None:
        """Somebody waits for it."""
        self._due = 0

    # --- what runs in it ---------------------------------------------------------------------------------------------

    def _run(self, work: Any, state: State) -> None:
        self.state = state
        TIMER.set(self._timer)
        with self.wire.inside():
            self._task = asyncio.get_running_loop().create_task(self._guarded(work), name=f"{self.name} {state}")

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
            if self.state is not State.LOST:
                self.state, self._setbacks = State.IDLE, 0
                self._due = None if self.role is None else self.role.due()
        except LogLost as error:
            self.error, self.state = error, State.LOST
        except (LogUnavailable, *OUTAGES) as error:
            self.error, self.state = error, State.WAITING
            pause = TRY_AGAIN[min(self._setbacks, len(TRY_AGAIN) - 1)]
            self.retry_at = self.clock.now() - self.clock.offset + pause
            self._setbacks += 1
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.error, self.state = error, State.BROKEN

    async def _start(self) -> None:
        if self.log is None:
            self.log = await self._open()
        if self._witness is None:
            self._witness = Witness(self.log, self.name)
        if self.looked < 0:
            rounds = self._rounds()
            self.joins = True
            try:
                await self._witness.join()
            finally:
                self.joins = False
            self.looked = rounds
        desk = self._make_desk(self.log, self)
        role = self._equip(desk, self)
        await role.begin()
        self.role, self.moves, self.wakes = role, -1, -1  # whatever has come meanwhile is news to it

    async def _open(self) -> EventLog:
        while True:
            self._opened += 1
            try:
                return await open_log(
                    self._redis_url,
                    clock=self.clock,
                    defaults=DEFAULTS,
                    writer=self._writer if self._opened == 1 else f"{self._writer}.{self._opened}",
                    allow_weak=True,
                    archive=self._archive,
                    random=self._random,
                    member=self.name,
                )
            except NeedsRecovery:
                async with self._restoring:
                    await recover(
                        self._redis_url,
                        self._archive,
                        keys=Keys(),
                        clock=self.clock,
                        defaults=DEFAULTS,
                        policy=self._policy,
                        random=self._random,
                        member=self.name,
                    )

    async def _step(self, *, news: bool, timers: bool) -> None:
        if self.role is None:
            await self._start()
            return
        await self.role.step(news=news, timers=timers)

    async def _bear_witness(self, witness: Witness) -> None:
        """As every process does beside its work: has anybody joined, is Redis the one that it was, and the log no
        shorter?"""
        rounds = self._rounds()
        try:
            whole = await witness.look()
            if whole and witness.vouched:
                told = SystemRecovery(
                    old_epoch=witness.log.epoch,
                    new_epoch=witness.log.epoch,
                    lost={"redis": "RESTARTED"},
                    restored={"position": str(await witness.log.last_position())},
                )
                await witness.log.append([NewEvent(told)])
                witness.vouched = False
        except LogUnavailable:
            whole = False
        except LogLost as error:
            self.error, self.state = error, State.LOST
            return
        if whole:
            self.looked = rounds
        else:
            self.look_at = self.clock.now() - self.clock.offset + SECOND // 20

    def _random(self, length: int) -> str:
        return "".join(self._chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=length))
