"""A real server in the test's own loop, and a client of its event streams that reads as fast as the test does."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import uvicorn
from msgspec import Struct

from tests.api.world import Trader, World

PATIENCE = 60.0
"""Seconds in which anything that a test waits for must come; it takes milliseconds."""


class Event(Struct, frozen=True):
    """One event as a browser would see it, `id` being the last one that was told."""

    id: str
    name: str
    data: dict[str, Any]

    @property
    def position(self) -> int:
        return int(self.data["position"].rpartition("-")[2])


class Stream:
    """An open stream. `id` is what a browser would send to go on; `beats` counts the comments."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.id = ""
        self.beats = 0
        self._lines = response.aiter_lines()

    async def next(self) -> Event | None:
        """The next event; None when the server ended the stream."""
        name, data = "message", ""
        async with asyncio.timeout(PATIENCE):
            async for line in self._lines:
                field, _, value = line.partition(": ")
                if line.startswith(":"):
                    self.beats += 1
                elif field == "id":
                    self.id = value
                elif field == "event":
                    name = value
                elif field == "data":
                    data = value
                elif not line and data:
                    return Event(self.id, name, json.loads(data))
                elif not line and self.id and not data:
                    continue
        return None

    async def take(self, count: int) -> list[Event]:
        found = []
        for _ in range(count):
            event = await self.next()
            assert event is not None, "the stream ended"
            found.append(event)
        return found

    async def begun(self) -> None:
        """Until the server has said where the stream begins: what happens from now on is in it."""
        async with asyncio.timeout(PATIENCE):
            while not self.id:
                field, _, value = (await anext(self._lines)).partition(": ")
                self.id = value if field == "id" else ""

    async def beat(self) -> None:
        """Until the next heartbeat, of a stream that says nothing else."""
        async with asyncio.timeout(PATIENCE):
            async for line in self._lines:
                self.id = line.removeprefix("id: ") if line.startswith("id: ") else self.id
                if line.startswith(":"):
                    self.beats += 1
                    return


@asynccontextmanager
async def served(world: World) -> AsyncIterator[str]:
    """The world's application on a port; its address."""
    config = uvicorn.Config(world.app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5)
    server = _Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            await world.deps.streams.aclose()
            server.should_exit = True
            await running


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def streaming(address: str, caller: Trader, *, last: str | None = None, **params: Any) -> AsyncIterator[Stream]:
    """The caller's stream from now on, or from `last` on. It has begun."""
    headers = {"Authorization": caller.client.headers["Authorization"]}
    if last is not None:
        headers["Last-Event-ID"] = last
    async with (
        httpx.AsyncClient(base_url=address, timeout=PATIENCE) as client,
        client.stream("GET", "/events/stream", headers=headers, params=params) as response,
    ):
        assert response.status_code == 200, (await response.aread()).decode()
        stream = Stream(response)
        if last is None:
            await stream.begun()
        yield stream
