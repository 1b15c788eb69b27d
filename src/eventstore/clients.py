"""The only places where clients of Redis are made, because their defaults are wrong for a log.

redis-py repeats a command by itself when its reply is lost: a write would be done twice, a read of new deliveries
would skip what it missed. So: no retries, explicit time-outs, plain replies (protocol 2, nothing decoded or parsed).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from eventstore.errors import outages

__all__ = [
    "BLOCK_MS",
    "POOL",
    "Argument",
    "Pool",
    "answers",
    "command",
    "commands",
    "log_client",
    "reader_client",
    "sibling",
]

Argument = str | bytes | int

BLOCK_MS = 500
"""How long a reader waits in Redis for something new."""
_READER_TIMEOUT = BLOCK_MS / 1000 + 3.0
_WRITER_TIMEOUT = 5.0
_DRIVER: Final = DriverInfo()
"""What each connection tells the server of itself; redis-py would look into its package's files for it every time."""


class _Cancellable:
    """A connection on which every wait can be cancelled. redis-py sends within `asyncio.wait_for`, and that of Python
    3.11 drops a cancellation which comes in the moment that the sending ends: the task would live on.

    Commands are packed by hiredis, as redis-py's own synchronous connections do."""

    socket_timeout: float | None
    _packer = HiredisRespSerializer()

    def pack_command(self, *args: Any) -> list[bytes]:
        packed: list[bytes] = self._packer.pack(*args)
        return packed

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        seconds, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(seconds):
                await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except TimeoutError as error:
            raise RedisTimeoutError("Timeout writing to socket") from error
        finally:
            self.socket_timeout = seconds


class _Tcp(_Cancellable, Connection): ...


class _Tls(_Cancellable, SSLConnection): ...


class _Unix(_Cancellable, UnixDomainSocketConnection): ...


_CANCELLABLE: dict[Any, Any] = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


class Pool(ConnectionPool):
    """redis-py's, without the locks, events and metrics around each command, which took longer than the command."""

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Connected, and with nothing left to read of an earlier command."""
        connection: Any = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            if not await self._is_ready(connection):
                await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)

    async def _is_ready(self, connection: Any) -> bool:
        try:
            return connection.is_connected and not await connection.can_read()
        except RedisConnectionError:
            return False


POOL: Final[ContextVar[type[Pool]]] = ContextVar("POOL", default=Pool)
"""What holds the connections of clients made from here on: a simulation stands between a process and its server."""


def log_client(redis_url: str, **options: Any) -> "Redis":
    """A client for appends and for reads that do not wait. Its replies are those of the wire."""
    keepalive = {} if redis_url.startswith("unix:") else {"socket_keepalive": True}
    pool = POOL.get().from_url(redis_url, **_settings(_WRITER_TIMEOUT), **keepalive, **options)
    pool.connection_class = _CANCELLABLE.get(pool.connection_class, pool.connection_class)
    return _plain(Redis.from_pool(pool))


def reader_client(client: "Redis") -> "Redis":
    """A client with one connection of its own to the same server, for reads that wait up to BLOCK_MS."""
    return sibling(client, socket_timeout=_READER_TIMEOUT, single_connection_client=True)


def sibling(client: "Redis", *, single_connection_client: bool = False, **options: Any) -> "Redis":
    """Another client of the same server, made as all of them are, with connections of its own."""
    pool = client.connection_pool
    settings = {**pool.connection_kwargs, **_settings(_WRITER_TIMEOUT), **options}
    settings.pop("max_connections", None)
    connection_class = _CANCELLABLE.get(pool.connection_class, pool.connection_class)
    kind = Pool if type(pool) is ConnectionPool else type(pool)
    own = kind(connection_class=connection_class, **settings)
    return _plain(Redis.from_pool(own), single_connection_client)


async def command(redis: "Redis", *args: Argument) -> Any:
    """The plain answer to one command, sent once. Raises LogUnavailable: whether it was done is then unknown."""
    with outages():
        if not isinstance(getattr(redis, "connection_pool", None), Pool):
            return await redis.execute_command(*args)  # type: ignore[no-untyped-call]
        return await _lend(redis, _ask, args)


async def commands(redis: "Redis", calls: Sequence[Sequence[Argument]]) -> list[Any]:
    """The answers to several commands, sent in one go; an answer may be an exception. Raises LogUnavailable."""
    if not calls:
        return []
    with outages():
        if isinstance(getattr(redis, "connection_pool", None), Pool):
            found: list[Any] = await _lend(redis, _ask_all, calls)
            return found
        pipeline = redis.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call)
        return await pipeline.execute(raise_on_error=False)


async def _lend(redis: "Redis", ask: Callable[[Any, Any], Awaitable[Any]], asked: Any) -> Any:
    """Asks on one of the client's connections."""
    if redis.single_connection_client:
        await redis.initialize()
        async with redis._single_conn_lock:
            return await ask(redis.connection, asked)
    pool: Any = redis.connection_pool
    connection = await pool.get_connection()
    try:
        return await ask(connection, asked)
    finally:
        await pool.release(connection)


async def _ask(connection: Any, args: Sequence[Argument]) -> Any:
    """What `execute_command` comes down to without retries; the connection closes itself when it fails."""
    await connection.send_packed_command(connection.pack_command(*args))
    return await connection.read_response()


async def _ask_all(connection: Any, calls: Sequence[Sequence[Argument]]) -> list[Any]:
    """As a pipeline; the answers to those that the server refused are its errors."""
    await connection.send_packed_command(connection.pack_commands(calls))
    found: list[Any] = []
    for _ in calls:
        try:
            found.append(await connection.read_response())
        except ResponseError as error:
            found.append(error)
    return found


async def answers(redis: "Redis", calls: Sequence[Sequence[Argument]]) -> list[Any]:
    """As `commands`, and the first exception among the answers is raised."""
    found = await commands(redis, calls)
    with outages():
        for each in found:
            if isinstance(each, Exception):
                raise each
    return found


def _settings(socket_timeout: float) -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": 2.0,
        "health_check_interval": 0,
        "decode_responses": False,
        "protocol": 2,
        "driver_info": _DRIVER,
    }


def _plain(client: "Redis", single_connection_client: bool = False) -> "Redis":
    client.single_connection_client = single_connection_client
    client.response_callbacks.clear()
    return client
