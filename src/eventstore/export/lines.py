"""The lines of an exported file. Line by line, so that it can be read and checked as a stream:

1. `{"bahi": "archive/1", "manifest": …, "signature": …}`: what the file tells of, and the keys of its seals.
2. Of each partition in turn, in the order of positions: an event as CloudEvents 1.0 (`cloudevents`); where entries were
   left out, `{"left_out": [FIRST, LAST], "partition": …, "hashes": …}`, the roots of the subtrees that they are in the
   tree of their seal (`merkle.blocks`), none for a whole seal; and `{"seal": …, "hints": …}` after the last entry that
   it covers, with the beginnings of the leaf hashes of the events here.
3. `{"end": …, "signature": …}`: how much there was, and the SHA-256 of all lines before.

The manifest and the end are signed with the newest seal key: without that, nobody could tell that lines were taken off
the end, or that what no seal covers yet was changed. Hashes, keys and signatures are hex, `hashes` and `hints` base64.
Every line is written in one way only: to read it and write it anew gives the same bytes.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct, field

from domain.values import Instant
from eventstore.epochs import Epoch
from eventstore.export.cloudevents import CORRUPT, Stored
from eventstore.seal_trust import SealKey
from eventstore.seals import Seal

__all__ = [
    "FORMAT",
    "BadLine",
    "End",
    "EndLine",
    "Filters",
    "Key",
    "LeftOut",
    "Manifest",
    "ManifestLine",
    "Part",
    "PartEnd",
    "Reign",
    "SealLine",
    "SealSpan",
    "encode",
    "kind_of",
    "positions",
    "read",
    "sealed",
]

FORMAT: Final = "archive/1"


class BadLine(ValueError):
    """A line that is none of ours; the message says why."""


class Filters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was asked for, as it was asked for; nothing: everything. The moments and the positions are inclusive."""

    since: str = ""
    until: str = ""
    first: str = ""
    last: str = ""
    users: tuple[int, ...] = ()
    strategies: tuple[int, ...] = ()
    types: tuple[str, ...] = ()

    @property
    def by_owner(self) -> bool:
        """Whether events are left out for whose or what they are, and not only for when they were."""
        return bool(self.users or self.strategies or self.types)

    def take(self, it: Stored | None) -> bool:
        """Whether an event is one of those whose and what was asked for. What cannot be read is nobody's."""
        if not self.by_owner:
            return True
        if it is None:
            return CORRUPT in self.types and not self.users and not self.strategies
        return (
            (not self.users or it.user_id in self.users)
            and (not self.strategies or it.strategy_id in self.strategies)
            and (not self.types or it.type in self.types)
        )


class Key(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A seal key, its public half, and who vouches for it."""

    number: int
    id: str
    public_key: str
    endorsement: str | None
    acceptance: str | None
    created_at: str

    @property
    def plain(self) -> SealKey:
        """Raises ValueError."""
        return SealKey(
            number=self.number,
            id=self.id,
            public_key=bytes.fromhex(self.public_key),
            endorsement=None if self.endorsement is None else bytes.fromhex(self.endorsement),
            acceptance=None if self.acceptance is None else bytes.fromhex(self.acceptance),
        )


class Reign(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An epoch of the log, and when it began."""

    number: int
    epoch: str
    log_id: str
    after: int
    reason: str
    began_at: str

    @property
    def plain(self) -> Epoch:
        return Epoch(number=self.number, epoch=self.epoch, log_id=self.log_id, after=self.after, reason=self.reason)


class SealSpan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The numbers of the first and the last seal, and the hash of the one before the first."""

    first: int
    last: int
    previous: str


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is told of a partition: each position from `first` to `last`, as an event or as left out (none, if `last` is
    less). Of those `wanted_first` to `wanted_last` were asked for, the others complete the first and the last seal.
    `archived` is how far the archive reached."""

    partition: int
    source: str
    epochs: tuple[Reign, ...]
    archived: int
    first: int
    last: int
    wanted_first: int
    wanted_last: int
    seals: SealSpan | None


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`partitions` is how many the log has. `signed_by` is a key's id, or empty."""

    exported_at: str
    partitions: int
    filters: Filters
    parts: tuple[Part, ...]
    keys: tuple[Key, ...]
    signed_by: str

    @property
    def body(self) -> bytes:
        """What is signed."""
        return b"bahi-archive-manifest/1\n" + encode(self) + b"\n"

    @property
    def complete(self) -> bool:
        """The whole history up to its end, nothing left out."""
        return self.filters == Filters() and all(part.first == 1 or part.last == 0 for part in self.parts)


class PartEnd(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a partition's part ended: its last position, its last seal's number and hash (0 and nothing, if it has none),
    and the beginnings of the leaf hashes of the events after that."""

    partition: int
    last: int
    seal: int
    hash: str
    hints: bytes


class End(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`lines` and `sha256` are of all lines before, each with its line feed."""

    lines: int
    events: int
    left_out: int
    seals: int
    sha256: str
    parts: tuple[PartEnd, ...]

    @property
    def body(self) -> bytes:
        """What is signed."""
        return b"bahi-archive-end/1\n" + encode(self) + b"\n"


class ManifestLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bahi: str = FORMAT
    manifest: Manifest
    signature: str


class LeftOut(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    left_out: tuple[int, int]
    partition: int
    hashes: bytes

    @property
    def first(self) -> int:
        return self.left_out[0]

    @property
    def last(self) -> int:
        return self.left_out[1]

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class _Seal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    partition: int
    number: int
    first: int
    last: int
    until: Instant
    previous: str
    root: str
    sealed_at: Instant
    key_id: str
    signature: str


class SealLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    seal: _Seal
    hints: bytes

    @property
    def plain(self) -> Seal:
        """Raises ValueError."""
        it = self.seal
        return Seal(
            partition=it.partition,
            number=it.number,
            first=it.first,
            last=it.last,
            until=it.until,
            previous=bytes.fromhex(it.previous),
            root=bytes.fromhex(it.root),
            sealed_at=it.sealed_at,
            key_id=it.key_id,
            signature=bytes.fromhex(it.signature),
        )


class EndLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    end: End
    signature: str


AnyLine = ManifestLine | LeftOut | SealLine | EndLine


def sealed(seal: Seal, hints: bytes) -> SealLine:
    """The line of a seal."""
    return SealLine(
        seal=_Seal(
            partition=seal.partition,
            number=seal.number,
            first=seal.first,
            last=seal.last,
            until=seal.until,
            previous=seal.previous.hex(),
            root=seal.root.hex(),
            sealed_at=seal.sealed_at,
            key_id=seal.key_id,
            signature=seal.signature.hex(),
        ),
        hints=hints,
    )


def encode(value: Struct) -> bytes:
    """A line, without its end."""
    return _encode(value)


class _Head(Struct):
    """The one field that tells what a line is; nothing else of it is read."""

    bahi: msgspec.Raw = field(default_factory=msgspec.Raw)
    specversion: msgspec.Raw = field(default_factory=msgspec.Raw)
    left_out: msgspec.Raw = field(default_factory=msgspec.Raw)
    seal: msgspec.Raw = field(default_factory=msgspec.Raw)
    end: msgspec.Raw = field(default_factory=msgspec.Raw)


def kind_of(line: bytes) -> str:
    """`specversion` for an event, `bahi`, `left_out`, `seal` or `end` for the others. Raises BadLine."""
    if line.startswith(b'{"specversion":'):
        return "specversion"
    try:
        head = _read_head(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadLine(f"it is not JSON of this file's kind: {error}") from None
    for name in ("bahi", "left_out", "seal", "end", "specversion"):
        if bytes(getattr(head, name)):
            return name
    raise BadLine("it is none of the kinds of lines of this file")


def read(line: bytes, kind: str) -> AnyLine:
    """A line that is no event. Raises BadLine when it is not exactly as we write it."""
    try:
        found: AnyLine = _READERS[kind](line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadLine(f"it is no {_NAMES[kind]} as we write it: {error}") from None
    if _encode(found) != line:
        raise BadLine(f"it is no {_NAMES[kind]} as we write it: written anew it has other bytes")
    return found


_encode = msgspec.json.Encoder().encode
_read_head = msgspec.json.Decoder(_Head).decode
_READERS: dict[str, Callable[[bytes], AnyLine]] = {
    "bahi": msgspec.json.Decoder(ManifestLine).decode,
    "left_out": msgspec.json.Decoder(LeftOut).decode,
    "seal": msgspec.json.Decoder(SealLine).decode,
    "end": msgspec.json.Decoder(EndLine).decode,
}
_NAMES = {"bahi": "manifest", "left_out": "line of what was left out", "seal": "seal", "end": "end"}


def positions(parts: Sequence[Part]) -> int:
    """How many positions they tell of."""
    return sum(max(part.last - part.first + 1, 0) for part in parts)
