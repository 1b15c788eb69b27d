"""The folder a server keeps its data in: who holds it, and where its socket can be."""

import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
from pathlib import Path

__all__ = [
    "FolderInUse",
    "FolderLock",
    "ServerError",
    "open_log",
    "private_folder",
    "remove_socket_folder",
    "socket_folder",
    "tail",
]

#: sockaddr_un holds 108 bytes on Linux and 104 on macOS, the closing zero included.
LONGEST_SOCKET_PATH = 100
PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")


class ServerError(RuntimeError):
    """An embedded server cannot be had; the message says why and shows the end of the server's log."""


class FolderInUse(ServerError):
    """Another live bahi process works on this data folder."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        super().__init__(
            f"data folder {folder} is in use by another bahi process (pid {pid or 'unknown'}); "
            "stop that one, or name another folder with BAHI_HOME"
        )
        self.folder = folder
        self.pid = pid


_held: set[int] = set()


def _forget_in_child() -> None:
    for fd in _held:
        os.close(fd)
    _held.clear()


# A flock lives as long as any copy of its file descriptor. A forked child closes its copy, so that
# the lock ends with the process that took it, however it ends.
os.register_at_fork(after_in_child=_forget_in_child)


class FolderLock:
    """The right of one process to run a server on a folder. The kernel releases it when the process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock and write our pid into it. Raises FolderInUse, with the holder's pid, if it is taken."""
        if self._fd is not None:
            return
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise FolderInUse(self.path.parent, self.holder()) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        _held.add(fd)
        self._fd = fd

    def holder(self) -> int | None:
        """The pid in the lock file: the live holder's when the lock is held, else the last one's."""
        try:
            return int(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def release(self) -> None:
        if self._fd is not None and self._fd in _held:
            _held.discard(self._fd)
            os.close(self._fd)
        self._fd = None


def private_folder(path: Path) -> Path:
    """The folder, made if need be, readable by its owner only."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ServerError(f"cannot make the data folder {path}: {error}") from error
    return path


def socket_folder(home: Path, name: str, *, owner: int | None = None) -> Path:
    """Where the server's unix socket goes: HOME/run, or a short folder of its own under the temporary folder when
    HOME is too deep for a socket's name, or has characters that mean something in a URL or a list of hosts, or
    the server runs as another user (`owner`), who may not reach HOME.

    Derived from HOME alone, so that every process finds the same one. Nobody but its owner can enter it: it is
    what keeps other users of the machine away from the servers, which ask no password.
    """
    folder = home / "run"
    if owner is None and len(str(folder / name)) <= LONGEST_SOCKET_PATH and PLAIN_PATH.fullmatch(str(folder)):
        return private_folder(folder)
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    base = Path(tempfile.gettempdir())
    if len(os.fsencode(base)) > 60:
        base = Path("/tmp")  # noqa: S108  the folder below is checked to be ours
    folder = base / f"bahi-{os.getuid()}-{digest}-{'pg' if 'PGSQL' in name else 'redis'}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid not in {os.getuid(), owner}:
        raise ServerError(f"{folder} belongs to user id {found.st_uid}, not to us; remove it or set TMPDIR")
    if owner is not None and found.st_uid != owner:
        os.chown(folder, owner, -1)
    folder.chmod(0o700)
    return folder


def remove_socket_folder(folder: Path, home: Path) -> None:
    """Leave no empty folder of ours under the temporary one. Called while the server's folder is still locked."""
    if not folder.is_relative_to(home):
        with contextlib.suppress(OSError):  # not empty: a client's file, which is not ours to remove
            folder.rmdir()


def open_log(path: Path, *, largest: int = 10_000_000) -> int:
    """A file descriptor to append to; a large log of earlier runs is set aside as `*.old`."""
    if path.exists() and path.stat().st_size > largest:
        path.replace(path.with_name(path.name + ".old"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def tail(path: Path, lines: int = 15) -> str:
    """The end of a log file, for an error message."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 16_384))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:])
