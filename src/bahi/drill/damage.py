"""What happens to the data of a Redis that does not run."""

import random
from pathlib import Path
from typing import Final

from bahi.servers.append_only import append_only_file

__all__ = ["tear"]

DEEPEST: Final = 32 * 1024
"""Bytes at the end of the append-only file that may be torn off."""


def tear(folder: Path, rng: random.Random, keep: int = 0) -> int:
    """Cuts off the end of the append-only file, at any byte, but nothing of its first `keep` bytes; how many bytes. A
    few are as likely as many. Raises FileNotFoundError."""
    file = append_only_file(folder)
    size = file.stat().st_size
    torn = min(size - keep, max(1, int(DEEPEST ** rng.random())))
    with file.open("r+b") as end:
        end.truncate(size - torn)
    return torn
