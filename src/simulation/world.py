"""A simulated world: every role in a process of its own, on a real log and a real archive, one clock, one seed.

The seed chooses which process goes on next, at each of its calls to the outside, and every fault. The clock stands
still while anybody can do anything, then moves to whatever comes first. So the same seed lives the same life, and a
life of minutes takes a fraction of a second.
"""

import asyncio
import heapq
import random
import traceback
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from itertools import count
from typing import Any, Final

from msgspec import Struct

from brokers.instruments import BUILT_IN
from brokers.paper.book import Book
from brokers.paper.broker import PaperBrokers
from brokers.paper.exchange import Exchange
from brokers.port import OrderLimits
from domain.events import BuyTriggered, SellTriggered, StoplossTriggered
from domain.values import SECOND, Duration, Instant, Tick
from eventstore.archive import PostgresArchive
from eventstore.batch import Appended
from eventstore.clients import POOL
from eventstore.envelope import NewEvent, Recorded
from eventstore.errors import LogLost, LogUnavailable
from eventstore.log import EventLog
from eventstore.open import open_log
from handlers.desk import Desk
from projections.runtime import DEFAULTS
from simulation.broker_faults import HealingPlan
from simulation.clock import VirtualClock
from simulation.ending import conclude
from simulation.faults import EVERY, Fault, Faults
from simulation.house import ACCOUNTS, POLICY, USERS
from simulation.idle import Idle
from simulation.outside import GatedBrokers, ProcessClock, gated
from simulation.people import ApiRole, Client
from simulation.process import Kind, Process, State
from simulation.roles import ArchiveRole, MarketRole, Role, SchedulerRole, UpdatesRole, WorkerRole
from simulation.script import CALENDAR, Days
from simulation.stage import LOG_ID, Stage
from simulation.story import Story
from simulation.strikes import Strikes
from simulation.watch import Watch
from simulation.wire import Crossing, GatedPool, Traffic, Verdict, Wire, track_tasks

__all__ = ["CREW", "STRATEGIES", "World"]

MOST: Final = 100_000
"""Turns after which a life counts as one that never comes to rest."""
READERS: Final = frozenset({Kind.WORKER, Kind.SCHEDULER, Kind.MARKET, Kind.UPDATES})
"""Those to whom an append may bring work."""
STRATEGIES: Final = 5
"""How many live in a world, unless more are asked for."""
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


class _Ghost(Struct, frozen=True, eq=False):
    """A write that arrives at another time than its writer believes."""

    at: Instant
    wire: Wire
    write: Callable[[], Awaitable[Any]]


class World:
    """One life. `live` it, then look at `found` (what was violated), `faults.fired`, `watch.types`, `story`."""

    def __init__(
        self,
        stage: Stage,
        seed: int,
        enabled: Collection[Fault] = EVERY,
        *,
        strategies: int = STRATEGIES,
        days: int = 1,
        crew: Sequence[tuple[str, Kind]] = CREW,
    ) -> None:
        self.stage = stage
        self.seed = seed
        self.faults = Faults(seed, enabled)
        self.story = Story()
        self.found: list[str] = []
        self.chance = random.Random(f"world/{seed}")
        self.days = Days(self, days)
        self.clock = VirtualClock(self.days.begins_at)
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
            plan=HealingPlan(seed, self.faults, latency=latency, timeout=POLICY.request_timeout),
        )
        limits = OrderLimits(second=3, reserve=0.34) if self.chance.random() < 0.2 else None
        self.brokers = PaperBrokers(self.exchange, self._connected, poll=None, limits=limits)
        self.connected = set(USERS)
        self.ticks: dict[str, Tick] = {}
        self.strategies = {41 + n: USERS[n % len(USERS)] for n in range(strategies)}
        self.processes: dict[str, Process] = {}
        self.moves = self.wakes = 0
        """How many appends there were, and how many with something for a worker, unheard ones included."""
        self.rounds = 0
        """How often a process has joined, or Redis was restarted: everybody is to look then."""
        self.redis_away_until: Instant = 0
        self.postgres_away_until: Instant = 0
        self.delayed: dict[Crossing, Instant] = {}
        self.over = False
        self.hampered: Duration = 0
        """How long servers were away and processes stood still, all together."""
        self._turns = 0
        self.is_night = False
        """Nobody works."""
        self.history: list[Recorded] = []
        self.answered: list[str] = []
        """The ids of events that a user was told of: their answers came when the archive had them."""
        self._ghosts: list[_Ghost] = []
        self._agenda: list[tuple[Instant, int, Callable[[], None]]] = []
        self._number = count()
        self._sticky = self.chance.choice((0.0, 0.5, 0.9))
        self._leisure = self.chance.choice(((1,), (2, 8), (8, 32)))
        """After how many appends somebody looks at the log, unless nothing else is to be done."""
        self._last_wire: Wire | None = None
        self._next_timer: Instant | None = None
        self.starts: dict[str, int] = {}
        self._restoring = asyncio.Lock()
        self._strikes = Strikes(self)
        self._crew = crew
        self.by_hand: list[int] = []
        self._others: list[asyncio.Task[Any]] = []

    # --- a life ------------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """From a minute before the open until everything is final, or a violation is found."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, _context: None)  # of what the dead leave behind nobody hears
        track_tasks(loop)
        POOL.set(GatedPool)
        self.stage.clear()
        self.looker = self.stage.client()
        self.watch = Watch(self.looker, self.stage.archived, ACCOUNTS, self.story.event)
        self.idle = Idle(self.looker, calendar=CALENDAR, policy=POLICY, instruments=BUILT_IN, users=USERS)
        self.days.write()
        try:
            self.hire_all()
            await self._conduct()
            await self._let_go()
            if not self.found:
                await self._conclude()
        finally:
            await self._let_go()
            self.looker.close()
            self.book.close()

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
        try:
            log = await open_log(self.stage.redis_url, clock=self.clock, defaults=DEFAULTS, allow_weak=True)
        except LogUnavailable as error:
            self.found.append(f"liveness: the log is not there at the end: {error}")
            return
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
                market=self.watch.heard,
                hampered=self.hampered,
            )
        finally:
            await log.aclose()

    async def _conduct(self) -> None:
        while not self.over and not self.found:
            await self.traffic.rest()
            await self._mind_processes()
            if self.is_night and self.processes:
                await self._let_go()
            while self.by_hand:
                await self._cancel_by_hand(self.by_hand.pop())
            self._turns += 1
            if self._turns > MOST:
                self.found.append(f"liveness: no rest after {MOST} turns")
                return
            if (move := self._choose()) is not None:
                await move()
                continue
            self.look()
            if not self._move_on():
                return

    def look(self) -> None:
        """Nothing moves: the log is read and checked."""
        if not self.watch.look():
            return
        self.found += self.watch.checker.found
        self.found += self.watch.compare()
        self._acknowledge()
        self._next_timer = self.watch.next_timer
        now = self.clock.now()
        able = now >= self.redis_away_until and any(
            each.kind is Kind.WORKER and each.state is State.IDLE and each.paused_until <= now
            for each in self.processes.values()
        )
        states = self.watch.checker.states
        self.found += self.idle.look(
            now, states, connected=self.connected, log_id=LOG_ID, able=able, calm_since=self.redis_away_until
        )

    def _acknowledge(self) -> None:
        """A user hears of what was done when the archive has it. What was not archived when the log was lost, was told
        to nobody."""
        reached = self.watch.archived
        for number, (_, answer) in reversed(list(enumerate(self.client.answers))):
            if answer.epoch != self.watch.epoch:
                del self.client.answers[number]
            elif all(position <= reached for position in answer.positions):
                self.answered += [self.watch.ids[position] for position in answer.positions]
                del self.client.answers[number]

    # --- whose turn it is --------------------------------------------------------------------------------------------

    def _choose(self) -> Callable[[], Awaitable[None]] | None:
        now = self.clock.now()
        awake = self._awake(now)
        crossings = self.traffic.parked
        if self.delayed or len(awake) < len(self.processes):
            crossings = [each for each in crossings if self._may_pass(each, now)]
        if self._last_wire is not None and self.chance.random() < self._sticky:
            crossings = [each for each in crossings if each.wire is self._last_wire] or crossings
        ghosts = [each for each in self._ghosts if each.at <= now] if self._ghosts else []
        steps = [each for each in awake if self._has_work(each, now)]
        lookers = self._lookers(awake, now)
        number = self.chance.randrange(len(crossings) + len(steps) + len(ghosts) + len(lookers) or 1)
        if number < len(crossings):
            crossing = crossings[number]
            return lambda: self._pass(crossing)
        number -= len(crossings)
        if number < len(steps):
            return lambda: self._step(steps[number])
        number -= len(steps)
        if number < len(ghosts):
            return lambda: self._haunt(ghosts[number])
        if lookers:
            return lambda: self._look_around(lookers[number - len(ghosts)])
        idle = self._with_leftovers(now)
        return None if idle is None else lambda: self._step(idle)

    def _awake(self, now: Instant) -> list[Process]:
        return [each for each in self.processes.values() if each.paused_until <= now]

    def _lookers(self, awake: Sequence[Process], now: Instant) -> list[Process]:
        joining = any(each.joins for each in self.processes.values())
        return [each for each in awake if each.wants_to_look(now, joining=joining)]

    def _may_pass(self, crossing: Crossing, now: Instant) -> bool:
        if self.delayed.get(crossing, 0) > now:
            return False
        process = self.processes.get(crossing.wire.name)
        return process is None or process.paused_until <= now

    def _has_work(self, process: Process, now: Instant) -> bool:
        due = process.due()
        if due is not None and due <= now:
            return True
        if process.state is not State.IDLE:
            return False
        match process.kind:
            case Kind.WORKER:
                asked = process.wakes < 0 or self.wakes - process.wakes >= process.leisure
                return asked or self._timers_are_due(now)
            case Kind.API:
                return bool(self.client.pending)
            case Kind.ARCHIVE:
                return False
            case Kind.MARKET if isinstance(process.role, MarketRole) and process.role.inbox:
                return True
            case _:
                return process.moves < 0 or self.moves - process.moves >= process.leisure

    async def _step(self, process: Process) -> None:
        timers = process.kind is Kind.WORKER and self._timers_are_due(self.clock.now())
        if timers:
            self._next_timer = None
        news, process.moves, process.wakes = process.moves != self.moves, self.moves, self.wakes
        process.leisure = self.chance.choice(self._leisure)
        process.step(news=news, timers=timers)

    def _timers_are_due(self, now: Instant) -> bool:
        return self._next_timer is not None and self._next_timer <= now

    def _with_leftovers(self, now: Instant) -> Process | None:
        """Somebody who may fetch what is no hurry, now that nobody has anything better to do."""
        for process in self.processes.values():
            stale = process.kind in READERS and process.state is State.IDLE and process.moves != self.moves
            if stale and process.paused_until <= now:
                return process
        return None

    def _read(self, process: Process) -> None:
        """It knows all that the log holds."""
        process.moves = self.moves

    def _emptied(self) -> None:
        """The streams hold nothing new for any worker."""
        for process in self.processes.values():
            if process.kind is Kind.WORKER and process.wakes >= 0:
                process.moves, process.wakes = self.moves, self.wakes

    async def _look_around(self, process: Process) -> None:
        process.look()

    async def _pass(self, crossing: Crossing) -> None:
        self._last_wire = crossing.wire
        self.delayed.pop(crossing, None)
        now = self.clock.now()
        redis, postgres = crossing.what == "redis", crossing.what == "postgres"
        if (redis and now < self.redis_away_until) or (postgres and now < self.postgres_away_until):
            self.traffic.release(crossing, Verdict.LOSE)
            return
        if (fault := self.faults.at_call()) is not None and await self._strikes.strike(fault, crossing):
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
        self.stir()

    def stir(self, *, wakes: bool = True) -> None:
        """Something may have been appended; `wakes`: also something for a worker."""
        self.moves += 1
        self.wakes += wakes

    # --- processes ---------------------------------------------------------------------------------------------------

    def hire_all(self) -> None:
        """Everybody comes to work."""
        for name, kind in self._crew:
            self.hire(name, kind)

    def hire(self, name: str, kind: Kind) -> None:
        if name in self.processes or self.is_night:
            return
        self.starts[name] = self.starts.get(name, 0) + 1
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
            chance=self.chance,
            restoring=self._restoring,
            desk=self._desk,
            equip=lambda desk, process: self._equip(desk, process, engine),
            writer=f"{name}.{self.starts[name]}",
            rounds=lambda: self.rounds,
        )
        self.processes[name] = process
        self.story.tell(self.clock.now(), name, "starts")
        self.rounds += 1
        process.begin()

    def _desk(self, log: EventLog, process: Process) -> Desk:
        inner = log.append

        def later(events: Sequence[NewEvent], how: dict[str, Any]) -> None:
            at = self.clock.now() + self._soon()
            self._ghosts.append(_Ghost(at, process.wire, lambda: inner(events, **how)))
            self.at(at, self.look_up)

        async def append(events: Sequence[NewEvent], **how: Any) -> Any:
            if self._repeatable(events) and self.faults.happens(Fault.WRITE_LATE, 0.1):
                later(events, how)
                raise LogUnavailable("no answer; the write is still on its way")
            wakes = any(each.event.wakes for each in events)
            try:
                result = await inner(events, **how)
            except BaseException:
                self.stir()
                raise
            if isinstance(result, Appended) and result.positions:
                self.stir(wakes=wakes)
            if self._repeatable(events) and self.faults.happens(Fault.MESSAGE_REPEATED, 0.1):
                later(events, how)
            return result

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
                return WorkerRole(desk, process.name, self._emptied)
            case Kind.SCHEDULER:
                return SchedulerRole(desk, partial(self._read, process))
            case Kind.MARKET:
                return MarketRole(desk, partial(self._read, process), self.watch.heard)
            case Kind.UPDATES:
                return UpdatesRole(desk, partial(self._read, process))
            case Kind.ARCHIVE:
                return ArchiveRole(
                    desk.log,
                    process.clock,
                    engine,
                    self.chance,
                    trims=self.faults.knows(Fault.TRIMMED),
                    on_trimmed=lambda: self.faults.note(Fault.TRIMMED),
                )
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
                self.at(self.clock.now() + SECOND // 10, lambda p=process: self.hire(p.name, p.kind))  # type: ignore[misc]

    # --- time --------------------------------------------------------------------------------------------------------

    def at(self, at: Instant, then: Callable[[], Any]) -> None:
        heapq.heappush(self._agenda, (at, next(self._number), then))

    def _move_on(self) -> bool:
        """The clock moves to whatever comes first; False: nothing ever comes."""
        now = self.clock.now()
        times: list[Instant | None] = [self._next_timer, self.clock.next_at()]
        times += [process.due() for process in self.processes.values()]
        times += [process.paused_until for process in self.processes.values() if process.paused_until > now]
        times += [process.look_at for process in self.processes.values()]
        times += self.delayed.values()
        if self._agenda:
            times.append(self._agenda[0][0])
        coming = [at for at in times if at is not None and at > now]  # what is due and cannot be done waits for others
        if not (self._agenda and self._agenda[0][0] <= now):  # else there is something to be done at once
            if not coming:
                return False
            self.clock.set(min(coming))
        while self._agenda and self._agenda[0][0] <= self.clock.now():
            heapq.heappop(self._agenda)[2]()
        return True

    def look_up(self) -> None:
        """Time has come to here, when something ends that nobody is told of."""

    def change_redis(self, change: Callable[[], Any]) -> None:
        """Something happens to Redis; nobody has a call under way."""
        self.looker.close()
        change()
        self.looker = self.stage.client()
        self.watch.redis = self.looker
        self.rounds += 1

    def heal(self) -> None:
        """The faults stop, and what they have left behind."""
        self.faults.healed = True
        self.redis_away_until = self.postgres_away_until = 0
        self.delayed.clear()
        for process in self.processes.values():
            process.paused_until = 0
            process.clock.offset = 0
        self.connected = set(USERS)

    # --- what nobody of ours does ------------------------------------------------------------------------------------

    async def _cancel_by_hand(self, user_id: int) -> None:
        """The user cancels at the broker's own counter whatever is open."""
        account = f"PAPER-{user_id}"
        for order in await self.book.read(lambda rows: rows.live_of(account)):
            if order.placed_at <= self.clock.now():
                self.faults.note(Fault.CANCEL_BY_HAND)
                self.story.tell(self.clock.now(), "broker", f"user {user_id} cancels {order.tag} by hand")
                self._others.append(asyncio.create_task(self.exchange.cancel(account, str(order.order_id))))
                return

    # --- what the broker sees ----------------------------------------------------------------------------------------

    async def _last(self, symbol: str) -> Tick | None:
        return self.ticks.get(symbol)

    async def _connected(self) -> set[int]:
        return self.connected
