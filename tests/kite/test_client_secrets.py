"""Whatever goes wrong, no secret of the account is in a log line, a text, a `repr` or a traceback."""

import asyncio
import logging
import ssl
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.broker import KiteBroker
from brokers.kite.redact import Redactor, proxy_secrets
from brokers.port import BrokerError
from domain.values import OrderRequest, Product, Side, Tag
from simulation.clock import VirtualClock
from tests.kite.conftest import Serve, account
from tests.kite.loopback import Act, Visit, closed_port, hangs, proxy, serving
from tests.kite.world import INSTRUMENTS

TOKEN = "canaryTOKENcanary0123456789abcdef"
PASSWORD = "canary%40PASSWORD"
CANARIES = (TOKEN, PASSWORD, "canary@PASSWORD", "Y2FuYXJ5")  # the last: how base64 begins for "canary"


def echoes(visit: Visit) -> None:
    """Says everything back that it got, in head and body, as an error."""
    while (request := visit.request()) is not None:
        heard = request.replace(b"\r\n", b" ").replace(b'"', b"'").decode("latin-1")
        said = f'{{"status":"error","message":"Bad request: {heard}","error_type":"InputException"}}'
        visit.answer(said.encode(), status=f"400 Bad {TOKEN}", more=f"X-Echo: {heard[:300]}\r\n")


def echoes_html(visit: Visit) -> None:
    while (request := visit.request()) is not None:
        visit.answer(b"<html>" + request + b"</html>", status="502 Bad Gateway", kind="text/html")


def echoes_broken(visit: Visit) -> None:
    visit.request()
    visit.send(f"HTTP/1.1 200 {TOKEN}\r\nBroken {TOKEN}\r\nContent-Length: 99999\r\n\r\n{TOKEN}".encode())


def echoes_garbage(visit: Visit) -> None:
    visit.request()
    visit.send(f"{TOKEN} {PASSWORD}\r\n\r\n".encode())


KINDS: dict[str, Act] = {
    "refused with everything said back": echoes,
    "html with everything said back": echoes_html,
    "half an answer": echoes_broken,
    "no HTTP": echoes_garbage,
    "redirected": serving(status="307 Elsewhere", more="Location: /elsewhere\r\n"),
    "dropped": lambda visit: visit.reset(),
    "hangs": hangs,
    "answered": serving(),
}


@pytest.fixture
async def brokers() -> AsyncIterator[Any]:
    made: list[KiteBroker] = []

    async def gate(what: str) -> None:
        pass

    def make(root: str, one: KiteAccount) -> KiteBroker:
        made.append(
            KiteBroker(
                one,
                KiteAddress(root=root, timeout=0.3),
                clock=VirtualClock(1_000),
                instruments=INSTRUMENTS,
                gate=gate,
                refused=lambda _: None,
                hints=lambda _: _none(),
            )
        )
        return made[-1]

    yield make
    for each in made:
        await each.aclose()


async def _none() -> AsyncIterator[str]:
    return
    yield ""


async def everything(broker: KiteBroker) -> str:
    """All that can be heard of calls of every kind."""
    heard: list[str] = [repr(broker), str(vars(broker)), str(vars(broker._clients))]
    order = OrderRequest(symbol="NSE:SBIN", side=Side.BUY, quantity=1, product=Product.MIS, tag=Tag("TAG"))
    heard += [repr(await broker.place(order)), repr(await broker.cancel("1"))]
    try:
        await broker.orders()
    except BrokerError as error:
        structlog.get_logger().warning("not read", exc_info=error)
        logging.getLogger("test").exception("not read")
        heard += [repr(error), "".join(traceback.format_exception(error)), _chained(error)]
    return "\n".join(heard)


def _chained(error: BaseException | None) -> str:
    heard = ""
    while error is not None:
        heard += f"{error!r} {vars(error)} {error.args}\n"
        error = error.__cause__ or error.__context__
    return heard


def assert_silent(*heard: str) -> None:
    for text in heard:
        for canary in CANARIES:
            assert canary not in text


@pytest.mark.parametrize("kind", KINDS)
async def test_no_failure_of_the_server_tells_a_secret(
    kind: str, serve: Serve, brokers: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    asyncio.get_running_loop().set_debug(True)
    caplog.set_level(logging.DEBUG)
    server = serve(KINDS[kind])
    with capture_logs() as logs:
        heard = await everything(brokers(server.root, account(access_token=TOKEN)))
    assert any(TOKEN.encode() in request for request in server.requests) or kind == "dropped"
    out = capfd.readouterr()
    assert_silent(heard, caplog.text, str(logs), out.out, out.err)


@pytest.mark.parametrize(
    "status", ["200 Connection established", f"407 Who is {PASSWORD}", "502 Bad Gateway", "hangs", "absent", "broken"]
)
async def test_no_failure_of_the_proxy_tells_a_secret(
    status: str,
    serve: Serve,
    trusted: ssl.SSLContext,
    brokers: Any,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(serving(), tls=trusted)
    between = serve(hangs if status == "hangs" else proxy(status=status))
    port = {"absent": str(closed_port()), "broken": "99999999"}.get(status, str(between.port))
    one = account(access_token=TOKEN, egress_proxy=f"http://someone:{PASSWORD}@127.0.0.1:{port}")
    with capture_logs() as logs:
        heard = await everything(brokers(server.root, one))
    if status[0].isdigit():
        assert b"Proxy-Authorization: Basic" in between.requests[0]
        assert all(TOKEN.encode() not in request for request in between.requests)
    out = capfd.readouterr()
    assert_silent(heard, caplog.text, str(logs), out.out, out.err)


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f" {TOKEN}", f"{TOKEN}\r\nX: y", f"é{TOKEN}"])
async def test_a_token_that_is_no_header_is_not_sent_and_not_told(
    token: str, serve: Serve, brokers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(serving(b"[]"))
    assert_silent(await everything(brokers(server.root, account(access_token=token))), caplog.text)


@pytest.mark.parametrize(
    "url",
    ["http://u:pässword@h:1", "http://user:secret@[::1", "http://user:secret@h:port", "user:secret@h:1"],
)
def test_a_proxys_password_is_known_however_odd_its_address_is(url: str) -> None:
    redactor = Redactor(proxy_secrets(url))
    assert "secret" not in redactor.text(f"cannot parse {url}")
    assert "pässword" not in redactor.text(f"cannot parse {url}")


def test_what_is_replaced_is_replaced_in_texts_and_bodies() -> None:
    redactor = Redactor(["secret", "secret-and-more", "", "abc"])
    assert redactor.text("secret-and-more, secret, abc") == "…, …, abc"
    assert redactor.body(b'{"a":"secret"}') == '{"a":"…"}'.encode()
