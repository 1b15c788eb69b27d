"""One connection to Kite's stream, made again whenever it is lost.

1. The address carries the session's token, so nothing that shows an address is logged or raised: not by us, not by the
   library (its logger is ours and quiet), and what the other side says is searched for the token first.
2. A connection from which no frame comes for 5 s is dead: Kite sends a heartbeat of one byte about every 2 s
   (measured by the official Go and JavaScript clients in the same way). Time in which nobody reads does not count.
3. A lost connection is made again after a random time below a bound that doubles with each failure, from 1 s to 60 s.
   The bound starts anew only after a connection that lasted and brought something.
4. 401 and 403 end it: the session is not valid, and only another session can be. 429 (Kite: at most three connections
   of an api key) and other refusals of the request wait for a minute.
"""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import broadcast
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException

from brokers.kite.account import KiteAccount, KiteAddress
from brokers.port import BrokerUnavailable, SessionExpired
from domain.clock import Clock
from domain.values import SECOND, Duration

__all__ = ["SILENCE", "BadAddress", "KiteSocket", "Lost", "Opened", "SessionRefused", "SocketItem"]

SILENCE: Final[Duration] = 5 * SECOND
STEP: Final[Duration] = SECOND
"""How often a connection is looked at: silence is noticed up to so much late. Steps are counted, not instants, so a
clock that is set, or a process that stood still, is no silence."""
SHORTEST: Final[Duration] = SECOND // 4
FIRST: Final[Duration] = SECOND
LONGEST: Final[Duration] = 60 * SECOND
MINUTE: Final[Duration] = 60 * SECOND
OPENING: Final = 10.0
CLOSING: Final = 1.0
PING: Final = 20.0
"""Seconds. Pings keep the way open; that an answer is missing shows as silence."""
MOST: Final = 4 * 2**20
"""Bytes of a message: 3,000 full packets are 560 kB."""

_quiet = logging.getLogger("brokers.kite.websockets")
_quiet.setLevel(logging.WARNING)  # below that the library logs the address


class SessionRefused(SessionExpired):
    """Kite refuses the stream to this session."""


class BadAddress(BrokerUnavailable):
    """What is configured as the stream's address is none; trying again is of no use."""


class Opened(Struct, frozen=True):
    """A new connection is up. It knows nothing of the one before: say what is wanted of it."""


class Lost(Struct, frozen=True):
    """The connection is lost, or could not be made; the next attempt is in `retry_in`."""

    reason: str
    retry_in: Duration


SocketItem = bytes | str | Opened | Lost
"""What comes: binary frames, text frames, and what becomes of the connection."""


class _Failed(Struct, frozen=True):
    reason: str
    least: Duration = 0


class _Direct(connect):
    """Follows no redirects: they would hand the session's token on."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class _Stamped(ClientConnection):
    """Notes when bytes came from the socket."""

    read_at = 0

    def data_received(self, data: bytes) -> None:
        self.read_at = time.perf_counter_ns()
        super().data_received(data)


class KiteSocket:
    """The stream of one session. Iterate `items` once; whoever leaves it early closes it (`aclosing`).

    What is not read is not received: a slow reader slows Kite down, and no queue here grows. `tls` replaces the
    machine's own certificate authorities; `stamped` makes `read_at` say when the frame's bytes came from the socket.
    """

    def __init__(
        self,
        account: KiteAccount,
        address: KiteAddress,
        clock: Clock,
        *,
        rng: random.Random | None = None,
        tls: ssl.SSLContext | None = None,
        stamped: bool = False,
    ) -> None:
        self._account = account
        self._address = address
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 (a delay, not a secret)
        self._tls = tls
        self._stamped = stamped
        self._connection: ClientConnection | None = None
        self._why = ""
        self._frames = 0
        self._steps = 0
        self._reading = False

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    @property
    def read_at(self) -> int:
        """`time.perf_counter_ns()` of the last reading from the socket; 0 unless stamped."""
        return self._connection.read_at if isinstance(self._connection, _Stamped) else 0

    def say(self, message: str) -> None:
        """Send a text frame. Never waits; without a connection it is lost, as everything said to the last one is."""
        if self._connection is not None:
            broadcast([self._connection], message)

    def drop(self, reason: str) -> None:
        """Give the connection up and make a new one. Never waits; harmless when there is none."""
        if self._connection is not None:
            self._why = reason
            self._connection.transport.abort()

    async def items(self) -> AsyncGenerator[SocketItem, None]:
        """For ever. Raises SessionRefused, and BadAddress."""
        failures = 0
        while True:
            opened = await self._open()
            if isinstance(opened, _Failed):
                failed = opened
                failures += 1
            else:
                watch = asyncio.create_task(self._watch(), name="kite: silence")
                try:
                    self._connection, self._why, self._frames, self._steps = opened, "", 0, 0
                    yield Opened()
                    while True:
                        self._reading = True
                        try:
                            frame = await opened.recv()
                        except ConnectionClosed as closed:
                            failed = _Failed(self._why or self._closing_words(closed))
                            break
                        self._reading = False
                        self._frames += 1
                        yield frame
                finally:
                    self._connection = None
                    await _ended(watch)
                    await opened.close()
                lasted = self._frames > 0 and self._steps * STEP >= SILENCE
                failures = 1 if lasted else failures + 1
            wait = self._wait(failures, failed.least)
            yield Lost(failed.reason, wait)
            await self._clock.sleep(wait)

    async def _open(self) -> ClientConnection | _Failed:
        try:
            return await _Direct(
                self._url(),
                additional_headers={"X-Kite-Version": "3"},
                user_agent_header=None,
                compression=None,
                proxy=None,
                open_timeout=OPENING,
                ping_interval=PING,
                ping_timeout=None,
                close_timeout=CLOSING,
                max_size=MOST,
                logger=_quiet,
                create_connection=_Stamped if self._stamped else ClientConnection,
                **self._security(),
            )
        except InvalidStatus as refusal:
            status = refusal.response.status_code
        except TimeoutError:
            return _Failed(f"no answer to the handshake in {OPENING:g} s")
        except OSError as error:  # before ValueError, which a certificate's error is too
            return _Failed(self._clean(f"no connection: {error}"))
        except (InvalidURI, ValueError):
            status = 0
        except WebSocketException as error:  # its text may show an address
            return _Failed(f"the handshake failed: {type(error).__name__}")
        # Raised out here, so that no error of the library, which knows the address, is chained to ours.
        if status == 0:
            raise BadAddress("the stream's address is not one of a WebSocket server")
        if status in (401, 403):
            raise SessionRefused(f"Kite refuses the stream to the session of {self._account.kite_user_id} ({status})")
        if status == 429:
            return _Failed("too many connections of this api key (429)", MINUTE)
        return _Failed(f"the handshake was answered with {status}", MINUTE if status < 500 else 0)

    def _url(self) -> str:
        account = self._account
        query = [("api_key", account.api_key), ("access_token", account.access_token)]
        query += [
            (name, account.kite_user_id if value == "{user_id}" else value) for name, value in self._address.ws_query
        ]
        joint = "&" if urlsplit(self._address.ws_root).query else "?"
        return f"{self._address.ws_root}{joint}{urlencode(query)}"

    def _security(self) -> dict[str, Any]:
        """For `wss` the library verifies certificate and host name with the machine's authorities by itself."""
        return {} if self._tls is None else {"ssl": self._tls}

    async def _watch(self) -> None:
        seen, quiet = -1, 0
        while True:
            await self._clock.sleep(STEP)
            self._steps += 1
            quiet = quiet + STEP if self._reading and self._frames == seen else 0
            seen = self._frames
            if quiet >= SILENCE:
                self.drop(f"no frame for {SILENCE // SECOND} s")
                return

    def _wait(self, failures: int, least: Duration) -> Duration:
        bound = min(LONGEST, FIRST << min(failures - 1, 10))
        return least + self._rng.randint(SHORTEST, max(SHORTEST, bound))

    def _closing_words(self, closed: ConnectionClosed) -> str:
        if closed.rcvd is None:
            cause = f": {closed.__cause__}" if isinstance(closed.__cause__, OSError) else ""
            return self._clean(f"the connection broke off{cause}")
        return self._clean(f"Kite closed the connection: {closed.rcvd.code} {closed.rcvd.reason}".rstrip())

    def _clean(self, text: str) -> str:
        for secret in (self._account.access_token, self._account.api_key):
            text = text.replace(secret, "…") if secret else text
        return text


async def _ended(task: "asyncio.Task[None]") -> None:
    """Cancel it, wait until it is over, and raise what it failed with."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
