"""Checking: would today's program read, fold and decide what a release recorded, exactly as that release did?

1. Every entry's exact bytes are decoded, through the upcasts; no field of the event may be lost on the way.
2. Every event is folded, and what it changes is compared with what it changed then, field by field; every hundred
   events the digest of all states. The replay of `projections` must come to the same states.
3. Every decision is made again, on the state of then and the facts of then: the same events, the same timer.

What differs on purpose is said in `changes.toml`. A strategy's state is compared up to its first difference that
nothing explains, because all that follows would differ with it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from bahi.histories.changes import Changes, load_changes
from bahi.histories.deciding import DecisionLine, as_events, event_differences, speaking, where_apart
from bahi.histories.differing import (
    Difference,
    decision_differs,
    digest_differs,
    event_unread,
    field_lost,
    state_differs,
)
from bahi.histories.facts import RecordedCalendar, Tables
from bahi.histories.files import DECISIONS, EVENTS, STATES, Head, HistoryError, entries, head, lines, read
from bahi.histories.folding import Folding, merge
from bahi.histories.states import Line, Plain, digest, plain_state
from domain import decide
from domain.strategy import State, initial
from eventstore.envelope import Raw, Recorded, decode
from eventstore.errors import CorruptEvent
from projections.replay import Replay

__all__ = ["Checked", "DecisionsHead", "History", "StatesHead", "check_folder", "find_histories", "load_history"]

EVENTS_FORM: Final = "history/1"
DECISIONS_FORM: Final = "history-decisions/1"
STATES_FORM: Final = "history-states/1"


class DecisionsHead(Head, frozen=True, kw_only=True):
    """`tables` holds what the lines refer to by number."""

    tables: Tables


class StatesHead(Head, frozen=True, kw_only=True):
    """`every` so many events there is a digest."""

    every: int


class History(Struct, frozen=True, kw_only=True):
    """What a release recorded of one run."""

    head: Head
    entries: list[Raw]
    tables: Tables
    decisions: list[DecisionLine]
    states: list[Line]


class Checked(Struct, frozen=True, kw_only=True):
    """What came of one history. `unreadable` entries were so when they were recorded. `declared`: how many differences
    `changes.toml` explains."""

    history: str
    release: str
    events: int
    strategies: int
    decisions: int
    digests: int
    declared: int
    unreadable: int
    digest: str
    """Of all states at the end, as today's program has them."""
    types: dict[str, int]
    differences: list[Difference]
    constructed: bool = False


def find_histories(folder: Path) -> list[Path]:
    """The folders with histories in `folder`: itself, or those in it, by release. Raises HistoryError if none has."""
    if not folder.is_dir():
        raise HistoryError(f"{folder} is no folder: name the one with the releases' histories")
    found = [each for each in (folder, *sorted(folder.iterdir())) if each.is_dir() and any(each.glob(f"*{STATES}"))]
    if not found:
        raise HistoryError(f"{folder} holds no history: `bahi history record {folder}/vX.Y` makes one")
    return found


def load_history(folder: Path, name: str) -> History:
    """Raises HistoryError when a file is missing, cut off, altered or of another form."""
    paths = [folder / f"{name}{end}" for end in (EVENTS, DECISIONS, STATES)]
    of_events, of_decisions, of_states = (read(path) for path in paths)
    first = head(paths[0], of_events, EVENTS_FORM, Head)
    decisions = head(paths[1], of_decisions, DECISIONS_FORM, DecisionsHead)
    states = head(paths[2], of_states, STATES_FORM, StatesHead)
    for path, other in ((paths[1], decisions), (paths[2], states)):
        if (other.name, other.version, other.seed) != (first.name, first.version, first.seed):
            raise HistoryError(f"{path} is of another recording than {paths[0]}: restore both from the repository")
    return History(
        head=first,
        entries=entries(paths[0], of_events),
        tables=decisions.tables,
        decisions=lines(paths[1], of_decisions, DecisionLine),
        states=lines(paths[2], of_states, Line),
    )


def check_folder(folder: Path) -> list[Checked]:
    """All histories of one release. Raises HistoryError when one cannot be used."""
    changes = load_changes(folder)
    names = sorted(path.name.removesuffix(STATES) for path in folder.glob(f"*{STATES}"))
    known = {f"{name}{end}" for name in names for end in (EVENTS, DECISIONS, STATES)}
    if strangers := sorted(path.name for path in folder.glob("*.gz") if path.name not in known):
        raise HistoryError(f"{folder}: {', '.join(strangers)} is part of no history: restore what is missing")
    checked = [_Check(load_history(folder, name), folder.name, changes).run() for name in names]
    if unused := changes.unused():
        last = checked[-1]
        checked[-1] = msgspec.structs.replace(last, differences=[*last.differences, *unused])
    return checked


class _Check:
    """One history."""

    def __init__(self, history: History, release: str, changes: Changes) -> None:
        self._history = history
        self._name = history.head.name
        self._release = release
        self._changes = changes
        self._differences: list[Difference] = []
        self._declared = 0
        self._left: set[int] = set()
        """Strategies that are not compared any more: their states went apart."""
        self._folding = Folding()
        self._recorded: dict[int, Plain] = {}
        self._now: dict[int, Plain] = {}
        self._apart: set[tuple[int, str]] = set()
        """The fields of strategies that differ on purpose."""
        self._digests = 0
        self._unreadable = 0
        self._types: defaultdict[str, int] = defaultdict(int)

    def run(self) -> Checked:
        history = self._history
        calendars = history.tables.read()
        due: defaultdict[tuple[int, int], list[DecisionLine]] = defaultdict(list)
        for decision in history.decisions:
            due[decision.strategy, decision.version].append(decision)
        told: defaultdict[int, list[Line]] = defaultdict(list)
        for line in history.states:
            told[line.position].append(line)
        for raw in history.entries:
            it = self._read(raw, told[raw.position])
            if it is not None and raw.version:
                if raw.version == 1:
                    self._decide(due.pop((it.strategy_id, 0), []), initial(it.strategy_id, it.user_id), 0, calendars)
                self._fold(raw, it, told[raw.position])
                decisions = due.pop((it.strategy_id, raw.version), [])
                if it.strategy_id not in self._left:
                    self._decide(decisions, self._folding.states[it.strategy_id], raw.position, calendars)
            for line in told[raw.position]:
                if line.digest:
                    self._compare_digest(line)
        if due:
            (strategy, version), _ = min(due.items())
            raise HistoryError(
                f"{self._name}: a decision of strategy {strategy} at version {version}, which the log never reaches"
            )
        self._compare_replay()
        return Checked(
            history=self._name,
            release=self._release,
            events=len(history.entries),
            strategies=len(self._folding.states),
            decisions=len(history.decisions),
            digests=self._digests,
            declared=self._declared,
            unreadable=self._unreadable,
            digest=digest(self._now),
            types=dict(sorted(self._types.items())),
            differences=self._differences,
            constructed=history.head.constructed,
        )

    def _found(self, it: Difference) -> bool:
        """Notes a difference; whether it is one that nothing explains."""
        if self._changes.explain(it):
            self._declared += 1
            return False
        self._differences.append(it)
        return True

    # --- 1. the events ------------------------------------------------------------------------------------------------

    def _read(self, raw: Raw, told: Sequence[Line]) -> Recorded | None:
        try:
            it = decode(raw)
        except CorruptEvent as error:
            if any(line.unreadable for line in told):
                self._unreadable += 1
            else:
                self._found(event_unread(self._name, raw.position, 0, str(error)))
            return None
        self._types[it.event.type] += 1
        wire: dict[str, Any] = msgspec.msgpack.decode(raw.envelope)[7]
        if (wire["type"], wire.get("schema", 1)) == (it.event.type, it.event.schema):  # else the upcasts' tests hold
            now: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(it.event))
            for path, was, became in _lost(wire, now, it.event.type):
                self._found(field_lost(self._name, raw.position, it.strategy_id, path, was, became))
        return it

    # --- 2. the states ------------------------------------------------------------------------------------------------

    def _fold(self, raw: Raw, it: Recorded, told: Sequence[Line]) -> None:
        strategy = it.strategy_id
        for line in told:
            if line.strategy:
                self._recorded[strategy] = merge(self._recorded.get(strategy, {}), line.fields)
        try:
            fields = self._folding.take(raw, it)
        except Exception as error:  # whatever a fold raises is what is looked for
            self._left.add(strategy)
            why = f"{type(error).__name__}: {error}"
            self._found(state_differs(self._name, raw.position, strategy, it.event.type, "folded", why))
            return
        self._now[strategy] = merge(self._now.get(strategy, {}), fields)
        if strategy in self._left:
            return
        recorded, now = self._recorded.get(strategy, {}), self._now[strategy]
        if recorded == now:
            return
        for name in sorted(recorded.keys() | now.keys()):
            was, became = recorded.get(name, _default(name)), now.get(name, _default(name))
            if was != became and (strategy, name) not in self._apart:
                if self._found(state_differs(self._name, raw.position, strategy, name, was, became)):
                    self._left.add(strategy)
                else:
                    self._apart.add((strategy, name))

    def _compare_digest(self, line: Line) -> None:
        """The digest of what is recorded holds the file together, that of today's states is what every process makes
        of them; but for what is apart."""
        self._digests += 1
        if line.digest != (recorded := digest(self._recorded)):
            raise HistoryError(
                f"{self._name}: the states recorded up to position {line.position} have the digest {recorded}, "
                f"recorded is {line.digest}: the file was not written by `bahi history record`"
            )
        if self._left or self._apart:
            return  # told already, field by field
        if (now := digest(self._now)) != line.digest:
            self._found(digest_differs(self._name, line.position, line.digest, now))

    def _compare_replay(self) -> None:
        """The fast replay knows shortcuts; it has to come to the same states."""
        replay = Replay(on_fault=lambda _: None)
        replay.feed(self._history.entries)
        for strategy, state in sorted(self._folding.states.items()):
            if strategy in self._left or replay.states.get(strategy) == state:
                continue
            there = plain_state(replay.states.get(strategy, State()))
            here = plain_state(state)
            name = next((each for each in sorted(there.keys() | here.keys()) if there.get(each) != here.get(each)), "?")
            self._found(
                Difference(
                    history=self._name,
                    position=state.position_in_log,
                    strategy=strategy,
                    kind="replay",
                    what=name,
                    expected=here.get(name),
                    actual=there.get(name),
                    todo="projections/replay.py folds an event otherwise than domain/strategy.py: make them agree",
                )
            )

    # --- 3. the decisions ---------------------------------------------------------------------------------------------

    def _decide(
        self, due: Sequence[DecisionLine], state: State, position: int, calendars: list[RecordedCalendar]
    ) -> None:
        for line in due:
            facts = self._history.tables.facts(line.facts, calendars)
            at = line.written or position
            try:
                now = decide.decide_next(state, facts)
            except Exception as error:  # whatever a rule raises is what is looked for
                was = [each["type"] for each in line.events]
                why = f"{type(error).__name__}: {error}"
                self._decided_otherwise(line, at, "error", was, why, tuple(line.rules))
                continue
            try:
                then = as_events(line)
            except (msgspec.MsgspecError, LookupError, ValueError) as error:
                self._found(event_unread(self._name, at, line.strategy, f"a decided event: {error}"))
                continue
            if then == now.events and line.wake_at == now.wake_at:
                continue
            rules = where_apart(line.rules, speaking(state, facts))
            if then != now.events:
                what, was, became = event_differences(then, now.events)
                self._decided_otherwise(line, at, what, was, became, rules)
            else:
                self._decided_otherwise(line, at, "wake_at", line.wake_at, now.wake_at, rules)

    def _decided_otherwise(
        self, line: DecisionLine, position: int, what: str, was: Any, now: Any, rules: tuple[str, ...]
    ) -> None:
        self._found(decision_differs(self._name, position, line.strategy, line.version, what, was, now, rules))


def _lost(was: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """What is in the stored map and not, or otherwise, in that of today's event. New fields are no loss."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name, value in was.items():
            if name in now:
                yield from _lost(value, now[name], f"{path}.{name}")
            elif value is not None:
                yield f"{path}.{name}", value, "dropped"
    elif was != now:
        yield path, was, now


def _default(name: str) -> Any:
    """What a field holds that is not told; None for one that a state does not have any more."""
    from bahi.histories.states import plain_value

    return plain_value(getattr(State(), name)) if name in State.__struct_fields__ else None
