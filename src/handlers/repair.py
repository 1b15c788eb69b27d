"""A strategy whose state cannot be read, or is not the fold of its events: it is folded anew, and its run is aborted.

1. Fold the strategy's events. They are the truth; the hashes are a view of them.
2. If the hashes claim another version than there are events, write them as the fold has them.
3. Append SAFETY_ABORT(RUNTIME_CORRUPTED) and an alert at that version, with the whole state: whoever made progress
   meanwhile, or repaired it first, wins.
4. The abort wakes the strategy, and the rules end its run, minding the orders that exist.
"""

import structlog

from domain.events import AlertTriggered, Event, SafetyAbort
from domain.facts import Facts
from domain.strategy import State, fold
from domain.values import Abort, Code, Severity
from eventstore.batch import Appended, WrongEpoch
from eventstore.clients import command
from eventstore.envelope import NewEvent
from eventstore.errors import LogLost
from eventstore.restoring import restore_strategies
from handlers.desk import Desk
from projections.rebuild import restorable
from projections.replay import Fault, Kind
from projections.runtime import CorruptState, encode_state
from projections.time_travel import state_at

__all__ = ["look_soundly", "repair"]

TRIES = 8
_log = structlog.get_logger(__name__)


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
    log = desk.log
    known = await command(log.redis, "HGET", log.keys.strategy(strategy_id), "version")
    faults: list[Fault] = []
    state = await state_at(log, strategy_id, on_fault=faults.append)
    if state is None or state.version == 0:
        raise CorruptState(f"strategy {strategy_id}: version {known!r}, and the log tells nothing of it") from error
    version = int(known) if known is not None and known.isdigit() else -1
    if version != state.version and await restore_strategies(log, [restorable(log, state, version)]):
        return False
    _log.error("state_repaired", strategy_id=strategy_id, version=version, error=str(error))
    alert = AlertTriggered(
        severity=Severity.CRITICAL,
        code=Code.SAFETY_ABORT,
        at=desk.clock.now(),
        facts={
            "error": str(error)[:300],
            "strategy_id": str(strategy_id),
            "unreadable_events": str(sum(fault.kind == Kind.CORRUPT for fault in faults)),
        },
    )
    events: list[Event] = [alert]
    if state.alive and not state.abort_due:
        told = {"error": str(error)[:300]}
        events.insert(0, SafetyAbort(run=state.run, reason=Abort.RUNTIME_CORRUPTED, facts=told))
    after = fold(state, events)
    result = await log.append(
        [NewEvent(event, strategy_id, state.user_id, causation_id=cause) for event in events],
        expected=state.version,
        runtime=encode_state(after, desk.clock.now()),
        strategy_id=strategy_id,
        user_id=state.user_id,
    )
    if isinstance(result, WrongEpoch):
        raise LogLost(f"this process belongs to epoch {log.epoch}, the log is at {result.actual}")
    return isinstance(result, Appended)
