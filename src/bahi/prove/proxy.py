"""A proxy that loses replies: it stands between a client and Redis, or a broker's REST, and breaks what it is told to.

A request that was sent and not answered is the worst that a network does: nobody can tell whether it was carried out.
Here the proxy knows: a reply is lost only after the server gave it, a request before the server had all of it.
"""

import asyncio
import contextlib
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from bahi.prove.framing import Framing

__all__ = ["Address", "Faults", "Lose", "Proxy", "serving"]

Address = Path | tuple[str, int]
"""A unix socket, or a host and a port."""
CHUNK: Final = 64 * 1024


class Lose(StrEnum):
    """What becomes of a request and its reply."""

    REQUEST_CUT = "request-cut"
    """The connection breaks within the request: it is not carried out."""
    CUT_AFTER_REQUEST = "cut-after-request"
    """It is carried out, and the connection breaks before the reply."""
    CUT_IN_REPLY = "cut-in-reply"
    """It is carried out, and the connection breaks within the reply."""
    REPLY_SWALLOWED = "reply-swallowed"
    """It is carried out, and nothing is heard any more on this connection, which stays open."""
    REPLY_DELAYED = "reply-delayed"


class Faults:
    """Which requests meet with what. `fired` counts what has happened.

    While it is on, the next one comes after up to `2 * every` requests, of those that are `eligible`, drawn from `rng`.
    `arm` names one by hand: the n-th eligible request from then on.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        every: int = 50,
        kinds: tuple[Lose, ...] = tuple(Lose),
        delay: float = 0.5,
        eligible: Callable[[bytes], bool] = lambda request: True,
    ) -> None:
        self.fired: Counter[Lose] = Counter()
        self.delay = delay
        """Seconds."""
        self._rng = rng
        self._every = every
        self._kinds = kinds
        self._eligible = eligible
        self._left = 0
        self._next: Lose | None = None
        self._on = False

    def arm(self, kind: Lose, nth: int = 1) -> None:
        self._next, self._left = kind, nth

    def turn(self, on: bool) -> None:
        """On: faults come by themselves, again and again. Off: none is pending either."""
        self._on = on
        self._next = None
        if on:
            self._draw()

    def of(self, request: bytes) -> Lose | None:
        if self._next is None or not self._eligible(request):
            return None
        self._left -= 1
        if self._left > 0:
            return None
        found, self._next = self._next, None
        self.fired[found] += 1
        if self._on:
            self._draw()
        return found

    def share(self) -> float:
        """How much of a message gets through, when a part of it does."""
        return self._rng.random()

    def _draw(self) -> None:
        self.arm(self._rng.choice(self._kinds), self._rng.randint(1, 2 * self._every))


class Proxy:
    """Listens at `at`, speaks to `to`. Use it as an asynchronous context manager, or in a thread by `serving`."""

    def __init__(self, at: Address, to: Address, framing: Framing, faults: Faults) -> None:
        self.at = at
        self.connections = 0
        """So many were made."""
        self._to = to
        self._framing = framing
        self._faults = faults
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        if isinstance(self.at, Path):
            self._server = await asyncio.start_unix_server(self._accept, self.at)
        else:
            self._server = await asyncio.start_server(self._accept, *self.at)
            self.at = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served in a task")
        self._open.add(task)
        self.connections += 1
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            return  # by the end of the proxy, and nobody waits for it
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self._to, Path):
                there = await asyncio.open_unix_connection(self._to)
            else:
                there = await asyncio.open_connection(*self._to)
        except OSError:  # the server is away: so is the client's connection
            return
        pair = _Pair(self._framing, self._faults, reader, writer, *there)
        try:
            await pair.run()
        finally:
            there[1].close()


class _Asked(Struct, frozen=True):
    request: bytes
    fault: Lose | None


class _Over(Exception):
    """The connection is to end, on both sides."""


class _Pair:
    """A client's connection and its own one to the server."""

    def __init__(
        self,
        framing: Framing,
        faults: Faults,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there_reader: asyncio.StreamReader,
        there_writer: asyncio.StreamWriter,
    ) -> None:
        self._framing = framing
        self._faults = faults
        self._client = reader, writer
        self._there = there_reader, there_writer
        self._asked: deque[_Asked] = deque()
        self._streaming = False
        self._mute = False

    async def run(self) -> None:
        """Until either side ends the connection, or a fault does."""
        halves = [asyncio.create_task(self._requests()), asyncio.create_task(self._replies())]
        try:
            await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for half in halves:
                half.cancel()
            ended = await asyncio.gather(*halves, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception) and not isinstance(error, _Over | OSError):
                raise error

    async def _requests(self) -> None:
        reader, (_, server) = self._client[0], self._there
        buffer = b""
        while chunk := await reader.read(CHUNK):
            buffer += chunk
            while not self._streaming and (end := self._framing.request_end(buffer)) is not None:
                request, buffer = buffer[:end], buffer[end:]
                fault = self._faults.of(request)
                if fault is Lose.REQUEST_CUT:
                    server.write(request[: int(len(request) * self._faults.share())])
                    await server.drain()
                    raise _Over
                self._streaming = self._framing.opens_stream(request)
                self._asked.append(_Asked(request, fault))
                server.write(request)
            if self._streaming and buffer:
                server.write(buffer)
                buffer = b""
            await server.drain()

    async def _replies(self) -> None:
        reader, (_, client) = self._there[0], self._client
        buffer = b""
        while chunk := await reader.read(CHUNK):
            buffer += chunk
            while self._asked and (end := self._framing.reply_end(buffer, self._asked[0].request)) is not None:
                reply, buffer = buffer[:end], buffer[end:]
                await self._answer(client, self._asked.popleft().fault, reply)
            if self._streaming and not self._asked and buffer:
                client.write(buffer)
                buffer = b""
            await client.drain()

    async def _answer(self, client: asyncio.StreamWriter, fault: Lose | None, reply: bytes) -> None:
        match fault:
            case Lose.CUT_AFTER_REQUEST:
                raise _Over
            case Lose.CUT_IN_REPLY:
                client.write(reply[: 1 + int((len(reply) - 1) * self._faults.share())][: len(reply) - 1])
                await client.drain()
                raise _Over
            case Lose.REPLY_SWALLOWED:
                self._mute = True
            case Lose.REPLY_DELAYED:
                await client.drain()
                await asyncio.sleep(self._faults.delay)
            case _:
                pass
        if not self._mute:
            client.write(reply)


@contextmanager
def serving(proxy: Proxy) -> Iterator[Proxy]:
    """The proxy in a thread of its own, for what is not asynchronous."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()

    def done(work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(30)

    try:
        done(proxy.__aenter__())
        yield proxy
    finally:
        with contextlib.suppress(TimeoutError):
            done(proxy.__aexit__())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
