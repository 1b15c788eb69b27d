"""Every call to the outside can be made to fail: whatever makes a connection is in one of few modules.

The simulated world stands between a process and its servers where connections are made. A module that made one of its
own would have calls that no crash point and no fault ever strikes.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

SRC: Final = Path(__file__).parents[2] / "src"

MAKERS: Final = frozenset(
    {
        "redis.Redis", "redis.asyncio.Redis", "redis.from_url", "redis.asyncio.from_url",
        "redis.ConnectionPool", "redis.asyncio.ConnectionPool", "redis.asyncio.BlockingConnectionPool",
        "redis.asyncio.Connection", "redis.asyncio.SSLConnection", "redis.asyncio.UnixDomainSocketConnection",
        "redis.cluster.RedisCluster", "redis.asyncio.cluster.RedisCluster", "redis.sentinel.Sentinel",
        "psycopg.connect", "psycopg.Connection.connect", "psycopg.AsyncConnection.connect",
        "psycopg_pool.ConnectionPool", "psycopg_pool.AsyncConnectionPool",
        "sqlalchemy.create_engine", "sqlalchemy.ext.asyncio.create_async_engine",
        "sqlalchemy.ext.asyncio.async_engine_from_config",
        "httpx.Client", "httpx.AsyncClient", "httpx.get", "httpx.post", "httpx.put", "httpx.delete", "httpx.request",
        "requests.Session", "requests.get", "requests.post", "urllib.request.urlopen",
        "http.client.HTTPConnection", "http.client.HTTPSConnection",
        "socket.socket", "socket.create_connection", "socket.create_server",
        "asyncio.open_connection", "asyncio.open_unix_connection",
        "asyncio.start_server", "asyncio.start_unix_server",
        "websockets.connect", "websockets.asyncio.client.connect", "websockets.asyncio.server.serve",
        "kiteconnect.KiteConnect", "kiteconnect.KiteTicker",
    }
)  # fmt: skip
"""What makes a connection, or a socket, or a client that does."""
OF_LOOPS: Final = frozenset(
    {"create_connection", "create_unix_connection", "create_server", "create_unix_server", "create_datagram_endpoint",
     "sock_connect", "sock_sendall", "from_pool", "from_url"}
)  # fmt: skip
"""Methods, of event loops above all, that do so, whatever they are called on."""

NETWORK: Final = frozenset(
    {"socket", "socketserver", "http.client", "urllib.request", "urllib3", "requests", "httpx", "aiohttp", "websockets",
     "smtplib", "ftplib", "kiteconnect"}
)  # fmt: skip
"""Modules that a gateway alone may import: whoever has one of them needs no maker of connections."""

GATEWAYS: Final = {
    "eventstore/clients.py": "Redis: all clients of the log; a simulation puts its gate in by POOL",
    "bahi/database/engine.py": "PostgreSQL: the one engine of a process; a simulation gives another one",
    "brokers/kite/wire.py": "Kite's REST, behind the port Broker",
    "brokers/kite/socket.py": "Kite's stream, behind the ports Broker and Feed",
    "brokers/kite/trust.py": "finds the certificates for both",
    "brokers/kite/official_decoder.py": "borrows the decoder of the official client, which connects nowhere",
    "brokers/kite/rest.py": "the official client, on that wire",
    "bahi/notifier.py": "posts alerts to a webhook; nothing of the engine waits for it",
}
"""The ways out of a process of bahi."""
OUTSIDE: Final = {
    "bahi/servers/core.py": "a name that is bound while a core is taken, and connects nowhere",
    "bahi/backup/parts.py": "copies PostgreSQL while bahi is stopped",
    "bahi/cli/checks.py": "bahi doctor: whether a port is free",
    "bahi/cli/kite_checks.py": "bahi doctor: whether Kite can be reached",
    "bahi/database/migrate.py": "before anything runs",
    "bahi/roles/rest.py": "the REST application listens",
    "bahi/servers/postgres.py": "starts the embedded server",
    "bahi/servers/redis.py": "starts the embedded server",
    "simulation/stage.py": "empties the servers between two lives",
}
"""Beside the engine: what prepares, listens or looks, and decides nothing."""
WORKBENCH: Final = ("bahi/bench/", "bahi/drill/", "bahi/histories/", "bahi/prove/", "bahi/testing/", "simulation/kite/")
"""Whoever measures or tests bahi plays its users, its broker and its network."""


def _calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that is called, or whose methods are: names as they were imported."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                names[each.asname or each.name.split(".")[0]] = each.name if each.asname else each.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                names[each.asname or each.name] = f"{node.module}.{each.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (dotted := _dotted(node.func)):
            first, _, rest = dotted.partition(".")
            yield node.lineno, f"{names.get(first, first)}.{rest}".rstrip(".")


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value) or '?'}.{node.attr}"
    return ""


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{each.name}") for each in node.names)


def ways_out(source: str) -> list[str]:
    """Where a module makes connections by itself, or could: lines and names."""
    tree = ast.parse(source)
    found = {f"line {line}: imports {name}" for line, name in _imports(tree) if _is_network(name, tree)}
    for line, name in _calls(tree):
        own, _, method = name.rpartition(".")
        if name in MAKERS or own in MAKERS or (own and method in OF_LOOPS):
            found.add(f"line {line}: calls {name}")
    return sorted(found)


def _is_network(name: str, tree: ast.Module) -> bool:
    if name == "socket":  # its name of this machine is no way out
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _dotted(node.value) == "socket"]
        return not names or any(node.attr != "gethostname" for node in names)
    return any(name == each or name.startswith(f"{each}.") for each in NETWORK)


def test_only_gateways_make_connections() -> None:
    allowed = GATEWAYS.keys() | OUTSIDE.keys()
    found = {
        name: out
        for path in sorted(SRC.rglob("*.py"))
        if not (name := path.relative_to(SRC).as_posix()).startswith(WORKBENCH)
        and name not in allowed
        and (out := ways_out(path.read_text("utf-8")))
    }
    assert not found, f"calls of these would escape the simulated world: {found}"


def test_every_gateway_that_is_named_is_one() -> None:
    """A list that outlives what it allows would allow the next one as well."""
    idle = [name for name in (*GATEWAYS, *OUTSIDE) if not ways_out((SRC / name).read_text("utf-8"))]
    assert idle == []


@pytest.mark.parametrize(
    "escape",
    [
        "from redis.asyncio import Redis\n\nclient = Redis(host='h')",
        "import redis.asyncio as aio\n\nclient = aio.Redis.from_url('redis://h')",
        "from redis.asyncio import ConnectionPool as P\n\npool = P()",
        "import psycopg\n\nwith psycopg.connect('x') as c:\n    pass",
        "async def f():\n    from psycopg import AsyncConnection\n\n    await AsyncConnection.connect('x')",
        "from sqlalchemy.ext.asyncio import create_async_engine as make\n\nengine = make('x')",
        "import httpx\n\nasync def f():\n    return await httpx.AsyncClient().get('x')",
        "import asyncio\n\nasync def f():\n    await asyncio.open_connection('h', 1)",
        "import asyncio\n\nasync def f(protocol):\n    await asyncio.get_running_loop().create_connection(protocol)",
        "from urllib.request import urlopen",
        "import socket",
    ],
)
def test_an_escape_is_seen(escape: str) -> None:
    assert ways_out(escape)


def test_types_and_errors_are_no_escape() -> None:
    assert not ways_out(
        "from redis.asyncio import Redis\nfrom redis.exceptions import ConnectionError\n"
        "from sqlalchemy.ext.asyncio import AsyncEngine\n\n"
        "async def f(redis: Redis, engine: AsyncEngine):\n    async with engine.begin():\n        await redis.ping()\n"
        "    raise ConnectionError('gone')"
    )
