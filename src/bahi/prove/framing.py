"""Where a message ends on the wire: of Redis (RESP, which is also the form of its append-only file) and of HTTP/1.1."""

from typing import Final, Protocol

import h11

__all__ = ["HTTP", "RESP", "Framing", "Malformed", "resp_end"]

_END: Final = b"\r\n"


class Malformed(ValueError):
    """Bytes that are no message of the protocol."""


class Framing(Protocol):
    """A protocol of requests and replies, one reply to each request, in order."""

    def request_end(self, buffer: bytes) -> int | None:
        """How long the first request is; None while it is not complete. Raises Malformed."""
        ...

    def reply_end(self, buffer: bytes, request: bytes) -> int | None:
        """The same for the reply to this request."""
        ...

    def opens_stream(self, request: bytes) -> bool:
        """Whether the server says what it likes from now on."""
        ...


def resp_end(buffer: bytes, at: int = 0) -> int | None:
    """Where the RESP message that begins at `at` ends; None while it is not complete. Raises Malformed.

    hiredis' reader knows when a message is complete, but not where it ended.
    """
    left = 1
    while left:
        line = buffer.find(_END, at)
        if line < 0:
            return None
        kind, text = buffer[at : at + 1], buffer[at + 1 : line]
        at = line + 2
        left -= 1
        if kind in b"+-:":
            continue
        try:
            size = int(text)
        except ValueError:
            raise Malformed(f"{bytes(kind + text[:40])!r} begins no RESP message") from None
        if kind == b"*":
            left += max(0, size)
        elif kind == b"$":
            at += size + 2 if size >= 0 else 0
            if at > len(buffer):
                return None
        else:
            raise Malformed(f"{bytes(kind + text[:40])!r} begins no RESP message")
    return at


class _Resp:
    def request_end(self, buffer: bytes) -> int | None:
        return resp_end(buffer) if buffer else None

    def reply_end(self, buffer: bytes, request: bytes) -> int | None:
        return resp_end(buffer) if buffer else None

    def opens_stream(self, request: bytes) -> bool:
        return b"SUBSCRIBE\r\n" in request[:40].upper() or b"MONITOR\r\n" in request[:40].upper()


class _Http:
    def request_end(self, buffer: bytes) -> int | None:
        return self._end(h11.Connection(h11.SERVER), buffer)

    def reply_end(self, buffer: bytes, request: bytes) -> int | None:
        client = h11.Connection(h11.CLIENT)
        client.send(self._head(request))  # how long a reply is depends on what was asked
        return self._end(client, buffer)

    def opens_stream(self, request: bytes) -> bool:
        return b"\r\nupgrade:" in request.lower()

    def _head(self, request: bytes) -> h11.Request:
        server = h11.Connection(h11.SERVER)
        server.receive_data(request)
        head = server.next_event()
        if not isinstance(head, h11.Request):
            raise Malformed(f"{request[:40]!r} begins no HTTP request")
        return head

    def _end(self, connection: h11.Connection, buffer: bytes) -> int | None:
        if not buffer:  # which would tell h11 that the connection was closed
            return None
        connection.receive_data(buffer)
        try:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    return None
                if isinstance(event, h11.EndOfMessage):
                    return len(buffer) - len(connection.trailing_data[0])
        except h11.RemoteProtocolError as error:
            raise Malformed(str(error)) from error


RESP: Final[Framing] = _Resp()
HTTP: Final[Framing] = _Http()
