"""Recording: what a run of the engine decided and on what, and the log that came of it, as the files of a history."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from bahi.histories.checking import DECISIONS_FORM, EVENTS_FORM, STATES_FORM, DecisionsHead, StatesHead
from bahi.histories.deciding import DecisionLine, plain_event, speaking
from bahi.histories.facts import Tables
from bahi.histories.files import DECISIONS, EVENTS, STATES, Head, HistoryError, pack, plain
from bahi.histories.folding import Folding, merge
from bahi.histories.states import CHECKPOINT, Line, Plain, digest, plain_state
from domain.decide import Decision
from domain.events import EVENT_TYPES
from domain.facts import Facts
from domain.strategy import State, initial
from eventstore.envelope import Raw, decode
from eventstore.errors import CorruptEvent
from handlers.advance import AROUND, DecideNext

__all__ = ["Recorder", "Written", "missing_types", "write"]


class _Seen(Struct, frozen=True):
    state: State
    facts: Facts
    decision: Decision


class Recorder:
    """Hears every decision that `advance` makes while it listens."""

    def __init__(self) -> None:
        self.seen: list[_Seen] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """In this context, and in every task begun in it."""
        outer = AROUND.get()

        def around(decide: DecideNext) -> DecideNext:
            return self._hearing(decide if outer is None else outer(decide))

        token = AROUND.set(around)
        try:
            yield
        finally:
            AROUND.reset(token)

    def _hearing(self, decide: DecideNext) -> DecideNext:
        def hear(state: State, facts: Facts) -> Decision:
            decision = decide(state, facts)
            self.seen.append(_Seen(state, facts, decision))
            return decision

        return hear


class Written(Struct, frozen=True, kw_only=True):
    """What a recorded history holds. `forgotten`: decisions on states that the log does not tell any more, because
    the end of an epoch was lost."""

    name: str
    events: int
    decisions: int
    forgotten: int
    types: Counter[str]


def write(folder: Path, head: Head, raws: Sequence[Raw], recorder: Recorder, *, lossy: bool = False) -> Written:
    """Writes a history's three files. Raises HistoryError when decisions were made on a state that is not the fold of
    the log: only where a log was `lossy` may there be such, and they are left out."""
    states, events, lines, types = _fold(raws)
    tables = Tables()
    decisions: list[DecisionLine] = []
    forgotten = 0
    for seen in recorder.seen:
        told = states.get((seen.state.id, seen.state.version))
        if told is None or plain_state(told) != plain_state(seen.state):
            forgotten += 1
            continue
        decisions.append(
            DecisionLine(
                strategy=seen.state.id,
                version=seen.state.version,
                facts=tables.line(seen.facts),
                events=[plain_event(event) for event in seen.decision.events],
                wake_at=seen.decision.wake_at,
                written=_written(seen, events),
                rules=speaking(seen.state, seen.facts),
            )
        )
    if forgotten and not lossy:
        raise HistoryError(f"{head.name}: {forgotten} decisions were made on states that are not the fold of the log")
    if recorder.seen:
        nows = [seen.facts.now for seen in recorder.seen]
        tables.add_calendar(recorder.seen[0].facts.calendar, min(nows), max(nows))
    folder.mkdir(parents=True, exist_ok=True)
    common = {name: getattr(head, name) for name in ("name", "version", "seed", "about", "constructed")}
    pack(folder / f"{head.name}{EVENTS}", Head(bahi=EVENTS_FORM, **common), plain(raws))
    pack(folder / f"{head.name}{DECISIONS}", DecisionsHead(bahi=DECISIONS_FORM, tables=tables, **common), decisions)
    pack(folder / f"{head.name}{STATES}", StatesHead(bahi=STATES_FORM, every=CHECKPOINT, **common), lines)
    return Written(name=head.name, events=len(raws), decisions=len(decisions), forgotten=forgotten, types=types)


_Versions = dict[tuple[int, int], State]
_Events = dict[tuple[int, int], tuple[int, dict[str, Any]]]


def _fold(raws: Sequence[Raw]) -> tuple[_Versions, _Events, list[Line], Counter[str]]:
    """The states by strategy and version, the events likewise with their positions, the lines of the states, and how
    many events there are of each type."""
    folding = Folding()
    versions: _Versions = {}
    events: _Events = {}
    plain_states: dict[int, Plain] = {}
    lines: list[Line] = []
    types: Counter[str] = Counter()
    for raw in raws:
        try:
            it = decode(raw)
        except CorruptEvent:
            lines.append(Line(raw.position, unreadable=True))
        else:
            types[it.event.type] += 1
            if raw.version:
                fields = folding.take(raw, it)
                versions[it.strategy_id, raw.version] = folding.states[it.strategy_id]
                versions.setdefault((it.strategy_id, 0), initial(it.strategy_id, it.user_id))
                events[it.strategy_id, raw.version] = raw.position, plain_event(it.event)
                plain_states[it.strategy_id] = merge(plain_states.get(it.strategy_id, {}), fields)
                lines.append(Line(raw.position, it.strategy_id, fields))
        if raw.position % CHECKPOINT == 0 or raw is raws[-1]:
            lines.append(Line(raw.position, digest=digest(plain_states)))
    return versions, events, lines, types


def _written(seen: _Seen, events: _Events) -> int:
    """The position of the first event that the log took of this decision."""
    versioned = [event for event in seen.decision.events if event.versioned]
    if not versioned:
        return 0
    position, event = events.get((seen.state.id, seen.state.version + 1), (0, {}))
    return position if event == plain_event(versioned[0]) else 0


def missing_types(types: Counter[str]) -> list[str]:
    """The types of the catalogue that none of these events has. PRICE_TICK never is in a log."""
    return sorted(set(EVENT_TYPES) - set(types) - {"PRICE_TICK"})
