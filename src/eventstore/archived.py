"""How far the archive reaches, told to all processes: a key in Redis, and a message whenever it moves.

What is in Redis and in the archive outlives the loss of either: so the answers to users wait for it.
"""

import asyncio
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from eventstore.clients import command, commands, sibling
from eventstore.errors import LogUnavailable
from eventstore.log import EventLog
from eventstore.seals import Seal

__all__ = ["ArchiveWatch", "announce"]

QUIET: Final = 2.0
"""Seconds without a message after which the key is read again, and the connection asked whether it lives."""
BACK_OFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds until the next attempt to subscribe; the last again and again."""

_log = structlog.get_logger(__name__)


async def announce(log: EventLog, position: int, seal: Seal | None = None) -> None:
    """The archive reaches to `position` now, and this is its newest seal: so Redis knows what PostgreSQL must hold.

    Raises LogUnavailable: perhaps nobody heard it; the next one will do.
    """
    name = log.keys.archived
    calls: list[tuple[str, str, str | int]] = [("SET", name, position), ("PUBLISH", name, position)]
    if seal is not None:
        calls.append(("SET", log.keys.sealed, f"{seal.number}:{seal.hash.hex()}"))
    for answer in await commands(log.redis, calls):
        if isinstance(answer, Exception):
            raise answer


class ArchiveWatch:
    """Hears how far the archive of one partition reaches: one subscription, however many wait for it.

    It begins with the first that waits, makes a lost connection anew, and reads the key whenever it may have missed a
    message. Close it with `aclose()`.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._position = 0
        self._moved = asyncio.Event()
        self._hearing: asyncio.Task[None] | None = None

    @property
    def position(self) -> int:
        """What was heard last; 0 before anything was."""
        return self._position

    async def reached(self, position: int, timeout: float) -> bool:  # noqa: ASYNC109 (how long is the caller's rule)
        """True as soon as the archive holds everything up to `position`, False when that takes longer than `timeout`
        seconds."""
        if self._position >= position:
            return True
        try:
            async with asyncio.timeout(timeout):
                while self._position < position:
                    await self.moved()
        except TimeoutError:
            return False
        return True

    async def moved(self) -> None:
        """Until something is heard that was not known before; the first time, until anything is."""
        self._hear()
        await self._moved.wait()

    async def aclose(self) -> None:
        """Hears nothing more. Whoever waits goes on waiting."""
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.gather(self._hearing, return_exceptions=True)
            self._hearing = None

    def _hear(self) -> None:
        if self._hearing is None or self._hearing.done():
            self._hearing = asyncio.create_task(self._listen(), name=f"archived {self._log.keys.partition}")

    async def _listen(self) -> None:
        failures = 0
        while True:
            client = sibling(self._log.redis)
            pubsub: Any = client.pubsub()
            try:
                await pubsub.subscribe(self._log.keys.archived)
                while True:
                    message = await pubsub.get_message(timeout=QUIET)
                    if message is not None and message["type"] == "message":
                        self._take(message["data"])
                    else:  # subscribed, or nothing for a while: what was said before counts, too
                        self._take(await command(self._log.redis, "GET", self._log.keys.archived))
                    failures = 0
            except (RedisError, OSError, LogUnavailable) as error:
                _log.warning("archive_watch_interrupted", why=f"{type(error).__name__}: {error}")
            finally:
                await pubsub.aclose()
                await client.aclose()
            await asyncio.sleep(BACK_OFF[min(failures, len(BACK_OFF) - 1)])
            failures += 1

    def _take(self, told: bytes | None) -> None:
        """The last word counts, even if it is less: an archive that was restored reaches less far."""
        position = int(told) if told is not None and told.isdigit() else 0
        if position != self._position:
            self._position = position
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()
