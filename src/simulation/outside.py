"""What a simulated process deals with besides Redis, each behind its wire: its broker, PostgreSQL, its own clock."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from brokers.port import (
    BookOrder,
    Broker,
    BrokerPosition,
    Brokers,
    BrokerUnavailable,
    Changing,
    NotPlaced,
    OrderLimits,
    Placing,
    Refused,
    Trade,
    Unanswered,
)
from domain.clock import Clock
from domain.decide import UNREACHABLE
from domain.values import SECOND, Duration, Instant, OrderRequest, Price
from simulation.wire import TRANSACTION, Crossing, Verdict, Wire

__all__ = ["GatedBrokers", "ProcessClock", "SimulatedTimer", "gated"]

T = TypeVar("T")


class ProcessClock:
    """The clock of one machine: the simulation's, and how far this one is off."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.offset: Duration = 0

    def now(self) -> Instant:
        return self._clock.now() + self.offset

    async def sleep(self, duration: Duration) -> None:
        await self._clock.sleep(duration)

    def asleep(self, task: Any) -> bool:
        """See `VirtualClock.asleep`."""
        return bool(cast(Any, self._clock).asleep(task))


class SimulatedTimer:
    """`eventstore.patience.Timer` by the simulation's clock. A server counts as one that was started just now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock.now() / SECOND

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(int(seconds * SECOND))

    def uptime(self, told: float) -> float:
        return 0.0


class GatedBrokers:
    """The brokers as one process reaches them. A call that is lost before it is made is *known* not to have been made,
    as a refused connection is; one whose reply is lost is unanswered."""

    def __init__(self, brokers: Brokers, wire: Wire) -> None:
        self._brokers = brokers
        self._wire = wire

    async def of(self, user_id: int) -> Broker | None:
        broker = await self._brokers.of(user_id)
        return None if broker is None else _GatedBroker(broker, self._wire)

    async def connected(self) -> list[int]:
        return await self._brokers.connected()


class _GatedBroker:
    def __init__(self, broker: Broker, wire: Wire) -> None:
        self._broker = broker
        self._wire = wire

    @property
    def account(self) -> str:
        return self._broker.account

    @property
    def limits(self) -> OrderLimits | None:
        return self._broker.limits

    async def place(self, request: OrderRequest) -> Placing:
        lost: Placing = NotPlaced(UNREACHABLE, curable=True, counted=False, text="connection refused")
        return await self._ask("place", lambda: self._broker.place(request), lost, Unanswered("the reply was lost"))

    async def modify(self, order_id: str, *, price: Price) -> Changing:
        unanswered = Unanswered("the reply was lost")
        return await self._ask(
            "modify", lambda: self._broker.modify(order_id, price=price), Refused(UNREACHABLE), unanswered
        )

    async def cancel(self, order_id: str) -> Changing:
        unanswered = Unanswered("the reply was lost")
        return await self._ask("cancel", lambda: self._broker.cancel(order_id), Refused(UNREACHABLE), unanswered)

    async def orders(self) -> list[BookOrder]:
        return await self._read("orders", self._broker.orders)

    async def trades(self) -> list[Trade]:
        return await self._read("trades", self._broker.trades)

    async def positions(self) -> list[BrokerPosition]:
        return await self._read("positions", self._broker.positions)

    def updates(self) -> AsyncIterator[str]:
        return self._broker.updates()

    async def _ask(self, what: str, call: Callable[[], Awaitable[T]], lost: Any, unanswered: Any) -> T:
        crossing = await self._wire.enter(f"broker {what}")
        if crossing.verdict is Verdict.LOSE:
            return cast(T, lost)
        answer = await call()
        await self._wire.leave(crossing)
        return cast(T, unanswered) if crossing.verdict is Verdict.SWALLOW else answer

    async def _read(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        crossing = await self._wire.enter(f"broker {what}")
        if crossing.verdict is Verdict.LOSE:
            raise BrokerUnavailable("the call was lost")
        try:
            answer = await call()
        finally:
            await self._wire.leave(crossing)
        if crossing.verdict is Verdict.SWALLOW:
            raise BrokerUnavailable("the reply was lost")
        return answer


def gated(engine: AsyncEngine, wire: Wire) -> AsyncEngine:
    """The engine as one process reaches it: each connection that is taken is one crossing. When its reply is lost, it
    was committed and nobody knows."""
    return cast(AsyncEngine, _GatedEngine(engine, wire))


class _GatedEngine:
    def __init__(self, engine: AsyncEngine, wire: Wire) -> None:
        self._engine = engine
        self._wire = wire

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        crossing = await self._enter()
        try:
            async with self._engine.begin() as connection:
                yield connection
        finally:
            await self._wire.leave(crossing)
        if crossing.verdict is Verdict.SWALLOW:
            raise OperationalError("COMMIT", {}, OSError("the connection broke before the answer"))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        crossing = await self._enter()
        try:
            async with self._engine.connect() as connection:
                yield connection
        finally:
            await self._wire.leave(crossing)
        if crossing.verdict is Verdict.SWALLOW:
            raise OperationalError("", {}, OSError("the connection broke before the answer"))

    async def _enter(self) -> Crossing:
        crossing = await self._wire.enter(TRANSACTION)
        if crossing.verdict is Verdict.LOSE:
            raise OperationalError("", {}, OSError("PostgreSQL cannot be reached"))
        return crossing
