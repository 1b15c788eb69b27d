"""The port through which time enters: everything outside `domain/` asks a Clock, so a test can own the time."""

from typing import Protocol

from domain.values import Duration, Instant


class Clock(Protocol):
    """`now` never blocks. `sleep` returns once `duration` has passed on this clock."""

    def now(self) -> Instant: ...

    async def sleep(self, duration: Duration) -> None: ...
