"""The wire in the place of the official client's session: Kite cannot tell the one from the other."""

import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from kiteconnect import KiteConnect

from brokers.kite.account import KiteAddress
from brokers.kite.client import KiteClient
from brokers.kite.trust import trust
from brokers.kite.wire import Attempt
from tests.kite.conftest import Serve
from tests.kite.loopback import serving

ASKED: dict[str, Callable[[Any], object]] = {
    "place": lambda kite: kite.place_order(
        "regular",
        exchange="NSE",
        tradingsymbol="M&M",
        transaction_type="SELL",
        quantity=10,
        product="CNC",
        order_type="LIMIT",
        price="1500.10",
        validity="DAY",
        tag="TAG 1/ü",
        market_protection=Decimal("-1"),
        validity_ttl=0,
    ),
    "modify": lambda kite: kite.modify_order("regular", "151220000000000", order_type="LIMIT", price="330.05"),
    "cancel": lambda kite: kite.cancel_order("regular", "151220000000000"),
    "cancel of a leg": lambda kite: kite.cancel_order("co", "151220000000000", parent_order_id="1512"),
    "book": lambda kite: kite.orders(),
    "positions": lambda kite: kite.positions(),
    "quote": lambda kite: kite.quote(["NSE:M&M", "NSE:NIFTY 50"]),
    "dump": lambda kite: kite.instruments("NSE"),
    "login": lambda kite: kite.generate_session("request token", "secret"),
    "logout": lambda kite: kite.invalidate_access_token(),
    "basket": lambda kite: kite.basket_order_margins([{"exchange": "NSE", "price": 1.5, "text": "ü"}]),
    "candles": lambda kite: kite.historical_data(408065, "2026-11-20", "2026-11-21", "minute"),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxy"])
def test_the_same_request_leaves_as_from_the_official_client_alone(
    serve: Serve, ask: Callable[[Any], object], proxied: bool
) -> None:
    server = serve(serving())
    root, proxy = (
        ("http://kite.invalid:81", server.root.replace("//", "//me:a%20word@")) if proxied else (server.root, None)
    )
    secrets = {"api_key": "key0123456789abc", "access_token": "token0123456789abc"}
    alone = KiteConnect(**secrets, root=root, proxies={"http": proxy} if proxy else None)
    alone.reqsession.trust_env = False
    with suppress(Exception):  # the answer is no answer to most of them
        ask(alone)
    ours = KiteClient(KiteAddress(root=root), **secrets, proxy=proxy)
    reply = ours.send(ask, Attempt())
    ours.close()
    alone.reqsession.close()
    assert reply.status == 200
    theirs, mine = (_read(request) for request in server.requests)
    assert mine == theirs


def _read(request: bytes) -> tuple[bytes, list[bytes], bytes]:
    """The first line, the header lines in any order, the body."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    return first, sorted(lines), body


def test_what_a_server_wants_remembered_is_not(serve: Serve) -> None:
    server = serve(serving(more="Set-Cookie: me=somebody; Path=/\r\n"))
    ours = KiteClient(KiteAddress(root=server.root), api_key="key", access_token="token")
    for _ in range(2):
        assert ours.send(ASKED["book"], Attempt()).status == 200
    ours.close()
    assert len(server.requests) == 2
    assert not any(b"ookie" in request for request in server.requests)


def test_a_compressed_answer_is_read(serve: Serve) -> None:
    import gzip

    server = serve(serving(gzip.compress(b'{"status":"success"}'), more="Content-Encoding: gzip\r\n"))
    ours = KiteClient(KiteAddress(root=server.root), api_key="key", access_token="token")
    reply = ours.send(ASKED["book"], Attempt())
    ours.close()
    assert reply.body == b'{"status":"success"}'


def test_a_request_whose_time_is_over_does_not_leave_though_nobody_could_abandon_it(serve: Serve) -> None:
    """The process stood still, and others have given the order up meanwhile."""
    server = serve(serving())
    ours = KiteClient(KiteAddress(root=server.root), api_key="key", access_token="token")
    late = ours.send(ASKED["place"], Attempt(until=time.monotonic() - 1))
    in_time = ours.send(ASKED["place"], Attempt(until=time.monotonic() + 60))
    ours.close()
    assert (late.written, late.status) == (False, None)
    assert (in_time.written, in_time.status, len(server.requests)) == (True, 200, 1)


def test_the_authorities_are_read_once_however_many_connections_are_made(
    serve: Serve, trusted: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    real = ssl.SSLContext.load_verify_locations

    def counted(context: ssl.SSLContext, *args: Any, **settings: Any) -> None:
        read.append(args)
        real(context, *args, **settings)

    trust()
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", counted)
    server = serve(serving(), tls=trusted)
    for _ in range(3):
        ours = KiteClient(KiteAddress(root=server.root), api_key="key", access_token="token")
        assert ours.send(ASKED["book"], Attempt()).status == 200
        ours.close()
        assert ours.send(ASKED["book"], Attempt()).status == 200
        ours.close()
    assert len(server.visits) == 6
    assert read == []


def test_what_connections_share_cannot_be_made_to_verify_less() -> None:
    context = trust()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    for name, value in (("check_hostname", False), ("verify_mode", ssl.CERT_NONE), ("verify_mode", ssl.CERT_OPTIONAL)):
        with pytest.raises(AttributeError, match=name):
            setattr(context, name, value)
    with pytest.raises(AttributeError, match="trust"):
        context.load_verify_locations("other.pem")
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
