"""The process of a server: ours, or one that a killed bahi left behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import psutil

from bahi.servers.folder import FolderLock, ServerError, private_folder, remove_socket_folder, tail

__all__ = ["EmbeddedServer", "is_alive", "process_on", "stop_process", "until"]

#: A child of ours, or the handle of an adopted process, which is nobody's child any more.
Process: TypeAlias = subprocess.Popen[bytes] | psutil.Process


def until(condition: Callable[[], bool], timeout: float, poll: float = 0.005) -> bool:
    """Wait for the condition; False if it did not come true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll)
    return True


def is_alive(process: Process) -> bool:
    if isinstance(process, subprocess.Popen):
        return process.poll() is None
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def process_on(folder: Path, pidfile: Path) -> psutil.Process | None:
    """The live process that a pid file names, if it really works in this folder; None for a stale pid file,
    also when its number has been given to some other program since.

    Both servers change into their data folder, so the working folder is the proof.
    """
    try:
        pid = int(pidfile.read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        if process.cwd() == str(folder.resolve()) and is_alive(process):
            return process
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return None


def stop_process(process: Process, sig: signal.Signals, timeout: float = 20.0) -> None:
    """Ask it to stop, wait, and kill it if it does not: no server outlives its owner's orderly end."""
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        process.send_signal(sig)
    if not until(lambda: not is_alive(process), timeout):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            process.kill()
        until(lambda: not is_alive(process), 5.0)


class EmbeddedServer(ABC):
    """What the two servers share: a locked folder, a process to start, adopt and stop, and both context managers.

    `start` is idempotent and raises ServerError (FolderInUse when another live bahi holds the folder).
    A server that a killed bahi left running is adopted as it is: its clients keep their connections.
    """

    name: str
    stop_signal: signal.Signals

    def __init__(self, home: Path | str, *, timeout: float) -> None:
        self.home = Path(home).expanduser().resolve()
        self.folder = self.home / self.name
        self.log = self.home / f"{self.name}.log"
        self.adopted = False
        self._timeout = timeout
        self._lock = FolderLock(self.home / f"{self.name}.lock")
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise ServerError(f"{self.name} is not running")
        return int(self._process.pid)

    @property
    def is_running(self) -> bool:
        return self._process is not None and is_alive(self._process)

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect."""

    def start(self) -> None:
        """Start the server, or adopt the one left running here, and return when it answers."""
        if self.is_running:
            return
        private_folder(self.home)
        self._lock.acquire()
        try:
            self._prepare()
            self.adopted = False
            if (left := self._left_behind()) is not None:
                if self._can_adopt(left):
                    self._process, self.adopted = left, True
                    return
                stop_process(left, self.stop_signal)
            self._process = self._launch()
        except BaseException:
            if self._process is not None:
                stop_process(self._process, self.stop_signal)
                self._process = None
            self._lock.release()
            raise

    def stop(self) -> None:
        """Stop the server in good order and give the folder back. What was acknowledged is on disk."""
        if self._process is not None:
            stop_process(self._process, self.stop_signal)
            self._process = None
            if (folder := self._socket_folder()) is not None:
                remove_socket_folder(folder, self.home)
        self._lock.release()

    def kill(self) -> None:
        """kill -9, as a crash would: for tests. `start` brings it back."""
        if self._process is not None:
            os.kill(self.pid, signal.SIGKILL)
            process = self._process
            until(lambda: not is_alive(process), 5.0)

    @abstractmethod
    def _socket_folder(self) -> Path | None:
        """Where its sockets are, if not below HOME."""

    @abstractmethod
    def _prepare(self) -> None:
        """Makes the data folder and what the program needs."""

    @abstractmethod
    def _left_behind(self) -> psutil.Process | None:
        """The server of an owner that died, still running here."""

    @abstractmethod
    def _can_adopt(self, process: psutil.Process) -> bool:
        """Whether it answers and is configured as we would have it."""

    @abstractmethod
    def _launch(self) -> Process:
        """Starts the program and waits until it answers; `_process` is it from the moment on that it runs."""

    def _await_ready(self, process: Process, ready: Callable[[], bool]) -> None:
        """Wait for the server to answer; an early end or the time-out is a ServerError with its log."""
        if until(lambda: ready() or not is_alive(process), self._timeout) and is_alive(process):
            return
        reason = "ended while starting" if not is_alive(process) else f"did not answer within {self._timeout:g} s"
        stop_process(process, self.stop_signal)
        raise ServerError(f"{self.name} {reason}, data folder {self.folder}\n{tail(self.log)}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
