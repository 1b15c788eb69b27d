"""`bahi run` as users run it: processes on a HOME, which start their own servers."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from bahi.servers.process import process_on

__all__ = ["PATIENCE", "Installation", "Missed", "until"]

PATIENCE: Final = 60.0
"""Seconds within which everything must be there (again)."""
SETTINGS: Final = {
    "BAHI_CALENDAR": "always-open",
    "BAHI_FEED": "simulated",
    "BAHI_PAPER_PLAN": "seed=5,latency=200ms,partial=0.2",
    # an order's doubt lasts seconds here, not minutes: 1 + 1 + 0.2 + 1 s for exits
    "BAHI_SEND_DEADLINE": "1",
    "BAHI_REQUEST_TIMEOUT": "1",
    "BAHI_CLOCK_SKEW": "0.2",
    "BAHI_QUARANTINE_CRASH": "1",
    "BAHI_QUARANTINE_AMBIGUOUS": "2",
    # on a busy machine the archive may take its time; what is answered before it is there may be lost
    "BAHI_ARCHIVE_PATIENCE": "10",
}
_RUN: Final = "from bahi.cli.main import app; app()"


class Missed(RuntimeError):
    """What had to be was not, in time."""


def until(look: Callable[[], bool], what: str, seconds: float = PATIENCE) -> float:
    """When it was so. Raises Missed."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise Missed(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)
    return time.monotonic()


class Installation:
    """A HOME and its processes, by their roles ("" runs all). One that ends by itself is started again, as by whatever
    looks after services on a machine."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True)
        self.home = home
        self.ended: list[str] = []
        """What ended by itself, and how."""
        self._changing = threading.RLock()
        self._closed = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._processes: dict[str, tuple[tuple[str, ...], subprocess.Popen[bytes]]] = {}
        self._started = 0
        self._minding = threading.Thread(target=self._mind, name="minding", daemon=True)
        self._minding.start()

    def start(self, roles: tuple[str, ...]) -> None:
        """Returns when it runs. Raises Missed."""
        name = roles[0] if len(roles) == 1 else ""
        with self._changing:
            process, log = self._spawn(name, roles)
        until(lambda: process.poll() is not None or b'"event": "started"' in log.read_bytes(), f"{log} says so")

    def _spawn(self, name: str, roles: tuple[str, ...]) -> tuple[subprocess.Popen[bytes], Path]:
        self._started += 1
        log = self.home / f"{self._started:03}.log"
        port = [] if name else ["--port", str(self._port)]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", _RUN, "run", *roles, "--home", str(self.home), *port],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={name: value for name, value in os.environ.items() if not name.startswith("BAHI_")} | SETTINGS,
            )
        self._processes[name] = roles, process
        return process, log

    def _mind(self) -> None:
        while not self._closed.wait(0.05):
            with self._changing:
                for name, (roles, process) in list(self._processes.items()):
                    if process.poll() is not None:
                        self.ended.append(f"bahi run {name} ended with {process.returncode}")
                        self._spawn(name, roles)

    def kill(self, name: str) -> None:
        with self._changing:
            _, process = self._processes.pop(name)
            process.kill()
            process.wait()

    def stop(self) -> None:
        """All of it, in good order; the owner of the servers last. Raises Missed."""
        for name in sorted(self._processes, reverse=True):
            with self._changing:
                _, process = self._processes.pop(name)
            process.terminate()
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise Missed(f"bahi run {name} does not end") from error
            if code:
                raise Missed(f"bahi run {name} ended with {code}")

    def close(self) -> None:
        """Whatever is left of it."""
        self._closed.set()
        self._minding.join()
        for _, process in self._processes.values():
            process.kill()
            process.wait()
        for server in self.servers().values():
            with contextlib.suppress(psutil.Error):
                server.resume()
                server.terminate()
                server.wait(20)

    def servers(self) -> dict[str, psutil.Process]:
        """Those that live on this home, by name."""
        files = {"redis": self.home / "redis.pid", "postgres": self.home / "postgres" / "postmaster.pid"}
        found = {name: process_on(self.home / name, file) for name, file in files.items()}
        return {name: process for name, process in found.items() if process is not None}

    def owner(self) -> psutil.Process:
        """Who starts the servers again."""
        return psutil.Process(json.loads((self.home / "servers.json").read_text())["pid"])
