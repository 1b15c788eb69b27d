"""What happens to the data of a Redis that does not run."""

import random
from pathlib import Path
from typing import Final

__all__ = ["file_of", "tear"]

DEEPEST: Final = 32 * 1024
"""Bytes at the end of the append-only file that may be torn off."""


def tear(folder: Path, rng: random.Random, keep: int = 0) -> int:
    """Cuts off the end of the append-only file, at any byte, but nothing of its first `keep` bytes; how many bytes. A
    few are as likely as many."""
    file = file_of(folder)
    size = file.stat().st_size
    torn = min(size - keep, max(1, int(DEEPEST ** rng.random())))
    with file.open("r+b") as end:
        end.truncate(size - torn)
    return torn


def file_of(folder: Path) -> Path:
    """What Redis appends to. Raises FileNotFoundError."""
    # Redis 7 has a folder of them, the older one file
    found = [*folder.glob("appendonlydir/*.incr.aof"), *folder.glob("appendonly.aof")]
    if not found:
        raise FileNotFoundError(f"no append-only file in {folder}")
    return max(found, key=lambda file: file.stat().st_mtime_ns)
