"""Which strategies wait for room in their account's limits, and for how long: what this process has seen of it.

Only for reports, causes and fairness. What waits is in the timers, where any process finds it; one that did not see it
begin to wait knows none of these.
"""

from collections.abc import Callable, Sequence

import structlog
from msgspec import Struct

from domain.values import SECOND, Duration, Instant

__all__ = ["Waits"]

log = structlog.get_logger(__name__)


class _Waiting(Struct, frozen=True):
    since: Instant
    window: str
    event_id: str
    correlation_id: str


def _nobody(_waited: Duration) -> None:
    """Nobody measures it."""


class Waits:
    """`observe` hears of every order that is placed how long it had to wait for room; mostly 0."""

    def __init__(self, observe: Callable[[Duration], None] = _nobody) -> None:
        self._observe = observe
        self._waiting: dict[int, _Waiting] = {}

    def refused(self, strategy_id: int, window: str, now: Instant, event_id: str, correlation_id: str) -> None:
        """There is no room for what the strategy wants to ask of its broker because of this event."""
        if strategy_id not in self._waiting:
            self._waiting[strategy_id] = _Waiting(now, window, event_id, correlation_id)

    def woken_by(self, strategy_id: int) -> tuple[str, str] | None:
        """The event, with its correlation, because of which it wants what it waits for."""
        waiting = self._waiting.get(strategy_id)
        return None if waiting is None else (waiting.event_id, waiting.correlation_id)

    def in_turn(self, due: Sequence[int]) -> list[int]:
        """Those that wait come first, the longest waiting before the others; the rest stays in its order. Else exits
        that are changed every few seconds could keep an account's room from another for as long as they rest."""
        waiting = self._waiting
        first = sorted((each for each in due if each in waiting), key=lambda each: waiting[each].since)
        return [*first, *(each for each in due if each not in waiting)]

    def decided(self, strategy_id: int, now: Instant, *, placed: bool) -> None:
        """The strategy waits no more, because it got room (`placed`: for an order) or wants something else."""
        waiting = self._waiting.pop(strategy_id, None)
        waited = 0 if waiting is None else now - waiting.since
        if placed:
            self._observe(waited)
        if waiting is not None:
            seconds = round(waited / SECOND, 3)
            log.info("order_waited", strategy_id=strategy_id, limit=waiting.window, seconds=seconds, placed=placed)
