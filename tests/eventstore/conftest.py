"""A log on a real, empty Redis: once as the only partition, once as one of four."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from domain.values import Duration, Instant
from eventstore.log import EventLog
from eventstore.open import open_log
from projections.runtime import DEFAULTS

NOON: Instant = 1_795_000_000_000_000


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = NOON

    def now(self) -> Instant:
        return self.time

    async def sleep(self, duration: Duration) -> None:
        self.time += duration


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=[1, 4], ids=["alone", "of four"])
def partitions(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


OpenLog = Callable[..., Awaitable[EventLog]]


@pytest.fixture
async def opened(redis: Redis, redis_url: str, clock: HandClock, partitions: int) -> AsyncIterator[OpenLog]:
    """Opens the log, as a process of its own would."""
    async with AsyncExitStack() as stack:

        async def open_it(url: str = redis_url, writer: str = "w", **options: Any) -> EventLog:
            settings: dict[str, Any] = {
                "clock": clock,
                "defaults": DEFAULTS,
                "writer": writer,
                "partitions": partitions,
                "partition": partitions // 2,
                "allow_weak": True,
            }
            log = await open_log(url, **(settings | options))
            stack.push_async_callback(log.aclose)
            return log

        yield open_it


@pytest.fixture
async def log(opened: OpenLog) -> EventLog:
    return await opened()


@pytest.fixture
def everything(redis: Redis) -> Callable[[], Awaitable[dict[bytes, bytes]]]:
    """All that Redis holds, to show that a refused append leaves no trace."""

    async def dump() -> dict[bytes, bytes]:
        return {key: await redis.dump(key) for key in sorted(await redis.keys("*"))}

    return dump


class Lossy:
    """Stands between a client and Redis, and loses replies when told so: the command is done, nobody hears of it."""

    def __init__(self, redis_url: str) -> None:
        self._upstream = urlsplit(redis_url)
        self.lose = False
        self.url = ""
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Lossy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._upstream.scheme == "unix":
            up_reader, up_writer = await asyncio.open_unix_connection(self._upstream.path)
        else:
            up_reader, up_writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        for source, sink, is_reply in ((reader, up_writer, False), (up_reader, writer, True)):
            pump = asyncio.create_task(self._pump(source, sink, is_reply))
            self._pumps.add(pump)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_reply: bool) -> None:
        try:
            while data := await source.read(65536):
                if is_reply and self.lose:
                    break
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass  # that end has gone: so does the other
        finally:
            sink.close()


@pytest.fixture
async def lossy(redis_url: str) -> AsyncIterator[Lossy]:
    async with Lossy(redis_url) as between:
        yield between
