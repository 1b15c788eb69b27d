"""What one call to Kite does on the wire, and what is known of it afterwards. The server is ours, byte by byte."""

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import brokers.kite.client
from brokers.kite.account import KiteAddress
from brokers.kite.client import KiteClients
from brokers.kite.wire import Reply
from tests.kite.conftest import Clients, Serve, account
from tests.kite.loopback import OK, Visit, closed_port, hangs, proxy, serving, unreachable

FIELDS: dict[str, object] = {"tag": "TAG1", "quantity": 10, "exchange": "NSE", "tradingsymbol": "SBIN"}
HUNG = 0.25
"""Seconds after which a call that hangs is given up."""


def place(kite: Any) -> object:
    return kite.place_order("regular", transaction_type="BUY", product="MIS", order_type="MARKET", **FIELDS)


def cancel(kite: Any) -> object:
    return kite.cancel_order("regular", "1953341975595868160")


def modify(kite: Any) -> object:
    return kite.modify_order("regular", "1953341975595868160", price="330.05")


def read(kite: Any) -> object:
    return kite.orders()


def as_it_is(reply: Reply) -> Reply:
    return reply


# --- known not sent


async def test_where_nobody_listens_nothing_is_sent(clients: Clients) -> None:
    reply = await clients(f"http://127.0.0.1:{closed_port()}").call(place, as_it_is)
    assert not reply.written
    assert "refused" in reply.trouble


async def test_without_an_address_for_the_name_nothing_is_sent(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    reply = await clients("http://kite.invalid").call(place, as_it_is)
    assert not reply.written
    assert "not known" in reply.trouble


async def test_a_connection_that_does_not_come_to_stand_in_time_sends_nothing(clients: Clients) -> None:
    with unreachable() as port:
        reply = await clients(f"http://127.0.0.1:{port}", timeout=HUNG).call(place, as_it_is)
    assert not reply.written


async def test_a_certificate_that_is_not_trusted_ends_it_before_anything_is_sent(
    clients: Clients, serve: Serve, tls: tuple[ssl.SSLContext, Path]
) -> None:
    server = serve(serving(), tls=tls[0])
    reply = await clients(server.root).call(place, as_it_is)
    assert not reply.written
    assert "certificate verify failed" in reply.trouble
    assert server.requests == []


async def test_a_certificate_of_another_name_ends_it_before_anything_is_sent(
    clients: Clients, serve: Serve, trusted: ssl.SSLContext
) -> None:
    server = serve(serving(), tls=trusted)
    reply = await clients(server.root.replace("127.0.0.1", "localhost")).call(place, as_it_is)
    assert not reply.written
    assert server.requests == []


async def test_a_server_without_tls_behind_https_gets_nothing(clients: Clients, serve: Serve) -> None:
    def act(visit: Visit) -> None:
        visit.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        visit.until_closed()

    server = serve(act)
    reply = await clients(server.root.replace("http:", "https:")).call(place, as_it_is)
    assert not reply.written
    assert server.requests == []


async def test_a_tls_handshake_that_hangs_sends_nothing(clients: Clients, serve: Serve) -> None:
    server = serve(hangs)
    reply = await clients(server.root.replace("http:", "https:"), timeout=HUNG).call(place, as_it_is)
    assert not reply.written


async def test_a_proxy_that_is_not_there_sends_nothing(clients: Clients, serve: Serve) -> None:
    server = serve(serving())
    one = clients(server.root.replace("http:", "https:"), proxy=f"http://127.0.0.1:{closed_port()}")
    reply = await one.call(place, as_it_is)
    assert not reply.written
    assert server.visits == []


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden", "502 Bad Gateway"])
async def test_a_proxy_that_refuses_to_connect_sends_nothing(
    clients: Clients, serve: Serve, trusted: ssl.SSLContext, status: str
) -> None:
    server = serve(serving(), tls=trusted)
    between = serve(proxy(status=status))
    reply = await clients(server.root, proxy=between.root).call(place, as_it_is)
    assert not reply.written
    assert status[:3] in reply.trouble
    assert server.visits == []


async def test_a_proxy_that_goes_away_while_connecting_sends_nothing(
    clients: Clients, serve: Serve, trusted: ssl.SSLContext
) -> None:
    def act(visit: Visit) -> None:
        visit.request()
        visit.reset()

    server = serve(serving(), tls=trusted)
    reply = await clients(server.root, proxy=serve(act).root).call(place, as_it_is)
    assert not reply.written
    assert server.visits == []


async def test_a_certificate_behind_a_proxy_is_checked_before_anything_is_sent(
    clients: Clients, serve: Serve, tls: tuple[ssl.SSLContext, Path]
) -> None:
    server = serve(serving(), tls=tls[0])
    reply = await clients(server.root, proxy=serve(proxy()).root).call(place, as_it_is)
    assert not reply.written
    assert "certificate verify failed" in reply.trouble
    assert server.requests == []


@pytest.mark.parametrize("scheme", ["socks5", "ftp"])
async def test_a_kind_of_proxy_that_we_cannot_mark_is_not_passed_by(
    clients: Clients, serve: Serve, scheme: str
) -> None:
    server = serve(serving())
    reply = await clients(server.root, proxy=f"{scheme}://127.0.0.1:{closed_port()}").call(place, as_it_is)
    assert not reply.written
    assert server.visits == []


async def test_what_was_not_sent_in_time_is_never_sent_though_the_connection_stands_later(
    clients: Clients, serve: Serve, trusted: ssl.SSLContext
) -> None:
    hold = threading.Event()
    server = serve(serving(), tls=trusted)
    one = clients(server.root, proxy=serve(proxy(hold=hold)).root, timeout=HUNG)
    reply = await one.call(place, as_it_is)
    assert not reply.written
    hold.set()
    await one.aclose()  # its thread has ended
    assert server.requests == []


async def test_a_name_that_is_found_too_late_sends_nothing(
    clients: Clients, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = threading.Event()

    def act(visit: Visit) -> None:
        serving()(visit)
        left.set()

    hold, server, real = threading.Event(), serve(act), socket.getaddrinfo

    def late(host: Any, port: Any, *more: Any, **settings: Any) -> Any:
        hold.wait(20)
        return real("127.0.0.1", port, *more, **settings)

    monkeypatch.setattr(socket, "getaddrinfo", late)
    one = clients(f"http://kite.invalid:{server.port}", timeout=HUNG)
    assert not (await one.call(place, as_it_is)).written
    hold.set()
    await one.aclose()
    assert await asyncio.to_thread(left.wait, 10)  # it connected, found that nobody waits, and went
    assert server.requests == []


async def test_a_caller_who_goes_before_the_connection_stands_has_sent_nothing(
    clients: Clients, serve: Serve, trusted: ssl.SSLContext
) -> None:
    hold, server = threading.Event(), serve(serving(), tls=trusted)
    between = serve(proxy(hold=hold))
    one = clients(server.root, proxy=between.root)
    calling = asyncio.create_task(one.call(place, as_it_is))
    await asyncio.to_thread(between.came.get, timeout=10)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    hold.set()
    await one.aclose()
    assert server.requests == []


# --- answered


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxy"])
async def test_an_answer_comes_back_as_it_is(
    clients: Clients, serve: Serve, trusted: ssl.SSLContext, secure: bool, proxied: bool
) -> None:
    server = serve(serving(), tls=trusted if secure else None)
    between = serve(proxy() if secure else serving()) if proxied else None
    reply = await clients(server.root, proxy=between.root if between else None).call(place, as_it_is)
    assert reply == Reply(written=True, status=200, content_type="application/json", body=OK)
    reached = between if between and not secure else server
    (request,) = reached.requests
    assert b"/orders/regular HTTP/1.1" in request
    assert b"tag=TAG1" in request


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "429 Too Many Requests", "504 Gone Away"])
async def test_whatever_the_status_the_body_is_kept(clients: Clients, serve: Serve, status: str) -> None:
    server = serve(serving(b"[1, 2]", status=status, kind=None))
    reply = await clients(server.root).call(place, as_it_is)
    assert (reply.status, reply.content_type, reply.body, reply.trouble) == (int(status[:3]), "", b"[1, 2]", "")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Again", "308 Always"])
async def test_a_redirect_is_not_followed(clients: Clients, serve: Serve, status: str) -> None:
    server = serve(serving(status=status, more="Location: /orders/amo\r\n"))
    assert (await clients(server.root).call(place, as_it_is)).status == int(status[:3])
    assert len(server.requests) == 1


@pytest.mark.parametrize("ask", [place, modify, cancel, read])
@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
async def test_nothing_is_asked_twice_though_the_server_says_when(
    clients: Clients, serve: Serve, ask: Any, status: str
) -> None:
    server = serve(serving(status=status, more="Retry-After: 0\r\n"))
    await clients(server.root).call(ask, as_it_is)
    assert len(server.requests) == 1


async def test_the_route_prefix_stands_before_all_routes_but_the_dumps(clients: Clients, serve: Serve) -> None:
    server = serve(serving())
    one = clients(server.root, route_prefix="/oms")
    for ask in (place, modify, cancel, read, lambda kite: kite.instruments("NSE"), lambda kite: kite.quote("NSE:SBIN")):
        await one.call(ask, as_it_is)
    paths = [request.split()[1].decode() for request in server.requests]
    order = "/oms/orders/regular/1953341975595868160"
    assert paths[:4] == ["/oms/orders/regular", order, order, "/oms/orders"]
    assert paths[4:] == ["/instruments/NSE", "/oms/quote?i=NSE%3ASBIN"]


async def test_the_surroundings_change_nothing(
    clients: Clients, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    server = serve(serving())
    assert (await clients(server.root).call(place, as_it_is)).status == 200
    assert b"Authorization: token apikey0123456789:tokenCANARYtoken0123456789abcdef\r\n" in server.requests[0]


async def test_only_ipv4_goes_out(clients: Clients, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server, real, tried = serve(serving()), socket.getaddrinfo, []

    def both(host: Any, port: Any, *_: Any, **__: Any) -> Any:
        six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
        return [six, *real("127.0.0.1", port, socket.AF_INET, socket.SOCK_STREAM)]

    class Seen(socket.socket):
        def connect(self, address: Any) -> None:
            tried.append(self.family)
            super().connect(address)

    monkeypatch.setattr(socket, "getaddrinfo", both)
    monkeypatch.setattr(socket, "socket", Seen)
    assert (await clients(f"http://kite.invalid:{server.port}").call(place, as_it_is)).status == 200
    assert tried == [socket.AF_INET]


# --- unknown


def drops(visit: Visit) -> None:
    """With the first byte; not before, when connecting itself would fail and nothing be written."""
    visit.sock.recv(1, socket.MSG_PEEK)
    visit.reset()


def drops_after_reading(visit: Visit) -> None:
    visit.request()


def resets_after_reading(visit: Visit) -> None:
    visit.request()
    visit.reset()


def answers_half(visit: Visit) -> None:
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n" + OK[:20])


def answers_half_a_chunk(visit: Visit) -> None:
    visit.request()
    visit.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + OK[:9]
    )


def answers_half_a_head(visit: Visit) -> None:
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Ty")


def answers_garbage(visit: Visit) -> None:
    visit.request()
    visit.send(b"\x00\x01\x02 not HTTP at all\r\n\r\n")


def answers_bad_gzip(visit: Visit) -> None:
    visit.request()
    visit.answer(b"this is not gzip", more="Content-Encoding: gzip\r\n")


def answers_part_and_hangs(visit: Visit) -> None:
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n" + OK[:20])
    visit.until_closed()


@pytest.mark.parametrize("ask", [place, modify, cancel, read])
@pytest.mark.parametrize(
    "act",
    [drops, drops_after_reading, resets_after_reading, answers_half, answers_half_a_chunk, answers_half_a_head,
     answers_garbage, answers_bad_gzip],
)  # fmt: skip
async def test_a_connection_that_breaks_leaves_it_unknown_and_is_not_tried_again(
    clients: Clients, serve: Serve, act: Any, ask: Any
) -> None:
    server = serve(act, serving())
    reply = await clients(server.root).call(ask, as_it_is)
    assert reply.written
    assert reply.trouble or not reply.body
    assert len(server.visits) == 1


async def test_a_connection_that_breaks_at_once_is_judged_by_what_was_written(clients: Clients, serve: Serve) -> None:
    server = serve(lambda visit: visit.reset(), serving())
    reply = await clients(server.root).call(place, as_it_is)
    assert reply.trouble
    assert (len(server.visits), server.requests) == (1, [])


@pytest.mark.parametrize("act", [hangs, answers_part_and_hangs])
async def test_an_answer_that_does_not_come_leaves_it_unknown(clients: Clients, serve: Serve, act: Any) -> None:
    server = serve(act)
    reply = await clients(server.root, timeout=HUNG).call(place, as_it_is)
    assert reply.written
    assert reply.trouble
    assert len(server.requests) == 1


async def test_an_answer_that_trickles_ends_with_the_whole_time(clients: Clients, serve: Serve) -> None:
    gone = threading.Event()

    def trickles(visit: Visit) -> None:
        visit.request()
        visit.send(b"HTTP/1.1 200 OK\r\n")
        try:
            while not gone.wait(0.02):
                visit.send(b"X-Slow: 1\r\n")
        except OSError:
            gone.set()

    one = clients(serve(trickles).root, timeout=HUNG)
    reply = await one.call(place, as_it_is)
    assert (reply.written, reply.status) == (True, None)
    await one.aclose()  # its thread was woken, though every single read is quick
    assert gone.wait(10)


async def test_a_request_that_a_proxy_has_passed_on_is_unknown_when_it_goes_away(
    clients: Clients, serve: Serve, trusted: ssl.SSLContext
) -> None:
    server = serve(drops_after_reading, tls=trusted)
    reply = await clients(server.root, proxy=serve(proxy()).root).call(place, as_it_is)
    assert reply.written
    assert reply.trouble
    assert len(server.requests) == 1


async def test_a_body_without_end_is_not_read_for_ever(
    clients: Clients, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brokers.kite.wire.LARGEST_BODY", 1000)
    server = serve(serving(b" " * 1001 + OK))
    reply = await clients(server.root).call(place, as_it_is)
    assert (reply.written, reply.status) == (True, 200)
    assert "larger" in reply.trouble


# --- connections and clients


async def test_a_connection_is_used_again(clients: Clients, serve: Serve) -> None:
    server = serve(serving())
    one = clients(server.root)
    for _ in range(3):
        assert (await one.call(place, as_it_is)).status == 200
    assert (len(server.visits), len(server.requests)) == (1, 3)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_connection_that_the_server_closed_meanwhile_is_noticed_before_anything_is_written(
    clients: Clients, serve: Serve, trusted: ssl.SSLContext, secure: bool
) -> None:
    closed = threading.Event()

    def once(visit: Visit) -> None:
        visit.request()
        visit.answer()
        visit.sock.close()
        closed.set()

    server = serve(once, serving(), tls=trusted if secure else None)
    one = clients(server.root)
    assert (await one.call(place, as_it_is)).status == 200
    assert await asyncio.to_thread(closed.wait, 10)
    assert (await one.call(place, as_it_is)).status == 200
    assert (len(server.visits), len(server.requests)) == (2, 2)


async def test_a_connection_that_was_idle_too_long_is_not_trusted(
    clients: Clients, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brokers.kite.client, "FRESH", -1.0)
    server = serve(serving())
    one = clients(server.root)
    for _ in range(2):
        assert (await one.call(place, as_it_is)).status == 200
    assert len(server.visits) == 2


@pytest.mark.parametrize("act", [hangs, answers_half, serving(b"<html>", status="502 Bad Gateway", kind="text/html")])
async def test_after_an_outcome_that_is_unknown_a_new_connection_is_made(
    clients: Clients, serve: Serve, act: Any
) -> None:
    server = serve(act, serving())
    one = clients(server.root, timeout=1.0)
    await one.call(place, as_it_is)
    assert (await one.call(place, as_it_is)).status == 200
    assert len(server.visits) == 2


async def test_a_call_that_hangs_delays_no_other(clients: Clients, serve: Serve) -> None:
    server = serve(hangs, serving())
    one = clients(server.root)
    hanging = asyncio.create_task(one.call(place, as_it_is))
    await asyncio.to_thread(server.came.get, timeout=10)
    for _ in range(5):
        assert (await one.call(place, as_it_is)).status == 200
    assert not hanging.done()
    assert len(server.visits) == 2
    hanging.cancel()
    server.visits[0].sock.shutdown(socket.SHUT_RDWR)


async def test_a_call_whose_caller_has_gone_ends_by_itself_and_gives_its_client_back(
    clients: Clients, serve: Serve
) -> None:
    hold = threading.Event()

    def slow(visit: Visit) -> None:
        visit.request()
        hold.wait(20)
        visit.answer()
        serving()(visit)

    server = serve(slow)
    one = clients(server.root)
    calling = asyncio.create_task(one.call(place, as_it_is))
    await asyncio.to_thread(server.came.get, timeout=10)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    hold.set()
    while one.under_way:  # noqa: ASYNC110 (nothing tells when a thread has ended)
        await asyncio.sleep(0)
    assert (await one.call(place, as_it_is)).status == 200
    assert (len(server.visits), len(server.requests)) == (1, 2)


async def test_many_calls_at_once_are_all_answered(clients: Clients, serve: Serve) -> None:
    server = serve(serving())
    one = clients(server.root)
    replies = await asyncio.gather(*(one.call(place, as_it_is) for _ in range(40)))
    assert {reply.status for reply in replies} == {200}
    assert len(server.requests) == 40


async def test_without_room_for_another_call_nothing_is_sent(
    clients: Clients, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brokers.kite.client, "MOST_CALLS", 0)
    server = serve(serving())
    reply = await clients(server.root, timeout=HUNG).call(place, as_it_is)
    assert not reply.written
    assert server.visits == []


async def test_closing_lets_calls_end_and_takes_no_more(clients: Clients, serve: Serve) -> None:
    hold = threading.Event()

    def slow(visit: Visit) -> None:
        visit.request()
        hold.wait(20)
        visit.answer()

    server = serve(slow)
    one = clients(server.root)
    calling = asyncio.create_task(one.call(place, as_it_is))
    await asyncio.to_thread(server.came.get, timeout=10)
    closing = asyncio.create_task(one.aclose())
    while not one.closed:  # noqa: ASYNC110
        await asyncio.sleep(0)
    later = await one.call(place, as_it_is)
    assert not later.written
    hold.set()
    assert (await calling).status == 200
    await closing
    assert len(server.requests) == 1


async def test_without_threads_nothing_is_sent(serve: Serve) -> None:
    ended = ThreadPoolExecutor(1)
    ended.shutdown()
    server = serve(serving())
    one = KiteClients(account(), KiteAddress(root=server.root), executor=ended)
    for _ in range(2):
        assert not (await one.call(place, as_it_is)).written
    assert server.visits == []


def test_the_official_client_and_its_reactor_come_at_first_use_only() -> None:
    script = """
import sys
from brokers.kite.broker import KiteBroker
from brokers.kite.client import load

assert not {"kiteconnect", "twisted.internet.reactor"} & sys.modules.keys()
load()
assert "kiteconnect" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


async def test_the_hook_hears_when_the_request_was_written(clients: Clients, serve: Serve) -> None:
    heard: list[int] = []
    server = serve(serving())
    one = clients(server.root)
    await one.call(place, as_it_is, on_written=heard.append)
    await one.call(place, as_it_is, on_written=heard.append)
    assert len(heard) == 2
    await one.call(place, as_it_is)
    assert len(heard) == 2
