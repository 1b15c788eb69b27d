"""The proxy that loses replies: each fault is what it says, and nothing else changes on the way."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from bahi.prove.framing import HTTP, RESP, Malformed, resp_end
from bahi.prove.proxy import Faults, Lose, Proxy
from bahi.servers import EmbeddedRedis
from eventstore.clients import command, log_client
from eventstore.errors import LogUnavailable

SET = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$4\r\n\r\n\r\n\r\n"
NESTED = b"*2\r\n*3\r\n:1\r\n$-1\r\n*-1\r\n*0\r\n"


@pytest.mark.parametrize("message", [SET, NESTED, b"+OK\r\n", b"-ERR no\r\n", b":12\r\n", b"$-1\r\n", b"*0\r\n"])
def test_a_redis_message_ends_where_it_ends(message: bytes) -> None:
    assert resp_end(message + b"+and more") == len(message)
    assert [resp_end(message[:size]) for size in range(len(message))] == [None] * len(message)
    assert resp_end(b"+before\r\n" + message, 9) == 9 + len(message)


def test_what_is_no_redis_message_is_refused() -> None:
    for odd in (b"GET a\r\n", b"$many\r\n", b"%1\r\n"):
        with pytest.raises(Malformed):
            resp_end(odd)


GET = b"GET /orders HTTP/1.1\r\nhost: a\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
POST = b"POST /orders HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\na=b"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEADER_ONLY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


@pytest.mark.parametrize("request_", [GET, POST])
def test_an_http_request_ends_where_it_ends(request_: bytes) -> None:
    assert HTTP.request_end(request_ + GET) == len(request_)
    assert {HTTP.request_end(request_[:size]) for size in range(1, len(request_))} == {None}


@pytest.mark.parametrize(("asked", "reply"), [(GET, SIZED), (POST, CHUNKED), (HEAD, HEADER_ONLY)])
def test_an_http_reply_ends_where_it_ends(asked: bytes, reply: bytes) -> None:
    assert HTTP.reply_end(reply + SIZED, asked) == len(reply)
    assert {HTTP.reply_end(reply[:size], asked) for size in range(1, len(reply))} == {None}


# --- Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    async with EmbeddedRedis(tmp_path) as server:
        yield server


@asynccontextmanager
async def between(server: EmbeddedRedis, faults: Faults) -> AsyncIterator[Proxy]:
    assert server.socket is not None
    async with Proxy(server.socket.with_name("proxy.sock"), server.socket, RESP, faults) as proxy:
        yield proxy


def incr(request: bytes) -> bool:
    return b"\r\nINCR\r\n" in request


async def counted(server: EmbeddedRedis) -> int:
    direct = log_client(server.url)
    try:
        return int(await direct.get("n") or 0)
    finally:
        await direct.aclose()


@pytest.mark.parametrize(
    ("fault", "done", "raises"),
    [
        (Lose.REQUEST_CUT, 1, LogUnavailable),
        (Lose.CUT_AFTER_REQUEST, 2, LogUnavailable),
        (Lose.CUT_IN_REPLY, 2, LogUnavailable),
        (Lose.REPLY_SWALLOWED, 2, LogUnavailable),
        (Lose.REPLY_DELAYED, 2, None),
    ],
)
async def test_the_second_reply_is_lost_and_the_server_knows_what_it_did(
    server: EmbeddedRedis, fault: Lose, done: int, raises: type[Exception] | None
) -> None:
    faults = Faults(random.Random(1), delay=0.05, eligible=incr)
    faults.arm(fault, 2)
    async with between(server, faults) as proxy:
        client = log_client(f"unix://{proxy.at}")
        client.connection_pool.connection_kwargs["socket_timeout"] = 1.0
        try:
            assert await command(client, "INCR", "n") == 1
            if raises is None:
                assert await command(client, "INCR", "n") == 2
            else:
                with pytest.raises(raises):
                    await command(client, "INCR", "n")
            assert await counted(server) == done
            assert await command(client, "INCR", "n") == done + 1, "a new connection works"
        finally:
            await client.aclose()
    assert faults.fired == {fault: 1}
    assert proxy.connections == (1 if raises is None else 2)


async def test_what_is_not_faulty_passes_unchanged_also_in_pipelines_and_subscriptions(server: EmbeddedRedis) -> None:
    async with between(server, Faults(random.Random(1))) as proxy:
        client = log_client(f"unix://{proxy.at}")
        client.connection_pool.connection_kwargs["socket_timeout"] = 60
        try:
            big = bytes(range(256)) * 2_000
            pipeline = client.pipeline(transaction=True)
            for number in range(50):
                pipeline.set(f"k{number}", big)
            pipeline.mget(*(f"k{number}" for number in range(50)))
            assert (await pipeline.execute())[-1] == [big] * 50
            async with client.pubsub() as heard:
                await heard.subscribe("news")
                assert (await heard.get_message(timeout=60))["type"] == "subscribe"
                await client.publish("news", b"once")
                assert (await heard.get_message(timeout=60))["data"] == b"once"
        finally:
            await client.aclose()


async def test_the_same_seed_loses_the_same_replies(server: EmbeddedRedis) -> None:
    async def story() -> list[str]:
        faults, told = Faults(random.Random(7), every=5, delay=0.01, eligible=incr), []
        faults.turn(True)
        async with between(server, faults) as proxy:
            client = log_client(f"unix://{proxy.at}")
            client.connection_pool.connection_kwargs["socket_timeout"] = 0.5
            try:
                for _ in range(60):
                    try:
                        await command(client, "INCR", "n")
                        told.append("done")
                    except LogUnavailable as error:
                        told.append(type(error).__name__)
            finally:
                await client.aclose()
        assert len(faults.fired) >= 4
        faults.turn(False)
        assert faults.of(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n") is None
        return told

    assert await story() == await story()


# --- HTTP -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def shop(orders: list[str]) -> AsyncIterator[tuple[str, int]]:
    """A broker that writes down what was ordered."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = b""
        while chunk := await reader.read(65536):
            buffer += chunk
            while buffer and (end := HTTP.request_end(buffer)) is not None:
                orders.append(buffer[:end].rpartition(b"\r\n\r\n")[2].decode())
                buffer = buffer[end:]
                writer.write(SIZED)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("fault", "done", "raises"),
    [
        (Lose.REQUEST_CUT, ["one"], httpx.RemoteProtocolError),
        (Lose.CUT_AFTER_REQUEST, ["one", "two"], httpx.RemoteProtocolError),
        (Lose.CUT_IN_REPLY, ["one", "two"], httpx.RemoteProtocolError),
        (Lose.REPLY_SWALLOWED, ["one", "two"], httpx.ReadTimeout),
    ],
)
async def test_an_order_whose_answer_is_lost_was_placed(
    fault: Lose, done: list[str], raises: type[httpx.HTTPError]
) -> None:
    faults = Faults(random.Random(3))
    faults.arm(fault, 2)
    orders: list[str] = []
    ask: Callable[[str], Awaitable[httpx.Response]]
    async with shop(orders) as to, Proxy(("127.0.0.1", 0), to, HTTP, faults) as proxy:
        assert not isinstance(proxy.at, Path)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.at[1]}", timeout=0.5) as client:
            ask = lambda what: client.post("/orders", content=what)  # noqa: E731
            assert (await ask("one")).text == "ok"
            with pytest.raises(raises):
                await ask("two")
            assert orders == done
            assert (await ask("three")).text == "ok"
    assert faults.fired == {fault: 1}
