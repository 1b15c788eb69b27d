"""Workers that die at the points of the order protocol (architecture §5), and come back.

A death is as `kill -9`: the process does nothing any more; what it had written to a socket arrives all the same.
Which order dies at which point is a pure function of the seed and the order's tag.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from enum import StrEnum
from typing import Any, TypeVar

from brokers.port import BookOrder, Broker, BrokerPosition, Brokers, Changing, OrderLimits, Placing, Trade
from domain.events import Event, Intent, OrderAccepted, OrderOutcomeUnknown
from domain.values import DAY, OrderRequest, Price
from eventstore.clients import command
from eventstore.errors import LogUnavailable
from eventstore.keys import GROUP
from eventstore.log import EventLog
from handlers.desk import Desk
from handlers.worker import Worker
from simulation.clock import VirtualClock

__all__ = ["CrashPoint", "Crashes", "MortalCrew"]

T = TypeVar("T")

NEVER = 10_000 * DAY


class CrashPoint(StrEnum):
    """Where a worker dies, or the log's reply is lost."""

    BEFORE_INTENT = "dies before the intent is appended"
    INTENT_APPENDED = "dies after the intent, before the order is sent"
    ORDER_IN_FLIGHT = "dies while the order is on its way"
    ORDER_ANSWERED = "dies with the answer, before the outcome is appended"
    OUTCOME_APPENDED = "dies after the outcome is appended"
    CANCEL_APPENDED = "dies after CANCEL_REQUESTED, before it is sent"
    CANCEL_IN_FLIGHT = "dies while the cancel is on its way"
    CANCEL_ANSWERED = "dies with the answer to the cancel"
    MODIFY_APPENDED = "dies after MODIFY_REQUESTED, before it is sent"
    MODIFY_IN_FLIGHT = "dies while the change is on its way"
    MODIFY_ANSWERED = "dies with the answer to the change"
    INTENT_REPLY_LOST = "the log's reply to the intent is lost"
    OUTCOME_REPLY_LOST = "the log's reply to the outcome is lost"


class Crashes:
    """Decides who dies where. `rate` is the share of orders that each point strikes; `struck` tells which did."""

    def __init__(self, seed: int, rate: float) -> None:
        self._seed = seed
        self._rate = rate
        self.struck: dict[str, list[CrashPoint]] = {}
        self.fired: Counter[CrashPoint] = Counter()

    def strikes(self, point: CrashPoint, tag: str) -> bool:
        """Whether to die here and now; at most once for a point and a tag."""
        if point in self.struck.get(tag, ()) or random.Random(f"{self._seed}/{point}/{tag}").random() >= self._rate:
            return False
        self.struck.setdefault(tag, []).append(point)
        self.fired[point] += 1
        return True


class MortalCrew:
    """`simulation.day.Crew`: two workers. One that dies is followed by a new process at once, under its own name or
    under another, which takes over what the dead one left."""

    def __init__(self, clock: VirtualClock, crashes: Crashes, open_desk: Callable[[str], Awaitable[Desk]]) -> None:
        """`open_desk` opens a desk with a log connection of its own for a process of that name."""
        self._clock = clock
        self._crashes = crashes
        self._open_desk = open_desk
        self._processes: list[_Process] = []
        self._hired = 0
        self._orphans: set[asyncio.Task[Any]] = set()
        self._rng = random.Random("crew")

    async def begin(self) -> None:
        for name in ("one", "two"):
            await self._hire(name)

    async def step(self) -> int:
        done = 0
        for process in list(self._processes):
            done += await process.step()
            if process.dead:
                await self._replace(process)
                done += 1
        if self._orphans:  # what the dead had sent arrives before time goes on
            await asyncio.wait(self._orphans)
        return done

    async def aclose(self) -> None:
        for process in self._processes:
            await process.bury()

    async def _replace(self, process: "_Process") -> None:
        self._processes.remove(process)
        await process.bury()
        if self._rng.random() < 0.5:
            await self._hire(process.name)
            return
        heir = await self._hire(f"worker-{self._hired}")
        for stream in heir.desk.log.keys.streams.values():
            await command(heir.desk.log.redis, "XAUTOCLAIM", stream, GROUP, heir.name, 0, "0-0")

    async def _hire(self, name: str) -> "_Process":
        self._hired += 1
        process = _Process(name, self._clock, self._crashes, await self._open_desk(f"{name}.{self._hired}"), self._keep)
        self._processes.append(process)
        return process

    def _keep(self, task: "asyncio.Task[Any]") -> None:
        self._orphans.add(task)
        task.add_done_callback(self._orphans.discard)


class _Process:
    """A worker with its own connection to the log, mortal."""

    def __init__(
        self,
        name: str,
        clock: VirtualClock,
        crashes: Crashes,
        desk: Desk,
        keep: Callable[["asyncio.Task[Any]"], None],
    ) -> None:
        self.name = name
        self.desk = desk
        self._died = asyncio.Event()
        self.clock = clock
        self.crashes = crashes
        self.keep = keep
        _guard_appends(desk.log, self)
        mortal = Desk(
            log=desk.log,
            clock=clock,
            calendar=desk.calendar,
            policy=desk.policy,
            instruments=desk.instruments,
            brokers=_MortalBrokers(desk.brokers, self),
            known={},
        )
        self._worker = Worker(mortal, consumer=name)

    @property
    def dead(self) -> bool:
        return self._died.is_set()

    async def step(self) -> int:
        stepping = asyncio.ensure_future(self._worker.step())
        dying = asyncio.ensure_future(self._died.wait())
        while not stepping.done() and not self.dead:
            if self.clock.asleep(stepping) and (at := self.clock.next_at()) is not None:
                self.clock.set(at)  # it waits for the log to answer again
            await asyncio.wait({stepping, dying}, timeout=0, return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if not stepping.done():  # died in the middle of it
            stepping.cancel()
            await asyncio.gather(stepping, return_exceptions=True)
            return 1
        try:
            return stepping.result()
        except LogUnavailable:
            return 1

    async def bury(self) -> None:
        self._worker.drop()
        await self.desk.log.aclose()

    async def reach(self, point: CrashPoint, tag: str) -> None:
        """Goes on, or never again."""
        if self.crashes.strikes(point, tag):
            self._died.set()
        if self.dead:
            await self.clock.sleep(NEVER)

    async def ask(self, points: "_Points", tag: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A call to the broker, with a death before it, during it or after it."""
        await self.reach(points[0], tag)
        asking = asyncio.create_task(call())
        self.keep(asking)
        if self.crashes.strikes(points[1], tag):
            await asyncio.sleep(0)
            self._died.set()
            await self.clock.sleep(NEVER)
        answer = await asyncio.shield(asking)
        await self.reach(points[2], tag)
        return answer


def _guard_appends(log: EventLog, process: _Process) -> None:
    inner = log.append

    async def append(new: Any, **kwargs: Any) -> Any:
        events = [each.event for each in new]
        tag = _tag_of(events, (Intent,))
        outcome = _tag_of(events, (OrderAccepted, OrderOutcomeUnknown))
        if tag:
            await process.reach(CrashPoint.BEFORE_INTENT, tag)
        answer = await inner(new, **kwargs)
        if tag and process.crashes.strikes(CrashPoint.INTENT_REPLY_LOST, tag):
            raise LogUnavailable("the reply was lost")
        if outcome and process.crashes.strikes(CrashPoint.OUTCOME_REPLY_LOST, outcome):
            raise LogUnavailable("the reply was lost")
        if outcome:
            await process.reach(CrashPoint.OUTCOME_APPENDED, outcome)
        return answer

    log.append = append  # type: ignore[method-assign, assignment]


def _tag_of(events: list[Event], kinds: tuple[type[Any], ...]) -> str:
    return next((event.tag for event in events if isinstance(event, kinds)), "")


_Points = tuple[CrashPoint, CrashPoint, CrashPoint]
"""Before the call, during it, and with its answer."""


class _MortalBrokers:
    def __init__(self, brokers: Brokers, process: _Process) -> None:
        self._brokers = brokers
        self._process = process

    async def of(self, user_id: int) -> Broker | None:
        broker = await self._brokers.of(user_id)
        return None if broker is None else _MortalBroker(broker, self._process)

    async def connected(self) -> list[int]:
        return await self._brokers.connected()


class _MortalBroker:
    """The points around a call."""

    _PLACE = (CrashPoint.INTENT_APPENDED, CrashPoint.ORDER_IN_FLIGHT, CrashPoint.ORDER_ANSWERED)
    _CANCEL = (CrashPoint.CANCEL_APPENDED, CrashPoint.CANCEL_IN_FLIGHT, CrashPoint.CANCEL_ANSWERED)
    _MODIFY = (CrashPoint.MODIFY_APPENDED, CrashPoint.MODIFY_IN_FLIGHT, CrashPoint.MODIFY_ANSWERED)

    def __init__(self, broker: Broker, process: _Process) -> None:
        self._broker = broker
        self._process = process

    @property
    def account(self) -> str:
        return self._broker.account

    @property
    def limits(self) -> OrderLimits | None:
        return self._broker.limits

    async def place(self, request: OrderRequest) -> Placing:
        return await self._process.ask(self._PLACE, request.tag, lambda: self._broker.place(request))

    async def modify(self, order_id: str, *, price: Price) -> Changing:
        return await self._process.ask(self._MODIFY, order_id, lambda: self._broker.modify(order_id, price=price))

    async def cancel(self, order_id: str) -> Changing:
        return await self._process.ask(self._CANCEL, order_id, lambda: self._broker.cancel(order_id))

    async def orders(self) -> list[BookOrder]:
        return await self._broker.orders()

    async def trades(self) -> list[Trade]:
        return await self._broker.trades()

    async def positions(self) -> list[BrokerPosition]:
        return await self._broker.positions()

    def updates(self) -> AsyncIterator[str]:
        return self._broker.updates()
