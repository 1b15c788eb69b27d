"""What is wrong with a history, however much that is: the first faults by position, and which kinds there were."""

from collections.abc import Sequence

from projections.replay import Fault, Kind

__all__ = ["MOST_FAULTS", "Faults"]

MOST_FAULTS = 1000
"""Faults that are kept; the first ones are what matters."""
_DERIVED = (Kind.LIVE, Kind.TABLE)


class Faults:
    """Collects. Memory does not grow with what it is told."""

    def __init__(self) -> None:
        self.count = 0
        self.kinds: set[str] = set()
        self._kept: list[Fault] = []
        self._ranges: list[tuple[Fault, int]] = []

    def add(self, fault: Fault, last: int | None = None) -> None:
        """With `last`: it lies somewhere from the fault's position to that one."""
        self.count += 1
        self.kinds.add(fault.kind)
        if last is not None:
            if len(self._ranges) < MOST_FAULTS:
                self._ranges.append((fault, last))
            return
        self._kept.append(fault)
        if len(self._kept) > 2 * MOST_FAULTS:
            self._kept = self._first()

    def first(self, telling: Sequence[str] = ()) -> list[Fault]:
        """By position, those of the log before those of what is derived, which is judged by it. One of which only a
        range is known is put where something else is wrong in that range, of one of the kinds `telling`."""
        known = sorted(fault.position for fault in self._kept if fault.kind in telling)
        for fault, last in self._ranges:
            at = next((each for each in known if fault.position <= each <= last), fault.position)
            self._kept.append(Fault(at, fault.strategy_id, fault.kind, fault.text))
        self._ranges.clear()
        return self._first()

    def _first(self) -> list[Fault]:
        return sorted(self._kept, key=lambda fault: (fault.kind in _DERIVED, fault.position))[:MOST_FAULTS]
