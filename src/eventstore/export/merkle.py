"""A Merkle tree (RFC 6962 §2.1) grown from the left, in memory that does not grow with it.

What is kept are the whole subtrees so far, largest first. Leaves that are left out of a file stand in it as the roots
of such subtrees: a run of a thousand leaves as a few hashes, from which the tree's root follows all the same.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256

__all__ = ["DIGEST", "Tree", "blocks"]

DIGEST = 32
"""Bytes of a hash."""


class Tree:
    """The leaves from the `start`-th on. Of a tree that does not start at 0 only the `subtrees` mean something."""

    __slots__ = ("_hashes", "_sizes", "count", "start")

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.count = 0
        self._sizes: list[int] = []
        self._hashes: list[bytes] = []

    def add(self, digest: bytes, size: int = 1) -> None:
        """The next leaf; or the subtree over the next `size` leaves, one of `blocks`."""
        sizes, hashes = self._sizes, self._hashes
        at = self.start + self.count
        self.count += size
        # Two subtrees of a size are halves of a larger one if the left of them is where such a larger one begins.
        while sizes and sizes[-1] == size and at & size:
            at -= size
            digest = sha256(b"\1" + hashes.pop() + digest).digest()
            sizes.pop()
            size *= 2
        sizes.append(size)
        hashes.append(digest)

    @property
    def subtrees(self) -> Sequence[bytes]:
        """The roots of the subtrees over `blocks(start, start + count)`."""
        return tuple(self._hashes)

    @property
    def root(self) -> bytes:
        """Of the tree over the leaves so far. Raises ValueError when there are none, or when the first is missing."""
        if not self.count or self.start:
            raise ValueError(f"no root over {self.count} leaves from leaf {self.start} on")
        last, *before = reversed(self._hashes)
        for digest in before:
            last = sha256(b"\1" + digest + last).digest()
        return last


def blocks(first: int, end: int) -> Iterator[int]:
    """The sizes of the largest whole subtrees over the leaves from `first` up to, not including, `end`, in order."""
    while first < end:
        size = first & -first if first else 1 << (end.bit_length() - 1)
        while first + size > end:
            size //= 2
        yield size
        first += size
