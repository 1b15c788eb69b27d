"""Is the log whole, and is everything that is derived from it what it must be? Every check, and the first fault."""

from collections.abc import Sequence

from msgspec import Struct

from domain.events import CancelRequested, Intent, ModifyRequested, StrategyStarted
from domain.rules.acts import uneasy
from domain.strategy import State
from eventstore.clients import command
from eventstore.entries import PAGE, EntryArchive, check_log, stream_entries
from eventstore.envelope import Raw, Recorded, decode
from eventstore.errors import CorruptEvent
from eventstore.keys import CLASSES
from eventstore.log import EventLog
from projections.compare import compare_live
from projections.replay import Fault, Kind, Progress, Replay

__all__ = ["Report", "verify"]

MOST_FAULTS = 1000
"""Faults that a report names; the first ones are what matters."""


class Report(Struct, frozen=True):
    """What was looked at, and the faults in the order of their positions."""

    events: int
    archived: int
    strategies: int
    faults: tuple[Fault, ...]

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def first(self) -> Fault | None:
        return self.faults[0] if self.faults else None

    def holds(self, *kinds: str) -> bool:
        """Whether there is no fault of these kinds (`Kind`)."""
        return not any(fault.kind in kinds for fault in self.faults)


async def verify(log: EventLog, *, progress: Progress | None = None) -> Report:
    """Checks, while trading may go on: positions without a hole over the streams and the archive, both holding the
    same where both hold something; every entry readable; time never running backwards; the versions of each strategy
    without a gap; every effect naming what caused it; and Redis holding exactly what the log makes of each strategy.

    Raises LogUnavailable, LogLost.
    """
    check = _Check()
    last = await check_log(log)
    archive: object = log.archive
    archived = 0
    if log.archive is not None and isinstance(archive, EntryArchive):
        archived = await log.archive.last_position()
    for after in range(0, last, PAGE):
        until = min(after + PAGE, last)
        streams = await stream_entries(log, after, until)
        stored: Sequence[Raw] = []
        if after < archived and isinstance(archive, EntryArchive):
            stored = await archive.entries(after, min(until, archived))
        check.page(after, until, archived, streams, stored)
        if progress is not None:
            progress(until, last)
    check.faults += await _beyond(log)
    for difference in await compare_live(log, check.replay):
        check.faults.append(Fault(difference.position, difference.strategy_id, Kind.LIVE, str(difference)))
    check.faults.sort(key=lambda fault: fault.position)
    return Report(last, archived, len(check.replay.states), tuple(check.faults[:MOST_FAULTS]))


async def _beyond(log: EventLog) -> list[Fault]:
    """Entries after the end of the log: no append wrote them."""
    faults = []
    for each in CLASSES:
        newest = await command(log.redis, "XREVRANGE", log.keys.streams[each], "+", "-", "COUNT", 1)
        position = int(newest[0][0].partition(b"-")[0]) if newest else 0
        if position > (last := await check_log(log)):
            faults.append(Fault(position, 0, Kind.CORRUPT, f"{each} holds an entry beyond the end of the log, {last}"))
    return faults


class _Check:
    """The pages of the log, one after the other."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.replay = Replay(on_fault=self.faults.append)
        self._recorded_at = 0
        self._causes = _Causes()

    def page(self, after: int, until: int, archived: int, streams: Sequence[Raw], stored: Sequence[Raw]) -> None:
        """The entries of positions after + 1 … until, as the streams and as the archive hold them."""
        hot = {raw.position: raw for raw in streams}
        cold = {raw.position: raw for raw in stored}
        for position in range(after + 1, until + 1):
            here, there = hot.get(position), cold.get(position)
            if position <= archived and there is None:
                self._fault(position, Kind.ARCHIVE, f"the archive reaches to {archived} and lacks it")
            elif here is not None and there is not None and here != there:
                self._fault(position, Kind.ARCHIVE, "the stream and the archive hold different entries")
            raw = here or there
            if raw is None:
                self._fault(position, Kind.HOLE, "neither the streams nor the archive hold it")
            else:
                self._entry(raw)

    def _entry(self, raw: Raw) -> None:
        if raw.recorded_at < self._recorded_at:
            self._fault(raw.position, Kind.TIME, f"recorded at {raw.recorded_at}, after {self._recorded_at}")
        self._recorded_at = max(raw.recorded_at, self._recorded_at)
        try:
            it = decode(raw)
        except CorruptEvent as error:
            self.replay.take(raw, error)
            return
        if (text := self._causes.missing(it, self.replay.states.get(it.strategy_id))) is not None:
            self._fault(raw.position, Kind.CAUSE, text, it.strategy_id)
        self.replay.take(raw, it)
        self._causes.remember(it)

    def _fault(self, position: int, kind: str, text: str, strategy_id: int = 0) -> None:
        self.faults.append(Fault(position, strategy_id, kind, text))


class _Causes:
    """The events that may have caused something: of each strategy those of its run and the one before, and those of
    its user. An effect without a cause was caused by time, for which a strategy must have been waiting."""

    def __init__(self) -> None:
        self._of_strategy: dict[int, tuple[set[str], set[str]]] = {}
        self._of_user: dict[int, set[str]] = {}

    def missing(self, it: Recorded, state: State | None) -> str | None:
        """What is wrong with the cause of this event, if it is an effect."""
        event = it.event
        if not isinstance(event, Intent | CancelRequested | ModifyRequested):
            return None
        cause = (event.cause if isinstance(event, Intent) else "") or it.causation_id
        if not cause:
            waiting = state is not None and (state.alive or state.unresolved or uneasy(state))
            return None if waiting else f"{event.type} names no cause, and the strategy was waiting for nothing"
        now, before = self._of_strategy.get(it.strategy_id, _NOTHING)
        if cause in now or cause in before or cause in self._of_user.get(it.user_id, ()):
            return None
        return f"{event.type} names {cause} as its cause, which is no earlier event of the strategy or its user"

    def remember(self, it: Recorded) -> None:
        if it.strategy_id:
            kept = self._of_strategy.get(it.strategy_id)
            if kept is None:
                kept = self._of_strategy[it.strategy_id] = (set(), set())
            if isinstance(it.event, StrategyStarted):
                kept = self._of_strategy[it.strategy_id] = (set(), kept[0])
            kept[0].add(it.event_id)
        elif it.user_id and it.event.wakes:
            self._of_user.setdefault(it.user_id, set()).add(it.event_id)


_NOTHING: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
