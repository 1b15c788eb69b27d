"""Seals: what proves that a stretch of the history is as it was written. Pure; no keys are kept here.

A seal covers a gapless run of entries with the root of a Merkle tree (RFC 6962 §2.1) over their exact bytes, names the
seal before it by its hash, and is signed with Ed25519. So one trusted seal fixes every entry up to its end.

An entry's leaf is SHA-256 of a zero byte, the line `POSITION|STREAM|VERSION|RECORDED_AT|` and the envelope's bytes.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from msgspec import Struct

from domain.values import Instant
from eventstore.envelope import Raw

__all__ = ["GENESIS", "HINT", "Seal", "hints_of", "leaf", "merkle_root"]

GENESIS = bytes(32)
"""What the first seal names as the hash of the seal before it."""
HINT = 8
"""Bytes of each leaf hash that are kept beside a seal."""


class Seal(Struct, frozen=True, kw_only=True):
    """`number` counts a partition's seals from 1; `first` and `last` are positions; `until` is the recorded_at of the
    last entry, `sealed_at` when the seal was made; neither ever runs backwards along the chain."""

    partition: int
    number: int
    first: int
    last: int
    until: Instant
    previous: bytes
    root: bytes
    sealed_at: Instant
    key_id: str
    signature: bytes = b""

    @property
    def count(self) -> int:
        """How many entries it covers."""
        return self.last - self.first + 1

    @property
    def body(self) -> bytes:
        """What is signed and hashed: everything but the signature, one fact to a line."""
        return (
            "bahi-seal/1\n"
            f"partition {self.partition}\n"
            f"number {self.number}\n"
            f"positions {self.first}-{self.last}\n"
            f"until {self.until}\n"
            f"previous {self.previous.hex()}\n"
            f"root {self.root.hex()}\n"
            f"sealed_at {self.sealed_at}\n"
            f"key {self.key_id}\n"
        ).encode()

    @property
    def hash(self) -> bytes:
        """The seal's name: 32 bytes, which the next seal repeats."""
        return sha256(self.body).digest()


def leaf(raw: Raw) -> bytes:
    """The hash of one entry. Half of what a seal costs the archive's writer is spent here."""
    return sha256(
        b"\0%d|%b|%d|%d|%b" % (raw.position, raw.stream.encode(), raw.version, raw.recorded_at, raw.envelope)
    ).digest()


def merkle_root(leaves: Iterable[bytes]) -> bytes:
    """The root over leaves in their order. Raises ValueError for none: an empty seal says nothing."""
    level: Sequence[bytes] = list(leaves)
    if not level:
        raise ValueError("a seal covers at least one entry")
    while len(level) > 1:
        each = iter(level)
        pairs = [sha256(b"\1" + left + right).digest() for left, right in zip(each, each, strict=False)]
        level = [*pairs, level[-1]] if len(level) % 2 else pairs
    return level[0]


def hints_of(leaves: Iterable[bytes]) -> bytes:
    """What is kept of the leaves beside their seal: when its root does not hold, it tells which entry was changed."""
    return b"".join([each[:HINT] for each in leaves])
