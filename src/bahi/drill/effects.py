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
from eventstore.script import Script

__all__ = ["Armed", "Effects", "How"]

T = TypeVar("T")
How = Literal["kill", "stop"]
Armed = tuple[int, int, How]
"""Once the log reaches this position: the so many-th moment from then on, and what happens at it."""

_VISIBLE: Final = re.compile(
    rb"^\*\d+\r\n\$\d+\r\n"
    rb"(EVALSHA\r\n\$40\r\n(?!" + Script("witness").sha.encode() + rb")\w+"
    rb"|EVAL|XACK|XAUTOCLAIM|XGROUP|UNLINK|RENAME|RPUSH|HSET|SET\r\n\$\d+\r\n(\{\d+\}:)?(epoch|log_id))\r\n"
)
"""Of the commands to Redis those that change the log or what is pending; prices, limits and the like may be lost. Nor
is the witnesses' looking at the log, which keeps to no step, one of them."""
_TURNS: Final = 4
"""Of the event loop, until what was written to a socket has left the process."""


class Effects:
    """Ends or stops this process at the moments that it was told. Only one may exist in a process; it changes the
    classes that it watches.

    `position` is how far the process knows the log to reach; `told` is called before a stop.
    """

    def __init__(self, position: Callable[[], int], told: Callable[[], None]) -> None:
        self._position = position
        self._told = told
        self._armed: list[Armed] = []
        self._watch_redis()
        self._watch_book()
        event.listen(sqlalchemy.Engine, "commit", lambda _: self.pass_moment())

    def arm(self, moments: Sequence[Armed]) -> None:
        """From now on, one after the other."""
        self._armed = list(moments)

    def pass_moment(self) -> None:
        if not self._armed:
            return
        position, moments, how = self._armed[0]
        if self._position() < position:
            return
        if moments > 1:
            self._armed[0] = (0, moments - 1, how)
            return
        self._armed.pop(0)
        if how == "stop":
            self._told()
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
