"""One strategy at a time within a process: so that it does not conflict with itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["StrategyLocks"]


class StrategyLocks:
    """A lock per strategy, in the order of asking, kept while someone holds it or waits for it.

    Only a saving: between processes the expected version decides.
    """

    def __init__(self) -> None:
        self._locks: dict[int, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def __call__(self, strategy_id: int) -> AsyncIterator[None]:
        """Hold the strategy; 0 stands for none and is never waited for."""
        if not strategy_id:
            yield
            return
        lock, users = self._locks.get(strategy_id) or (asyncio.Lock(), 0)
        self._locks[strategy_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[strategy_id]
            if users == 1:
                del self._locks[strategy_id]
            else:
                self._locks[strategy_id] = (lock, users - 1)
