"""The processes of the engine under drill: started, spoken to, killed and started again."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bahi.drill.link import Died, Link

__all__ = ["Process", "Stopped"]

HANGS: Final = 120.0
"""Seconds after which a process that does not answer counts as dead."""
Stopped = Callable[["Process"], None]
"""What is done while a process has stopped itself; it goes on afterwards, unless it was killed."""


class Process:
    """One host. `ask` raises Died when it is gone; RuntimeError with what it says when it failed."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(HANGS)
        self.reopened = 0
        """How often it has opened its log anew."""
        self._log = log
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "bahi.drill", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={name: value for name, value in os.environ.items() if not name.startswith("BAHI_")}
                | dict(environment),
                pass_fds=(theirs.fileno(),),
            )
        theirs.close()
        self._link = Link(ours)
        self.roles: Sequence[str] = ()
        self.address = ""
        self.on_stop: Stopped | None = None

    @property
    def lives(self) -> bool:
        return self._popen.poll() is None

    def open(self, home: Path, roles: Sequence[str], now: int, *, patience: float) -> None:
        """The house is open, the states are loaded. `patience`: seconds that answers wait for the archive."""
        self.roles = roles
        self.ask({"do": "open", "home": str(home), "roles": list(roles), "now": now, "patience": patience})

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer. When the process stops itself meanwhile, `on_stop` is called."""
        self._link.send(message)
        while True:
            answer = self._link.receive()
            if "stopping" in answer:
                self._await_stop()
                if self.on_stop is not None:
                    self.on_stop(self)
                self._popen.send_signal(signal.SIGCONT)
                continue
            if "error" in answer:
                raise RuntimeError(f"{answer['error']}; see {self._log}")
            self.reopened = answer["reopened"]
            self.address = answer["address"]
            return answer

    def kill(self) -> None:
        """SIGKILL, and nothing of it is left."""
        self._popen.kill()
        self._popen.wait()
        self._link.close()

    def _await_stop(self) -> None:
        """It said that it stops itself; now it has."""
        found = os.waitid(os.P_PID, self._popen.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if found is None or found.si_code != os.CLD_STOPPED:
            raise Died("it ended instead of stopping")
