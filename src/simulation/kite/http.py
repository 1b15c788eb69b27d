"""HTTP/1.1 with keep-alive on asyncio and h11, so that faults can do to a connection what networks do.

An answer is computed while the request is handled, without waiting: the connections share one thread with the server's
state, and a request costs well under a millisecond.
"""

import asyncio
import gzip
from collections.abc import Callable
from typing import Any, cast

import h11
import structlog

from simulation.kite.errors import general, input_error
from simulation.kite.wire import Act, Request, Response, failure

__all__ = ["Connections"]

MOST_BODY = 1 << 20

log = structlog.get_logger(__name__)

Answer = Callable[[Request], Response]


class Connections:
    """The open connections of one listening socket."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.open: set[_Connection] = set()
        self.failures: list[Exception] = []
        """What an endpoint raised: a defect of the simulation, which must not pass for one of its faults."""

    def protocol(self) -> asyncio.Protocol:
        return _Connection(self)

    def abort(self) -> None:
        for connection in tuple(self.open):
            connection.abort()


class _Connection(asyncio.Protocol):
    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._peer = ""
        self._hung = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # a TCP server's; uvloop's is of another class
        peer: Any = transport.get_extra_info("peername")
        self._peer = peer[0] if peer else ""
        self._connections.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.open.discard(self)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._hung:
            return
        try:
            self._http.receive_data(data)
            self._read()
        except h11.RemoteProtocolError:
            self._refuse(failure(input_error("That is not HTTP.")))

    def eof_received(self) -> bool:
        return False  # close

    def _read(self) -> None:
        while not self._transport.is_closing() and not self._hung:
            event = self._http.next_event()
            match event:
                case h11.Request():
                    self._head = event
                    self._body.clear()
                    if self._http.they_are_waiting_for_100_continue:
                        self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
                case h11.Data():
                    self._body += event.data
                    if len(self._body) > MOST_BODY:
                        self._refuse(failure(general(413, "The request body is too large.")))
                        return
                case h11.EndOfMessage():
                    self._answer()
                case _:  # needs more data, paused behind an answer, or over
                    return

    def _answer(self) -> None:
        head = self._head
        assert head is not None  # noqa: S101 (h11 gives it before the end)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        request = Request(head.method.decode(), head.target.decode("latin-1"), headers, bytes(self._body), self._peer)
        try:
            response = self._connections.answer(request)
        except Exception as error:
            log.exception("kite_sim_endpoint_failed", method=request.method, path=request.path)
            self._connections.failures.append(error)
            self._transport.abort()
            return
        match response.act:
            case Act.HANG:
                self._hung = True
                return
            case Act.DROP:
                self._transport.abort()
                return
            case _:
                self._send(response, headers)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self._transport.close()

    def _send(self, response: Response, headers: dict[str, str]) -> None:
        body = response.body
        fields = list(response.headers)
        if response.content_type is not None:
            fields.append(("Content-Type", response.content_type))
        if response.compress and "gzip" in headers.get("accept-encoding", ""):
            body = gzip.compress(body, compresslevel=1, mtime=0)
            fields.append(("Content-Encoding", "gzip"))
        fields.append(("Content-Length", str(len(body))))
        begin = self._http.send(h11.Response(status_code=response.status, headers=fields))
        if self._head is not None and self._head.method == b"HEAD":
            body = b""
        if response.act is Act.HALF:
            self._write(begin, self._http.send(h11.Data(data=body[: len(body) // 2])))
            self._transport.close()
            return
        self._write(begin, self._http.send(h11.Data(data=body)), self._http.send(h11.EndOfMessage()))

    def _refuse(self, response: Response) -> None:
        """The last answer on this connection."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            fields = [("Content-Type", response.content_type or ""), ("Content-Length", str(len(response.body)))]
            fields.append(("Connection", "close"))
            self._write(
                self._http.send(h11.Response(status_code=response.status, headers=fields)),
                self._http.send(h11.Data(data=response.body)),
                self._http.send(h11.EndOfMessage()),
            )
        self._transport.close()

    def _write(self, *parts: bytes | None) -> None:
        self._transport.write(b"".join(part for part in parts if part))
