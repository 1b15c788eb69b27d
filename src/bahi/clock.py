"""The machine's own clock, as the port that everything outside `domain/` reads time through."""

import asyncio
import time

from domain.values import SECOND, Duration, Instant

__all__ = ["SystemClock"]


class SystemClock:
    """Wall-clock time. `sleep` is on the event loop's monotonic clock: a jump of the wall clock does not stretch it."""

    def now(self) -> Instant:
        return time.time_ns() // 1000

    async def sleep(self, duration: Duration) -> None:
        await asyncio.sleep(max(0, duration) / SECOND)
