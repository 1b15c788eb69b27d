"""Server-Sent Events on the wire: frames of text, and the answer that sends them as fast as they are read."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import structlog
from msgspec import Struct
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api import answers
from api.openapi import EVENT_STREAM

__all__ = ["HEARTBEAT", "EventStream", "frame"]

HEARTBEAT: Final = b": heartbeat\n"
STUCK: Final = 60.0
"""Seconds after which a client that reads nothing has gone away."""
HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
"""Nothing in between may keep what is sent."""

_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*|[a-z]+")

_log = structlog.get_logger(__name__)


def frame(event_id: str, name: str = "", data: Struct | None = None) -> bytes:
    """One event. Without data it only moves the client's last event id. A name that is none of ours is not told."""
    lines = [b"id: " + event_id.encode()] if event_id else []
    if data is not None:
        lines += [b"event: " + (name if _NAME.fullmatch(name) else "unreadable").encode()]
        lines += [b"data: " + answers.encode(data)]  # JSON without line breaks
    return b"\n".join(lines) + b"\n\n"


class EventStream(Response):
    """Sends what the generator yields; asks it for more only when the client has taken what it got. Closes it when
    the client goes, or reads nothing for long. `leave` is called at the end, however it ends."""

    media_type = EVENT_STREAM

    def __init__(self, chunks: AsyncGenerator[bytes, None], leave: Callable[[], None]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(HEADERS)
        self._chunks = chunks
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sending = asyncio.create_task(self._send(send))
            leaving = asyncio.create_task(_gone(receive))
            try:
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)
            if not sending.cancelled():
                sending.result()
        finally:
            self._leave()
            await self._chunks.aclose()

    async def _send(self, send: Send) -> None:
        async with aclosing(self._chunks):
            async for chunk in self._chunks:
                try:
                    async with asyncio.timeout(STUCK):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                except TimeoutError:
                    _log.warning("stream_given_up", why=f"its client read nothing for {STUCK:g} s")
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
