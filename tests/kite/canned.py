"""A server that answers every request with the same bytes, or not at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

HANGS = b"hangs"


def answer(status: int, body: bytes, content_type: str | None = "application/json") -> bytes:
    kind = b"" if content_type is None else f"Content-Type: {content_type}\r\n".encode()
    return b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, kind, len(body), body)


@asynccontextmanager
async def canned(raw: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Its root, and the heads of the requests that came. Empty bytes: the connection is closed without an answer."""
    seen: list[bytes] = []
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        if raw == HANGS:
            await over.wait()
        writer.write(raw)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        over.set()
        server.close()


@asynccontextmanager
async def forwarding(to: str) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy that takes plain requests to this root, one a connection, and the heads that it was sent."""
    seen: list[bytes] = []
    host, _, port = to.removeprefix("http://").partition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head)
        there, back = await asyncio.open_connection(host, int(port))
        line, _, fields = head.partition(b"\r\n")
        back.write(line.replace(to.encode(), b"") + b"\r\nConnection: close\r\n" + fields)
        length = next(
            (int(field[15:]) for field in fields.split(b"\r\n") if field.lower()[:15] == b"content-length:"), 0
        )
        back.write(await reader.readexactly(length))
        writer.write(await there.read())
        for each in (back, writer):
            each.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()
