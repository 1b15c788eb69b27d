"""Whether the entries of the log can be read, and make sense one after the other."""

from collections.abc import Callable, Sequence

from domain.events import EVENT_TYPES
from eventstore.archive import finder_columns
from eventstore.envelope import Envelope, Raw, decode, decode_page
from eventstore.errors import CorruptEvent
from projections.causes import Caused, Causes, is_effect, named_cause
from projections.holdings import Row
from projections.replay import Fault, Kind, Replay

__all__ = ["ReadingCheck"]

_SLICE = 256
"""Entries that are decoded together."""
_NAMES = {cls: name for name, cls in EVENT_TYPES.items()}


class ReadingCheck:
    """Every entry readable, found by the columns that it says, in the order of time; every effect naming its cause;
    and, by `replay`, the versions of each strategy without a gap and every event legal."""

    def __init__(self, tell: Callable[[Fault], None]) -> None:
        self.replay = Replay(on_fault=tell)
        self._tell = tell
        self._recorded_at = 0
        self._causes = Causes()

    def page(self, entries: Sequence[Raw]) -> None:
        """The next entries, in the order of their positions."""
        for start in range(0, len(entries), _SLICE):
            part = entries[start : start + _SLICE]
            envelopes = decode_page(part)
            if envelopes is None:
                for raw in part:
                    self._one(raw)
            else:
                self._many(part, envelopes)

    def _many(self, raws: Sequence[Raw], envelopes: Sequence[Envelope]) -> None:
        recorded_at, folded = self._recorded_at, 0
        for number, (raw, it) in enumerate(zip(raws, envelopes, strict=True)):
            if raw.recorded_at < recorded_at:
                self._backwards(raw, recorded_at)
            else:
                recorded_at = raw.recorded_at
            event = it.event
            if type(raw) is Row and not (
                raw.type == _NAMES[type(event)]
                and raw.strategy_id == (it.strategy_id or None)
                and raw.user_id == (it.user_id or None)
            ):
                self._columns(raw)
            if is_effect(event):
                if not named_cause(it):  # what counts is the state before it
                    self.replay.feed(raws[folded:number])
                    folded = number
                self._caused(raw, it)
            self._causes.remember(it)
        self._recorded_at = recorded_at
        self.replay.feed(raws[folded:])

    def _one(self, raw: Raw) -> None:
        """The slow way, for a stretch with an entry that is damaged or of an earlier schema."""
        if raw.recorded_at < self._recorded_at:
            self._backwards(raw, self._recorded_at)
        self._recorded_at = max(raw.recorded_at, self._recorded_at)
        try:
            it = decode(raw)
        except CorruptEvent as error:
            self.replay.take(raw, error)
        else:
            if is_effect(it.event):
                self._caused(raw, it)
            self.replay.take(raw, it)
            self._causes.remember(it)
        if type(raw) is Row:
            self._columns(raw)

    def _caused(self, raw: Raw, it: Caused) -> None:
        if (text := self._causes.missing(it, self.replay.states.get(it.strategy_id))) is not None:
            self._tell(Fault(raw.position, it.strategy_id, Kind.CAUSE, text))

    def _backwards(self, raw: Raw, before: int) -> None:
        self._tell(Fault(raw.position, 0, Kind.TIME, f"recorded at {raw.recorded_at}, after {before}"))

    def _columns(self, row: Row) -> None:
        """The columns that find it are those that its envelope says."""
        says = finder_columns(row.envelope)
        has = (row.type, row.strategy_id, row.user_id)
        for name, mine, theirs in zip(("type", "strategy_id", "user_id"), has, says, strict=True):
            if mine != theirs:
                text = f"the archive's column {name} says {_said(mine)}, and the event {_said(theirs)}"
                self._tell(Fault(row.position, 0, Kind.COLUMNS, text))
                return


def _said(value: object) -> str:
    return "nothing" if value is None else repr(value)
