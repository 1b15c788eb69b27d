"""A simulated world: every role in a process of its own, on a real log and a real archive, one clock, one seed.

The seed chooses which process goes on next, at each of its calls to the outside, and every fault. The clock stands
still while anybody can do anything, then moves to whatever comes first. So the same seed lives the same life, and a
life of minutes takes a fraction of a second.
"""

import asyncio
import datetime as dt
import heapq
import random
import traceback
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from itertools import count
from typing import Any, Final

from msgspec import Struct

from brokers.instruments import BUILT_IN
from brokers.paper.book import Book
from brokers.paper.broker import PaperBrokers
from brokers.paper.exchange import Exchange
from brokers.paper.plan import FAITHFUL, NEVER, ChangeFault, Plan, Script
from brokers.paper.seeded import Rates, SeededPlan
from brokers.port import OrderLimits
from domain.calendar import load_nse
from domain.commands import Changes
from domain.events import BuyTriggered, SellTriggered, StoplossTriggered
from domain.facts import Policy
from domain.values import MINUTE, SECOND, Config, Duration, Instant, OrderRequest, Tick
from eventstore.archive import PostgresArchive
from eventstore.clients import POOL
from eventstore.envelope import NewEvent, Recorded
from eventstore.errors import LogLost, LogUnavailable
from eventstore.keys import GROUP, Keys
from eventstore.log import EventLog
from eventstore.open import open_log
from handlers.desk import Desk
from projections.runtime import DEFAULTS
from simulation import people
from simulation.clock import VirtualClock
from simulation.ending import conclude, final
from simulation.faults import BROKER, EVERY, Fault, Faults
from simulation.outside import GatedBrokers, ProcessClock, gated
from simulation.people import ApiRole, Client, draw_config
from simulation.process import Kind, Process, State
from simulation.roles import ArchiveRole, MarketRole, Role, SchedulerRole, UpdatesRole, WorkerRole
from simulation.stage import Stage
from simulation.story import Story
from simulation.street import GRID, OPENING, SYMBOLS, Feed, draw_ticks
from simulation.watch import Watch
from simulation.wire import Crossing, GatedPool, Traffic, Verdict, Wire, track_tasks

__all__ = ["POLICY", "USERS", "World"]

CALENDAR: Final = load_nse()
FIRST_DAY: Final = dt.date(2026, 11, 20)
USERS: Final = (7, 8)
ACCOUNTS: Final = {f"PAPER-{user}": user for user in USERS}
POLICY: Final = Policy(
    send_deadline=2 * SECOND,
    request_timeout=3 * SECOND,
    skew=SECOND // 2,
    quarantine_ambiguous=25 * SECOND,
    quarantine_dead_sender=5 * SECOND,
)
"""The house rules, with shorter spans than in production, so that a life of minutes sees all of them end."""
SURFACES: Final = (SECOND, 20 * SECOND)
TROUBLED: Final[Duration] = 14 * MINUTE
"""How long after the open the faults last."""
CALM: Final[Duration] = 60 * SECOND
"""Within so long after the faults have stopped everything is to be final."""
MOST: Final = 60_000
"""Crossings after which a life counts as one that never comes to rest."""
CREW: Final = (
    ("worker-1", Kind.WORKER),
    ("worker-2", Kind.WORKER),
    ("scheduler-1", Kind.SCHEDULER),
    ("scheduler-2", Kind.SCHEDULER),
    ("market-1", Kind.MARKET),
    ("updates-1", Kind.UPDATES),
    ("archive-1", Kind.ARCHIVE),
    ("api-1", Kind.API),
)
DEATHS: Final = {
    Fault.WORKER_DIES: Kind.WORKER,
    Fault.SCHEDULER_DIES: Kind.SCHEDULER,
    Fault.MARKET_DIES: Kind.MARKET,
    Fault.UPDATES_DIES: Kind.UPDATES,
    Fault.ARCHIVE_DIES: Kind.ARCHIVE,
}
PAUSES: Final = {
    Fault.PAUSED: (SECOND // 10, 2 * SECOND),
    Fault.PAUSED_PAST_TAKE_OVER: (2 * SECOND, 10 * SECOND),
    Fault.PAUSED_PAST_QUARANTINE: (30 * SECOND, 90 * SECOND),
}


class _HealingPlan:
    """The broker's faults, until it is healed."""

    def __init__(self, seed: int, faults: Faults, latency: Duration) -> None:
        rates = {name: rate for fault, (name, rate) in BROKER.items() if faults.knows(fault)}
        self._plan: Plan = SeededPlan(
            seed, Rates(**rates), latency=latency, timeout=POLICY.request_timeout, surfaces=SURFACES
        )
        self._faults = faults

    def for_order(self, request: OrderRequest, n: int) -> Script:
        if self._faults.healed:
            return FAITHFUL
        script = self._plan.for_order(request, n)
        for fault in _faults_of(script):
            self._faults.note(fault)
        return script


def _faults_of(script: Script) -> list[Fault]:
    found: list[Fault] = []
    if script.refuse is not None:
        reasons = {"TOO_MANY_REQUESTS": Fault.THROTTLED, "MARGIN": Fault.MARGIN, "SESSION_EXPIRED": Fault.NO_SESSION}
        found.append(reasons.get(script.refuse.reason, Fault.REJECTED))
    if script.reject is not None:
        found.append(Fault.REJECTED_AFTER)
    if script.lost is not None:
        late = Fault.TIMEOUT_NEVER if script.lost.surfaces is None else Fault.TIMEOUT_SURFACES
        found.append(Fault.TIMEOUT_EXISTS if script.lost.surfaces == 0 else late)
    if script.fills:
        found.append(Fault.RESTS if script.rest == NEVER else Fault.PARTIAL)
    if script.failed_readings:
        found.append(Fault.READINGS)
    for change in script.cancels:
        lost = {ChangeFault.FILLED: Fault.CANCEL_FILLED, ChangeFault.REFUSED: Fault.CANCEL_REFUSED}
        found.append(lost.get(change, Fault.CANCEL_UNANSWERED))
    refused = (change is ChangeFault.REFUSED for change in script.modifies)
    found += [Fault.MODIFY_REFUSED if each else Fault.MODIFY_UNANSWERED for each in refused]
    return found


class _Ghost(Struct, frozen=True, eq=False):
    """A write that arrives at another time than its writer believes."""

    at: Instant
    wire: Wire
    write: Callable[[], Awaitable[Any]]


class World:
    """One life. `live` it, then look at `found` (what was violated), `faults.fired`, `watch.types`, `story`."""

    def __init__(self, stage: Stage, seed: int, enabled: Collection[Fault] = EVERY, *, strategies: int = 5) -> None:
        self.stage = stage
        self.seed = seed
        self.faults = Faults(seed, enabled)
        self.story = Story()
        self.found: list[str] = []
        self.chance = random.Random(f"world/{seed}")
        self.open_at = CALENDAR.instant(FIRST_DAY, dt.time(9, 15))
        self.clock = VirtualClock(self.open_at - MINUTE)
        self.began_at = self.clock.now()
        self.traffic = Traffic(self.clock)
        self.client = Client()
        self.book = Book()
        latency = self.chance.choice((0, 0, 20_000, 300_000, 1_500_000))
        self.exchange = Exchange(
            self.book,
            self.clock,
            self._last,
            instruments=BUILT_IN,
            calendar=CALENDAR,
            plan=_HealingPlan(seed, self.faults, latency),
        )
        limits = OrderLimits(second=3, reserve=0.34) if self.chance.random() < 0.2 else None
        self.brokers = PaperBrokers(self.exchange, self._connected, poll=None, limits=limits)
        self.connected = set(USERS)
        self.ticks: dict[str, Tick] = {}
        self.strategies = {41 + n: USERS[n % len(USERS)] for n in range(strategies)}
        self.processes: dict[str, Process] = {}
        self.moves = 0
        self.redis_away_until: Instant = 0
        self.postgres_away_until: Instant = 0
        self.delayed: dict[Crossing, Instant] = {}
        self.over = False
        self.history: list[Recorded] = []
        self.answered: list[str] = []
        """The ids of events that a user was told of: their answers came when the archive had them."""
        self._ghosts: list[_Ghost] = []
        self._script: list[tuple[Instant, int, Callable[[], None]]] = []
        self._number = count()
        self._sticky = self.chance.choice((0.0, 0.5, 0.9))
        self._last_wire: Wire | None = None
        self._next_timer: Instant | None = None
        self._dead: dict[str, Instant] = {}
        self._starts: dict[str, int] = {}
        self._restoring = asyncio.Lock()
        self._feed = Feed(self.chance, self.faults)
        self._by_hand: list[int] = []
        self._others: list[asyncio.Task[Any]] = []

    # --- a life ------------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """From a minute before the open until everything is final, or a violation is found."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, _context: None)  # of what the dead leave behind nobody hears
        track_tasks(loop)
        POOL.set(GatedPool)
        self.stage.clear()
        self._looker = self.stage.client()
        self.watch = Watch(self._looker, ACCOUNTS, self.story.event)
        self._write_script()
        try:
            for name, kind in CREW:
                self._hire(name, kind)
            await self._conduct()
            await self._let_go()
            if not self.found:
                await self._conclude()
        finally:
            await self._let_go()
            self._looker.close()
            self.book.close()
            await self.stage.engine.dispose(close=False)

    async def _let_go(self) -> None:
        """No process is left."""
        for process in self.processes.values():
            process.kill()
        await self.traffic.rest()
        for process in self.processes.values():
            await process.bury()
        self.processes.clear()

    async def _conclude(self) -> None:
        archive = PostgresArchive(self.stage.engine)
        log = await open_log(self.stage.redis_url, clock=self.clock, defaults=DEFAULTS, allow_weak=True)
        log.archive = archive
        try:
            self.found, self.history = await conclude(
                log,
                archive,
                self.book,
                accounts=ACCOUNTS,
                answered=self.answered,
                clock=self.clock,
                calendar=CALENDAR,
                policy=POLICY,
                brokers=self.brokers,
            )
        finally:
            await log.aclose()

    async def _conduct(self) -> None:
        while not self.over and not self.found:
            await self.traffic.rest()
            await self._mind_processes()
            while self._by_hand:
                await self._cancel_by_hand(self._by_hand.pop())
            if self.traffic.count > MOST:
                self.found.append(f"liveness: no rest after {MOST} calls")
                return
            if (move := self._choose()) is not None:
                await move()
                continue
            self._look()
            if not self._move_on():
                return

    def _look(self) -> None:
        """Nothing moves: the log is read and checked."""
        self.watch.look()
        self.found += self.watch.checker.found
        self.found += self.watch.compare()
        self._next_timer = self.watch.next_timer()

    # --- whose turn it is --------------------------------------------------------------------------------------------

    def _choose(self) -> Callable[[], Awaitable[None]] | None:
        now = self.clock.now()
        crossings = [each for each in self.traffic.parked if self._may_pass(each, now)]
        if self._last_wire is not None and self.chance.random() < self._sticky:
            crossings = [each for each in crossings if each.wire is self._last_wire] or crossings
        steps = [each for each in self.processes.values() if self._has_work(each, now)]
        ghosts = [each for each in self._ghosts if each.at <= now]
        number = self.chance.randrange(len(crossings) + len(steps) + len(ghosts) or 1)
        if number < len(crossings):
            return lambda: self._pass(crossings[number])
        number -= len(crossings)
        if number < len(steps):
            return lambda: self._step(steps[number])
        return (lambda: self._haunt(ghosts[number - len(steps)])) if ghosts else None

    def _may_pass(self, crossing: Crossing, now: Instant) -> bool:
        if self.delayed.get(crossing, 0) > now:
            return False
        process = self.processes.get(crossing.wire.name)
        return process is None or process.paused_until <= now

    def _has_work(self, process: Process, now: Instant) -> bool:
        if process.paused_until > now or process.state not in (State.IDLE, State.WAITING):
            return False
        due = process.due()
        if due is not None and due <= now:
            return True
        if process.state is State.WAITING:
            return False
        if process.kind is Kind.WORKER and self._next_timer is not None and self._next_timer <= now:
            return True
        if process.kind is Kind.MARKET and isinstance(process.role, MarketRole) and process.role.inbox:
            return True
        return process.kind is not Kind.ARCHIVE and process.kind is not Kind.API and process.moves != self.moves

    async def _step(self, process: Process) -> None:
        if process.kind is Kind.WORKER and self._next_timer is not None and self._next_timer <= self.clock.now():
            self._next_timer = None
        process.moves = self.moves
        process.step()

    async def _pass(self, crossing: Crossing) -> None:
        self._last_wire = crossing.wire
        self.delayed.pop(crossing, None)
        now = self.clock.now()
        redis, postgres = crossing.what == "redis", crossing.what == "postgres"
        if (redis and now < self.redis_away_until) or (postgres and now < self.postgres_away_until):
            self.traffic.release(crossing, Verdict.LOSE)
            return
        if (fault := self.faults.at_call()) is not None and await self._strike(fault, crossing):
            return
        if crossing in self.traffic.parked:
            self.traffic.release(crossing)

    async def _haunt(self, ghost: "_Ghost") -> None:
        """A write arrives after its writer was told that it had failed, or once more. What the dead had to say is
        lost."""
        self._ghosts.remove(ghost)
        if not ghost.wire.is_cut:
            with ghost.wire.inside():
                asyncio.get_running_loop().create_task(self._arrive(ghost))

    async def _arrive(self, ghost: "_Ghost") -> None:
        try:
            await ghost.write()
        except (LogUnavailable, LogLost):
            pass  # nobody waits for the answer
        self.moves += 1

    # --- faults at a call --------------------------------------------------------------------------------------------

    async def _strike(self, fault: Fault, crossing: Crossing) -> bool:
        """Whether the crossing is dealt with."""
        process = self.processes[crossing.wire.name]
        now, chance = self.clock.now(), self.chance
        postgres = crossing.what == "postgres"
        match fault:
            case Fault.CALL_LOST if not postgres:
                self._tell(fault, crossing)
                self.traffic.release(crossing, Verdict.LOSE)
                return True
            case Fault.REPLY_LOST if not postgres:
                self._tell(fault, crossing)
                self.traffic.release(crossing, Verdict.SWALLOW)
                self.moves += 1
                return True
            case Fault.ARCHIVE_CALL_LOST if postgres:
                self._tell(fault, crossing)
                self.traffic.release(crossing, Verdict.LOSE)
                return True
            case Fault.COMMIT_UNANSWERED if postgres:
                self._tell(fault, crossing)
                self.traffic.release(crossing, Verdict.SWALLOW)
                return True
            case Fault.CALL_DELAYED:
                self._tell(fault, crossing)
                self.delayed[crossing] = now + chance.choice((SECOND // 20, SECOND, 4 * SECOND))
                return True
            case (
                Fault.WORKER_DIES | Fault.SCHEDULER_DIES | Fault.MARKET_DIES | Fault.UPDATES_DIES | Fault.ARCHIVE_DIES
            ) if process.kind is DEATHS[fault]:
                self._tell(fault, crossing)
                await self._die(process, crossing)
                return True
            case Fault.DIES_WHILE_STARTING if process.state is State.STARTING and process.name in self._starts:
                self._tell(fault, crossing)
                await self._die(process, crossing)
                return True
            case Fault.PAUSED | Fault.PAUSED_PAST_TAKE_OVER | Fault.PAUSED_PAST_QUARANTINE:
                self._tell(fault, crossing)
                process.paused_until = now + chance.randint(*PAUSES[fault])
                if process.kind is Kind.WORKER and fault is not Fault.PAUSED:
                    self._at(now + 2 * SECOND, lambda: self._take_over(process.name))
                return True
            case Fault.TAKEN_OVER:
                if process.kind is Kind.WORKER and self._take_over(process.name):
                    self._tell(fault, crossing)
            case Fault.CLOCK_AHEAD | Fault.CLOCK_BEHIND:
                sign = 1 if fault is Fault.CLOCK_AHEAD else -1
                self._tell(fault, crossing)
                process.clock.offset = sign * chance.randrange(POLICY.skew // 2)
            case Fault.REDIS_AWAY:
                self._tell(fault, crossing)
                self.redis_away_until = now + chance.choice((SECOND // 2, 3 * SECOND, 12 * SECOND))
                self._at(self.redis_away_until, _nothing)
            case Fault.POSTGRES_AWAY:
                self._tell(fault, crossing)
                self.postgres_away_until = now + chance.choice((5 * SECOND, MINUTE, 4 * MINUTE))
                self._at(self.postgres_away_until, _nothing)
        return False

    def _tell(self, fault: Fault, crossing: Crossing) -> None:
        self.faults.note(fault)
        self.story.tell(self.clock.now(), "fault", f"{fault} at {crossing!r}")

    async def _die(self, process: Process, crossing: Crossing | None = None) -> None:
        """Before the call, or after it and before its answer."""
        if crossing is not None and self.chance.random() < 0.5:
            self.traffic.release(crossing, Verdict.FREEZE)
            await self.traffic.rest()
        process.kill()
        await self.traffic.rest()
        await process.bury()
        del self.processes[process.name]
        self.moves += 1
        away = self.chance.choice((0, SECOND // 2, 3 * SECOND, 20 * SECOND))
        self._dead[process.name] = self.clock.now() + away
        if process.kind is Kind.WORKER and away > 2 * SECOND:
            self._at(self.clock.now() + 2 * SECOND, lambda: self._take_over(process.name))
        self._at(self.clock.now() + away, lambda: self._hire(process.name, process.kind))

    def _take_over(self, name: str) -> bool:
        """Another worker claims what this one has pending, as after two idle seconds."""
        heirs = [each for each in self.processes.values() if each.kind is Kind.WORKER and each.name != name]
        if not heirs:
            return False
        heir, taken = self.chance.choice(heirs), 0
        for stream in Keys().streams.values():
            pending: Any = self._looker.xpending_range(stream, GROUP, "-", "+", 1000, name)
            if ids := [each["message_id"] for each in pending]:
                self._looker.xclaim(stream, GROUP, heir.name, 0, ids, justid=True)
                taken += len(ids)
        heir.moves = -1
        return taken > 0

    # --- processes ---------------------------------------------------------------------------------------------------

    def _hire(self, name: str, kind: Kind) -> None:
        if name in self.processes:
            return
        self._dead.pop(name, None)
        self._starts[name] = self._starts.get(name, 0) + 1
        wire = Wire(name, self.traffic)
        clock = ProcessClock(self.clock)
        engine = gated(self.stage.engine, wire)
        process = Process(
            name,
            kind,
            wire,
            clock,
            redis_url=self.stage.redis_url,
            archive=PostgresArchive(engine),
            policy=POLICY,
            calendar=CALENDAR,
            chance=self.chance,
            restoring=self._restoring,
            desk=self._desk,
            equip=lambda desk, process: self._equip(desk, process, engine),
            writer=f"{name}.{self._starts[name]}",
        )
        self.processes[name] = process
        self.story.tell(self.clock.now(), name, "starts")
        process.begin()

    def _desk(self, log: EventLog, process: Process) -> Desk:
        inner = log.append

        def later(events: Sequence[NewEvent], how: dict[str, Any]) -> None:
            at = self.clock.now() + self._soon()
            self._ghosts.append(_Ghost(at, process.wire, lambda: inner(events, **how)))
            self._at(at, _nothing)

        async def append(events: Sequence[NewEvent], **how: Any) -> Any:
            if self._repeatable(events) and self.faults.happens(Fault.WRITE_LATE, 0.1):
                later(events, how)
                raise LogUnavailable("no answer; the write is still on its way")
            try:
                return await inner(events, **how)
            finally:
                self.moves += 1
                if self._repeatable(events) and self.faults.happens(Fault.MESSAGE_REPEATED, 0.1):
                    later(events, how)

        log.append = append  # type: ignore[method-assign]
        return Desk(
            log=log,
            clock=process.clock,
            calendar=CALENDAR,
            policy=POLICY,
            instruments=BUILT_IN,
            brokers=GatedBrokers(self.brokers, process.wire),
            known={},
        )

    def _repeatable(self, events: Sequence[NewEvent]) -> bool:
        """A source's own: it carries what makes it harmless to come twice."""
        blind = BuyTriggered | SellTriggered | StoplossTriggered
        return bool(events) and all(each.dedupe is not None and isinstance(each.event, blind) for each in events)

    def _soon(self) -> Duration:
        return self.chance.choice((0, SECOND // 10, SECOND, 5 * SECOND))

    def _equip(self, desk: Desk, process: Process, engine: Any) -> Role:
        match process.kind:
            case Kind.WORKER:
                return WorkerRole(desk, process.name)
            case Kind.SCHEDULER:
                return SchedulerRole(desk)
            case Kind.MARKET:
                return MarketRole(desk)
            case Kind.UPDATES:
                return UpdatesRole(desk)
            case Kind.ARCHIVE:
                return ArchiveRole(desk.log, process.clock, engine, self.chance, self.faults.knows(Fault.TRIMMED))
            case Kind.API:
                return ApiRole(desk, self.client)

    async def _mind_processes(self) -> None:
        """Those that broke are a defect, those that lost their log begin anew."""
        for process in list(self.processes.values()):
            if process.state is State.BROKEN:
                told = "".join(traceback.format_exception(process.error)) if process.error else ""
                self.found.append(f"defect: {process.name} broke: {told}")
            elif process.state is State.LOST:
                self.story.tell(self.clock.now(), process.name, f"lost the log: {process.error}")
                process.kill()
                await self.traffic.rest()
                await process.bury()
                del self.processes[process.name]
                self._at(self.clock.now() + SECOND // 10, lambda p=process: self._hire(p.name, p.kind))  # type: ignore[misc]

    # --- time --------------------------------------------------------------------------------------------------------

    def _at(self, at: Instant, then: Callable[[], Any]) -> None:
        heapq.heappush(self._script, (at, next(self._number), then))

    def _move_on(self) -> bool:
        """The clock moves to whatever comes first; False: nothing ever comes."""
        now = self.clock.now()
        times: list[Instant | None] = [self._next_timer, self.clock.next_at()]
        times += [process.due() for process in self.processes.values()]
        times += [process.paused_until for process in self.processes.values() if process.paused_until > now]
        times += self.delayed.values()
        if self._script:
            times.append(self._script[0][0])
        coming = [at for at in times if at is not None and at > now]  # what is due and cannot be done waits for others
        if not coming:
            return False
        self.clock.set(min(coming))
        while self._script and self._script[0][0] <= self.clock.now():
            heapq.heappop(self._script)[2]()
        return True

    # --- the day -----------------------------------------------------------------------------------------------------

    def _write_script(self) -> None:
        chance, begin = self.chance, self.began_at
        for strategy_id, user_id in self.strategies.items():
            config = draw_config(chance, lambda at: CALENDAR.wall(at).time(), self.open_at)
            self._ask(begin + SECOND, f"create {strategy_id}", people.create(strategy_id, user_id, config))
            self._ask(begin + 2 * SECOND, f"start {strategy_id}", people.start(strategy_id))
            self._write_troubles(strategy_id, user_id, config)
        end = self.open_at + TROUBLED
        for batch in draw_ticks(chance, self.open_at, end):
            self._at(batch[0].at, lambda batch=batch: self._trade(batch))  # type: ignore[misc]
        self._at(end, self._heal)

    def _write_troubles(self, strategy_id: int, user_id: int, config: Config) -> None:
        """What this strategy's user does at the worst moments: just before and after what is due."""
        chance = self.chance
        buy_at, sell_at = (CALENDAR.instant(FIRST_DAY, at) for at in (config.buy_time, config.sell_time))

        def moment() -> Instant:
            near = chance.choice((buy_at, buy_at, sell_at, chance.randint(self.began_at, sell_at)))
            return max(
                near + chance.choice((-SECOND, 0, 0, 200_000, SECOND, 5 * SECOND, 30 * SECOND)), self.clock.now()
            )

        if self.faults.happens(Fault.UPDATE, 0.5):
            self._ask(at := moment(), f"update {strategy_id}", people.update(strategy_id, self._changes(config, at)))
        if self.faults.happens(Fault.STOP, 0.25):
            self._ask(moment(), f"stop {strategy_id}", people.stop(strategy_id, square_off=False))
        if self.faults.happens(Fault.SQUARE_OFF, 0.3):
            self._ask(moment(), f"stop {strategy_id}, square off", people.stop(strategy_id, square_off=True))
        if self.faults.happens(Fault.FORCE_STOP, 0.15):
            self._ask(moment(), f"force-stop {strategy_id}", people.force_stop(strategy_id, user_id))
        if self.faults.happens(Fault.HALT, 0.15):
            square_off = chance.random() < 0.5
            self._ask(at := moment(), f"halt {user_id}", people.halt(user_id, square_off=square_off))
            self._ask(at + chance.randint(0, 2 * MINUTE), f"resume {user_id}", people.resume(user_id))
        if self.faults.happens(Fault.RESTART, 0.5):
            soon = chance.randint(sell_at, sell_at + 2 * MINUTE)
            self._ask(soon, f"update {strategy_id}", people.update(strategy_id, self._later(soon)))
            self._ask(soon + SECOND, f"start {strategy_id}", people.start(strategy_id))
        if self.faults.happens(Fault.SESSION_LOST, 0.15):
            self._at(at := moment(), lambda: self._disconnect(user_id))
            self._at(at + chance.choice((SECOND, 10 * SECOND, MINUTE)), lambda: self.connected.add(user_id))
        if self.faults.knows(Fault.CANCEL_BY_HAND) and chance.random() < 0.3:
            self._at(moment(), lambda: self._by_hand.append(user_id))

    def _changes(self, config: Config, at: Instant) -> Changes:
        match self.chance.randrange(4):
            case 0:
                return Changes(stop_loss=config.stop_loss + self.chance.choice((-40, -10, 10, 40)) * GRID)
            case 1:
                return Changes(quantity=self.chance.choice((2, 5, 30)))
            case 2:
                return Changes(sell_time=_wall_time(at + self.chance.randint(10, 200) * SECOND))
            case _:
                return Changes(buy_time=_wall_time(at + self.chance.randint(1, 60) * SECOND))

    def _later(self, now: Instant) -> Changes:
        return Changes(
            buy_time=_wall_time(now + self.chance.randint(5, 60) * SECOND),
            sell_time=_wall_time(now + self.chance.randint(70, 200) * SECOND),
        )

    def _disconnect(self, user_id: int) -> None:
        self.connected.discard(user_id)
        self.story.tell(self.clock.now(), "broker", f"the session of user {user_id} is gone")

    async def _cancel_by_hand(self, user_id: int) -> None:
        """The user cancels at the broker's own counter whatever is open."""
        account = f"PAPER-{user_id}"
        for order in await self.book.read(lambda rows: rows.live_of(account)):
            if order.placed_at <= self.clock.now():
                self.faults.note(Fault.CANCEL_BY_HAND)
                self.story.tell(self.clock.now(), "broker", f"user {user_id} cancels {order.tag} by hand")
                self._background(self.exchange.cancel(account, str(order.order_id)))
                return

    def _background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Done by nobody of ours; the clock may have to move on before it is."""
        self._others.append(asyncio.get_running_loop().create_task(work))

    def _ask(self, at: Instant, told: str, ask: people.Ask) -> None:
        def now() -> None:
            self.story.tell(self.clock.now(), "user", told)
            self.client.ask(told, ask)

        self._at(at, now)

    def _trade(self, batch: Sequence[Tick]) -> None:
        for tick in batch:
            self.ticks[tick.symbol] = tick
        arrived = self._feed.bring(batch)
        for process in self.processes.values():
            if isinstance(process.role, MarketRole):
                process.role.inbox.append(arrived)
        self.story.tell(self.clock.now(), "market", " ".join(f"{tick.symbol}={tick.price}" for tick in arrived))

    def _heal(self) -> None:
        """The faults stop; everybody sells and stops. Within a minute everything is to be final."""
        self.faults.healed = True
        self.story.tell(self.clock.now(), "faults", "stop")
        now = self.clock.now()
        self.redis_away_until = self.postgres_away_until = 0
        self.delayed.clear()
        for process in self.processes.values():
            process.paused_until = 0
            process.clock.offset = 0
        self.connected = set(USERS)
        self._ended_by = now + CALM
        self._at(now + SECOND, self._wind_up)
        self._at(now + CALM, self._end)

    def _wind_up(self) -> None:
        for user in USERS:
            self._ask(self.clock.now(), f"resume {user}", people.resume(user))
        for strategy_id in self.strategies:
            self._ask(self.clock.now(), f"stop {strategy_id}, square off", people.stop(strategy_id, square_off=True))
        for second in range(0, int(CALM // SECOND), 5):
            batch = [Tick(symbol, OPENING, self.clock.now() + second * SECOND) for symbol in SYMBOLS]
            self._at(batch[0].at, lambda batch=batch: self._trade(batch))  # type: ignore[misc]

    def _end(self) -> None:
        self.over = True
        self._look()
        self.found += final(self.watch.states())

    # --- what the broker sees ----------------------------------------------------------------------------------------

    async def _last(self, symbol: str) -> Tick | None:
        return self.ticks.get(symbol)

    async def _connected(self) -> set[int]:
        return self.connected


def _wall_time(at: Instant) -> dt.time:
    return CALENDAR.wall(at).time().replace(microsecond=0, tzinfo=None)


def _nothing() -> None:
    """Time has come to here; nothing else."""
