"""Broker order updates: when to read which account's order book.

Hints come from the broker (push) and from the log (an order was sent); while an account has open orders its book is
read at least every second, and now and then in any case, for orders that surface and for those that are not ours.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import structlog

from brokers.port import BrokerError, Brokers
from domain.clock import Clock
from domain.events import (
    Intent,
    OrderAccepted,
    OrderFilled,
    OrderFinalized,
    OrderRecovered,
    RecoverySettled,
    StrategyRecovered,
)
from domain.strategy import State
from domain.values import DAY, SECOND, Duration, Final, Instant, Tag
from eventstore.envelope import Recorded
from eventstore.errors import LogLost, LogUnavailable
from eventstore.waiting import either
from sources.following import following

Poll = Callable[[int, frozenset[int]], Awaitable[int]]
"""Reads the book of a user, some of whose strategies have unresolved orders; answers how many events came of it."""

OPEN_PERIOD: Duration = SECOND
WATCH_PERIOD: Duration = 15 * SECOND
IDLE_PERIOD: Duration = 60 * SECOND
BREATH: Duration = SECOND // 5
"""Between two readings: a flood of hints takes half of the readings that Kite allows, not all of them."""

log = structlog.get_logger(__name__)


def _doubt(strategy_id: int) -> Tag:
    """Stands for the orders that a strategy may have lost; no tag looks like it."""
    return Tag(f"lost of {strategy_id}")


class OpenOrders:
    """A fold of the log: which accounts have unresolved orders, or may have some that the log lost, and which have
    given up some that may surface."""

    def __init__(self) -> None:
        self.open: defaultdict[int, dict[Tag, int]] = defaultdict(dict)
        self.given_up: defaultdict[int, dict[Tag, Instant]] = defaultdict(dict)
        """By user, with when it was."""

    def start(self, states: Iterable[State]) -> None:
        """Begins from loaded states."""
        for state in states:
            for order in (*state.past.values(), *([state.order] if state.order else [])):
                if not order.resolved:
                    self.open[state.user_id][order.tag] = state.id
                elif order.final is Final.NOT_PLACED:
                    self.given_up[state.user_id][order.tag] = order.at
            if state.settle_after:
                self.open[state.user_id][_doubt(state.id)] = state.id

    def apply(self, recorded: Recorded) -> int | None:
        """The user whose book is worth a look now, if any."""
        user_id = recorded.user_id
        match recorded.event:
            case StrategyRecovered():
                self.open[user_id][_doubt(recorded.strategy_id)] = recorded.strategy_id
                return user_id
            case RecoverySettled():
                self.open[user_id].pop(_doubt(recorded.strategy_id), None)
                self.given_up[user_id][_doubt(recorded.strategy_id)] = recorded.recorded_at
                return None
            case Intent(tag=tag) | OrderAccepted(tag=tag) | OrderRecovered(tag=tag):
                self.open[user_id][tag] = recorded.strategy_id
                return user_id
            case OrderFilled(tag=tag) if tag in self.given_up[user_id]:
                self.open[user_id][tag] = recorded.strategy_id
                return user_id
            case OrderFinalized(tag=tag, final=final):
                self.open[user_id].pop(tag, None)
                if final is Final.NOT_PLACED:
                    self.given_up[user_id][tag] = recorded.recorded_at
                return None
            case _:
                return None

    def forget(self, before: Instant) -> None:
        """What was given up before this surfaces no more: a book is of one day."""
        for user_id, tags in self.given_up.items():
            self.given_up[user_id] = {tag: at for tag, at in tags.items() if at >= before}

    def any_open(self) -> bool:
        """Whether any account has an order that is not resolved."""
        return any(self.open.values())

    def strategies(self, user_id: int) -> frozenset[int]:
        return frozenset(self.open[user_id].values())

    def period(self, user_id: int) -> Duration:
        """How long the book may go unread."""
        if self.open[user_id]:
            return OPEN_PERIOD
        return WATCH_PERIOD if self.given_up[user_id] else IDLE_PERIOD


class Updates:
    """Reads every connected account's book when there is reason to. `run` for ever, or `step` for simulations."""

    def __init__(self, *, brokers: Brokers, clock: Clock, poll: Poll, orders: OpenOrders) -> None:
        self._brokers = brokers
        self._clock = clock
        self._poll = poll
        self._orders = orders
        self._hints: dict[int, asyncio.Event] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    async def run(self, events: AsyncIterator[Recorded]) -> None:
        """`events` follows the log from where the orders were loaded. Ends after `stop`."""
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(self._follow(events, group))
            group.create_task(self._mind_connections(group))
            await self._stopping.wait()
            follower.cancel()
            for task in self._tasks.values():
                task.cancel()

    async def stop(self) -> None:
        self._stopping.set()

    async def step(self) -> int:
        """One reading for every account with open orders. Zero: nothing new."""
        written = 0
        for user_id in sorted(user for user, orders in self._orders.open.items() if orders):
            written += await self._poll(user_id, self._orders.strategies(user_id))
        return written

    async def watch(self, user_ids: Iterable[int]) -> int:
        """A reading of these accounts, whether or not they have open orders."""
        return sum([await self._poll(user_id, self._orders.strategies(user_id)) for user_id in user_ids])

    async def _follow(self, events: AsyncIterator[Recorded], group: asyncio.TaskGroup) -> None:
        async with following(events):
            async for recorded in events:
                user_id = self._orders.apply(recorded)
                if user_id is not None:
                    self._account(user_id, group).set()

    async def _mind_connections(self, group: asyncio.TaskGroup) -> None:
        while not self._stopping.is_set():
            self._orders.forget(self._clock.now() - DAY)
            try:
                for user_id in await self._brokers.connected():
                    self._account(user_id, group)
            except LogUnavailable as error:
                log.warning("accounts_not_known", why=str(error))
            await either(self._stopping.wait(), self._clock.sleep(5 * SECOND))

    def _account(self, user_id: int, group: asyncio.TaskGroup) -> asyncio.Event:
        if user_id not in self._hints:
            self._hints[user_id] = asyncio.Event()
            self._tasks[user_id] = group.create_task(self._mind(user_id), name=f"account {user_id}")
        return self._hints[user_id]

    async def _mind(self, user_id: int) -> None:
        """One account: push hints wake the reading, and time does."""
        told, read_at = "", 0
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(user_id))
            while not self._stopping.is_set():
                hint = self._hints[user_id]
                await either(hint.wait(), self._clock.sleep(self._orders.period(user_id)))
                await self._clock.sleep(read_at + BREATH - self._clock.now())  # what comes meanwhile is read with it
                hint.clear()
                read_at = self._clock.now()
                try:
                    await self._poll(user_id, self._orders.strategies(user_id))
                    told = ""
                except LogLost:
                    raise
                except Exception as error:  # one account does not stop the others: it is read again when it is time
                    if (why := f"{type(error).__name__}: {error}") != told:
                        log.exception("account_not_read", user_id=user_id)
                        told = why

    async def _listen(self, user_id: int) -> None:
        """Push hints of one account, again and again. Why there are none is said once for each reason."""
        told = ""
        while not self._stopping.is_set():
            broker, why = None, ""
            try:
                broker = await self._brokers.of(user_id)
            except LogUnavailable as error:
                why = str(error)
            if broker is not None:
                try:
                    async for _ in broker.updates():
                        told = ""
                        self._hints[user_id].set()
                except BrokerError as error:
                    why = str(error)
                except Exception as error:  # without push, the book is read by time
                    why = f"{type(error).__name__}: {error}"
                    if why != told:
                        log.exception("no_push", user_id=user_id)
                        told = why
            if why and why != told:
                log.warning("no_push", user_id=user_id, why=why)
                told = why
            await self._clock.sleep(5 * SECOND)
