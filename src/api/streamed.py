"""An answer that is made while it is sent, no faster than it is read."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

__all__ = ["STUCK", "Streamed"]

STUCK: Final = 60.0
"""Seconds after which a client that reads nothing has gone away."""

_log = structlog.get_logger(__name__)


class Streamed(Response):
    """Sends what the generator yields; asks it for more only when the client has taken what it got. Closes it when
    the client goes, or reads nothing for long. What the generator raises breaks the answer off. `leave` is called at
    the end, however it ends."""

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        media_type: str,
        headers: Mapping[str, str],
        leave: Callable[[], None] = lambda: None,
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)
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
