"""A stream server on loopback with a clock that the test turns, and readers that collect what comes."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Generic, TypeVar

from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.socket import KiteSocket, Lost, Opened, SocketItem
from domain.values import DAY, SECOND, Duration, Instant, Tick
from simulation.clock import VirtualClock
from simulation.kite.faults import Fault, Play
from simulation.kite.instruments import InstrumentList, SimInstrument
from simulation.kite.stream import StreamServer

NOON: Instant = 1_795_156_200 * SECOND
"""2026-11-20 12:00:00 IST."""

SBIN, INFY, TCS, NIFTY = "NSE:SBIN", "NSE:INFY", "NSE:TCS", "NSE:NIFTY 50"
INSTRUMENTS = InstrumentList(
    [
        *(
            SimInstrument(symbol=f"NSE:{name}", exchange_token=100 + n)
            for n, name in enumerate(("SBIN", "INFY", "TCS"))
        ),
        *(SimInstrument(symbol=f"NSE:S{n}", exchange_token=1_000 + n) for n in range(20)),
        SimInstrument(symbol=NIFTY, exchange_token=1_001, segment="INDICES"),
    ]
)

T = TypeVar("T")


def token_of(symbol: str) -> int | None:
    instrument = INSTRUMENTS.find(symbol)
    return None if instrument is None else instrument.token


def account(name: str = "AB1234", session: str = "t0psecret-session") -> KiteAccount:
    return KiteAccount(
        user_id=7,
        kite_user_id=name,
        api_key=f"apikey-of-{name}",
        access_token=session,
        connected_at=NOON,
        expires_at=NOON + DAY,
    )


def tick(symbol: str, price: str, at: Instant = NOON, volume: int = 100) -> Tick:
    return Tick(symbol, Decimal(price), at, volume)


class User:
    """Who a session belongs to."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id


class World:
    """The simulated Kite as far as its stream needs it, its server, and its address."""

    def __init__(self) -> None:
        self.clock = VirtualClock(NOON)
        self.sessions: dict[tuple[str, str], User] = {}
        self.faults: list[Play] = []
        self.played: Counter[Fault] = Counter()
        self.server = StreamServer(self, INSTRUMENTS.find, plays=self._plays)
        self.address = KiteAddress()
        self.port = 0

    def account_of(self, api_key: str, access_token: str) -> User | None:
        return self.sessions.get((api_key, access_token))

    def login(self, who: KiteAccount) -> KiteAccount:
        self.sessions[who.api_key, who.access_token] = User(who.kite_user_id)
        return who

    def logout(self, who: KiteAccount) -> None:
        del self.sessions[who.api_key, who.access_token]

    def next_plays(self, fault: Fault, after: Duration = 0) -> None:
        self.faults.append(Play(fault, after))

    def socket(self, who: KiteAccount, **more: Any) -> KiteSocket:
        return KiteSocket(who, self.address, self.clock, rng=random.Random(1), **more)

    def _plays(self, fault: Fault, _user_id: str | None) -> Play | None:
        for play in self.faults:
            if play.fault is fault:
                self.faults.remove(play)
                self.played[fault] += 1
                return play
        return None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve on the same port each time."""
        async with self.server.serving(port=self.port) as self.port:
            self.address = KiteAddress(ws_root=f"ws://127.0.0.1:{self.port}")
            yield

    async def until(self, condition: Callable[[], bool]) -> None:
        """As soon as the condition holds; the clock stands still."""
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 (what is waited for tells nobody)
                await asyncio.sleep(0)

    async def pass_until(self, condition: Callable[[], bool], step: Duration = SECOND // 2) -> Duration:
        """Turn the clock until the condition holds; how long that took."""
        began = self.clock.now()
        async with asyncio.timeout(60):
            while not condition():
                await self.clock.advance(step)
                for _ in range(20):
                    await asyncio.sleep(0)
        return self.clock.now() - began


class Reader(Generic[T]):
    """Reads a stream to its end in a task of its own; `gate` closed, it does not take the next item."""

    def __init__(self, stream: Any) -> None:
        self.items: list[T] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._stream = stream
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for item in self._stream:
                self.items.append(item)
                await self.gate.wait()
        finally:
            await self._stream.aclose()

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def of(self, kind: type[Any]) -> list[Any]:
        return [item for item in self.items if isinstance(item, kind)]


@asynccontextmanager
async def reading(stream: Any) -> AsyncIterator[Reader[Any]]:
    reader: Reader[Any] = Reader(stream)
    try:
        yield reader
    finally:
        await reader.close()


def reasons(reader: Reader[SocketItem]) -> list[str]:
    return [lost.reason for lost in reader.of(Lost)]


def openings(reader: Reader[SocketItem]) -> int:
    return len(reader.of(Opened))
