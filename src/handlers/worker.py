"""The worker: hands wake-ups to `advance`, and time that strategies wait for; carries the effects out.

A message is held for load → decide → append; it is acknowledged with the append. The broker is called after that, in
tasks of their own, so a slow broker holds up no lane.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from msgspec import structs

from domain.events import AlertTriggered, SafetyAbort, UserHalted, UserResumed
from domain.values import Abort, Code, Severity
from eventstore.envelope import Dedupe, NewEvent, Recorded
from eventstore.errors import CorruptEvent, LogLost, LogUnavailable
from eventstore.lanes import Delivery, Lanes, Undecodable
from eventstore.members import user_strategies
from eventstore.parked import park
from eventstore.timers import claim_due
from handlers.advance import advance
from handlers.decider import Wake, persist
from handlers.desk import Desk, NoStrategy
from handlers.effects import carry_out, effects_of
from projections.runtime import CorruptState

TIMER_PERIOD = 100_000
"""Microseconds between looks at the timers."""
CLAIMED = 64
"""Strategies claimed from the timers at once."""

log = structlog.get_logger(__name__)


def wakes(recorded: Recorded) -> bool:
    """Whether a worker looks at a strategy because of this event."""
    return recorded.event.wakes


class Worker:
    """One process's share of the work on one partition. `consumer` is its stable name in the group.

    `run` works until `stop`, then drains: what is in hand is finished, the rest stays pending for others. `step` does
    all that can be done now, one thing after the other in a fixed order, for simulations.
    """

    def __init__(self, desk: Desk, *, consumer: str, concurrency: int = 8) -> None:
        self._desk = desk
        self._lanes = Lanes(
            desk.log,
            consumer=consumer,
            handle=self._handle,
            wakes=wakes,
            concurrency=concurrency,
            on_poison=self._poisoned,
        )
        self._stopping = asyncio.Event()
        self._spawn: Callable[[Awaitable[None]], Awaitable[None]] = _inline

    async def run(self) -> None:
        """Until `stop` and everything begun is finished. Raises LogLost."""
        async with asyncio.TaskGroup() as sends:

            async def spawn(work: Awaitable[None]) -> None:
                sends.create_task(_as_coroutine(work))

            self._spawn = spawn
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lanes.run())
                group.create_task(self._mind_timers())

    async def stop(self) -> None:
        self._stopping.set()
        await self._lanes.stop()

    async def step(self) -> int:
        """How much was done. Zero means: nothing can be done until something happens or time goes on."""
        return await self._lanes.step() + await self._claim()

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
            await self._spawn(carry_out(self._desk, turn.state, effect, cause))

    async def _wake_all(self, recorded: Recorded, wake: Wake) -> None:
        """Every strategy of the user; the message is acknowledged after the last one."""
        for strategy_id in await user_strategies(self._desk.log, recorded.user_id):
            try:
                await self._advance(strategy_id, structs.replace(wake, ack=None))
            except (LogUnavailable, LogLost):
                raise
            except Exception as error:
                await self._abort(strategy_id, recorded.user_id, error)
        await self._desk.log.append([], ack=wake.ack)

    async def _mind_timers(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._claim()
            except LogUnavailable as error:
                log.warning("timers_wait", why=str(error))
            await _either(self._stopping.wait(), self._desk.clock.sleep(TIMER_PERIOD))

    async def _claim(self) -> int:
        """Looks at every strategy whose time has come. A claimed timer comes back by itself if we die now."""
        due = await claim_due(self._desk.log, self._desk.clock.now(), CLAIMED)
        for strategy_id in due:
            try:
                await self._advance(strategy_id, Wake())
            except (LogUnavailable, LogLost):
                raise
            except NoStrategy:
                log.error("timer_of_nobody", strategy_id=strategy_id)
            except Exception as error:
                await self._abort(strategy_id, 0, error)
        return len(due)

    async def _poisoned(self, delivery: Delivery | Undecodable, error: Exception) -> None:
        """Parks what cannot be handled, aborts its strategy; everybody else goes on."""
        abort = await self._safety_abort(delivery.strategy_id, delivery.user_id, error)
        log.error("poison", position=delivery.position, stream=delivery.stream, error=str(error))
        await persist(lambda: park(self._desk.log, delivery, error, extra_events=abort), self._desk.clock)

    async def _abort(self, strategy_id: int, user_id: int, error: Exception) -> None:
        """A strategy that cannot be decided, without a message to park."""
        log.error("undecidable", strategy_id=strategy_id, error=str(error))
        abort = await self._safety_abort(strategy_id, user_id, error)
        await persist(lambda: self._desk.log.append(abort), self._desk.clock)

    async def _safety_abort(self, strategy_id: int, user_id: int, error: Exception) -> list[NewEvent]:
        """SAFETY_ABORT, once per run, and the alert."""
        desk = self._desk
        alert = AlertTriggered(
            severity=Severity.CRITICAL,
            code=Code.EVENT_PARKED,
            at=desk.clock.now(),
            facts={"error": f"{type(error).__name__}: {error}"[:300], "strategy_id": str(strategy_id)},
        )
        told = [NewEvent(alert, user_id=user_id)]
        if not strategy_id:
            return told
        loaded = await persist(lambda: desk.log.load(strategy_id), desk.clock)
        run = int(loaded.runtime.get("run", "0"))
        reason = Abort.RUNTIME_CORRUPTED if isinstance(error, CorruptState) else Abort.POISON_EVENT
        if isinstance(error, CorruptEvent | CorruptState):
            facts = {"error": str(error)[:300]}
        else:
            facts = {"error": f"{type(error).__name__}: {error}"[:300]}
        abort = SafetyAbort(run=run, reason=reason, facts=facts)
        once = Dedupe(f"poison:{strategy_id}:{run}", "once")
        return [NewEvent(abort, strategy_id=strategy_id, user_id=user_id, dedupe=once), *told]


async def _inline(work: Awaitable[None]) -> None:
    await work


async def _as_coroutine(work: Awaitable[None]) -> None:
    await work


async def _either(*waits: Awaitable[object]) -> None:
    """Until the first is over; the others are given up."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
