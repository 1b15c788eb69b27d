"""Replay: the state of every strategy from the log alone, at full speed.

The page is decoded in one pass and folded without an object per event. What `domain.strategy.apply` does is done here
by its own handlers, but for the blind events and those without effect, which are most of a log and have constant
effects (`domain.blind`): these are written out. A test holds the two equal for every event.
"""

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

from msgspec import Struct

from domain.events import (
    EVENT_TYPES,
    BuyTriggered,
    Event,
    LockAcquired,
    SchedulerResyncRequired,
    SellTriggered,
    StoplossTriggered,
    StrategyReady,
    StrategyRunning,
    UserHalted,
    UserResumed,
)
from domain.strategy import HANDLERS, State, apply, initial
from domain.values import ALIVE, Instant, Status
from eventstore.entries import read_entries
from eventstore.envelope import Owner, Raw, Recorded, decode, decode_page, owner_of
from eventstore.errors import CorruptEvent, LogError
from eventstore.log import EventLog

__all__ = ["BrokenHistory", "Fault", "Kind", "Progress", "Replay", "apply_recorded", "replay_states"]

Progress = Callable[[int, int], None]
"""How many events are done, of how many."""


_SLICE = 512
"""Entries decoded at a time: more would not stay in the processor's cache until they are folded. They take about a
millisecond, after which `feed_in_turns` lets others work."""


class Fault(Struct, frozen=True):
    """Something that must not be: at which position, of which strategy (0: none), of what kind, in words."""

    position: int
    strategy_id: int
    kind: str
    text: str


class Kind:
    """The kinds of faults."""

    HOLE = "hole"
    CORRUPT = "corrupt"
    VERSION = "version"
    TIME = "time"
    ILLEGAL = "illegal"
    CAUSE = "cause"
    ARCHIVE = "archive"
    DELETED = "deleted"
    COLUMNS = "columns"
    SEAL_CHAIN = "seal_chain"
    SEAL_SIGNATURE = "seal_signature"
    SEAL_COVER = "seal_cover"
    UNSEALED = "unsealed"
    LIVE = "live"
    TABLE = "table"


class BrokenHistory(LogError):
    """The log cannot be folded: its first fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"position {fault.position}: {fault.text}")
        self.fault = fault


class Replay:
    """The states after the entries that were fed, in position order.

    Without `on_fault` the first fault is raised as BrokenHistory; with it, it is told, and the fold goes on as well as
    it can: a state then takes the version that the log gives. `strategy_id` folds only that one.
    """

    def __init__(self, *, strategy_id: int | None = None, on_fault: Callable[[Fault], None] | None = None) -> None:
        self.states: dict[int, State] = {}
        self.position = 0
        """Of the last entry."""
        self.recorded_at: Instant = 0
        """Of the last entry."""
        self.since = 0
        """The position of the snapshot that it began with."""
        self.halts: dict[int, UserHalted] = {}
        """The users whose kill switch is on."""
        self._only = strategy_id
        self._on_fault = on_fault

    def feed(self, raws: Sequence[Raw]) -> None:
        """Fold these entries."""
        with _collector_at_rest():
            for start in range(0, len(raws), _SLICE):
                self._feed(raws[start : start + _SLICE])
        if raws:
            self.position, self.recorded_at = raws[-1].position, raws[-1].recorded_at

    async def feed_in_turns(self, raws: Sequence[Raw]) -> None:
        """As `feed`; but whatever else this process has to do gets its turn again and again."""
        with _collector_at_rest():
            for start in range(0, len(raws), _SLICE):
                self.feed(raws[start : start + _SLICE])
                await asyncio.sleep(0)

    def _feed(self, raws: Sequence[Raw]) -> None:
        page = decode_page(raws)
        if page is None:
            for raw in raws:
                self._feed_one(raw)
            return
        states, only, steps = self.states, self._only, _STEPS
        for raw, it in zip(raws, page, strict=True):
            version = raw.version
            if not version:
                self._halt(it.user_id, it.event)
                continue
            strategy_id = it.strategy_id
            state = states.get(strategy_id)
            if state is None:
                if only is not None and strategy_id != only:
                    continue
                if not strategy_id:
                    self._nobodys(raw)
                    continue
                state = states[strategy_id] = initial(strategy_id, it.user_id)
            event = it.event
            if version != state.version + 1:
                self._gap(raw, state)
            state.version = version
            step = steps[type(event)]
            if step is not None:
                try:
                    step(state, event)
                except Exception as error:
                    self._illegal(raw, state, error)
            state.updated_at = raw.recorded_at
            state.position_in_log = raw.position

    def _feed_one(self, raw: Raw) -> None:
        """The careful way, for a page that holds something damaged or old."""
        try:
            self.take(raw, decode(raw))
        except CorruptEvent as error:
            self.take(raw, error)

    def take(self, raw: Raw, it: Recorded | CorruptEvent) -> None:
        """Fold one entry, which was decoded already, or could not be."""
        self.position, self.recorded_at = raw.position, raw.recorded_at
        event: Event | None = None
        owner: Recorded | Owner
        if isinstance(it, CorruptEvent):
            owner = owner_of(raw.envelope)
            self._fault(Fault(raw.position, owner.strategy_id, Kind.CORRUPT, str(it)))
        else:
            owner, event = it, it.event
        strategy_id = owner.strategy_id
        if not raw.version:
            if event is not None:
                self._halt(owner.user_id, event)
            return
        if self._only is not None and strategy_id != self._only:
            return
        if not strategy_id:
            self._nobodys(raw)
            return
        state = self.states.get(strategy_id)
        if state is None:
            state = self.states[strategy_id] = initial(strategy_id, owner.user_id)
        if raw.version != state.version + 1:
            self._gap(raw, state)
        if event is not None:
            try:
                apply(state, event)
            except Exception as error:
                self._illegal(raw, state, error)
        state.version = raw.version
        state.updated_at = raw.recorded_at
        state.position_in_log = raw.position

    def _halt(self, user_id: int, event: Event) -> None:
        if isinstance(event, UserHalted):
            self.halts[user_id] = event
        elif isinstance(event, UserResumed):
            self.halts.pop(user_id, None)

    def _nobodys(self, raw: Raw) -> None:
        self._fault(Fault(raw.position, 0, Kind.VERSION, f"version {raw.version} of no strategy"))

    def _gap(self, raw: Raw, state: State) -> None:
        text = f"strategy {state.id} goes from version {state.version} to {raw.version}"
        self._fault(Fault(raw.position, state.id, Kind.VERSION, text))
        state.version = raw.version - 1

    def _illegal(self, raw: Raw, state: State, error: Exception) -> None:
        text = f"strategy {state.id}: the event cannot be folded: {type(error).__name__}: {error}"
        self._fault(Fault(raw.position, state.id, Kind.ILLEGAL, text))

    def _fault(self, fault: Fault) -> None:
        if self._on_fault is None:
            raise BrokenHistory(fault)
        self._on_fault(fault)


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Nothing here is cyclic, and the garbage collector would look at every state again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def apply_recorded(state: State, version: int, recorded_at: Instant, position: int, event: Event) -> None:
    """`apply` of an event as the log holds it: the state also takes its time and place."""
    state.version = version - 1
    apply(state, event)
    state.version = version
    state.updated_at = recorded_at
    state.position_in_log = position


async def replay_states(
    log: EventLog,
    *,
    until: int | None = None,
    at: Instant | None = None,
    strategy_id: int | None = None,
    progress: Progress | None = None,
    on_fault: Callable[[Fault], None] | None = None,
) -> dict[int, State]:
    """Every strategy's state (or the one's) after the event at position `until`, or as it was known at the instant
    `at`; by default at the log's end. Each has `updated_at` and `position_in_log` of its last event.

    Raises BrokenHistory at the first fault unless `on_fault` takes it, LogHole, LogUnavailable, LogLost.
    """
    replay = Replay(strategy_id=strategy_id, on_fault=on_fault)
    last = await log.last_position()
    until = last if until is None else min(until, last)
    async with aclosing(read_entries(log, 0, until)) as pages:
        async for page in pages:
            if at is not None and page[-1].recorded_at > at:
                replay.feed([raw for raw in page if raw.recorded_at <= at])
                break
            replay.feed(page)
            if progress is not None:
                progress(replay.position, until)
    return replay.states


# --- the shortcuts --------------------------------------------------------------------------------------------------


def _blind(state: State, event: Event) -> None:
    version = state.version
    apply(state, event)
    state.version = version


def _buy_triggered(state: State, event: BuyTriggered) -> None:
    if state.run == event.run and state.buy_at == event.due_at and state.status in ALIVE:
        state.buy_due = True


def _sell_triggered(state: State, event: SellTriggered) -> None:
    if state.run == event.run and state.sell_at == event.due_at and state.status in ALIVE:
        state.sell_due = True


def _stoploss_triggered(state: State, event: StoplossTriggered) -> None:
    if state.run == event.run and state.stop_revision == event.stop_revision and state.status in ALIVE:
        state.stop_due = True
        state.stop_price = event.tick.price


def _ready(state: State, event: StrategyReady) -> None:
    if state.run == event.run and state.status is Status.STARTING:
        state.ready = True


def _running(state: State, event: StrategyRunning) -> None:
    if state.run == event.run and state.status is Status.STARTING:
        state.status = Status.RUNNING


_SHORTCUTS: dict[type[Event], Callable[[State, Any], None] | None] = {
    LockAcquired: None,
    SchedulerResyncRequired: None,
    BuyTriggered: _buy_triggered,
    SellTriggered: _sell_triggered,
    StoplossTriggered: _stoploss_triggered,
    StrategyReady: _ready,
    StrategyRunning: _running,
}
assert all(cls.versioned for cls in _SHORTCUTS) and set(_SHORTCUTS) <= set(EVENT_TYPES.values())  # noqa: S101, PT018

_STEPS: dict[type[Event], Callable[[State, Any], None] | None] = {
    **{cls: HANDLERS.get(cls, _blind) for cls in EVENT_TYPES.values()},
    **_SHORTCUTS,
}
"""What each event does to a state that has taken its version."""
