"""One request on the wire, and what is certainly known of it: whether any byte of it can have left this process.

Nothing of a request is written before its connection stands: TCP, TLS and a proxy's CONNECT included. So what fails
before the first byte is *known not sent*, whatever the error says, and what fails after it is *unknown*. The first byte
is handed to the socket under a lock that the waiting side can take first: a request that was abandoned before then is
never written, however late its connection comes to stand (a slow name server, a proxy that hangs). Nor is one whose
time is over, though nobody could abandon it: a process that stood still must not send what others have given up.
"""

import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from json import dumps
from typing import Any, Final, NoReturn
from urllib.parse import urlencode, urlsplit

import requests
from msgspec import Struct
from requests.adapters import HTTPAdapter
from requests.utils import default_headers
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection

from brokers.kite.trust import trust

__all__ = ["Answered", "Attempt", "Reply", "Wire"]

ANY_IPV4: Final = ("0.0.0.0", 0)  # noqa: S104 (the source address of what goes out, nothing listens on it)
"""Kite: orders are taken from registered addresses only, and an IPv6 address of the day is none of them."""
LARGEST_BODY: Final = 64 * 1024 * 1024
CHUNK: Final = 64 * 1024
_HEADERS: Final = dict(default_headers())
"""Of every request, unless it has its own."""


def _without_what_was_received(record: logging.LogRecord) -> bool:
    """A head that cannot be parsed would be logged as it came, and it may say back what we sent."""
    if str(record.msg).startswith("Failed to parse headers"):
        record.msg, record.args, record.exc_info = "Failed to parse headers", (), None
    return True


logging.getLogger("urllib3.connection").addFilter(_without_what_was_received)


class Reply(Struct, frozen=True, kw_only=True):
    """What the wire showed of one request: facts, no judgement.

    `written`: bytes of it may have left. `trouble`: what broke; then the answer is not, or not wholly, here, though
    `status` may be.
    """

    written: bool
    status: int | None = None
    content_type: str = ""
    body: bytes = b""
    trouble: str = ""

    def __repr__(self) -> str:
        return f"Reply(written={self.written}, status={self.status}, {len(self.body)} bytes, trouble={self.trouble!r})"


class Abandoned(Exception):
    """Nobody waits any more, or its time is over, so the request is not written."""


class Answered(Exception):
    """Carries the answer past the official client, which would lose most of it."""

    def __init__(self, status: int, content_type: str, body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.content_type = content_type
        self.body = body


class Attempt:
    """One request, between the thread that sends it and the loop that waits for it."""

    def __init__(self, on_written: Callable[[int], None] | None = None, *, until: float = math.inf) -> None:
        """`on_written` hears `perf_counter_ns()` when the whole request has been handed to the socket. `until` is the
        last `time.monotonic()` at which it may begin to leave."""
        self._until = until
        self._lock = threading.Lock()
        self._written = False
        self._abandoned = False
        self._socket: socket.socket | None = None
        self._on_written = on_written
        self.status: int | None = None
        """Of the answer, once its head is here."""

    @property
    def written(self) -> bool:
        return self._written

    def first_byte(self, sock: Any) -> None:
        """The request begins to leave by this socket. Raises Abandoned."""
        with self._lock:
            if not self._written and (self._abandoned or time.monotonic() > self._until):
                raise Abandoned
            self._written, self._socket = True, sock

    def last_byte(self) -> None:
        if self._on_written is not None:
            self._on_written(time.perf_counter_ns())

    def abandon(self) -> bool:
        """True: nothing of it was written, and nothing ever will be. False: it is too late for that."""
        with self._lock:
            self._abandoned = True
            return not self._written

    def abort(self) -> None:
        """Wakes the thread that waits for the answer."""
        with self._lock:
            if self._socket is None:
                return
            try:
                # of the plain socket: that of TLS would forget its keys under the thread that reads from it
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                pass  # the connection has ended already

    def ended(self) -> None:
        with self._lock:
            self._socket = None


class Wire:
    """What the official client takes for its session. It sends byte for byte what `requests` would send, in a third of
    the time, and has no memory of its surroundings: no netrc, no cookies, no proxies or bundles from the environment,
    no redirects, no second try of anything. It raises `Answered` instead of returning, as soon as the whole answer is
    here."""

    def __init__(self) -> None:
        self.attempt: Attempt | None = None
        self._adapter = _Adapter(self)
        self._pools: dict[str, Any] = {}

    def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        json: Any = None,
        headers: Mapping[str, str],
        verify: bool,
        timeout: tuple[float, float],
        proxies: dict[str, str] | None,
        allow_redirects: bool,
    ) -> NoReturn:
        """As `requests.Session.request`, as far as the official client uses it; redirects are never followed."""
        attempt = self.attempt
        assert attempt is not None  # noqa: S101 (who sends sets it)
        scheme, host, path, _, _ = urlsplit(url)
        pool = self._pool(f"{scheme}://{host}", verify, proxies)
        target = f"{path or '/'}?{query}" if (query := _form(params)) else path or "/"
        if pool.proxy is not None and scheme == "http":
            target = f"http://{host}{target}"
        sent = {**_HEADERS, **headers}
        body = None
        if json is not None:
            body, sent["Content-Type"] = dumps(json).encode(), "application/json"
        elif data:
            body, sent["Content-Type"] = _form(data).encode(), "application/x-www-form-urlencoded"
        elif method != "GET":
            sent["Content-Length"] = "0"
        response = pool.urlopen(
            method,
            target,
            body=body,
            headers=sent,
            retries=self._adapter.max_retries,
            timeout=Timeout(connect=timeout[0], read=timeout[1]),
            redirect=False,
            assert_same_host=False,
            preload_content=False,
        )
        try:
            attempt.status = response.status
            parts, size = [], 0
            for part in response.stream(CHUNK, decode_content=True):
                parts.append(part)
                size += len(part)
                if size > LARGEST_BODY:
                    raise OSError(f"the answer is larger than {LARGEST_BODY} bytes")
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()
        raise Answered(response.status, response.headers.get("Content-Type", ""), b"".join(parts))

    def close(self) -> None:
        """The next request makes a new connection."""
        self._pools.clear()
        self._adapter.close()

    def _pool(self, root: str, verify: bool, proxies: dict[str, str] | None) -> Any:
        """Where the connection to this root is kept, and what it needs to come to stand: as `requests` makes it."""
        pool = self._pools.get(root)
        if pool is None:
            request = requests.Request("GET", root).prepare()
            pool = self._adapter.get_connection_with_tls_context(request, verify, proxies=proxies)
            self._pools[root] = pool
        return pool


def _form(fields: Mapping[str, Any] | None) -> str:
    """Lists repeat their name; what is None is left out."""
    return urlencode([(name, value) for name, value in fields.items() if value is not None], True) if fields else ""


class _Adapter(HTTPAdapter):
    """Its connections mark when a request begins to leave; the same for those through a proxy."""

    def __init__(self, wire: Wire) -> None:
        self._schemes = {
            "http": _pool(HTTPConnectionPool, _Plain, wire),
            "https": _pool(HTTPSConnectionPool, _Tls, wire),
        }
        super().__init__(pool_connections=2, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **settings: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, source_address=ANY_IPV4, **settings)
        self.poolmanager.pool_classes_by_scheme = self._schemes

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Connections are verified, whatever is asked for."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"cert_reqs": "CERT_REQUIRED", "ssl_context": trust()}

    def proxy_manager_for(self, proxy: str, **settings: Any) -> Any:
        """Only proxies whose connections are ours; another kind would be passed by."""
        if not proxy.lower().startswith(("http://", "https://")):
            raise requests.exceptions.InvalidSchema("an egress proxy must be http or https")
        manager = super().proxy_manager_for(proxy, source_address=ANY_IPV4, proxy_ssl_context=trust(), **settings)
        manager.pool_classes_by_scheme = self._schemes
        return manager


def _pool(pool: type[HTTPConnectionPool], connection: Callable[..., Any], wire: Wire) -> type[HTTPConnectionPool]:
    return type(pool.__name__, (pool,), {"ConnectionCls": staticmethod(partial(connection, wire))})


class _Marking(HTTPConnection):
    """A connection that says when the first and when the last byte of a request leaves by it.

    CONNECT goes through `send` too, while `connect` is still under way: it is not the request. TLS writes elsewhere.
    """

    def __init__(self, wire: Wire, *args: Any, **settings: Any) -> None:
        self._wire = wire
        self._stands = False
        super().__init__(*args, **settings)

    def connect(self) -> None:
        self._stands = False
        super().connect()
        self._stands = True

    def close(self) -> None:
        self._stands = False
        super().close()

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if self._stands:
            self._attempt.first_byte(self.sock)
        super().send(data)

    def getresponse(self) -> Any:
        self._attempt.last_byte()
        return super().getresponse()

    @property
    def _attempt(self) -> Attempt:
        assert self._wire.attempt is not None  # noqa: S101 (who sends sets it)
        return self._wire.attempt


class _Plain(_Marking):
    pass


class _Tls(_Marking, HTTPSConnection):
    pass


def trouble_of(error: BaseException) -> str:
    """What broke, from the innermost cause. Only system and protocol errors speak for themselves; the texts of others
    may hold what they failed on."""
    inner: BaseException = error
    seen = {id(inner)}
    while (cause := _cause(inner)) is not None and id(cause) not in seen:
        inner = cause
        seen.add(id(inner))
    said = f": {inner}" if isinstance(inner, OSError) and not isinstance(inner, requests.RequestException) else ""
    return f"{type(inner).__name__}{said}"[:200]


def _cause(error: BaseException) -> BaseException | None:
    inside = [getattr(error, "reason", None), error.__cause__, *reversed(error.args)]
    return next((each for each in inside if isinstance(each, BaseException)), None)
