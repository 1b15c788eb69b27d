"""A guard on every connection to the log: none is used on a restarted server before the log is vouched for there.

A connection does not outlive its server. So it is enough to look when one is made, and a command costs nothing more.
"""

import asyncio
from typing import Any

from eventstore.errors import RestartedServer

__all__ = ["Guard", "fact", "run_id_in"]


class Guard:
    """Admits connections to one life of the server, once it was told which; before that, to any."""

    def __init__(self) -> None:
        self.run_id = ""
        """The life of the server in which the log was last known to be whole; empty: not known."""
        self.refused = asyncio.Event()
        """Set while a connection was refused that may soon be admitted: somebody should find out."""
        self._armed = False
        self._given_up = False

    def admit_only(self, run_id: str) -> None:
        """From now on this life of the server."""
        self.run_id, self._armed, self._given_up = run_id, True, False
        self.refused.clear()

    def give_up(self) -> None:
        """Nobody will look at a restarted server any more: whoever waits for that has lost the log."""
        self._given_up = True

    async def greet(self, connection: Any) -> None:
        """What a new connection does first. Raises RestartedServer, before anything else was sent."""
        await connection.on_connect()
        if not self._armed:
            return
        await connection.send_command("INFO", "server")
        run_id = run_id_in(await connection.read_response())
        if run_id != self.run_id:
            self.refused.set()
            raise RestartedServer(for_good=self._given_up)


def run_id_in(info: bytes) -> str:
    """The server's name for its present life, out of the answer to INFO."""
    return fact(info, "run_id")


def fact(info: bytes, name: str) -> str:
    """One of what INFO tells."""
    prefix = f"{name}:".encode()
    return next(line[len(prefix) :].strip().decode() for line in info.splitlines() if line.startswith(prefix))
