"""The append-only file of a Redis, and its end when that was torn within a transaction.

Redis takes back what is left of the torn command, but not of the transaction that it was in, if the tear is within a
command: the transaction stays open in the file, and whatever is appended behind it becomes part of it at the next
start. So it is cut off before Redis reads it, from its MULTI on; nothing of it had been done.
"""

from pathlib import Path
from typing import Final

__all__ = ["append_only_file", "cut_unfinished"]

_MULTI: Final = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC: Final = b"*1\r\n$4\r\nEXEC\r\n"
_LONGEST: Final = 64 * 1024 * 1024
"""Bytes at the end of the file that are looked at: a transaction is what one script or one request wrote."""


def append_only_file(folder: Path) -> Path:
    """What the Redis of this folder appends to. Raises FileNotFoundError."""
    # Redis 7 has a folder of them, the one with the highest number is appended to; the older one file
    increments = sorted(folder.glob("appendonlydir/*.incr.aof"), key=lambda file: int(file.name.split(".")[-3]))
    for file in (*increments[-1:], *folder.glob("appendonly.aof")):
        return file
    raise FileNotFoundError(f"no append-only file in {folder}")


def cut_unfinished(folder: Path) -> int:
    """Cuts a transaction without an end off the file to which the Redis of this folder appends; how many bytes. Redis
    must not run. Raises OSError."""
    try:
        file = append_only_file(folder)
    except FileNotFoundError:
        return 0
    return _cut(file)


def _cut(file: Path) -> int:
    size = file.stat().st_size
    with file.open("r+b") as whole:
        start = max(0, size - _LONGEST)
        whole.seek(start)
        end = whole.read()
        keep = len(end)
        while (begun := end.rfind(_MULTI, 0, keep)) >= 0 and end.find(_EXEC, begun, keep) < 0:
            keep = begun
        if keep < len(end):
            whole.truncate(start + keep)
            whole.flush()
    return len(end) - keep
