"""The worker: hands wake-ups to `advance`, and time that strategies wait for; carries the effects out.

A message is held for load → decide → append; it is acknowledged with the append. The broker is called after that, in
tasks of their own, so a slow broker holds up no lane.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from msgspec import structs

from domain.events import AlertTriggered, SafetyAbort, UserHalted, UserResumed
from domain.strategy import State
from domain.values import SECOND, Abort, Code, Instant, Severity
from eventstore.batch import RuntimeWrite
from eventstore.clients import commands
from eventstore.envelope import Dedupe, NewEvent, Recorded
from eventstore.errors import LogLost, LogUnavailable
from eventstore.lanes import Delivery, Lanes, Undecodable
from eventstore.members import user_strategies
from eventstore.parked import park
from eventstore.timers import claim_due
from eventstore.waiting import either
from handlers.advance import advance
from handlers.decider import Wake, persist
from handlers.desk import Desk, NoStrategy
from handlers.effects import effects_of
from handlers.sends import Sends
from projections.runtime import CorruptState

TIMER_PERIOD = 100_000
"""Microseconds between looks at the timers."""
LOOK_AGAIN = 10 * SECOND
"""After how long a strategy that could not be decided is looked at again."""
CLAIMED = 64
"""Strategies claimed from the timers at once."""

log = structlog.get_logger(__name__)


Handle = Callable[[Delivery], Awaitable[None]]
Around = Callable[[Handle], Handle]


def _as_it_is(handle: Handle) -> Handle:
    return handle


def wakes(recorded: Recorded) -> bool:
    """Whether a worker looks at a strategy because of this event."""
    return recorded.event.wakes


class Worker:
    """One process's share of the work on one partition. `consumer` is its stable name in the group.

    `run` works until `stop`, then drains: what is in hand is finished, the rest stays pending for others. `step` does
    all that can be done now, one thing after the other in a fixed order, for simulations.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        consumer: str,
        concurrency: int = 8,
        around: Around = _as_it_is,
        sends_by_hand: bool = True,
        on_trouble: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """`around` wraps the handling of a message, to measure it; `on_trouble` is told of every failure after which a
        message is handled again. Not `sends_by_hand`: also while the worker is
        stepped, calls to the broker run by themselves, as they do in `run`."""
        self._desk = desk
        self._lanes = Lanes(
            desk.log,
            consumer=consumer,
            handle=around(self._handle),
            wakes=wakes,
            concurrency=concurrency,
            on_poison=self._poisoned,
            on_trouble=on_trouble,
        )
        self._sends = Sends(desk, on_failure=self._send_failed, on_lost=self._lose)
        self._stopping = asyncio.Event()
        self._by_hand = sends_by_hand
        self._lost: LogLost | None = None
        self._lost_now = asyncio.Event()

    async def run(self) -> None:
        """Until `stop` and everything begun is finished. Raises LogLost."""
        self._by_hand = False
        try:
            async with asyncio.TaskGroup() as group:
                guard = group.create_task(self._stop_when_lost())
                timers = group.create_task(self._mind_timers())
                await self._lanes.run()
                self._stopping.set()
                await timers
                guard.cancel()
        except* LogLost as lost:
            self._lost = self._lost or _first(lost)
        finally:
            await self._sends.drain()
        if self._lost is not None:
            raise self._lost

    async def stop(self) -> None:
        self._stopping.set()
        await self._lanes.stop()

    async def step(self, *, own: bool = True, timers: bool = True, on_empty: Callable[[], None] = lambda: None) -> int:
        """How much was done. Zero means: nothing can be done until something happens or time goes on. Not `own`: it
        has nothing pending; not `timers`: none is due. `on_empty`: see `Lanes.step`.

        Calls to the broker that wait for the clock are left waiting; a later step goes on with them. While the log
        cannot be reached, the step itself may wait for the clock.
        """
        done = await self._sends.step() + await self._lanes.step(own=own, on_empty=on_empty)
        if timers:
            done += await self._claim()
        done += await self._sends.step()
        if self._lost is not None:
            raise self._lost
        return done

    def drop(self) -> None:
        """Gives up the calls under way, as if the process had died: for simulations."""
        self._sends.drop()

    async def _handle(self, delivery: Delivery) -> None:
        recorded = delivery.recorded
        wake = Wake.of(recorded, delivery.ack)
        if isinstance(recorded.event, UserHalted | UserResumed):
            await self._wake_all(recorded, wake)
        elif recorded.strategy_id:
            await self._advance(recorded.strategy_id, wake)
        else:
            await self._desk.log.append([], ack=delivery.ack)

    async def _advance(self, strategy_id: int, wake: Wake) -> None:
        turn = await advance(self._desk, strategy_id, wake)
        for effect, cause in effects_of(turn):
            if self._by_hand:
                await self._sends.begin(turn.state, effect, cause)
            else:
                self._sends.start(turn.state, effect, cause)

    async def _wake_all(self, recorded: Recorded, wake: Wake) -> None:
        """Every strategy of the user; the message is acknowledged after the last one."""
        for strategy_id in await user_strategies(self._desk.log, recorded.user_id):
            try:
                await self._advance(strategy_id, structs.replace(wake, ack=None))
            except (LogUnavailable, LogLost):
                raise
            except Exception as error:
                await self._abort(strategy_id, error)
        await self._desk.log.append([], ack=wake.ack)

    async def _stop_when_lost(self) -> None:
        await self._lost_now.wait()
        await self.stop()

    async def _mind_timers(self) -> None:
        while not self._stopping.is_set():
            claimed = 0
            try:
                claimed = await self._claim()
            except LogUnavailable as error:
                log.warning("timers_wait", why=str(error))
            except LogLost as error:
                self._lose(error)
                return
            if claimed < CLAIMED:
                await either(self._stopping.wait(), self._desk.clock.sleep(TIMER_PERIOD))

    async def _claim(self) -> int:
        """Looks at every strategy whose time has come. A claimed timer comes back by itself if we die now."""
        due = await claim_due(self._desk.log, self._desk.clock.now(), CLAIMED)
        for strategy_id in self._desk.waits.in_turn(due):
            try:
                await self._advance(strategy_id, Wake())
            except (LogUnavailable, LogLost):
                raise
            except NoStrategy:
                log.error("timer_of_nobody", strategy_id=strategy_id)
                await self._postpone(strategy_id, None)
            except Exception as error:
                await self._abort(strategy_id, error)
                await self._postpone(strategy_id, self._desk.clock.now() + LOOK_AGAIN)
        return len(due)

    async def _postpone(self, strategy_id: int, wake_at: Instant | None) -> None:
        """A strategy that cannot be decided is looked at now and then: what is due stays due."""
        await self._desk.log.append([], runtime=RuntimeWrite(wake_at=wake_at), strategy_id=strategy_id)

    async def _send_failed(self, state: State, error: Exception) -> None:
        """An outcome that could not be made or appended. The order becomes unknown by itself, and is reconciled."""
        log.error("send_failed", strategy_id=state.id, tag=state.lock_state, exc_info=error)
        try:
            await self._abort(state.id, error)
        except Exception as failure:
            log.error("not_aborted", strategy_id=state.id, exc_info=failure)

    def _lose(self, error: LogLost) -> None:
        self._lost = self._lost or error
        self._lost_now.set()

    async def _poisoned(self, delivery: Delivery | Undecodable, error: Exception) -> None:
        """Parks what cannot be handled, aborts its strategy; everybody else goes on."""
        abort = await self._safety_abort(delivery.strategy_id, delivery.user_id, error)
        if isinstance(delivery, Delivery) and delivery.strategy_id:
            wake_at = self._desk.clock.now() + LOOK_AGAIN
            await persist(lambda: self._postpone(delivery.strategy_id, wake_at), self._desk.clock)
        log.error("poison", position=delivery.position, stream=delivery.stream, error=str(error))
        await persist(lambda: park(self._desk.log, delivery, error, extra_events=abort), self._desk.clock)

    async def _abort(self, strategy_id: int, error: Exception) -> None:
        """A strategy that cannot be decided, without a message to park."""
        log.error("undecidable", strategy_id=strategy_id, error=str(error))
        abort = await self._safety_abort(strategy_id, 0, error)
        await persist(lambda: self._desk.log.append(abort), self._desk.clock)

    async def _safety_abort(self, strategy_id: int, user_id: int, error: Exception) -> list[NewEvent]:
        """SAFETY_ABORT and the alert, once per run."""
        desk = self._desk
        facts = {"error": f"{type(error).__name__}: {error}"[:300]}
        alert = AlertTriggered(
            severity=Severity.CRITICAL,
            code=Code.EVENT_PARKED,
            at=desk.clock.now(),
            facts={**facts, "strategy_id": str(strategy_id)},
        )
        if not strategy_id:
            return [NewEvent(alert, user_id=user_id)]
        run, owner = await self._run_of(strategy_id)
        if run is None:
            return [NewEvent(alert, user_id=owner or user_id)]
        reason = Abort.RUNTIME_CORRUPTED if isinstance(error, CorruptState) else Abort.POISON_EVENT
        abort = SafetyAbort(run=run, reason=reason, facts=facts)
        user_id = owner or user_id
        name = f"poison:{strategy_id}:{run}"
        return [
            NewEvent(abort, strategy_id=strategy_id, user_id=user_id, dedupe=Dedupe(name, "once")),
            NewEvent(alert, user_id=user_id, dedupe=Dedupe(f"{name}:alert", "once")),
        ]

    async def _run_of(self, strategy_id: int) -> tuple[int | None, int]:
        """The strategy's run and its owner, as far as they can be read; no run if nothing can be appended for it."""
        keys, redis = self._desk.log.keys, self._desk.log.redis
        asked = [
            ("HGET", keys.strategy(strategy_id), "version"),
            ("HGET", keys.strategy(strategy_id), "user_id"),
            ("HGET", keys.runtime(strategy_id), "run"),
        ]
        version, owner, run = await persist(lambda: commands(redis, asked), self._desk.clock)
        known = isinstance(version, bytes) and version.isdigit()
        return _number(run) if known else None, _number(owner)


def _number(value: object) -> int:
    return int(value) if isinstance(value, bytes) and value.isdigit() else 0


def _first(group: BaseExceptionGroup[LogLost]) -> LogLost:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, LogLost)  # noqa: S101 (that is what was caught)
    return error
