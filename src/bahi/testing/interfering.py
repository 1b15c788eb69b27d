"""What a test does between a process and its log, and around the calls of the broker: to lose, to kill, to look."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from brokers.port import BookOrder, Broker, BrokerPosition, Brokers, Changing, OrderLimits, Placing, Trade
from domain.events import Intent
from domain.values import OrderRequest, Price
from eventstore.errors import LogUnavailable
from eventstore.log import EventLog

__all__ = ["Died", "HookedBroker", "HookedBrokers", "Hooks", "Wire"]


class Died(BaseException):
    """The process is no more."""


class Wire:
    """Between a process and its log: loses what it is told to lose. `calls` counts what went over it."""

    def __init__(self, log: EventLog) -> None:
        self.calls = 0
        self.fault: Callable[[int, str], str] | None = None
        """(number of the call from 1, name) → "" | "call lost" | "reply lost" | "die"."""
        self.after_intent: Callable[[Intent], Awaitable[None]] | None = None
        """What happens between an intent's append and its send."""
        for name in ("append", "load", "halt"):
            setattr(log, name, self._wrapped(name, getattr(log, name)))

    def _wrapped(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def over_the_wire(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            fault = self.fault(self.calls, name) if self.fault else ""
            if fault == "call lost":
                raise LogUnavailable("the call was lost")
            if fault == "die":
                raise Died
            result = await call(*args, **kwargs)
            if fault == "reply lost":
                raise LogUnavailable("the reply was lost")
            if name == "append" and self.after_intent is not None:
                for new in args[0]:
                    if isinstance(new.event, Intent):
                        await self.after_intent(new.event)
            return result

        return over_the_wire


class Hooks:
    """What a test does around the calls of the broker."""

    def __init__(self) -> None:
        self.before_place: Callable[[OrderRequest], Awaitable[None]] | None = None
        self.after_place: Callable[[OrderRequest, Placing], Awaitable[None]] | None = None
        self.placed: list[OrderRequest] = []
        self.cancelled: list[str] = []
        self.modified: list[str] = []


class HookedBroker:
    def __init__(self, broker: Broker, hooks: Hooks) -> None:
        self._broker, self._hooks = broker, hooks

    @property
    def account(self) -> str:
        return self._broker.account

    @property
    def limits(self) -> OrderLimits | None:
        return self._broker.limits

    async def place(self, request: OrderRequest) -> Placing:
        if self._hooks.before_place is not None:
            await self._hooks.before_place(request)
        self._hooks.placed.append(request)
        answer = await self._broker.place(request)
        if self._hooks.after_place is not None:
            await self._hooks.after_place(request, answer)
        return answer

    async def modify(self, order_id: str, *, price: Price) -> Changing:
        self._hooks.modified.append(order_id)
        return await self._broker.modify(order_id, price=price)

    async def cancel(self, order_id: str) -> Changing:
        self._hooks.cancelled.append(order_id)
        return await self._broker.cancel(order_id)

    async def orders(self) -> list[BookOrder]:
        return await self._broker.orders()

    async def trades(self) -> list[Trade]:
        return await self._broker.trades()

    async def positions(self) -> list[BrokerPosition]:
        return await self._broker.positions()

    def updates(self) -> AsyncIterator[str]:
        return self._broker.updates()


class HookedBrokers:
    def __init__(self, brokers: Brokers, hooks: Hooks) -> None:
        self._brokers, self._hooks = brokers, hooks

    async def of(self, user_id: int) -> Broker | None:
        broker = await self._brokers.of(user_id)
        return None if broker is None else HookedBroker(broker, self._hooks)

    async def connected(self) -> list[int]:
        return await self._brokers.connected()
