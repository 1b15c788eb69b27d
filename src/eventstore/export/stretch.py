"""The entries from one seal to the next, as a file shows them: the tree that the seal's root is of, and of the events
that are not left out the beginnings of their leaf hashes."""

from array import array
from collections.abc import Sequence

from eventstore.export.merkle import Tree
from eventstore.seals import HINT

__all__ = ["MOST", "Stretch"]

MOST = 1 << 20
"""Events whose hints are kept, at most: as many as the largest seal covers. After the last seal there may be more."""


class Stretch:
    """`begin` is the first position."""

    __slots__ = ("_positions", "begin", "hints", "tree")

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.tree = Tree()
        self.hints = bytearray()
        self._positions = array("q")

    def show(self, position: int, digest: bytes) -> None:
        """An event that is shown, and its leaf hash."""
        self.tree.add(digest)
        if len(self._positions) < MOST:
            self._positions.append(position)
            self.hints += digest[:HINT]

    def differing(self, hints: bytes) -> Sequence[int]:
        """The positions of the shown events whose hints are others."""
        mine = self.hints
        return [
            position
            for i, position in enumerate(self._positions)
            if mine[i * HINT : (i + 1) * HINT] != hints[i * HINT : (i + 1) * HINT]
        ]
