"""The processes of an installation that runs on many of them: started, killed, stopped and continued by name.

Whatever ends by itself is started again, as by whatever looks after services on a machine; it is counted.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from bahi.drill.running import PATIENCE, Missed, until

__all__ = ["Ended", "Fleet", "free_port"]

_RUN: Final = "from bahi.cli.main import app; app()"
_STARTED: Final = b'"event": "started"'
LOOK_EVERY: Final = 0.05


class Orders(Struct, frozen=True):
    """How a process is started. `code`: a folder with the packages of another version of bahi; None for this one."""

    roles: tuple[str, ...]
    environment: Mapping[str, str]
    port: int | None = None
    code: Path | None = None


class Ended(Struct, frozen=True):
    """A process that ended and was not told to."""

    name: str
    code: int
    said: str
    """The last line of what it said that tells why."""


class Fleet:
    """The processes on one HOME, by their names. Settings that all have are in `environment`."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.ended: list[Ended] = []
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BAHI_")},
            **environment,
        }
        self._orders: dict[str, Orders] = {}
        self._processes: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        self._paused: set[str] = set()
        self._started = 0
        self._changing = threading.RLock()
        self._closed = threading.Event()
        self._minding = threading.Thread(target=self._mind, name="minding", daemon=True)
        self._minding.start()

    # --- by name -----------------------------------------------------------------------------------------------------

    def start(
        self,
        name: str,
        roles: tuple[str, ...],
        *,
        port: int | None = None,
        code: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Begins to start it."""
        with self._changing:
            self._orders[name] = Orders(roles, environment or {}, port, code)
            self._spawn(name)

    def again(self, name: str) -> None:
        """Starts one that was killed, as before."""
        with self._changing:
            if name not in self._processes:
                self._spawn(name)

    def await_started(self, name: str, seconds: float = PATIENCE) -> None:
        """Raises Missed."""
        until(lambda: self.has_started(name), f"{name} has started", seconds)

    def has_started(self, name: str) -> bool:
        with self._changing:
            found = self._processes.get(name)
        return found is not None and found[0].poll() is None and _STARTED in found[1].read_bytes()

    def living(self) -> list[str]:
        """Those that are to run, paused ones included."""
        with self._changing:
            return [name for name, (process, _) in self._processes.items() if process.poll() is None]

    def roles(self, name: str) -> tuple[str, ...]:
        return self._orders[name].roles

    def is_paused(self, name: str) -> bool:
        return name in self._paused

    def kill(self, name: str) -> bool:
        """SIGKILL; whether it lived."""
        with self._changing:
            if name not in self._processes:
                return False
            process, _ = self._processes.pop(name)
            self._paused.discard(name)
            lived = process.poll() is None
            process.kill()
            process.wait()
            return lived

    def pause(self, name: str) -> bool:
        """SIGSTOP; whether it lived."""
        return self._signal(name, signal.SIGSTOP)

    def go_on(self, name: str) -> bool:
        return self._signal(name, signal.SIGCONT)

    def terminate(self, name: str, seconds: float = PATIENCE) -> None:
        """SIGTERM; it drains and ends. Raises Missed when it does not, or ends with an error."""
        with self._changing:
            process, log = self._processes.pop(name)
            self._paused.discard(name)
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise Missed(f"{name} does not end within {seconds:g} s of SIGTERM; see {log}") from error
        if code:
            raise Missed(f"{name} ended with {code} after SIGTERM: {_last(log)}; see {log}")

    def close(self) -> None:
        """Kills whatever is left."""
        self._closed.set()
        self._minding.join()
        for name in list(self._processes):
            self.kill(name)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -----------------------------------------------------------------------------------------------------------------

    def _spawn(self, name: str) -> None:
        self._started += 1
        orders = self._orders[name]
        log = self.home / f"{self._started:03}-{name}.log"
        port = [] if orders.port is None else ["--port", str(orders.port)]
        code = {} if orders.code is None else {"PYTHONPATH": str(orders.code)}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", _RUN, "run", *orders.roles, "--home", str(self.home), *port],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**self._environment, **orders.environment, **code},
            )
        self._processes[name] = process, log

    def _signal(self, name: str, number: signal.Signals) -> bool:
        with self._changing:
            found = self._processes.get(name)
            if found is None or found[0].poll() is not None:
                return False
            found[0].send_signal(number)
            (self._paused.add if number is signal.SIGSTOP else self._paused.discard)(name)
            return True

    def _mind(self) -> None:
        while not self._closed.wait(LOOK_EVERY):
            with self._changing:
                for name, (process, log) in list(self._processes.items()):
                    if (code := process.poll()) is not None:
                        self.ended.append(Ended(name, code, _last(log)))
                        self._paused.discard(name)
                        self._spawn(name)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _last(log: Path) -> str:
    """The last line that it said: of a process that ended with an error, the error."""
    lines = [line.strip(" |") for line in log.read_text(errors="replace").splitlines() if line.strip(" |+-")]
    told = [line for line in lines if not line.startswith("{")]
    return (told or lines or ["nothing"])[-1][:300]
