"""Ids of streamed events: `EPOCH-POSITION`, each partition's `PARTITION-EPOCH-POSITION` where there are several.

An id says how far everything was told, in the incarnation of the log in which it was told. Only what is archived is
told, so an id of an earlier epoch is good up to where the next epoch began; what it counts beyond that was lost.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from api.problems import Problem
from eventstore.epochs import Epoch

__all__ = ["BEGINNING", "LONGEST", "Reset", "Resumption", "event_id", "resume"]

BEGINNING: Final = "0"
"""Stands for an id before everything."""
LONGEST: Final = 4_000
"""Characters: of an auditor's stream over a hundred partitions. Where there are more, a stream names its user."""

_PART: Final = re.compile(r"(?:([0-9]{1,3})-)?([A-Za-z0-9]{1,64})-(0|[1-9][0-9]{0,17})")


class Reset(Struct, frozen=True):
    """Positions that an id counts were lost: the history of this partition goes on after `after`."""

    partition: int
    position: int
    after: int


class Resumption(Struct, frozen=True):
    """Where to go on, by partition, and what was lost of what had been told."""

    after: Mapping[int, int]
    resets: Sequence[Reset] = ()


def event_id(epochs: Mapping[int, str], after: Mapping[int, int], partitions: int) -> str:
    """How far each of these partitions was told. `epochs` are the present ones."""
    if partitions == 1:
        return f"{epochs[0]}-{after[0]}"
    return ",".join(f"{each}-{epochs[each]}-{position}" for each, position in sorted(after.items()))


def resume(text: str, lineages: Mapping[int, Sequence[Epoch]], ends: Mapping[int, int], partitions: int) -> Resumption:
    """Where the stream goes on that was told up to this id. `lineages` and `ends` (of the log) are of the partitions
    that it streams. Raises 400 for an id that this installation never gave for such a stream."""
    if text == BEGINNING:
        return Resumption(dict.fromkeys(lineages, 0))
    after: dict[int, int] = {}
    resets: list[Reset] = []
    for part in text.split(","):
        found = _PART.fullmatch(part)
        if found is None or (found[1] is None) != (partitions == 1):
            raise _unknown("it has another form")
        partition, epoch, position = int(found[1] or 0), found[2], int(found[3])
        if partition not in lineages or partition in after:
            raise _unknown("it is of another stream")
        lineage = lineages[partition]
        number = next((n for n, each in enumerate(lineage) if each.epoch == epoch), None)
        if number is None:
            raise _unknown(f"there never was an epoch {epoch} of this log")
        kept = min((each.after for each in lineage[number + 1 :]), default=ends[partition])
        if position > kept and number == len(lineage) - 1:
            raise _unknown(f"the log ends at {kept}")
        if position > kept:
            resets.append(Reset(partition, position, kept))
        after[partition] = min(position, kept)
    if after.keys() != lineages.keys():
        raise _unknown("it is of another stream")
    return Resumption(after, resets)


def _unknown(why: str) -> Problem:
    detail = (
        f"the event id was not given by this stream ({why}): send one exactly as it came, 0 for everything, or none"
    )
    return Problem(400, "UNKNOWN_EVENT_ID", detail)
