"""The wire between the conductor of a drill and its hosts: MessagePack maps over a socket, each with its length.

A host answers every message with one, and says beforehand when it is about to stop itself.
"""

import asyncio
import socket
import struct
from typing import Any, Final

import msgspec

__all__ = ["Died", "HostLink", "Link"]

_LENGTH: Final = struct.Struct("!I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Died(Exception):
    """The process at the other end is gone; what it was doing was not answered."""


class Link:
    """The conductor's end. Blocking."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, message: dict[str, Any]) -> None:
        """Raises Died."""
        body = _encode(message)
        try:
            self._socket.sendall(_LENGTH.pack(len(body)) + body)
        except OSError as error:
            raise Died(str(error)) from error

    def receive(self) -> dict[str, Any]:
        """Raises Died."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        message: dict[str, Any] = _decode(self._exactly(length))
        return message

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = self._socket.recv(size)
            except OSError as error:
                raise Died(str(error)) from error
            if not part:
                raise Died("it closed the connection")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class HostLink:
    """The host's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: socket.socket) -> None:
        self._reader = reader
        self._writer = writer  # kept: with it, the connection would be closed
        self._socket = end

    @classmethod
    async def over(cls, end: socket.socket) -> "HostLink":
        own = end.dup()
        reader, writer = await asyncio.open_connection(sock=end)
        return cls(reader, writer, own)

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None when the conductor has gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            message: dict[str, Any] = _decode(await self._reader.readexactly(length))
        except asyncio.IncompleteReadError:
            return None
        return message

    def send(self, message: dict[str, Any]) -> None:
        """At once, before it returns: the process may stop itself right after it."""
        body = _encode(message)
        left = memoryview(_LENGTH.pack(len(body)) + body)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:  # the conductor reads, it just takes a moment
                continue
