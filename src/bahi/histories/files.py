"""The files of a history: JSON lines, packed, with a last line that tells whether anything is missing or was changed.

`NAME.jsonl.gz` holds the log, `NAME.decisions.jsonl.gz` what was decided, `NAME.states.jsonl.gz` the states that
followed. The first line of each says what it is, the last one how many lines there are and the SHA-256 of those before.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from domain.values import Instant, Priority
from eventstore.envelope import Raw

__all__ = ["DECISIONS", "EVENTS", "STATES", "Head", "HistoryError", "entries", "head", "lines", "pack", "plain", "read"]

EVENTS: Final = ".jsonl.gz"
DECISIONS: Final = ".decisions.jsonl.gz"
STATES: Final = ".states.jsonl.gz"
CUT: Final = "restore it from the repository: a recorded history is never edited"

T = TypeVar("T")


class HistoryError(ValueError):
    """A history cannot be used: which file, which line, what is wrong with it and what to do."""


class Head(Struct, frozen=True, kw_only=True):
    """The first line of each file. `constructed`: no run of the engine made it, so nothing in it was decided."""

    bahi: str
    name: str
    version: str
    seed: int
    about: str
    constructed: bool = False


class _Mark(Struct, frozen=True, forbid_unknown_fields=True):
    lines: int
    sha256: str


class _End(Struct, frozen=True, forbid_unknown_fields=True):
    end: _Mark


def pack(path: Path, first: Struct, rest: Iterable[Any]) -> None:
    """Writes a file. The same lines give the same bytes."""
    encoder = msgspec.json.Encoder(order="deterministic")
    written = [encoder.encode(first), *(encoder.encode(each) for each in rest)]
    body = b"".join(line + b"\n" for line in written)
    end = encoder.encode(_End(_Mark(len(written), hashlib.sha256(body).hexdigest())))
    path.write_bytes(gzip.compress(body + end + b"\n", compresslevel=9, mtime=0))


def read(path: Path) -> Sequence[bytes]:
    """The lines of a file without the last one, which they were compared with. Raises HistoryError."""
    try:
        body = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise HistoryError(f"{path} is missing: {CUT}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HistoryError(f"{path} is cut off or damaged ({error}): {CUT}") from error
    body, _, last = body.removesuffix(b"\n").rpartition(b"\n")
    body += b"\n"
    try:
        mark = msgspec.json.decode(last, type=_End).end
    except msgspec.MsgspecError:
        raise HistoryError(f"{path} does not end with its own count, so its end is missing: {CUT}") from None
    found = body.split(b"\n")[:-1]
    if len(found) != mark.lines:
        raise HistoryError(f"{path} has {len(found)} lines and says that it has {mark.lines}: {CUT}")
    if (digest := hashlib.sha256(body).hexdigest()) != mark.sha256:
        raise HistoryError(f"{path} was changed: its SHA-256 is {digest}, it says {mark.sha256}: {CUT}")
    return found


def lines(path: Path, found: Sequence[bytes], what: type[T]) -> list[T]:
    """The lines after the first, as `what`. Raises HistoryError."""
    decoder = msgspec.json.Decoder(what)
    decoded = []
    for number, line in enumerate(found[1:], start=2):
        try:
            decoded.append(decoder.decode(line))
        except msgspec.MsgspecError as error:
            raise HistoryError(f"{path}, line {number}: {error}; this program does not know that form") from error
    return decoded


def head(path: Path, found: Sequence[bytes], form: str, what: type[T]) -> T:
    """The first line of a file of the form `form`. Raises HistoryError."""
    try:
        is_a = msgspec.json.decode(found[0], type=Head).bahi
        if is_a != form:
            raise HistoryError(f"{path} is {is_a!r}, this program reads {form!r}")
        return msgspec.json.decode(found[0], type=what)
    except (msgspec.MsgspecError, IndexError) as error:
        raise HistoryError(f"{path} does not begin as {form!r} does: {error}") from error


class _Entry(Struct, frozen=True, array_like=True, gc=False):
    """A line of the log. The envelope's bytes are hexadecimal, because that packs better than base64."""

    position: int
    stream: Priority
    version: int
    recorded_at: Instant
    envelope: str


def plain(raws: Iterable[Raw]) -> Iterable[_Entry]:
    """The lines of the log's entries."""
    for raw in raws:
        yield _Entry(raw.position, Priority(raw.stream), raw.version, raw.recorded_at, raw.envelope.hex())


def entries(path: Path, found: Sequence[bytes]) -> list[Raw]:
    """The entries of the log, gapless from 1. Raises HistoryError."""
    raws = []
    for number, it in enumerate(lines(path, found, _Entry), start=1):
        if it.position != number:
            raise HistoryError(f"{path}: position {it.position} where {number} belongs: {CUT}")
        raws.append(Raw(it.position, it.stream, it.version, it.recorded_at, bytes.fromhex(it.envelope)))
    return raws
