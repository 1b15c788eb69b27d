"""The history: the lines of an exported file, and the event that a line holds."""

import gzip
import json
import re
import reprlib
import zlib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from simulation.independent.values import Malformed, text, whole

__all__ = ["CORRUPT", "Entry", "HistoryUnreadable", "entry_of", "read_history"]

CORRUPT: Final = "bahi.corrupt"
"""The type of an entry whose bytes nobody can read."""
_BESIDE_EVENTS: Final = ("bahi", "left_out", "seal", "end")
"""What the other lines of an exported file begin with. Their proofs are not our subject."""
_SOURCE: Final = re.compile(r"/bahi/([0-9A-Z]{4})/[0-9]+\Z")


class HistoryUnreadable(Exception):
    """The file is no exported history; the message says where it ceases to be one."""


def read_history(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of `FILE.jsonl` or `FILE.jsonl.gz`, one by one. Raises HistoryUnreadable; OSError."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    number = 0
    with gzip.open(path) if packed else path.open("rb") as lines:
        try:
            for number, line in enumerate(lines, 1):
                read = json.loads(line, parse_float=Decimal)
                if not isinstance(read, dict):
                    raise HistoryUnreadable(f"{path}: line {number} is {reprlib.repr(read)}, not an object")
                yield read
        except (ValueError, RecursionError) as error:
            raise HistoryUnreadable(f"{path}: line {number} is no JSON: {error}") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise HistoryUnreadable(f"{path} is damaged after line {number}: {error}") from error


class Entry:
    """One event, with what the log says of it. `strategy` and `user` are 0 where there is none."""

    type: str
    id: str
    log: str
    partition: int
    position: int
    version: int
    at: int
    strategy: int
    user: int
    causation: str
    correlation: str
    data: Mapping[str, Any]


def entry_of(line: Mapping[str, Any]) -> Entry | None:
    """The event of a line; None for a line of the file that holds none. Raises Malformed."""
    if line.get("specversion") != "1.0":
        if any(name in line for name in _BESIDE_EVENTS):
            return None
        raise Malformed(f"its specversion is {reprlib.repr(line.get('specversion'))}, not '1.0'")
    entry = Entry()
    entry.partition, entry.position = position_of(line)
    entry.type = text(line, "type")
    entry.id = text(line, "id")
    entry.log = _log_of(text(line, "source"))
    entry.version = whole(line, "version")
    entry.at = whole(line, "recordedat")
    entry.strategy = whole(line, "strategyid") if "strategyid" in line else 0
    entry.user = whole(line, "userid") if "userid" in line else 0
    entry.causation = text(line, "causationid") if "causationid" in line else ""
    entry.correlation = text(line, "correlationid") if "correlationid" in line else ""
    if entry.type == CORRUPT:
        entry.data = {}
        return entry
    data = line.get("data")
    if not isinstance(data, Mapping) or data.get("type") != entry.type:
        raise Malformed(f"its data is {reprlib.repr(data)}, not a map of type {entry.type}")
    entry.data = data
    return entry


@lru_cache(64)
def _log_of(source: str) -> str:
    """The log's name in a source. Raises Malformed."""
    found = _SOURCE.match(source)
    if found is None:
        raise Malformed(f"its source is {reprlib.repr(source)}, not /bahi/LOG/PARTITION")
    return found[1]


def position_of(line: Mapping[str, Any]) -> tuple[int, int]:
    """Partition and position: `17`, or `2-17` where there are several partitions. Raises Malformed."""
    shown = line.get("position")
    if type(shown) is str and "-" in shown[1:]:
        partition, _, position = shown.partition("-")
        return whole({"position": partition}, "position"), whole({"position": position}, "position")
    return 0, whole(line, "position")
