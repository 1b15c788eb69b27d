"""An event with what the log knows about it, and its bytes.

The envelope is a msgpack array `[format, event_id, strategy_id, user_id, correlation_id, causation_id, writer, event]`
whose last element is a map with the event's `type` and `schema`. It is read in one typed pass.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder

from domain.events import EVENT_TYPES, AnyEvent, Event
from domain.values import Instant
from eventstore.errors import CorruptEvent
from eventstore.upcasts import UPCASTS, Upcasts, upcast

__all__ = [
    "FORMAT",
    "SCHEMAS",
    "Dedupe",
    "Envelope",
    "Ids",
    "NewEvent",
    "Owner",
    "Raw",
    "Recorded",
    "decode",
    "decode_page",
    "encode",
    "owner_of",
]

FORMAT = 1
"""The layout of the array. A new one gets the next number and a reader of the old one stays."""


class Dedupe(Struct, frozen=True):
    """Makes an append repeatable. The same key with the same digest of the request is answered with the positions of
    the first time, for `ttl` seconds; with another digest it is an error."""

    key: str
    digest: str
    ttl: int = 86_400


class NewEvent(Struct, frozen=True):
    """An event to append. `event_id` may be chosen beforehand (`Ids.next`); an empty `correlation_id` becomes it."""

    event: Event
    strategy_id: int = 0
    user_id: int = 0
    correlation_id: str = ""
    causation_id: str = ""
    dedupe: Dedupe | None = None
    event_id: str = ""


class Recorded(Struct, frozen=True, gc=False):
    """An event of the log. `position` is its place in the total order of the partition, `version` its place in the
    history of its strategy (0 if it has none), `recorded_at` never runs backwards."""

    position: int
    version: int
    recorded_at: Instant
    event_id: str
    strategy_id: int
    user_id: int
    correlation_id: str
    causation_id: str
    writer: str
    event: Event


class Raw(Struct, frozen=True, gc=False):
    """An entry as the stream holds it."""

    position: int
    stream: str
    version: int
    recorded_at: Instant
    envelope: bytes


class Ids:
    """Event ids `writer-n`, n counting in base 36. A writer's token must be its own: one per process and start."""

    __slots__ = ("_next", "writer")

    def __init__(self, writer: str, start: int = 1) -> None:
        self.writer = writer
        self._next = start

    def next(self) -> str:
        n = self._next
        self._next = n + 1
        return f"{self.writer}-{_base36(n)}"


def _base36(n: int) -> str:
    digits = ""
    while n:
        n, digit = divmod(n, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


class Envelope(Struct, frozen=True, array_like=True, gc=False):
    """The layout of the bytes."""

    format: int
    event_id: str
    strategy_id: int
    user_id: int
    correlation_id: str
    causation_id: str
    writer: str
    event: AnyEvent


class Owner(Struct, frozen=True, array_like=True):
    """Whose entry it is: as much of an envelope as can be read when its event cannot."""

    format: int = 0
    event_id: str = ""
    strategy_id: int = 0
    user_id: int = 0
    correlation_id: str = ""


_encode = Encoder().encode
_decode = Decoder(Envelope).decode
_decode_plain = Decoder().decode
_decode_page = Decoder(list[Envelope]).decode
SCHEMAS = {cls: msgspec.structs.fields(cls)[0].default for cls in EVENT_TYPES.values()}
"""The schema that each class writes today."""


def encode(new: NewEvent, event_id: str, writer: str) -> bytes:
    """The envelope of a new event."""
    return _encode(
        (
            FORMAT,
            event_id,
            new.strategy_id,
            new.user_id,
            new.correlation_id or event_id,
            new.causation_id,
            writer,
            new.event,
        )
    )


def decode(raw: Raw, upcasts: Upcasts = UPCASTS) -> Recorded:
    """The event of an entry, in today's shape. Raises CorruptEvent."""
    try:
        it = _decode(raw.envelope)
        event = it.event
        if it.format != FORMAT or event.schema != SCHEMAS[type(event)]:
            return _decode_older(raw, upcasts)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _decode_older(raw, upcasts)
    return Recorded(
        raw.position,
        raw.version,
        raw.recorded_at,
        it.event_id,
        it.strategy_id,
        it.user_id,
        it.correlation_id,
        it.causation_id,
        it.writer,
        event,
    )


def decode_page(raws: Sequence[Raw]) -> list[Envelope] | None:
    """The envelopes of many entries in one pass, for replaying fast; None if any of them is damaged or of an earlier
    layout or schema, for then each needs `decode`."""
    head = b"\xdd" + len(raws).to_bytes(4, "big")
    try:
        page = _decode_page(head + b"".join([raw.envelope for raw in raws]))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    for it in page:
        if it.event.schema != SCHEMAS[type(it.event)] or it.format != FORMAT:
            return None
    return page


def owner_of(envelope: bytes) -> Owner:
    """Best effort, for an entry whose event cannot be read: zeros where nothing can be told."""
    try:
        parts = _decode_plain(envelope)
        return msgspec.convert(parts[:5], Owner)
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, LookupError):
        return Owner()


def _decode_older(raw: Raw, upcasts: Upcasts) -> Recorded:
    """The slow way: as plain values, through the upcasts, then typed."""
    try:
        parts: Any = _decode_plain(raw.envelope)
        if not isinstance(parts, list) or len(parts) != 8 or parts[0] != FORMAT:
            raise ValueError(f"not an envelope of format {FORMAT}")
        if not isinstance(parts[7], dict):
            raise ValueError("its event is not a map")
        it = msgspec.convert([*parts[:7], upcast(parts[7], upcasts)], Envelope)
        if it.event.schema != (today := SCHEMAS[type(it.event)]):
            raise ValueError(f"schema {it.event.schema} of {it.event.type}, this program reads {today}")
    except (msgspec.MsgspecError, ValueError, LookupError, TypeError) as error:
        raise CorruptEvent(raw.position, raw.stream, str(error)) from error
    owner = (it.event_id, it.strategy_id, it.user_id, it.correlation_id, it.causation_id, it.writer)
    return Recorded(raw.position, raw.version, raw.recorded_at, *owner, it.event)
