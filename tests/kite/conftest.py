"""Accounts, and servers on loopback sockets that misbehave on demand."""

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.client import KiteClients
from tests.kite.loopback import Act, Loopback, certificate

Serve = Callable[..., Loopback]
Clients = Callable[..., KiteClients]


def account(**changes: Any) -> KiteAccount:
    known: dict[str, Any] = {
        "user_id": 7,
        "kite_user_id": "AB1234",
        "api_key": "apikey0123456789",
        "access_token": "tokenCANARYtoken0123456789abcdef",
        "connected_at": 0,
        "expires_at": 2**62,
    }
    return KiteAccount(**(known | changes))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers that are closed after the test."""
    started: list[Loopback] = []

    def start(*acts: Act, tls: ssl.SSLContext | None = None) -> Loopback:
        started.append(Loopback(*acts, tls=tls))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    """Makes the clients of an account at a root; they are closed after the test."""
    made: list[KiteClients] = []

    def make(root: str, *, timeout: float = 5.0, proxy: str | None = None, **address: Any) -> KiteClients:
        one = account(egress_proxy=proxy)
        made.append(KiteClients(one, KiteAddress(root=root, timeout=timeout, **address)))
        return made[-1]

    yield make
    for each in made:
        await each.aclose()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trusted(tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The TLS of a server that the client trusts."""
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(tls[1]))
    return tls[0]
