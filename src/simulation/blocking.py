"""A connection to Redis for one call at a time: it waits for the answer and lets nobody else have a turn meanwhile.

In a simulation nobody else has one: whoever conducts it lets a call through and then waits until it was answered. So
nothing is lost, and a call takes a fraction of the event loop's turns that redis-py's own connections need.
"""

import select
from typing import Any

from redis.asyncio import UnixDomainSocketConnection
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.connection import UnixDomainSocketConnection as Blocking
from redis.retry import Retry

__all__ = ["BlockingConnection"]


class BlockingConnection(UnixDomainSocketConnection):
    """To be used as any other of redis-py's; commands that wait in the server would stop the simulation."""

    _packer = HiredisRespSerializer()

    def __init__(self, *, path: str, db: int = 0, **settings: Any) -> None:
        super().__init__(path=path, db=db, **settings)
        kept = ("socket_timeout", "socket_connect_timeout", "protocol", "driver_info")
        own: dict[str, Any] = {name: settings[name] for name in kept if name in settings}
        make: Any = Blocking
        self._there = make(path=path, db=db, retry=Retry(NoBackoff(), 0), **own)

    @property
    def is_connected(self) -> bool:
        return bool(self._there.is_connected)

    async def _connect(self) -> None:
        self._there.connect()
        self._readable = select.poll()
        self._readable.register(self._there._sock, select.POLLIN)

    async def on_connect(self) -> None:
        """The handshake is made when it connects."""

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """As `on_connect`."""

    def pack_command(self, *args: Any) -> list[bytes]:
        packed: list[bytes] = self._packer.pack(*args)
        return packed

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        self._there.send_packed_command(command, check_health=False)

    async def read_response(self, disable_decoding: bool = False, *_: Any, **options: Any) -> Any:
        return self._there.read_response(disable_decoding=disable_decoding)

    async def can_read(self) -> bool:
        """Whether there is something to read, or nothing ever will be: each answer was read to its end."""
        return bool(self._readable.poll(0))

    async def disconnect(self, *_: Any, **told: Any) -> None:
        self._there.disconnect()
