"""Server-Sent Events on the wire: frames of text."""

import re
from collections.abc import AsyncGenerator, Callable
from typing import Final

from msgspec import Struct

from api import answers
from api.openapi import EVENT_STREAM
from api.streamed import Streamed

__all__ = ["HEARTBEAT", "event_stream", "frame"]

HEARTBEAT: Final = b": heartbeat\n"
HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
"""Nothing in between may keep what is sent."""

_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*|[a-z]+")


def frame(event_id: str, name: str = "", data: Struct | None = None) -> bytes:
    """One event. Without data it only moves the client's last event id. A name that is none of ours is not told."""
    lines = [b"id: " + event_id.encode()] if event_id else []
    if data is not None:
        lines += [b"event: " + (name if _NAME.fullmatch(name) else "unreadable").encode()]
        lines += [b"data: " + answers.encode(data)]  # JSON without line breaks
    return b"\n".join(lines) + b"\n\n"


def event_stream(frames: AsyncGenerator[bytes, None], leave: Callable[[], None]) -> Streamed:
    """The answer that sends the frames."""
    return Streamed(frames, EVENT_STREAM, HEADERS, leave)
