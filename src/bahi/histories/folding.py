"""A log folded one event at a time, by the same `evolve` that decisions use, with what each event changed."""

import copy
from collections.abc import Mapping

from bahi.histories.states import Plain, changed
from domain.strategy import State, initial
from eventstore.envelope import Raw, Recorded
from projections.replay import apply_recorded

__all__ = ["Folding", "merge"]


class Folding:
    """The states after the events that were taken; earlier ones stay what they were."""

    def __init__(self) -> None:
        self.states: dict[int, State] = {}

    def take(self, raw: Raw, it: Recorded) -> Plain:
        """Fold one event; what it changed. Nothing if it has no version, so is of no strategy."""
        if not raw.version:
            return {}
        was = self.states.get(it.strategy_id)
        state = initial(it.strategy_id, it.user_id) if was is None else copy.copy(was)
        apply_recorded(state, raw.version, raw.recorded_at, raw.position, it.event)
        self.states[it.strategy_id] = state
        return changed(State() if was is None else was, state)


def merge(state: Mapping[str, object], fields: Plain) -> Plain:
    """A state in plain form after a change of `fields`."""
    return {name: value for name, value in {**state, **fields}.items() if value is not None}
