"""Hints between processes: that an order of a user may have changed.

They go over Redis pub/sub, which keeps nothing: a hint may be lost, come twice or out of order, and the order book
decides anyway. Whoever may have missed some is told so by an empty hint.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from eventstore.clients import command, sibling

__all__ = ["CHANNEL", "Hints"]

CHANNEL: Final = "hints:orders"
"""The channel of all users' hints: msgpack `[user_id, order_id]`; global."""
QUIET: Final = 5.0
"""Seconds without a message after which the connection is asked whether it lives, and again until it counts as dead."""
BACK_OFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds until the next attempt to subscribe; the last again and again."""
MOST_WAITING: Final = 1_000
"""Hints that wait for a listener. With more it is told that it may have missed some, which is true then."""

log = structlog.get_logger(__name__)


class Hints:
    """`redis` is any client of the server; the subscription has a connection of its own, one for all listeners."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._listeners: dict[int, set[_Waiting]] = {}
        self._hearing: asyncio.Task[None] | None = None
        self._subscribed = False

    async def publish(self, user_id: int, order_id: str) -> None:
        """Tell whoever listens, in any process. Raises LogUnavailable: perhaps nobody heard it."""
        await command(self._redis, "PUBLISH", CHANNEL, msgspec.msgpack.encode((user_id, order_id)))

    async def listen(self, user_id: int) -> AsyncIterator[str]:
        """Ids of orders of this user that may have changed, for ever. Empty: some that nobody can name, since nothing
        was heard until now; so it is at the beginning and after every reconnect."""
        waiting = _Waiting()
        self._listeners.setdefault(user_id, set()).add(waiting)
        if self._hearing is None or self._hearing.done():
            self._hearing = asyncio.create_task(self._hear(), name="hints")
        elif self._subscribed:
            waiting.put("")
        try:
            while True:
                yield await waiting.get()
        finally:
            theirs = self._listeners.get(user_id, set())
            theirs.discard(waiting)
            if not theirs:
                self._listeners.pop(user_id, None)

    async def aclose(self) -> None:
        """Hears nothing more; the listeners' iterations do not end by that."""
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.gather(self._hearing, return_exceptions=True)
            self._hearing = None

    async def _hear(self) -> None:
        failures = 0
        while True:
            client = sibling(self._redis)
            pubsub: Any = client.pubsub()
            try:
                await pubsub.subscribe(CHANNEL)
                while True:
                    await self._take(await self._next(pubsub))
                    failures = 0
            except (RedisError, OSError) as error:
                log.warning("hints_interrupted", why=f"{type(error).__name__}: {error}")
            finally:
                self._subscribed = False
                await pubsub.aclose()
                await client.aclose()
            await asyncio.sleep(BACK_OFF[min(failures, len(BACK_OFF) - 1)])
            failures += 1

    async def _next(self, pubsub: Any) -> dict[str, Any]:
        """The next message; the connection is asked whether it lives when it says nothing for long."""
        message: dict[str, Any] | None = await pubsub.get_message(timeout=QUIET)
        if message is None:
            await pubsub.ping()
            message = await pubsub.get_message(timeout=QUIET)
        if message is None:
            raise TimeoutError(f"Redis said nothing for {2 * QUIET:g} s")
        return message

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._subscribed = True
            for listeners in self._listeners.values():
                for waiting in listeners:
                    waiting.put("")
        elif message["type"] == "message":
            try:
                user_id, order_id = msgspec.msgpack.decode(message["data"], type=tuple[int, str])
            except msgspec.MsgspecError as error:
                log.warning("hint_not_understood", why=str(error))
                return
            for waiting in self._listeners.get(user_id, ()):
                waiting.put(order_id)


class _Waiting:
    """The hints that wait for one listener, each once."""

    def __init__(self) -> None:
        self._hints: dict[str, None] = {}
        self._some = asyncio.Event()

    def put(self, order_id: str) -> None:
        if len(self._hints) >= MOST_WAITING:
            self._hints.clear()
            order_id = ""
        self._hints[order_id] = None
        self._some.set()

    async def get(self) -> str:
        while not self._hints:
            self._some.clear()
            await self._some.wait()
        order_id = next(iter(self._hints))
        del self._hints[order_id]
        return order_id
