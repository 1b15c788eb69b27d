"""The moments at which a process can die so that the world can tell: before and after each of its effects.

An effect is what others can see: an append to the log or an acknowledgement, a change of the broker's order book, a
commit in PostgreSQL. Between two effects one moment is as good as the other, so every death is one of these.
"""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeVar

import sqlalchemy
from sqlalchemy import event

from brokers.paper.book import Book
from brokers.paper.rows import Rows
from eventstore import clients

__all__ = ["Effects", "How"]

T = TypeVar("T")
How = Literal["kill", "stop"]

_VISIBLE: Final = re.compile(
    rb"^\*\d+\r\n\$\d+\r\n"
    rb"(EVALSHA|EVAL|XACK|XAUTOCLAIM|XGROUP|UNLINK|RENAME|RPUSH|HSET|SET\r\n\$\d+\r\n(\{\d+\}:)?(epoch|log_id))\r\n"
)
"""Of the commands to Redis those that change the log or what is pending; prices, limits and the like may be lost."""
_TURNS: Final = 4
"""Of the event loop, until what was written to a socket has left the process."""


class Effects:
    """Counts this process's moments, and ends or stops it at the one that it was told.

    `told` is called with the moment before a stop. Only one may exist in a process; it changes the classes that it
    watches.
    """

    def __init__(self, told: Callable[[int], None]) -> None:
        self.moments = 0
        self._told = told
        self._armed: list[tuple[int, How]] = []
        self._watch_redis()
        self._watch_book()
        event.listen(sqlalchemy.Engine, "commit", lambda _: self.pass_moment())

    def arm(self, at: Sequence[tuple[int, How]]) -> None:
        """From now on: at the moment that comes after so many others, which ascend."""
        self._armed = [(self.moments + moments, how) for moments, how in at]

    def pass_moment(self) -> None:
        self.moments += 1
        if not self._armed or self.moments < self._armed[0][0]:
            return
        _, how = self._armed.pop(0)
        if how == "stop":
            self._told(self.moments)
        os.kill(os.getpid(), signal.SIGSTOP if how == "stop" else signal.SIGKILL)

    def _watch_redis(self) -> None:
        plain = clients._Cancellable.send_packed_command
        effects = self

        async def send(connection: Any, command: Any, check_health: bool = True) -> None:
            if not _is_visible(command):
                await plain(connection, command, check_health)
                return
            effects.pass_moment()
            await plain(connection, command, check_health)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            effects.pass_moment()

        clients._Cancellable.send_packed_command = send  # type: ignore[method-assign, assignment]

    def _watch_book(self) -> None:
        plain = Book.write
        effects = self

        async def write(book: Book, work: Callable[[Rows], T]) -> T:
            effects.pass_moment()
            result = await plain(book, work)
            effects.pass_moment()
            return result

        Book.write = write  # type: ignore[method-assign, assignment]


def _is_visible(command: Any) -> bool:
    parts = command if isinstance(command, list) else [command]
    return any(_VISIBLE.match(bytes(part[:80])) is not None for part in parts)
