"""What happens to the data of a Redis that does not run."""

import random
from pathlib import Path
from typing import Final

__all__ = ["tear"]

DEEPEST: Final = 32 * 1024
"""Bytes at the end of the append-only file that may be torn off."""


def tear(folder: Path, rng: random.Random) -> int:
    """Cuts off the end of the append-only file, at any byte; how many bytes. A few are as likely as many."""
    # Redis 7 has a folder of them, the older one file
    found = [*folder.glob("appendonlydir/*.incr.aof"), *folder.glob("appendonly.aof")]
    if not found:
        raise FileNotFoundError(f"no append-only file in {folder}")
    file = max(found, key=lambda file: file.stat().st_mtime_ns)
    size = file.stat().st_size
    torn = min(size, max(1, int(DEEPEST ** rng.random())))
    with file.open("r+b") as end:
        end.truncate(size - torn)
    return torn
