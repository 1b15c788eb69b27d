"""take_turn: load, decide, append; on a conflict, again. The one place where a strategy changes.

1. Load the strategy and the world as of one moment.
2. Ask the decision, a pure function of both.
3. Append its events at the version that was loaded, with the runtime that follows from them, the acknowledgement of the
   wake-up and the permits of its orders. A Conflict means that somebody made progress: from 1.
4. A batch with an intent is repeated until the log answers, under a key of its own: whoever learns that it is written
   may send it, and nobody else does. Any other lost answer is raised: looking again is safe.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec import Struct, structs

from domain.clock import Clock
from domain.decide import Decision
from domain.events import Event, Intent, LockConflict
from domain.facts import Facts
from domain.strategy import State, fold
from domain.values import Kind
from eventstore.batch import (
    Ack,
    Appended,
    AppendResult,
    Conflict,
    Duplicate,
    Halted,
    NoPermit,
    NotPending,
    Permit,
    RuntimeWrite,
    WrongEpoch,
)
from eventstore.envelope import Dedupe, NewEvent, Recorded
from eventstore.errors import LogLost, LogUnavailable
from handlers.desk import Desk
from handlers.limits import ASKING, permits, window_of
from handlers.repair import look_soundly
from projections.runtime import encode_change

T = TypeVar("T")
Decide = Callable[[State, Facts], Decision | None]
"""None: leave everything as it is."""
PAUSES = (50_000, 100_000, 250_000, 500_000, 1_000_000)
"""Microseconds between tries while the log cannot be reached; the last one repeats."""


class Wake(Struct, frozen=True):
    """What made us look: its event id, the story it belongs to, and what to acknowledge."""

    event_id: str = ""
    correlation_id: str = ""
    ack: Ack | None = None

    @classmethod
    def of(cls, recorded: Recorded, ack: Ack | None) -> "Wake":
        return cls(recorded.event_id, recorded.correlation_id, ack)


class Turn(Struct, frozen=True):
    """What was decided on which state, and what the log said. `decision` is None if somebody else had finished it."""

    before: State
    decision: Decision | None
    result: AppendResult | None = None
    story: tuple[tuple[Event, Wake], ...] = ()
    """The events written, each with what it is the cause of: its own id and the correlation."""

    @property
    def written(self) -> bool:
        return isinstance(self.result, Appended | Duplicate)

    @property
    def state(self) -> State:
        return self.decision.state if self.decision is not None and self.written else self.before


async def take_turn(desk: Desk, strategy_id: int, decide: Decide, wake: Wake, dedupe: Dedupe | None = None) -> Turn:
    """One decision on the strategy's present state, written or found needless.

    Raises LogUnavailable (look again later), LogLost, CorruptState and whatever `decide` raises.
    """
    lost = False
    day_spent = False
    if not wake.event_id and (waiting := desk.waits.woken_by(strategy_id)) is not None:
        wake = Wake(*waiting)  # time woke it because there was no room before: what it waits to do has its old cause
    while True:
        state, facts = await look_soundly(desk, strategy_id, wake.event_id)
        decision = decide(state, structs.replace(facts, day_spent=True) if day_spent else facts)
        if decision is None:
            return Turn(state, None)
        events = decision.events
        if lost and not events and state.unresolved:
            events = (LockConflict(woken_by=wake.event_id, held_by=state.lock_state),)
        story, result = await _append(desk, state, decision, events, wake, dedupe)
        match result:
            case Appended() | Duplicate():
                if not decision.keep_timer:
                    placed = any(isinstance(event, Intent) for event in events)
                    desk.waits.decided(strategy_id, facts.now, placed=placed)
                return Turn(state, decision, result, story)
            case NotPending():
                return Turn(state, None, result)
            case Conflict():
                lost = True
            case Halted():
                pass  # the latch fell between the look and the append: look again
            case NoPermit(which):
                window, at = window_of(which)
                if window == "day" and not day_spent:
                    day_spent = True
                    continue
                desk.waits.refused(strategy_id, window, facts.now, wake.event_id, wake.correlation_id)
                wait = RuntimeWrite(wake_at=at if decision.wake_at is None else min(at, decision.wake_at))
                waited = await desk.log.append(
                    [], expected=state.version, runtime=wait, ack=wake.ack, strategy_id=strategy_id
                )
                if isinstance(waited, WrongEpoch):
                    raise _lost(desk, waited)
                if not isinstance(waited, Conflict):
                    return Turn(state, None, result)
            case _:
                raise _lost(desk, result)


def _lost(desk: Desk, answer: WrongEpoch) -> LogLost:
    return LogLost(f"this process belongs to epoch {desk.log.epoch}, the log is at {answer.actual}")


def decided(state: State, events: Sequence[Event]) -> Decision:
    """A decision made of given events, which leaves the timers as they are."""
    return Decision(tuple(events), fold(state, events), keep_timer=True)


async def _append(
    desk: Desk,
    state: State,
    decision: Decision,
    events: Sequence[Event],
    wake: Wake,
    dedupe: Dedupe | None,
) -> tuple[tuple[tuple[Event, Wake], ...], AppendResult]:
    log = desk.log
    tag = next((event.tag for event in events if isinstance(event, Intent)), None)
    ids = [log.ids.next() for _ in events]
    correlation = wake.correlation_id or (ids[0] if ids else "")
    new = [
        NewEvent(
            event,
            strategy_id=state.id,
            user_id=state.user_id,
            correlation_id=correlation,
            causation_id=wake.event_id,
            event_id=event_id,
        )
        for event, event_id in zip(events, ids, strict=True)
    ]
    if tag is not None:
        # were an event id ever used twice, the tags would differ: an error, and not an order without an intent
        dedupe = Dedupe(f"intent:{ids[0]}", tag, ttl=600)
    room: tuple[Permit, ...] = ()
    if any(isinstance(event, ASKING) for event in events):
        broker = await desk.brokers.of(state.user_id)
        if broker is not None and broker.limits is not None:
            room = permits(broker.limits, state.user_id, events)
    write = encode_change(state, decision.state, decision.wake_at, keep_timer=decision.keep_timer)

    async def append() -> AppendResult:
        return await log.append(
            new,
            expected=state.version,
            runtime=write,
            dedupe=dedupe,
            permit=room,
            ack=wake.ack,
            entry=_has_entry(events),
            strategy_id=state.id,
            user_id=state.user_id,
        )

    story = tuple((event, Wake(event_id, correlation)) for event, event_id in zip(events, ids, strict=True))
    return story, await (persist(append, desk.clock) if tag is not None else append())


def _has_entry(events: Sequence[Event]) -> bool:
    return any(isinstance(event, Intent) and event.kind is Kind.BUY for event in events)


async def persist(call: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """Repeats a call until the log answers: for what must not be dropped and may safely be repeated."""
    tries = 0
    while True:
        try:
            return await call()
        except LogUnavailable:
            await clock.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1
