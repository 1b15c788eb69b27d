"""The server's WebSocket: what Kite's stream does, and what goes wrong with it.

1. The handshake: 403 without a session, 429 for a fourth connection of an api key.
2. Nothing comes but heartbeats and order updates until something is subscribed; then quotes, in quote mode at first.
   Whoever subscribes, or changes the mode, is sent the last quote at once. A frame holds the packets of one batch.
3. A heartbeat of one byte about every 2 s on a connection that was sent nothing else.
4. Order updates go to every connection of the account: when an order trades, is modified, cancelled, rejected or
   triggered, never when it is merely accepted (that is the observed server's part).
5. Who does not read is cut off once 4 MB wait for it. A session that ends ends its connections.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, urlsplit

import msgspec
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from brokers.kite.packets import Mode
from domain.clock import Clock
from domain.values import SECOND, Duration, Instant, Tick
from simulation.kite.encode import HEARTBEAT, MOST_PACKETS, frame
from simulation.kite.faults import Fault, Play
from simulation.kite.instruments import SimInstrument
from simulation.kite.orders import encode
from simulation.kite.postbacks import pushed
from simulation.kite.quotes import Quote

__all__ = ["Plays", "StreamServer", "Streamed", "no_faults"]

HEARTBEAT_EVERY: Final[Duration] = 2 * SECOND
MOST_CONNECTIONS: Final = 3
MOST_INSTRUMENTS: Final = 3_000
SLOW: Final = 4 * 2**20
"""Bytes that may wait for a reader."""
ODD_PACKET: Final = bytes(60)
"""Of a length that no client knows."""
CLOSING: Final = 1.0
TROUBLES: Final = (
    Fault.F12_STREAM_GAP,
    Fault.F14_SILENT_STREAM,
    Fault.F15_STREAM_ABORTED,
    Fault.F15_SLOW_READER,
)
"""What may befall a connection whenever something is sent on it."""

Plays = Callable[[Fault, str | None], Play | None]
"""Whether this fault plays now for this user."""

_quiet = logging.getLogger("simulation.kite.websockets")
_quiet.setLevel(logging.WARNING)  # below that the library logs addresses, which carry tokens


def no_faults(_fault: Fault, _user_id: str | None) -> Play | None:
    """The stream that Kite would like to have."""
    return None


class HasUser(Protocol):
    """Who a session belongs to."""

    user_id: str


class Streamed(Protocol):
    """What the stream needs of the simulated Kite."""

    clock: Clock

    def account_of(self, api_key: str, access_token: str) -> HasUser | None: ...


class _Client:
    """A connection, what it subscribed to, and what is wrong with it."""

    def __init__(self, connection: ServerConnection, user_id: str, api_key: str, access_token: str) -> None:
        self.connection = connection
        self.user_id = user_id
        self.api_key = api_key
        self.access_token = access_token
        self.modes: dict[int, Mode] = {}
        self.sent = False
        self.silent_until: Instant | None = None
        self.cut_after_silence = False


class StreamServer:
    """Observes the simulated Kite: `on_order` and `on_ticks` are plain calls that never wait.

    `find`: the instrument of a symbol. Heartbeats and silences go by `beat`, the server's own clock unless said
    otherwise.
    """

    def __init__(
        self,
        sim: Streamed,
        find: Callable[[str], SimInstrument | None],
        *,
        plays: Plays = no_faults,
        heartbeat: Duration = HEARTBEAT_EVERY,
        beat: Clock | None = None,
    ) -> None:
        self.refusals: list[int] = []
        """The statuses of handshakes that were refused."""
        self._sim = sim
        self._find = find
        self._plays = plays
        self._heartbeat = heartbeat
        self._beat_clock = beat or sim.clock
        self._clients: list[_Client] = []
        self._held: defaultdict[str, set[ServerConnection]] = defaultdict(set)
        self._quotes: dict[str, Quote] = {}
        self._by_token: dict[int, Quote] = {}
        self._away_until: dict[str, Instant] = {}
        self._delayed: dict[str, str] = {}

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
        """Serves while the block lasts; gives the port."""
        server = await serve(
            self._serve,
            host,
            port,
            process_request=self._admit,
            compression=None,
            ping_interval=None,
            close_timeout=CLOSING,
            logger=_quiet,
        )
        beating = asyncio.create_task(self._beat(), name="kite stream: heartbeat")
        try:
            yield next(iter(server.sockets)).getsockname()[1]
        finally:
            beating.cancel()
            server.close()
            await server.wait_closed()
            await asyncio.wait([beating])
            if not beating.cancelled():
                beating.result()

    @property
    def connections(self) -> list[str]:
        """The user of each connection, in the order in which they came."""
        return [client.user_id for client in self._clients]

    def subscribed(self, user_id: str) -> dict[int, Mode]:
        """What the connections of a user subscribed to, all together."""
        return {token: mode for client in self._of(user_id) for token, mode in client.modes.items()}

    # --- observing --------------------------------------------------------------------------------------------------

    def on_ticks(self, ticks: Sequence[Tick]) -> None:
        """One frame for each connection that subscribed to any of them, every tick in it."""
        clients = [client for client in self._clients if client.modes]
        packets: defaultdict[int, list[bytes]] = defaultdict(list)
        for tick in ticks:
            quote = self._quote(tick.symbol)
            if quote is None:
                continue
            quote.trade(tick)
            for number, client in enumerate(clients):
                mode = client.modes.get(quote.instrument.token)
                if mode is not None:
                    packets[number].append(quote.packet(mode))
        for number, mine in packets.items():
            self._send_packets(clients[number], mine)

    def on_order(self, user_id: str, payload: Mapping[str, Any]) -> None:
        """An order traded, was modified, cancelled, rejected or triggered; `payload` is its row of the book."""
        text = encode({"type": "order", "id": "", "data": pushed(payload)}).decode()
        self._meet_trouble(user_id)
        if self._plays(Fault.F12_PUSH_LOST, user_id):
            return
        if self._plays(Fault.F12_PUSH_REORDERED, user_id) and user_id not in self._delayed:
            self._delayed[user_id] = text
            return
        self.say(text, user_id)
        if self._plays(Fault.F12_PUSH_DUPLICATED, user_id):
            self.say(text, user_id)
        if (late := self._delayed.pop(user_id, None)) is not None:
            self.say(late, user_id)

    # --- what tests and plans make it do ----------------------------------------------------------------------------

    def say(self, text: str, user_id: str) -> None:
        """A text frame to every connection of the user."""
        for client in self._of(user_id):
            self._send(client, text)

    def send(self, data: bytes, user_id: str) -> None:
        """A binary frame, whatever is in it, to every connection of the user."""
        for client in self._of(user_id):
            self._send(client, data)

    def message(self, text: str, user_id: str) -> None:
        """What Kite tells people: `{"type": "message"}`."""
        self.say(encode({"type": "message", "data": text}).decode(), user_id)

    def trouble(self, play: Play, user_id: str) -> None:
        """F12 gap, F14 and F15, on all connections of the user; what lasts does so for `play.after`."""
        until = self._beat_clock.now() + play.after
        match play.fault:
            case Fault.F12_STREAM_GAP:
                self._away_until[user_id] = until
                self.abort(user_id)
            case Fault.F14_SILENT_STREAM | Fault.F15_SLOW_READER:
                for client in self._of(user_id):
                    client.silent_until = until
                    client.cut_after_silence = play.fault is Fault.F15_SLOW_READER
            case Fault.F15_STREAM_ABORTED:
                self.abort(user_id)
            case _:
                raise ValueError(f"{play.fault.name} is no trouble of a connection")

    def abort(self, user_id: str | None = None) -> None:
        """Cut the connections of a user, or all, without a closing frame: 1006."""
        for client in list(self._clients) if user_id is None else self._of(user_id):
            client.connection.transport.abort()

    # --- connections ------------------------------------------------------------------------------------------------

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Decides on a handshake; None lets it go on."""
        api_key, access_token = _credentials(request)
        account = self._sim.account_of(api_key, access_token)
        held = self._held[api_key]
        held -= {each for each in held if each.state is State.CLOSED}
        if account is None:
            status, text = HTTPStatus.FORBIDDEN, "Invalid api_key or access_token."
        elif self._beat_clock.now() < self._away_until.get(account.user_id, 0):
            status, text = HTTPStatus.SERVICE_UNAVAILABLE, "Service unavailable."
        elif len(held) >= MOST_CONNECTIONS:
            status, text = HTTPStatus.TOO_MANY_REQUESTS, "Too many connections."
        else:
            held.add(connection)
            return None
        self.refusals.append(int(status))
        return connection.respond(status, f"{text}\n")

    async def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None  # noqa: S101 (the handshake is over)
        api_key, access_token = _credentials(connection.request)
        account = self._sim.account_of(api_key, access_token)
        if account is None:
            return
        client = _Client(connection, account.user_id, api_key, access_token)
        self._clients.append(client)
        try:
            async for message in connection:
                if isinstance(message, str):
                    self._obey(client, message)
        except ConnectionClosed:
            pass  # cut off, by us or by the client
        finally:
            self._clients.remove(client)
            self._held[api_key].discard(connection)

    def _obey(self, client: _Client, message: str) -> None:
        try:
            said = msgspec.json.decode(message)
        except (msgspec.DecodeError, RecursionError):
            said = None
        match said:
            case {"a": "subscribe", "v": [*tokens]} if _are_tokens(tokens):
                new = [token for token in tokens if token not in client.modes]
                if len(client.modes) + len(new) > MOST_INSTRUMENTS:
                    self._complain(client, f"Too many instruments. Max permitted is {MOST_INSTRUMENTS}.")
                    return
                self._set_mode(client, tokens, Mode.QUOTE)
            case {"a": "unsubscribe", "v": [*tokens]} if _are_tokens(tokens):
                for token in tokens:
                    client.modes.pop(token, None)
            case {"a": "mode", "v": [("ltp" | "quote" | "full") as mode, [*tokens]]} if _are_tokens(tokens):
                self._set_mode(client, [token for token in tokens if token in client.modes], Mode(mode))
            case {"a": "subscribe" | "unsubscribe" | "mode"}:
                self._complain(client, "Error parsing instrument tokens")
            case _:
                self._complain(client, "Invalid message")

    def _set_mode(self, client: _Client, tokens: Iterable[int], mode: Mode) -> None:
        packets = []
        for token in tokens:
            client.modes[token] = mode
            quote = self._by_token.get(token)
            if quote is not None and quote.is_known:
                packets.append(quote.packet(mode))
        if packets:
            self._send_packets(client, packets)

    def _complain(self, client: _Client, text: str) -> None:
        self._send(client, encode({"type": "error", "data": text}).decode())

    def _meet_trouble(self, user_id: str) -> None:
        for fault in TROUBLES:
            if play := self._plays(fault, user_id):
                self.trouble(play, user_id)

    def _send_packets(self, client: _Client, packets: Sequence[bytes]) -> None:
        user_id = client.user_id
        self._meet_trouble(user_id)
        if self._plays(Fault.F17_EMPTY_FRAME, user_id):
            self._send(client, b"")
            self._send(client, frame([]))
        if self._plays(Fault.F17_UNKNOWN_PACKET, user_id):
            packets = [ODD_PACKET, *packets]
        for start in range(0, len(packets), MOST_PACKETS):
            data = frame(packets[start : start + MOST_PACKETS])
            self._send(client, data[: len(data) // 2] if self._plays(Fault.F17_TRUNCATED_FRAME, user_id) else data)

    def _send(self, client: _Client, data: str | bytes) -> None:
        if client.silent_until is not None:
            return
        if client.connection.transport.get_write_buffer_size() > SLOW:
            client.connection.transport.abort()
            return
        broadcast([client.connection], data)
        client.sent = True

    async def _beat(self) -> None:
        while True:
            await self._beat_clock.sleep(self._heartbeat)
            now = self._beat_clock.now()
            for client in list(self._clients):
                if client.silent_until is not None and now >= client.silent_until:
                    client.silent_until = None
                    if client.cut_after_silence:
                        client.connection.transport.abort()
                if self._sim.account_of(client.api_key, client.access_token) is None:
                    client.connection.transport.abort()
                elif not client.sent:
                    self._send(client, HEARTBEAT)
                client.sent = False
            for user_id in list(self._delayed):  # nothing came that it could come after
                self.say(self._delayed.pop(user_id), user_id)

    def _of(self, user_id: str) -> list[_Client]:
        return [client for client in self._clients if client.user_id == user_id]

    def _quote(self, symbol: str) -> Quote | None:
        instrument = self._find(symbol)
        if instrument is None:
            return None
        quote = self._quotes.get(symbol)
        if quote is None or quote.instrument is not instrument:
            quote = self._quotes[symbol] = self._by_token[instrument.token] = Quote(instrument)
        return quote


def _credentials(request: Request) -> tuple[str, str]:
    query = parse_qs(urlsplit(request.path).query)
    return query.get("api_key", [""])[0], query.get("access_token", [""])[0]


def _are_tokens(values: Sequence[object]) -> bool:
    return all(type(each) is int and 0 <= each < 2**32 for each in values)
