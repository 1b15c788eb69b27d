"""An entry of the log as one line: CloudEvents 1.0 in its JSON format, with the entry's exact bytes.

The line follows from the entry and its source alone, in every version of the program: `data` is the event's map as it
was stored, not as today's classes have it. So a reader takes the bytes from a line, writes the line anew, and a line
that was not written so is another.

What cannot be told apart into an envelope with an event is of type `bahi.corrupt`, without data. Positions, ids and
times in microseconds are strings: integers of CloudEvents have 32 bits.
"""

import re
import time
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from domain.values import SECOND
from eventstore.envelope import Raw

__all__ = ["CORRUPT", "NotAnEntry", "Source", "Stored", "as_line", "as_map", "as_raw", "stored"]

CORRUPT: Final = "bahi.corrupt"
_BIGGEST = 2**63 - 1


class NotAnEntry(ValueError):
    """A line that holds no entry, or not as we write it; the message says which part."""


class Source:
    """Whose events: the log by the name of its first epoch, and the partition. With `several` partitions a position
    is `partition-position`."""

    __slots__ = ("_prefix", "partition", "uri")

    def __init__(self, log_id: str, partition: int = 0, *, several: bool = False) -> None:
        self.uri = f"/bahi/{log_id}/{partition}"
        self.partition = partition
        self._prefix = f"{partition}-" if several else ""

    def show(self, position: int) -> str:
        return f"{self._prefix}{position}"

    def read(self, text: str) -> int:
        """The position in it. Raises NotAnEntry."""
        digits = text.removeprefix(self._prefix)
        if text != self._prefix + digits or not _NUMBER.fullmatch(digits):
            raise NotAnEntry(f"its position is {text!r}")
        return int(digits)


class Stored(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """An envelope as it lies there, the event as a plain map."""

    format: int
    event_id: str
    strategy_id: int
    user_id: int
    correlation_id: str
    causation_id: str
    writer: str
    event: dict[str, Any]

    @property
    def type(self) -> str:
        """Of the event; CORRUPT if it has none."""
        named = self.event.get("type")
        return named if isinstance(named, str) and named else CORRUPT


def stored(envelope: bytes) -> Stored | None:
    """What the bytes say; None if they are no envelope."""
    try:
        return _read(envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


class _Line(Struct, kw_only=True, gc=False):
    """The attributes in the order in which they are written."""

    specversion: str = "1.0"
    id: str
    source: str
    type: str
    time: str | UnsetType
    subject: str | UnsetType = UNSET
    position: str
    stream: str
    version: int
    recordedat: str
    strategyid: str | UnsetType = UNSET
    userid: str | UnsetType = UNSET
    correlationid: str | UnsetType = UNSET
    causationid: str | UnsetType = UNSET
    writer: str | UnsetType = UNSET
    datacontenttype: str | UnsetType = UNSET
    data: dict[str, Any] | UnsetType = UNSET
    envelope: bytes


class _Bytes(Struct, gc=False):
    """As much of a line as makes the entry."""

    source: str
    position: str
    stream: str
    version: int
    recordedat: str
    envelope: bytes


def as_line(raw: Raw, source: Source, it: Stored | None) -> bytes:
    """The line of an entry, without its end. `it` is `stored(raw.envelope)`."""
    position = source.show(raw.position)
    at = _rfc3339(raw.recorded_at)
    if it is not None and (kind := it.type) != CORRUPT:
        strategy_id, user_id = it.strategy_id, it.user_id
        subject: str | UnsetType = UNSET
        if strategy_id:
            subject = f"strategy/{strategy_id}"
        elif user_id:
            subject = f"user/{user_id}"
        shown = _clean(kind) or CORRUPT
        line = _Line(
            id=_clean(it.event_id) or f"{shown}-{position}",
            source=source.uri,
            type=shown,
            time=at,
            subject=subject,
            position=position,
            stream=str(raw.stream),
            version=raw.version,
            recordedat=str(raw.recorded_at),
            strategyid=str(strategy_id) if strategy_id else UNSET,
            userid=str(user_id) if user_id else UNSET,
            correlationid=_clean(it.correlation_id),
            causationid=_clean(it.causation_id),
            writer=_clean(it.writer),
            datacontenttype="application/json",
            data=it.event,
            envelope=raw.envelope,
        )
        try:
            return _encode(line)
        except (TypeError, ValueError, RecursionError):
            pass  # it holds what JSON cannot say, which no append writes
    corrupt = _Line(
        id=f"{CORRUPT}-{position}",
        source=source.uri,
        type=CORRUPT,
        time=at,
        position=position,
        stream=str(raw.stream),
        version=raw.version,
        recordedat=str(raw.recorded_at),
        envelope=raw.envelope,
    )
    return _encode(corrupt)


def as_map(raw: Raw, source: Source) -> dict[str, Any]:
    """What whoever reads the entry's line as JSON gets, for those who want no file."""
    read: dict[str, Any] = _read_line(as_line(raw, source, stored(raw.envelope)))
    return read


def as_raw(line: bytes, source: Source) -> Raw:
    """The entry of a line: its bytes only, nothing is compared. Raises NotAnEntry."""
    try:
        it = _read_bytes(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotAnEntry(f"it cannot be read: {error}") from None
    if it.source != source.uri:
        raise NotAnEntry(f"its source is {it.source!r}, of this file it is {source.uri!r}")
    if not _NUMBER.fullmatch(it.recordedat):
        raise NotAnEntry(f"its recordedat is {it.recordedat!r}")
    return Raw(source.read(it.position), it.stream, it.version, int(it.recordedat), it.envelope)


_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_read = msgspec.msgpack.Decoder(Stored).decode
_read_bytes = msgspec.json.Decoder(_Bytes).decode
_read_line = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode
_NO_CHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_UNFIT = re.compile(f"[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef{_NO_CHARACTERS}]")
"""What no string of CloudEvents may hold."""


def _clean(text: str) -> Any:
    """As CloudEvents can say it: no control characters, and nothing for an empty string."""
    if not text:
        return UNSET
    return text if text.isprintable() else _UNFIT.sub("\ufffd", text)


def _rfc3339(at: int) -> str | UnsetType:
    """To the microsecond; unset for a moment without a date of four digits."""
    second, micros = divmod(at, SECOND)
    text = _second(second)
    return f"{text}.{micros:06}Z" if text else UNSET


@lru_cache(16)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) if 0 <= at < _YEAR_10000 else ""


_YEAR_10000 = 253_402_300_800
