"""The live market: ticks from Kite's stream, over as many connections as the symbols wanted need.

1. The stream belongs to a user's session. Which one is the constructor's to say, and it is asked again when Kite
   refuses a session, and while there is none; a refused session is tried again after a minute at the earliest.
2. Each connection asks in full mode for the instruments that have their seat on it, and asks again when it is made
   again. A packet with the exchange's time is a tick, whatever else changed: nothing is thinned out, because a stop
   must see the lowest price.
3. What arrives waits in a short queue. When that is full, the sockets are not read, and Kite's own buffers fill.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

import structlog

from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.packets import Noticed, quick
from brokers.kite.socket import BadAddress, KiteSocket, Lost, Opened, SessionRefused
from brokers.kite.subscriptions import CONNECTIONS, EACH, Seats, asking, unasking
from brokers.kite.texts import ErrorText, OrderText, parse_text
from domain.clock import Clock
from domain.values import SECOND, Duration, Instant, Tick
from sources.feeds.port import Connected, Disconnected, Feed, FeedError, FeedItem

__all__ = ["KiteFeed"]

BACKLOG: Final = 64
"""Batches (a frame's ticks each) that may wait for the reader."""
ASK_EVERY: Final[Duration] = SECOND
"""How often an account is asked for while there is none to use: who has just connected may buy in some seconds."""
REFUSED_PAUSE: Final[Duration] = 60 * SECOND
FORCED_PAUSE: Final[Duration] = 30 * SECOND
"""Between two connections made anew because somebody asked: quiet symbols look like a dead feed."""
ERRORS: Final = 20
"""Different error texts of one connection that are reported; each is once."""

OnFrame = Callable[[int, Sequence[Tick]], None]

log = structlog.get_logger(__name__)


class KiteFeed:
    """Iterate `ticks` once at a time.

    `account`: the session to use now, None: nobody has one. `refused`: Kite refused this one; compare it with what is
    stored, which may be newer by then. `tokens`: the instrument token of `EXCHANGE:TRADINGSYMBOL`. `on_order` is told
    of orders of the account that may have changed ("": some). `on_frame` is told, before they are handed on, of a
    frame's ticks and of the `time.perf_counter_ns()` at which its bytes came from the socket; without it no time is
    taken. The callbacks that are no coroutines must neither wait nor raise.
    """

    def __init__(
        self,
        *,
        account: Callable[[], Awaitable[KiteAccount | None]],
        tokens: Callable[[str], int | None],
        address: KiteAddress,
        clock: Clock,
        refused: Callable[[KiteAccount], Awaitable[None]] | None = None,
        on_order: Callable[[KiteAccount, str], None] | None = None,
        on_frame: OnFrame | None = None,
        connections: int = CONNECTIONS,
        each: int = EACH,
        name: str = "kite",
        rng: random.Random | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.noticed = Noticed()
        """What the frames contained besides ticks."""
        self.ignored_texts = 0
        self._ask = account
        self._tell_refused = refused
        self._tokens = tokens
        self._address = address
        self._clock = clock
        self._on_order = on_order
        self._on_frame = on_frame
        self._name = name
        self._rng = rng
        self._tls = tls
        self._wanted: frozenset[str] = frozenset()
        self._seats = Seats(connections, each)
        self._lines = [_Line(number) for number in range(connections)]
        self._refused_at: dict[KiteAccount, Instant] = {}
        self._forced_at: Instant | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def left_out(self) -> dict[str, str]:
        """Symbols that are wanted and come no ticks of, and why."""
        return dict(self._seats.left_out)

    def subscribe(self, symbols: frozenset[str]) -> None:
        self._wanted = symbols
        self._seat()

    def reconnect(self) -> None:
        now = self._clock.now()
        if self._forced_at is not None and 0 <= now - self._forced_at < FORCED_PAUSE:
            return
        for line in self._lines:
            if line.socket is not None and line.socket.is_open:
                self._forced_at = now
                line.socket.drop("asked to connect anew")

    async def ticks(self) -> AsyncGenerator[FeedItem, None]:
        """For ever; whoever leaves early closes it. Raises FeedError when the address can never work."""
        items: asyncio.Queue[FeedItem | BaseException] = asyncio.Queue(BACKLOG)
        serving = asyncio.create_task(self._serve(items), name="kite feed")
        try:
            while True:
                item = await items.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            serving.cancel()
            await asyncio.wait([serving])

    # --- the session ------------------------------------------------------------------------------------------------

    async def _serve(self, items: "asyncio.Queue[FeedItem | BaseException]") -> None:
        """All connections on one account, then on the next. What ends it is handed to the reader."""
        try:
            while True:
                account = await self._account(items)
                reason, fatal = "", False
                try:
                    async with asyncio.TaskGroup() as group:
                        for line in self._lines:
                            group.create_task(self._hold(line, account, items), name=f"kite feed: {line.number}")
                except* SessionRefused as refusals:
                    reason = str(refusals.exceptions[0])
                except* BadAddress as errors:
                    reason, fatal = str(errors.exceptions[0]), True
                if fatal:
                    raise FeedError(reason)
                log.warning("kite_feed_refused", account=account.kite_user_id, why=reason)
                self._refused_at[account] = self._clock.now()
                await items.put(Disconnected(reason))
                await self._report_refused(account)
        except Exception as error:
            await items.put(error)

    async def _account(self, items: "asyncio.Queue[FeedItem | BaseException]") -> KiteAccount:
        """The next account to use. One that was refused is another only with another session, or after a while."""
        said = ""
        while True:
            reason = "no account with a session"
            try:
                account = await self._ask()
            except Exception as error:  # whatever stores the sessions is away
                account, reason = None, f"the accounts cannot be read: {type(error).__name__}"
                log.warning("kite_feed_accounts_unread", exc_info=True)
            now = self._clock.now()
            self._refused_at = {each: at for each, at in self._refused_at.items() if 0 <= now - at < REFUSED_PAUSE}
            if account is not None:
                if account not in self._refused_at:
                    return account
                reason = "Kite refused the session, and there is no other"
            if reason != said:
                await items.put(Disconnected(reason))
                said = reason
            await self._clock.sleep(ASK_EVERY)

    async def _report_refused(self, account: KiteAccount) -> None:
        if self._tell_refused is None:
            return
        try:
            await self._tell_refused(account)
        except Exception:  # the session stays refused here, whoever was to know
            log.warning("kite_feed_refusal_untold", account=account.kite_user_id, exc_info=True)

    # --- a connection -----------------------------------------------------------------------------------------------

    async def _hold(
        self, line: "_Line", account: KiteAccount, items: "asyncio.Queue[FeedItem | BaseException]"
    ) -> None:
        """One connection, from when it is needed. The first always is, so that the feed is known to live."""
        if line.number > 0:
            await line.needed.wait()
        stamped = self._on_frame is not None
        socket = KiteSocket(account, self._address, self._clock, rng=self._rng, tls=self._tls, stamped=stamped)
        line.socket = socket
        try:
            async with aclosing(socket.items()) as stream:
                async for item in stream:
                    match item:
                        case bytes():
                            if batch := self._batch(item, line):
                                if self._on_frame is not None:
                                    self._on_frame(socket.read_at, batch)
                                await items.put(batch)
                        case str():
                            for told in self._read(item, line, account):
                                await items.put(told)
                        case Opened():
                            line.opened()
                            self._seat()
                            if tokens := self._seats.on(line.number):
                                line.say(asking(tokens))
                            await items.put(self._connected())
                        case Lost(reason=reason):
                            line.is_up = False
                            await items.put(Disconnected(reason))
        finally:
            line.is_up = False
            line.socket = None

    def _batch(self, frame: bytes, line: "_Line") -> list[Tick]:
        symbols = self._seats.symbols
        noticed = self.noticed
        odd = noticed.skipped + noticed.broken
        batch = [
            Tick(symbol, price, at, volume)
            for token, price, at, volume in quick(frame, noticed)
            if (symbol := symbols.get(token)) is not None  # one that was just given up
        ]
        if noticed.skipped + noticed.broken > odd and not line.told_odd:
            line.told_odd = True
            log.warning("kite_frame_odd", bytes=len(frame), skipped=noticed.skipped, broken=noticed.broken)
        return batch

    def _read(self, frame: str, line: "_Line", account: KiteAccount) -> list[FeedItem]:
        match parse_text(frame):
            case OrderText(order_id=order_id):
                if self._on_order is not None:
                    self._on_order(account, order_id)
            case ErrorText(text=text) if text not in line.errors and len(line.errors) < ERRORS:
                line.errors.add(text)
                log.error("kite_stream_error", account=account.kite_user_id, text=text)
                return [Disconnected(f"Kite: {text}"), self._connected()]  # an error, but the connection is there
            case _:
                self.ignored_texts += 1
        return []

    def _connected(self) -> Connected:
        return Connected(sum(len(self._seats.on(line.number)) for line in self._lines if line.is_up))

    def _seat(self) -> None:
        """Ask each connection that is up for what is new, and no more for what nobody wants."""
        known = self._seats.left_out
        changes = self._seats.want(self._wanted, self._tokens)
        left_out = {symbol: why for symbol, why in self._seats.left_out.items() if symbol not in known}
        if left_out:
            some = [f"{symbol}: {why}" for symbol, why in sorted(left_out.items())[:10]]
            log.error("kite_symbols_left_out", count=len(left_out), first=some)
        for line, change in zip(self._lines, changes, strict=True):
            if self._seats.on(line.number):
                line.needed.set()
            else:
                line.needed.clear()
            if line.is_up and change.removed:
                line.say(unasking(change.removed))
            if line.is_up and change.added:
                line.say(asking(change.added))


class _Line:
    """What is known of one of the connections."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.needed = asyncio.Event()
        self.socket: KiteSocket | None = None
        self.is_up = False
        self.errors: set[str] = set()
        self.told_odd = False

    def opened(self) -> None:
        self.is_up = True
        self.errors.clear()
        self.told_odd = False

    def say(self, messages: Sequence[str]) -> None:
        if self.socket is not None:
            for message in messages:
                self.socket.say(message)


_: type[Feed] = KiteFeed
