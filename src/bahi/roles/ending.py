"""How the process before this one ended: in good order, or killed. A file of HOME tells, locked while one runs."""

import fcntl
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

__all__ = ["Ending"]

MOST: Final = 1024
"""Processes of the same roles on one HOME."""


class Ending:
    """Takes the lowest place that no live process of these roles has. `killed`: whoever had it before did not come to
    say that it ended. `member` is the place's name among all hosts. Raises OSError."""

    def __init__(self, home: Path, roles: Sequence[str]) -> None:
        folder = home.expanduser() / "processes"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(MOST):
            name = f"{'-'.join(roles)}-{number}"
            held = os.open(folder / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(held)
                continue
            self.name = name
            self.member = f"{name}@{socket.gethostname()}:{folder.resolve().parent}"
            self.killed = os.fstat(held).st_size > 0
            self._held = held
            os.ftruncate(held, 0)
            os.write(held, f"{os.getpid()}\n".encode())
            return
        raise OSError(f"{MOST} processes of these roles run in {folder} already")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """It ends by itself, whatever the reason."""
        os.ftruncate(self._held, 0)
        os.close(self._held)
