"""Calls to Kite for one account: blocking requests in threads, awaited for a total time and no longer.

A call is one request by one official client. A client serves one thread at a time and one account for ever. A call that
hangs keeps its client; the next call takes another, so nobody waits for it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.redact import Redactor, proxy_secrets
from brokers.kite.wire import Answered, Attempt, Reply, Wire, trouble_of

if TYPE_CHECKING:
    from brokers.kite.rest import Official

__all__ = ["Ask", "KiteClient", "KiteClients", "load"]

T = TypeVar("T")
Ask = Callable[["Official"], object]
"""One request, by one method of the official client."""

MOST_CALLS: Final = 64
"""At a time, of one account."""
MOST_THREADS: Final = 256
"""At a time, of the process; they are made when needed."""
KEPT: Final = 16
"""Idle clients of an account that keep their connection."""
FRESH: Final = 45.0
"""Seconds for which an idle connection is trusted. Load balancers close one after a minute, and a request that meets
the closing on its way has an unknown outcome."""


@cache
def threads() -> ThreadPoolExecutor:
    """The process's threads for calls."""
    return ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="kite")


def load() -> None:
    """Imports the official client and reads the certificate authorities (some 0.3 s), so that the first order does not
    wait for it."""
    import brokers.kite.rest  # noqa: F401
    from brokers.kite.trust import trust

    trust()


class KiteClient:
    """One official client and its connection. To be used by one thread at a time."""

    def __init__(
        self, address: KiteAddress, *, api_key: str, access_token: str | None = None, proxy: str | None = None
    ) -> None:
        from brokers.kite.rest import Official

        self._wire = Wire()
        self._official = Official(self._wire, address, api_key=api_key, access_token=access_token, proxy=proxy)
        self._redact = Redactor([access_token or "", *proxy_secrets(proxy)])
        self._used_at = time.monotonic()

    def send(self, ask: Ask, attempt: Attempt) -> Reply:
        """Makes the request, once, and tells what came of it. Never raises for what the network or Kite did."""
        if time.monotonic() - self._used_at > FRESH:
            self.close()
        self._wire.attempt = attempt
        try:
            ask(self._official)
            reply = Reply(written=attempt.written, trouble="no request was made")
        except Answered as answer:
            body = self._redact.body(answer.body)
            reply = Reply(written=True, status=answer.status, content_type=answer.content_type, body=body)
        except Exception as error:  # judged by what was written, not by what it says
            trouble = self._redact.text(trouble_of(error))
            reply = Reply(written=attempt.written, status=attempt.status, trouble=trouble)
        finally:
            attempt.ended()
            self._wire.attempt = None
            self._used_at = time.monotonic()
        if reply.trouble or (reply.status or 0) >= 500:
            self.close()  # nothing of an answer that may still come can be taken for the next one's
        return reply

    def close(self) -> None:
        """Closes the connection; the next request makes another."""
        self._wire.close()


class KiteClients:
    """The clients of one account at one address."""

    def __init__(
        self, account: KiteAccount, address: KiteAddress, *, executor: ThreadPoolExecutor | None = None
    ) -> None:
        self._account = account
        self._address = address
        self._executor = executor
        self._idle: deque[KiteClient] = deque()
        self._room = asyncio.Semaphore(MOST_CALLS)
        self._running: set[asyncio.Future[Any]] = set()
        self._closed = False

    async def call(
        self, ask: Ask, understand: Callable[[Reply], T], *, on_written: Callable[[int], None] | None = None
    ) -> T:
        """One request; `understand` judges what came of it, in the thread, and what it raises is raised here.

        Takes `address.timeout` at most, in real time. A request that is not on its way by then never will be. When the
        caller is cancelled, the same holds; a request that is on its way then is left to end by itself.
        """
        loop, timeout = asyncio.get_running_loop(), self._address.timeout
        deadline, until = loop.time() + timeout, time.monotonic() + timeout
        if self._closed:
            return understand(Reply(written=False, trouble="the session's connections are closed"))
        try:
            async with asyncio.timeout_at(deadline):
                await self._room.acquire()
        except TimeoutError:
            return understand(Reply(written=False, trouble=f"{MOST_CALLS} calls hang"))
        attempt = Attempt(on_written, until=until)
        try:
            call = loop.run_in_executor(self._executor or threads(), self._call, attempt, ask, understand)
        except RuntimeError as error:  # the process is ending
            self._room.release()
            return understand(Reply(written=False, trouble=f"no thread: {error}"))
        self._running.add(call)
        call.add_done_callback(self._ended)
        try:
            await asyncio.wait({call}, timeout=deadline - loop.time())
        except asyncio.CancelledError:
            attempt.abandon()
            raise
        if call.done():
            return call.result()
        if attempt.abandon():
            return understand(Reply(written=False, trouble=f"no connection within {timeout:g} s"))
        late = Reply(written=True, status=attempt.status, trouble=f"no whole answer within {timeout:g} s")
        attempt.abort()
        return understand(late)

    @property
    def under_way(self) -> int:
        """Calls whose threads have not ended, though nobody may wait for them any more."""
        return len(self._running)

    @property
    def closed(self) -> bool:
        return self._closed

    async def aclose(self) -> None:
        """Lets the calls under way end, within their time, and closes all connections. No call goes out any more."""
        self._closed = True
        while self._running:
            await asyncio.wait(self._running)
        while self._idle:
            self._idle.pop().close()

    def _ended(self, call: asyncio.Future[Any]) -> None:
        self._running.discard(call)
        self._room.release()
        if not call.cancelled():
            call.exception()  # whoever waited has heard it, or has gone

    def _call(self, attempt: Attempt, ask: Ask, understand: Callable[[Reply], T]) -> T:
        """In a thread."""
        try:
            client = self._take()
        except Exception as error:
            return understand(Reply(written=False, trouble=f"no client: {trouble_of(error)}"))
        try:
            reply = client.send(ask, attempt)
        finally:
            if len(self._idle) < KEPT:
                self._idle.append(client)
            else:
                client.close()
        return understand(reply)

    def _take(self) -> KiteClient:
        with suppress(IndexError):
            return self._idle.pop()  # the last one used: its connection is the freshest
        return self._make()

    def _make(self) -> KiteClient:
        account = self._account
        return KiteClient(
            self._address, api_key=account.api_key, access_token=account.access_token, proxy=account.egress_proxy
        )
