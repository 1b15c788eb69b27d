"""A strategy whose state cannot be read: it is folded from the log anew, and its run is aborted.

1. Fold the strategy's events. They are the truth; the hashes are a view of them.
2. Write the state with SAFETY_ABORT(RUNTIME_CORRUPTED) and an alert, at the version that was folded: whoever made
   progress meanwhile, or repaired it first, wins.
3. The abort wakes the strategy, and the rules end its run, minding the orders that exist.
"""

import structlog

from domain.events import AlertTriggered, Event, SafetyAbort
from domain.facts import Facts
from domain.strategy import State, apply, evolve, initial
from domain.values import Abort, Code, Severity
from eventstore.batch import Appended, WrongEpoch
from eventstore.clients import command
from eventstore.envelope import NewEvent
from eventstore.errors import CorruptEvent, LogLost
from handlers.desk import Desk
from projections.runtime import CorruptState, encode_state

__all__ = ["look_soundly", "repair"]

TRIES = 8
log = structlog.get_logger(__name__)


async def look_soundly(desk: Desk, strategy_id: int, cause: str = "") -> tuple[State, Facts]:
    """As `desk.look`; a state that cannot be read is repaired first. Raises CorruptState if that does not help."""
    for _ in range(TRIES):
        try:
            return await desk.look(strategy_id, cause)
        except CorruptState as error:
            await repair(desk, strategy_id, error, cause)
    return await desk.look(strategy_id, cause)


async def repair(desk: Desk, strategy_id: int, error: Exception, cause: str = "") -> bool:
    """Whether the hashes now hold the fold of the log; False: somebody made progress, look again.

    Raises CorruptState when the log does not tell the state either; LogUnavailable, LogLost.
    """
    known = await command(desk.log.redis, "HGET", desk.log.keys.strategy(strategy_id), "version")
    state, unreadable = await _fold(desk, strategy_id)
    version = int(known) if known is not None and known.isdigit() else -1
    if state.version < version and unreadable:
        state.version = version  # what the damaged events did is lost; the abort says so
    if version < 0 or state.version == 0:
        raise CorruptState(f"strategy {strategy_id}: version {known!r}, the log has {state.version}") from error
    log.error("state_repaired", strategy_id=strategy_id, version=version, error=str(error))
    alert = AlertTriggered(
        severity=Severity.CRITICAL,
        code=Code.SAFETY_ABORT,
        at=desk.clock.now(),
        facts={"error": str(error)[:300], "strategy_id": str(strategy_id), "unreadable_events": str(unreadable)},
    )
    events: list[Event] = [alert]
    if state.alive and not state.abort_due:
        told = {"error": str(error)[:300]}
        events.insert(0, SafetyAbort(run=state.run, reason=Abort.RUNTIME_CORRUPTED, facts=told))
    after = state
    for event in events:
        after = evolve(after, event)
    result = await desk.log.append(
        [NewEvent(event, strategy_id, state.user_id, causation_id=cause) for event in events],
        expected=state.version,
        runtime=encode_state(after, desk.clock.now()),
        strategy_id=strategy_id,
        user_id=state.user_id,
    )
    if isinstance(result, WrongEpoch):
        raise LogLost(f"this process belongs to epoch {desk.log.epoch}, the log is at {result.actual}")
    return isinstance(result, Appended)


async def _fold(desk: Desk, strategy_id: int) -> tuple[State, int]:
    """The strategy's state by its events, and how many events of the log cannot be read."""
    state = initial(strategy_id)
    after = unreadable = 0
    while True:
        try:
            async for recorded in desk.log.read(after):
                after = recorded.position
                if recorded.strategy_id == strategy_id:
                    state.user_id = state.user_id or recorded.user_id
                    apply(state, recorded.event)
            return state, unreadable
        except CorruptEvent as error:
            after = error.position
            unreadable += 1
