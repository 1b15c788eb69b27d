"""The engine as a Hypothesis state machine: whatever may happen to it, in any order, on a real Redis.

Each rule is something that users, the market, the broker, processes or servers may do. After each the new events are
folded and compared with the runtime; at the end of an example the faults stop, everything has to come to rest within an
hour of the exchange's clock, and all invariants are checked. A failure shrinks to the fewest steps, and says what was
done and what the log then told.
"""

import datetime as dt
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from decimal import Decimal
from typing import Any, ClassVar, cast

import hypothesis
import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from api.security.box import SecretBox
from api.security.keys import SecretKeys
from bahi.seal_keys import SqlSealKeys
from bahi.testing.ground import Ground
from bahi.testing.interfering import Died
from bahi.testing.telling import tell
from bahi.testing.world import OPENING, Process, World
from brokers.paper.plan import NEVER, THROTTLED, ChangeFault, Lost, Portion, Rejection, Script
from brokers.port import NotPlaced
from domain import blind
from domain.commands import Changes, decide_update
from domain.decide import Decision, decide_next
from domain.events import Event, Intent, OrderAccepted, OrderFilled, OrderFinalized, OrderRecovered
from domain.facts import Facts
from domain.strategy import State, initial
from domain.values import HOUR, MINUTE, SECOND, Code, Final, Kind, OrderRequest, Product, Tag
from eventstore.clients import command
from eventstore.envelope import Recorded
from eventstore.keys import GROUP
from eventstore.sealing import Sealing
from eventstore.trimming import trim
from handlers.decider import Wake, decided, take_turn
from handlers.desk import DecideNext
from projections.projector import Projector
from projections.replay import apply_recorded
from projections.runtime import differences
from simulation.invariants import hold

__all__ = ["SCRIPTS", "EngineMachine", "fuzz"]

USERS = (7, 8)
MOST = 4
"""Strategies of an example."""
SECRET = "a secret of tests only, of forty characters"  # noqa: S105

SCRIPTS: dict[str, Script] = {
    "is faithful": Script(),
    "fills in two parts": Script(fills=(Portion(3), Portion(4, after=2 * SECOND)), rest=5 * SECOND),
    "lets orders rest": Script(rest=8 * SECOND),
    "fills a part and no more": Script(fills=(Portion(3),), rest=NEVER),
    "is slow": Script(latency=3 * SECOND),
    "has no time": Script(refuse=THROTTLED),
    "refuses": Script(refuse=NotPlaced(reason="MARGIN", curable=False)),
    "rejects later": Script(reject=Rejection(reason="RMS", after=SECOND, curable=True)),
    "does not answer, and has the order": Script(lost=Lost(surfaces=0)),
    "does not answer, and shows the order later": Script(lost=Lost(surfaces=20 * SECOND)),
    "does not answer, and knows of no order": Script(lost=Lost(surfaces=None)),
    "refuses to cancel": Script(rest=20 * SECOND, cancels=(ChangeFault.REFUSED,), modifies=(ChangeFault.REFUSED,)),
    "fills while it cancels": Script(rest=NEVER, cancels=(ChangeFault.FILLED,)),
    "cancels without a word": Script(rest=NEVER, cancels=(ChangeFault.LOST_DONE,), modifies=(ChangeFault.LOST_DONE,)),
}
"""What the broker may do with orders from now on."""
SPANS = {"0.1 s": SECOND // 10, "1 s": SECOND, "3 s": 3 * SECOND, "11 s": 11 * SECOND, "40 s": 40 * SECOND,
         "3 min": 3 * MINUTE}  # fmt: skip

which = st.integers(0, MOST - 1)
users = st.sampled_from(USERS)


class _ChosenPlan:
    """Every order gets the script that is in force."""

    def __init__(self) -> None:
        self.script = SCRIPTS["is faithful"]

    def for_order(self, request: OrderRequest, n: int) -> Script:
        return self.script


class EngineMachine(RuleBasedStateMachine):
    """Subclass it to try a handler or rules of your own, and give the class to `fuzz`.

    - `handle` is called with every event of the log in its order, and with some of them again; the events that it
      answers are appended for the strategy of the one that it was given. After the log has lost its end, `forget` says
      what still holds.
    - `decide` is what workers ask when they are woken; the rules of bahi unless you set another.
    - Add rules and invariants as for any RuleBasedStateMachine. A rule that does something to `self.world` does it by
      `self.do("what it is", self.world.…)`.
    """

    decide: ClassVar[DecideNext] = staticmethod(decide_next)

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self.ground = ground
        self.strategies: list[int] = []
        self.steps: list[str] = []
        """What was done, for a person."""
        self.records: list[Recorded] = []
        """The log as far as it was looked at."""
        self._plan = _ChosenPlan()
        self._folded: dict[int, State] = {}
        self._open: dict[int, set[Tag]] = {}
        self._surfaced: set[Tag] = set()
        self._hired = 0
        self._failed = False
        self.world: World = ground.run(self._begin())

    async def _begin(self) -> World:
        world = await self.ground.fresh(plan=self._plan, users=USERS, at=OPENING + MINUTE, decide=type(self).decide)
        return await world.open("w1")

    # --- for subclasses --------------------------------------------------------------------------------------------

    def handle(self, it: Recorded) -> Iterable[Event]:
        """An event of the log, for a handler of your own. What it answers is appended without an expected version."""
        return ()

    def forget(self, after: int) -> None:
        """Redis was lost, and with it the events after this position: they never happened, others will take their
        positions."""

    def do(self, what: str, work: Coroutine[Any, Any, Any]) -> None:
        """Does it, and looks at what came of it."""
        self.steps.append(what)
        self.ground.run(self._guarded(self._done(work)))

    # --- users -----------------------------------------------------------------------------------------------------

    @initialize(quantity=st.integers(1, 10))
    def begin(self, quantity: int) -> None:
        self._create_and_start(USERS[0], quantity)

    @precondition(lambda self: len(self.strategies) < MOST)
    @rule(user=users, quantity=st.integers(1, 10))
    def create(self, user: int, quantity: int) -> None:
        self._create_and_start(user, quantity)

    def _create_and_start(self, user: int, quantity: int) -> None:
        async def work() -> None:
            created = await self.world.create(user=user, quantity=quantity, buy_time=dt.time(9, 20))
            if self.world.archive is not None:  # as over REST, which answers when the archive has it
                self.ground.archived = True
                await self.world.archive_to(await self.world.log.last_position())
            self.strategies.append(created)
            await self.world.start(created)

        self.do(f"user {user} creates and starts a strategy of {quantity}", work())

    @rule(n=which)
    def start(self, n: int) -> None:
        """Once more, to buy in twenty seconds."""
        strategy_id = self._one(n)
        soon = self.world.calendar.wall(self.world.clock.now() + 20 * SECOND).time().replace(microsecond=0)

        async def work() -> None:
            await self._update(strategy_id, Changes(buy_time=soon))
            await self.world.start(strategy_id)

        self.do(f"strategy {strategy_id} is started again", work())

    @rule(n=which, stop=st.sampled_from(["120", "138", "141", "149"]))
    def update(self, n: int, stop: str) -> None:
        strategy_id = self._one(n)
        self.do(
            f"strategy {strategy_id} gets the stop {stop}", self._update(strategy_id, Changes(stop_loss=Decimal(stop)))
        )

    async def _update(self, strategy_id: int, changes: Changes) -> None:
        def update(state: State, facts: Facts) -> Decision | None:
            events = decide_update(state, changes, facts)
            return decided(state, events) if isinstance(events, tuple) else None

        await take_turn(self.world.desk, strategy_id, update, Wake())

    @rule(n=which, square_off=st.booleans())
    def stop(self, n: int, square_off: bool) -> None:
        strategy_id = self._one(n)
        how = ", with square-off" if square_off else ""
        self.do(f"strategy {strategy_id} is stopped{how}", self.world.stop(strategy_id, square_off=square_off))

    @rule(user=users, square_off=st.booleans())
    def halt(self, user: int, square_off: bool) -> None:
        how = ", with square-off" if square_off else ""
        self.do(f"user {user} halts{how}", self.world.halt(user, square_off=square_off))

    @rule(user=users)
    def resume(self, user: int) -> None:
        self.do(f"user {user} resumes", self.world.resume(user))

    @rule(user=users)
    def lose_session(self, user: int) -> None:
        async def work() -> None:
            self.world.connected ^= {user}

        self.do(f"user {user} logs in to the broker or loses the session", work())

    # --- the market and the broker ---------------------------------------------------------------------------------

    @rule(price=st.sampled_from(["150", "145", "141", "139"]))
    def tick(self, price: str) -> None:
        self.do(f"a trade at {price}", self.world.tick(price))

    @rule(n=which)
    def trigger_buy(self, n: int) -> None:
        strategy_id = self._one(n)

        async def work() -> None:
            await self.world.tick("150")
            await self.world.buy(strategy_id)

        self.do(f"the buying time of strategy {strategy_id} has come", work())

    @rule(n=which)
    def trigger_sell(self, n: int) -> None:
        strategy_id = self._one(n)
        self.do(f"the selling time of strategy {strategy_id} has come", self.world.sell(strategy_id))

    @rule(n=which)
    def trigger_stop(self, n: int) -> None:
        strategy_id = self._one(n)

        async def work() -> None:
            under = (await self.world.state(strategy_id)).stop_loss - Decimal("0.5")
            await self.world.stop_loss(strategy_id, price=str(under))

        self.do(f"a trade under the stop of strategy {strategy_id}", work())

    @rule(script=st.sampled_from(list(SCRIPTS)))
    def broker(self, script: str) -> None:
        async def work() -> None:
            self._plan.script = SCRIPTS[script]

        self.do(f"from now on the broker {script}", work())

    @rule()
    def fill(self) -> None:
        """What rests has its time, and the books are read."""

        async def work() -> None:
            await self.world.tick("150")
            await self.world.pass_time(8 * SECOND)

        self.do("what rests at the broker is filled", work())

    # --- messages --------------------------------------------------------------------------------------------------

    @rule(back=st.integers(0, 30))
    def duplicate(self, back: int) -> None:
        """A source says something a second time."""
        said = [it for it in self.records if blind.cases(it.event) is not None]
        if not said:
            return
        it = said[-1 - back % len(said)]
        self.do(f"{it.event.type} of position {it.position} is said again", self.world.tell(it.strategy_id, it.event))

    @rule(back=st.integers(0, 30))
    def deliver_again(self, back: int) -> None:
        """A message that was finished is delivered to another process, and your handler gets it again."""
        waking = [it for it in self.records if it.event.wakes]
        if not waking:
            return
        it = waking[-1 - back % len(waking)]

        async def work() -> None:
            name = self._name()
            stream = self.world.log.keys.streams[it.event.priority]
            await command(self.world.log.redis, "XCLAIM", stream, GROUP, name, 0, f"{it.position}-0", "FORCE", "JUSTID")
            await self._let_go()
            await self.world.hire(name)
            await self._handled(it)

        self.do(f"{it.event.type} of position {it.position} is delivered again", work())

    # --- processes -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.processes)
    @rule(n=which)
    def work(self, n: int) -> None:
        process = self._process(n)
        self.do(f"worker {process.name} does what it can", self.world.step(process))

    @rule()
    def read_books(self) -> None:
        self.do("the order books are read", self.world.poll())

    @rule(span=st.sampled_from(list(SPANS)))
    def pass_time(self, span: str) -> None:
        self.do(f"{span} pass", self.world.pass_time(SPANS[span]))

    @precondition(lambda self: self.world.processes)
    @rule(n=which, calls=st.integers(0, 11))
    def crash(self, n: int, calls: int) -> None:
        """Now, or in the middle of its next work."""
        process = self._process(n)

        async def work() -> None:
            if calls:
                dying = process.wire.calls + calls
                process.wire.fault = lambda number, _: "die" if number >= dying else ""
                with suppress(Died):
                    await self.world.run(process.worker.step())
            await self.world.kill(process)

        self.do(f"worker {process.name} dies" + (f" at its call {calls} to the log" if calls else ""), work())

    @precondition(lambda self: len(self.world.processes) < 3)
    @rule(inherits=st.booleans())
    def restart(self, inherits: bool) -> None:
        async def work() -> None:
            process = await self.world.hire(self._name())
            if inherits:
                await self.world.inherit(process)

        self.do("a worker is started" + (", and gets what was pending" if inherits else ""), work())

    @precondition(lambda self: self.world.processes)
    @rule(n=which, calls=st.integers(1, 8), fault=st.sampled_from(["call lost", "reply lost"]))
    def lose(self, n: int, calls: int, fault: str) -> None:
        """A call to the log that is to come is lost, or its answer."""
        process = self._process(n)

        async def work() -> None:
            at = process.wire.calls + calls
            process.wire.fault = lambda number, _: fault if number == at else ""

        self.do(f"worker {process.name}: {fault} at its call {calls} from now", work())

    # --- servers ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.archive is not None)
    @rule()
    def trim(self) -> None:
        """Everything is archived and sealed, and Redis forgets what nobody waits for."""

        async def work() -> None:
            assert self.ground.engine is not None
            assert self.world.archive is not None
            self.ground.archived = True
            sealing = Sealing(0, SqlSealKeys(SecretBox(SecretKeys([SECRET]))), events=10)
            projector = Projector(
                self.world.log, self.ground.engine, self.world.clock, sealing=sealing, lines=lambda *_: None
            )
            while await projector.step():
                pass
            await projector.seal(rest=True)
            await trim(self.world.log, self.world.archive, hot=0, now=self.world.clock.now())

        self.do("everything is archived, and Redis trimmed", work())

    @precondition(lambda self: self.world.archive is not None)
    @rule(unarchived=st.integers(0, 30))
    def restore(self, unarchived: int) -> None:
        """Redis is lost, with the end of the log that was not archived."""

        async def work() -> None:
            self.ground.archived = True
            if not self.world.processes:
                await self.world.hire(self._name())
            await self.world.lose(unarchived)
            self.records.clear()
            self._folded.clear()
            self._open.clear()
            kept = await self.world.records()
            # what comes from now on is handled as new; the first of it says that the log was restored
            self.forget(min((it.position for it in kept if it.event.type == "SYSTEM_RECOVERY"), default=1) - 1)

        self.do(f"Redis is lost with the last {unarchived} events, and restored", work())

    # --- what must hold --------------------------------------------------------------------------------------------

    async def _done(self, work: Coroutine[Any, Any, Any]) -> None:
        await work
        await self._catch_up()

    async def _guarded(self, work: Coroutine[Any, Any, Any]) -> None:
        """A failure tells the steps, and the log as it then is."""
        try:
            await work
        except BaseException as error:
            self._failed = True
            steps = "\n".join(f"  {number}. {step}" for number, step in enumerate(self.steps, start=1))
            log = "\n".join(f"  {line}" for line in tell(await self.world.records()).splitlines())
            error.add_note(f"{len(self.steps)} steps:\n{steps}\nthe log:\n{log}")
            raise

    async def _catch_up(self) -> None:
        """Folds and handles what is new, until a handler says nothing more."""
        while new := await self.world.records(self.records[-1].position if self.records else 0):
            self.records += new
            touched = {it.strategy_id for it in new if it.version}
            for it in new:
                self._fold(it)
            for strategy_id in sorted(touched):
                wrong = differences(self._folded[strategy_id], await self.world.state(strategy_id))
                hold(not wrong, f"7: strategy {strategy_id}, fold and runtime: {wrong}")
            for it in new:
                await self._handled(it)

    async def _handled(self, it: Recorded) -> None:
        if answers := tuple(self.handle(it)):
            await self.world.tell(it.strategy_id, *answers)

    def _fold(self, it: Recorded) -> None:
        if not it.strategy_id:
            return
        state = self._folded.setdefault(it.strategy_id, initial(it.strategy_id, it.user_id))
        if it.version:
            apply_recorded(state, it.version, it.recorded_at, it.position, it.event)
        unresolved = self._open.setdefault(it.strategy_id, set())
        match it.event:
            case Intent(tag=tag) as intent:
                unresolved.add(tag)
                known = unresolved - self._surfaced
                hold(len(known) < 2, f"1: strategy {it.strategy_id}: unresolved are {sorted(known)}")
                if intent.kind is Kind.BUY:
                    hold(state.bought == 0, f"5: strategy {it.strategy_id} buys again, and has bought {state.bought}")
            case OrderRecovered(tag=tag):
                self._surfaced.add(tag)
            case OrderFinalized(tag=tag):
                unresolved.discard(tag)
            case OrderAccepted(tag=tag) | OrderFilled(tag=tag):
                order = state.find(tag)
                if order is not None and (order.surfaced or order.final is Final.NOT_PLACED):
                    self._surfaced.add(tag)

    def teardown(self) -> None:
        """The faults stop: everything comes to its end, and the invariants hold."""
        try:
            if not self._failed:
                self.steps.append("the faults stop, and everybody wants to be out")
                self.ground.run(self._guarded(self._end()))
        finally:
            self.ground.run(self.world.close())

    async def _end(self) -> None:
        world = self.world
        self._plan.script = SCRIPTS["is faithful"]
        for process in world.processes:
            process.wire.fault = None
        world.connected |= set(USERS)
        for user in USERS:
            await world.resume(user)
        if not world.processes:
            await world.hire(self._name())
        await world.inherit(world.processes[0])
        for _ in range(3):
            await world.tick("150")
            await world.settle()
            for state in (await world.states()).values():
                if state.alive or state.open_quantity > 0:
                    await world.stop(state.id, square_off=True)
            await world.finish(HOUR)
            if any(world.orders.given_up.values()):
                await world.pass_time(MINUTE)  # what was given up may still surface
            if not [each for each in (await world.states()).values() if each.open_quantity > 0 or each.surfaced > 0]:
                break
        (await world.check()).all_final()
        today = world.calendar.wall(world.clock.now()).date()
        for state in (await world.states()).values():
            # the intraday shares of an earlier day are the broker's to square off, and the user's to settle
            past = state.product is Product.MIS and (state.session_date or today) < today
            theirs = past and Code.UNPROTECTED_POSITION in state.alerted
            hold(theirs or (state.open_quantity <= 0 and state.surfaced <= 0), f"liveness: shares are left: {state}")
        await self._catch_up()

    # --- who -------------------------------------------------------------------------------------------------------

    def _one(self, n: int) -> int:
        return self.strategies[n % len(self.strategies)]

    def _process(self, n: int) -> Process:
        return self.world.processes[n % len(self.world.processes)]

    def _name(self) -> str:
        self._hired += 1
        return f"h{self._hired}"

    async def _let_go(self) -> None:
        """Room for one more worker."""
        if len(self.world.processes) > 2:
            await self.world.kill(self.world.processes[0])


def fuzz(
    machine: type[EngineMachine],
    redis_url: str,
    database_url: str | None = None,
    settings: hypothesis.settings | None = None,
) -> None:
    """Runs the machine as a test, on a Redis that is emptied for each example.

    With `database_url`, a PostgreSQL with bahi's schema that is emptied too, the log is also trimmed and restored.
    Raises what was violated, with the shrunk steps and what the log told in its notes.
    """
    with Ground(redis_url, database_url) as ground:
        made = cast("type[RuleBasedStateMachine]", lambda: machine(ground))  # any factory will do
        run_state_machine_as_test(made, settings=settings)
