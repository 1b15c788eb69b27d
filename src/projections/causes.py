"""The causes of effects: every order, cancellation and change names an earlier event as its cause, or time."""

from typing import Protocol

from domain.events import CancelRequested, Event, Intent, ModifyRequested, StrategyStarted
from domain.rules.acts import uneasy
from domain.strategy import State

__all__ = ["Caused", "Causes", "is_effect", "named_cause"]


class Caused(Protocol):
    """`Recorded` or `Envelope`."""

    @property
    def event_id(self) -> str: ...
    @property
    def strategy_id(self) -> int: ...
    @property
    def user_id(self) -> int: ...
    @property
    def causation_id(self) -> str: ...
    @property
    def event(self) -> Event: ...


def is_effect(event: Event) -> bool:
    """It asks the broker for something."""
    return isinstance(event, Intent | CancelRequested | ModifyRequested)


def named_cause(it: Caused) -> str:
    """The id of the event that it says caused it; "" for time."""
    return (it.event.cause if isinstance(it.event, Intent) else "") or it.causation_id


class Causes:
    """The events that may have caused something: of each strategy those of its run and the one before, and those of
    its user. An effect without a cause was caused by time, for which a strategy must have been waiting."""

    def __init__(self) -> None:
        self._of_strategy: dict[int, tuple[set[str], set[str]]] = {}
        self._of_user: dict[int, set[str]] = {}

    def missing(self, it: Caused, state: State | None) -> str | None:
        """What is wrong with the cause of this effect. `state` is the strategy's before it."""
        cause = named_cause(it)
        if not cause:
            waiting = state is not None and (state.alive or state.unresolved or uneasy(state))
            return None if waiting else f"{it.event.type} names no cause, and the strategy was waiting for nothing"
        now, before = self._of_strategy.get(it.strategy_id, _NOTHING)
        if cause in now or cause in before or cause in self._of_user.get(it.user_id, ()):
            return None
        return f"{it.event.type} names {cause} as its cause, which is no earlier event of the strategy or its user"

    def remember(self, it: Caused) -> None:
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
