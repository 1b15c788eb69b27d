"""Positions as people see and type them: `57`, or `2-57` for partition 2 when the log has several."""

import re

from msgspec import Struct

__all__ = ["BadPlace", "Place", "Places"]

_PLACE = re.compile(r"(?:(\d{1,3})-)?(\d{1,18})")


class BadPlace(ValueError):
    """It names no position of this log; the message says why."""


class Place(Struct, frozen=True):
    """A position of one partition, or (partition None) the same number in whichever is meant."""

    position: int
    partition: int | None = None


class Places:
    """The positions of a log of so many partitions."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions

    def show(self, partition: int, position: int) -> str:
        return str(position) if self.partitions == 1 else f"{partition}-{position}"

    def plain(self, partition: int, position: int) -> int | str:
        """For JSON: a number where that says all."""
        return position if self.partitions == 1 else f"{partition}-{position}"

    @staticmethod
    def looks_like(text: str) -> bool:
        return _PLACE.fullmatch(text.strip()) is not None

    def read(self, text: str) -> Place:
        """Raises BadPlace."""
        found = _PLACE.fullmatch(text.strip())
        if found is None:
            raise BadPlace(f"{text!r} is no position: write 57" + (", or 2-57" if self.partitions > 1 else ""))
        partition = None if found[1] is None else int(found[1])
        if partition is not None and partition >= self.partitions:
            have = "one partition, 0" if self.partitions == 1 else f"the partitions 0 to {self.partitions - 1}"
            raise BadPlace(f"there is no partition {partition} in {text!r}: this log has {have}")
        return Place(int(found[2]), partition)
