"""How sources append: blind, in batches, and again until the log has it. Each event's own `dedupe` makes that safe."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from domain.clock import Clock
from domain.values import Duration
from eventstore.batch import AppendResult, WrongEpoch
from eventstore.envelope import NewEvent
from eventstore.errors import LogLost, LogUnavailable
from eventstore.log import EventLog, chunked

__all__ = ["AT_ONCE", "BACK_OFF", "append", "until_available"]

AT_ONCE: Final = 64
"""Events per round trip: one append, so that this process and Redis get to others in between (a stop-loss of another
strategy waits for 2 ms at most)."""

BACK_OFF: Final[tuple[Duration, ...]] = (20_000, 50_000, 100_000, 200_000, 500_000)
"""How long to wait for the log, µs; the last again and again."""


async def append(log: EventLog, events: Sequence[NewEvent]) -> list[AppendResult]:
    """Append at most AT_ONCE events, in batches. Raises LogUnavailable (repeat the call) and LogLost."""
    batches = chunked(events)
    results = [await log.append(batches[0])] if len(batches) == 1 else await log.append_many(batches)
    for result in results:
        if isinstance(result, WrongEpoch):
            raise LogLost(f"the epoch was {log.epoch} and is {result.actual or 'gone'}")
    return results


async def until_available(
    clock: Clock, attempt: Callable[[], Awaitable[None]], outage: Callable[[LogUnavailable], None] | None = None
) -> None:
    """Call `attempt` until it does not raise LogUnavailable, with back-off; `outage` is told each time."""
    failures = 0
    while True:
        try:
            await attempt()
            return
        except LogUnavailable as error:
            if outage is not None:
                outage(error)
            await clock.sleep(BACK_OFF[min(failures, len(BACK_OFF) - 1)])
            failures += 1
