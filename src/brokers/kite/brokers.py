"""The `Brokers` port over Kite: one adapter per session."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from brokers.kite.account import KiteAccount
from brokers.kite.broker import KiteBroker

__all__ = ["KiteBrokers", "KiteSessions"]


class KiteSessions(Protocol):
    """Who has a session at Kite now."""

    async def kite(self, user_id: int) -> KiteAccount | None: ...

    async def connected(self, broker: str) -> Collection[int]: ...


class KiteBrokers:
    """The adapter of a session lives as long as the session; the next session of the account gets a new one."""

    def __init__(self, sessions: KiteSessions, make: Callable[[KiteAccount], KiteBroker]) -> None:
        self._sessions = sessions
        self._make = make
        self._brokers: dict[int, tuple[KiteAccount, KiteBroker]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def of(self, user_id: int) -> KiteBroker | None:
        account = await self._sessions.kite(user_id)
        known = self._brokers.get(user_id)
        if known is not None and known[0] == account:
            return known[1]
        if known is not None:
            del self._brokers[user_id]
            self._close(known[1])
        if account is None:
            return None
        broker = self._make(account)
        self._brokers[user_id] = (account, broker)
        return broker

    async def connected(self) -> list[int]:
        return sorted(await self._sessions.connected("kite"))

    async def aclose(self) -> None:
        """Ends all adapters' connections; calls under way are answered first."""
        brokers, self._brokers = list(self._brokers.values()), {}
        for _, broker in brokers:
            self._close(broker)
        await asyncio.gather(*self._closing)

    def _close(self, broker: KiteBroker) -> None:
        closing = asyncio.create_task(_aclose(broker.aclose))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


async def _aclose(close: Callable[[], Awaitable[None]]) -> None:
    await close()
