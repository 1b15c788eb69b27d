"""One connection to Kite's stream, against a real server, with a clock that the test turns."""

import asyncio
import datetime as dt
import ipaddress
import logging
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from brokers.kite.account import KiteAddress
from brokers.kite.packets import Noticed, decode
from brokers.kite.socket import BadAddress, KiteSocket, Lost, Opened, SessionRefused, SocketItem
from brokers.port import BrokerUnavailable, SessionExpired
from domain.values import SECOND, Duration
from simulation.clock import VirtualClock
from simulation.kite.faults import Fault, Play
from tests.kite.stream_world import NOON, SBIN, World, account, openings, reading, reasons, tick, token_of


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.serving():
        yield world


@asynccontextmanager
async def odd_server(
    handler: object = None, process_request: object = None
) -> AsyncIterator[tuple[KiteAddress, list[Request]]]:
    """A WebSocket server that does what Kite would not."""
    requests: list[Request] = []

    async def stay(connection: ServerConnection) -> None:
        await connection.wait_closed()

    def look(connection: ServerConnection, request: Request) -> Response | None:
        requests.append(request)
        return process_request(connection, request) if callable(process_request) else None

    async with serve(handler or stay, "127.0.0.1", 0, process_request=look) as server:  # type: ignore[arg-type]
        port = next(iter(server.sockets)).getsockname()[1]
        yield KiteAddress(ws_root=f"ws://127.0.0.1:{port}"), requests


async def test_what_the_server_sends_comes_in_its_order(world: World) -> None:
    mine = world.login(account())
    async with reading(world.socket(mine).items()) as reader:
        await world.until(lambda: len(reader.items) == 1)
        for frame in (b"\x00", "text", b"", "{", b"\x00\x01"):
            if isinstance(frame, str):
                world.server.say(frame, mine.kite_user_id)
            else:
                world.server.send(frame, mine.kite_user_id)
        await world.until(lambda: len(reader.items) == 6)
        assert reader.items == [Opened(), b"\x00", "text", b"", "{", b"\x00\x01"]


async def test_what_is_said_reaches_the_server_without_waiting(world: World) -> None:
    mine = world.login(account())
    socket = world.socket(mine)
    socket.say("lost: there is no connection yet")
    async with reading(socket.items()) as reader:
        await world.until(lambda: socket.is_open)
        token = token_of(SBIN)
        socket.say(f'{{"a": "subscribe", "v": [{token}]}}')
        await world.until(lambda: token in world.server.subscribed(mine.kite_user_id))
        world.server.on_ticks([tick(SBIN, "612.35")])
        await world.until(lambda: len(reader.of(bytes)) == 1)
        assert str(decode(reader.of(bytes)[0], Noticed())[0].last_price) == "612.35"


async def test_the_handshake_carries_version_key_token_and_what_else_the_address_wants() -> None:
    async with odd_server() as (address, requests):
        more = KiteAddress(ws_root=address.ws_root, ws_query=(("user_id", "{user_id}"), ("v", "a b&c")))
        async with reading(KiteSocket(account(session="to+ken"), more, VirtualClock(NOON)).items()) as reader:
            await World().until(lambda: openings(reader) == 1)
    [request] = requests
    assert request.path == "/?api_key=apikey-of-AB1234&access_token=to%2Bken&user_id=AB1234&v=a+b%26c"
    assert request.headers["X-Kite-Version"] == "3"
    assert "Sec-WebSocket-Extensions" not in request.headers


async def test_a_silent_connection_is_dropped_after_five_seconds_and_made_again(world: World) -> None:
    mine = world.login(account())
    async with reading(world.socket(mine).items()) as reader:
        await world.until(lambda: len(world.server.connections) == 1)
        world.server.trouble(Play(Fault.F14_SILENT_STREAM, 60 * SECOND), mine.kite_user_id)
        took = await world.pass_until(lambda: bool(reasons(reader)))
        assert reasons(reader) == ["no frame for 5 s"]
        assert 5 * SECOND <= took <= 7 * SECOND
        await world.pass_until(lambda: openings(reader) == 2)


async def test_heartbeats_alone_keep_a_connection(world: World) -> None:
    mine = world.login(account())
    async with reading(world.socket(mine).items()) as reader:
        await world.until(lambda: len(world.server.connections) == 1)
        await world.pass_until(lambda: len(reader.of(bytes)) == 15)
        assert reasons(reader) == []
        assert world.clock.now() - NOON >= 30 * SECOND


async def test_time_in_which_nobody_reads_is_no_silence(world: World) -> None:
    mine = world.login(account())
    async with reading(world.socket(mine).items()) as reader:
        await world.until(lambda: len(reader.items) == 1)
        reader.gate.clear()
        world.server.say("one", mine.kite_user_id)
        await world.until(lambda: len(reader.items) == 2)
        for _ in range(60):
            await world.clock.advance(SECOND)
        assert reasons(reader) == []
        reader.gate.set()
        await world.until(lambda: len(reader.of(bytes)) >= 20)  # the heartbeats of that minute, none lost
        assert reasons(reader) == []


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_session_ends_it_and_is_not_tried_again(status: int) -> None:
    async with odd_server(process_request=lambda connection, _: connection.respond(status, "no\n")) as (address, asked):
        with pytest.raises(SessionRefused) as refused:
            async for _ in KiteSocket(account(), address, VirtualClock(NOON)).items():
                pass
        assert isinstance(refused.value, SessionExpired)
        assert str(status) in str(refused.value)
        assert len(asked) == 1


async def test_a_fourth_connection_of_a_key_waits_a_minute_and_comes_when_there_is_room(world: World) -> None:
    mine = world.login(account())
    first = [world.socket(mine) for _ in range(3)]
    async with reading(first[0].items()) as one, reading(first[1].items()), reading(first[2].items()):
        await world.until(lambda: len(world.server.connections) == 3)
        async with reading(world.socket(mine).items()) as fourth:
            await world.until(lambda: len(fourth.items) == 1)
            assert fourth.items[0].reason == "too many connections of this api key (429)"
            assert fourth.items[0].retry_in >= 60 * SECOND
            await one.close()
            await world.until(lambda: len(world.server.connections) == 2)
            took = await world.pass_until(lambda: openings(fourth) == 1)
            assert took >= 60 * SECOND
            assert world.server.refusals == [429]


async def first(address: KiteAddress, tls: ssl.SSLContext | None = None) -> SocketItem:
    """What a connection to there begins with."""
    async with aclosing(KiteSocket(account(), address, VirtualClock(NOON), tls=tls).items()) as items:
        return await anext(items)


@pytest.mark.parametrize(("status", "least"), [(400, 60 * SECOND), (404, 60 * SECOND), (302, 60 * SECOND), (502, 0)])
async def test_other_refusals_wait_a_minute_and_server_errors_back_off(status: int, least: Duration) -> None:
    async with odd_server(process_request=lambda connection, _: connection.respond(status, "no\n")) as (address, _):
        lost = await first(address)
    assert isinstance(lost, Lost)
    assert lost.reason == f"the handshake was answered with {status}"
    assert least < lost.retry_in <= least + SECOND


async def test_redirects_are_not_followed() -> None:
    async with odd_server() as (other, asked):

        def redirect(connection: ServerConnection, _request: Request) -> Response:
            response = connection.respond(302, "there\n")
            response.headers["Location"] = other.ws_root
            return response

        async with odd_server(process_request=redirect) as (address, _):
            assert isinstance(await first(address), Lost)
        assert asked == []


async def test_waits_grow_to_a_minute_and_are_random_below_their_bound() -> None:
    nobody = KiteAddress(ws_root="ws://127.0.0.1:9")

    async def waits(seed: int) -> list[int]:
        clock = VirtualClock(NOON)
        socket = KiteSocket(account(), nobody, clock, rng=random.Random(seed))
        async with reading(socket.items()) as reader:
            world = World()
            world.clock = clock
            await world.pass_until(lambda: len(reader.of(Lost)) >= 10, 60 * SECOND)
            return [lost.retry_in for lost in reader.of(Lost)][:10]

    drawn = [await waits(seed) for seed in range(20)]
    for n, bound in enumerate([1, 2, 4, 8, 16, 32, 60, 60, 60, 60]):
        column = [row[n] for row in drawn]
        assert max(column) <= bound * SECOND
        assert min(column) >= SECOND // 4
        assert len(set(column)) == len(column)


async def test_only_a_connection_that_lasted_and_brought_something_starts_the_waits_anew(world: World) -> None:
    mine = world.login(account())
    async with reading(world.socket(mine).items()) as reader:
        for n in range(6):  # each brings a frame and is cut at once
            await world.pass_until(lambda n=n: openings(reader) == n + 1)  # type: ignore[misc]
            world.server.say("hello", mine.kite_user_id)
            await world.until(lambda n=n: len(reader.of(str)) == n + 1)  # type: ignore[misc]
            world.server.abort()
            await world.until(lambda n=n: len(reasons(reader)) == n + 1)  # type: ignore[misc]
        assert max(lost.retry_in for lost in reader.of(Lost)) > 4 * SECOND
        await world.pass_until(lambda: openings(reader) == 7)
        heard = len(reader.of(bytes))
        await world.pass_until(lambda: len(reader.of(bytes)) >= heard + 4)
        world.server.abort()
        await world.until(lambda: len(reasons(reader)) == 7)
        assert reader.of(Lost)[-1].retry_in <= SECOND


async def test_a_server_that_dies_and_comes_back_is_found_again() -> None:
    world = World()
    mine = world.login(account())
    async with world.serving():
        reader_of = reading(world.socket(mine).items())
        reader = await reader_of.__aenter__()
        await world.until(lambda: len(world.server.connections) == 1)
        world.server.abort()
    await world.until(lambda: bool(reasons(reader)))
    assert reasons(reader)[0].startswith("the connection broke off")
    await world.pass_until(lambda: len(reasons(reader)) >= 4)
    assert all(reason.startswith("no connection: ") for reason in reasons(reader)[1:])
    async with world.serving():
        await world.pass_until(lambda: openings(reader) == 2)
        await reader_of.__aexit__(None, None, None)


async def test_a_connection_that_is_dropped_on_purpose_is_made_again(world: World) -> None:
    mine = world.login(account())
    socket = world.socket(mine)
    socket.drop("there is none")
    async with reading(socket.items()) as reader:
        await world.until(lambda: openings(reader) == 1)
        socket.drop("because")
        await world.pass_until(lambda: openings(reader) == 2)
        assert reasons(reader) == ["because"]


async def test_a_frame_beyond_all_measure_costs_the_connection_and_nothing_else(world: World) -> None:
    mine = world.login(account())
    async with reading(world.socket(mine).items()) as reader:
        await world.until(lambda: len(world.server.connections) == 1)
        world.server.send(bytes(5 * 2**20), mine.kite_user_id)
        await world.pass_until(lambda: openings(reader) == 2)
        assert len(reasons(reader)) == 1


async def test_leaving_closes_the_connection_and_leaves_no_task_behind(world: World) -> None:
    mine = world.login(account())
    before = asyncio.all_tasks()
    async with reading(world.socket(mine).items()):
        await world.until(lambda: len(world.server.connections) == 1)
    await world.until(lambda: not world.server.connections)
    await world.until(lambda: asyncio.all_tasks() <= before)


@pytest.mark.parametrize("root", ["https://ws.kite.trade", "ws://", "ws://host:port", "nonsense", "ws://a..b"])
async def test_an_address_that_is_none_is_said_at_once_without_the_token(root: str) -> None:
    with pytest.raises(BadAddress) as wrong:
        async for _ in KiteSocket(account(), KiteAddress(ws_root=root), VirtualClock(NOON)).items():
            pass
    assert isinstance(wrong.value, BrokerUnavailable)
    assert "t0psecret" not in str(wrong.value)
    assert wrong.value.__context__ is None


async def test_no_log_line_and_no_reason_shows_the_session(
    world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    mine = world.login(account())
    async with reading(world.socket(mine).items()) as reader:
        await world.until(lambda: len(world.server.connections) == 1)
        await world.pass_until(lambda: len(reader.of(bytes)) == 2)
        world.server.abort()
        await world.pass_until(lambda: openings(reader) == 2)
        world.server.trouble(Play(Fault.F12_STREAM_GAP, 5 * SECOND), mine.kite_user_id)
        await world.pass_until(lambda: openings(reader) == 3)
        world.logout(mine)
        world.server.abort()
        await world.pass_until(reader.task.done)
        told = [*reasons(reader), str(reader.task.exception()), repr(reader.task.exception()), repr(mine)]

    async def tell_the_secret(connection: ServerConnection) -> None:
        await connection.close(4000, f"go away {mine.access_token} of {mine.api_key}")

    async with (
        odd_server(tell_the_secret) as (address, _),
        aclosing(KiteSocket(mine, address, VirtualClock(NOON)).items()) as items,
    ):
        assert isinstance(await anext(items), Opened)
        lost = await anext(items)
        assert isinstance(lost, Lost)
        assert lost.reason == "Kite closed the connection: 4000 go away … of …"
    out, err = capfd.readouterr()
    ours = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]  # of odd_server
    for text in (*told, out, err, *ours):
        assert mine.access_token not in text
        assert mine.api_key not in text


# --- TLS ------------------------------------------------------------------------------------------------------------


def certificate(folder: Path, host: str) -> Path:
    """A certificate for this host, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    names: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
    ]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{host}.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + secret)
    return path


@asynccontextmanager
async def secure_server(path: Path) -> AsyncIterator[tuple[KiteAddress, list[str]]]:
    asked: list[str] = []

    async def stay(connection: ServerConnection) -> None:
        asked.append("a session")
        await connection.wait_closed()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    async with serve(stay, "127.0.0.1", 0, ssl=context) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield KiteAddress(ws_root=f"wss://127.0.0.1:{port}"), asked


async def test_the_token_is_handed_to_nobody_whose_certificate_is_not_known_or_not_of_that_host(tmp_path: Path) -> None:
    own, other = certificate(tmp_path, "127.0.0.1"), certificate(tmp_path, "evil.example")
    async with secure_server(own) as (address, asked):
        unknown = await first(address)
        assert isinstance(unknown, Lost)
        assert "certificate verify failed" in unknown.reason
        assert isinstance(await first(address, ssl.create_default_context(cafile=own)), Opened)
        assert asked == ["a session"]
    async with secure_server(other) as (address, asked):
        wrong_host = await first(address, ssl.create_default_context(cafile=other))
        assert isinstance(wrong_host, Lost)
        assert "certificate is not valid for" in wrong_host.reason
        assert asked == []
