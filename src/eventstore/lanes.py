"""The worker's side of the log: every event that needs a reaction is handled once at least, the urgent ones first.

One reader per class, each with its own connection. Rules (architecture §3.4, §3.5): own pending messages before new
ones after every connect; a blocked read is never cancelled but unblocked; messages of dead workers are taken over;
a lost connection is made again, a lost group is an incident.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from redis.asyncio import Redis
from redis.exceptions import RedisError

from domain.values import Priority
from eventstore.clients import BLOCK_MS, command, reader_client
from eventstore.delivery import Delivery, Entry, Inbox, Undecodable, acknowledge, new_of, own_of
from eventstore.envelope import Recorded
from eventstore.errors import LogHole, LogLost, LogUnavailable
from eventstore.keys import CLASSES
from eventstore.locks import StrategyLocks
from eventstore.log import EventLog
from eventstore.slots import Slots
from eventstore.waiting import others_first

__all__ = ["Delivery", "Lanes", "Undecodable"]

TRIES = 3
"""How often a handler is asked before its message counts as poison."""
_TAKE_OVER_EVERY = 0.5
_ACKNOWLEDGE_EVERY = 0.1
_BACK_OFF = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_FEW = 4
"""How many of a class a step takes in hand."""


def _ignore(*_: object) -> None:
    """Nobody wants to know."""


class Lanes:
    """Delivers the events for which `wakes` is true to `handle`; acknowledges the others, many at a time.

    `handle` acknowledges by itself, with the append that it makes; what it leaves is delivered again after two
    seconds. It may raise LogUnavailable (the message is delivered again once the connection is back) and LogLost
    (an incident). Any other error, three times, or an event that cannot be read, goes to `on_poison`, which must see
    to it that the message is acknowledged (`eventstore.parked`).

    `consumer` must be the same after a restart, and nobody else's at the same time. `concurrency` messages are
    handled at once, `reserved_critical` of them only critical ones, and one at a time per strategy (`locks` may be
    shared with others who act on strategies). `on_gone` hears of pending messages that vanished from their stream,
    `on_trouble` of every error that was survived.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        consumer: str,
        handle: Callable[[Delivery], Awaitable[None]],
        wakes: Callable[[Recorded], bool],
        on_poison: Callable[[Delivery | Undecodable, Exception], Awaitable[None]],
        concurrency: int = 8,
        reserved_critical: int = 2,
        locks: StrategyLocks | None = None,
        on_gone: Callable[[Priority, Sequence[int]], None] = _ignore,
        on_trouble: Callable[[Exception], None] = _ignore,
    ) -> None:
        self.log = log
        self.consumer = consumer
        self.gone = 0
        """How many pending messages vanished: must stay 0."""
        self._handle = handle
        self._wakes = wakes
        self._on_poison = on_poison
        self._on_gone = on_gone
        self._on_trouble = on_trouble
        self._locks = locks or StrategyLocks()
        self._slots = Slots(concurrency, reserved_critical)
        self._inboxes = {each: Inbox(log.keys, each, consumer) for each in CLASSES}
        self._in_hand: set[tuple[Priority, int]] = set()
        self._idle: dict[Priority, list[int]] = {each: [] for each in CLASSES}
        """Delivered, without a reaction, not yet acknowledged."""
        self._to_redo: set[Priority] = set()
        self._setbacks = dict.fromkeys(CLASSES, 0)
        self._clients: dict[Priority, int] = {}
        self._stopping = asyncio.Event()
        self._finished: asyncio.Event | None = None
        self._failure: BaseException | None = None

    # --- running ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Handle messages until `stop`. Raises LogLost, and whatever `on_poison` raises, after what was in hand."""
        self._finished = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as work:
                work.create_task(self._guarded(self._acknowledge_idle), name="lanes: acknowledge")
                for inbox in self._inboxes.values():
                    work.create_task(self._guarded(partial(self._lane, inbox, work)), name=f"lane {inbox.stream}")
            await self._guarded(self._flush_idle)
        finally:
            self._finished.set()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Take nothing new, finish what is in hand, leave the rest pending. Returns when `run` is over."""
        self._begin_stop()
        while self._finished is not None and not self._finished.is_set():
            for client in list(self._clients.values()):
                try:
                    await command(self.log.redis, "CLIENT UNBLOCK", client, "TIMEOUT")
                except LogUnavailable as error:
                    self._on_trouble(error)  # its wait ends by itself
            try:
                async with asyncio.timeout(0.02):
                    await self._finished.wait()
            except TimeoutError:
                continue

    def _begin_stop(self) -> None:
        self._stopping.set()
        self._slots.wake_all()

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """An incident in one task stops all of them, in good order."""
        try:
            await work()
        except Exception as error:
            self._failure = self._failure or error
            self._begin_stop()

    async def _lane(self, inbox: Inbox, work: asyncio.TaskGroup) -> None:
        """One class: connect, serve, connect again."""
        while not self._stopping.is_set():
            reader = reader_client(self.log.redis)
            try:
                self._clients[inbox.stream] = await command(reader, "CLIENT ID")
                await self._serve(reader, inbox, work)
            except LogUnavailable as error:
                self._on_trouble(error)
                self._setbacks[inbox.stream] += 1
                await self._pause(inbox.stream)
            finally:
                self._clients.pop(inbox.stream, None)
                await reader.aclose()

    async def _serve(self, reader: "Redis", inbox: Inbox, work: asyncio.TaskGroup) -> None:
        """As long as the connection lasts."""
        clock = asyncio.get_running_loop().time
        take_over_at = clock()
        await self._drain(reader, inbox, work)
        while not self._stopping.is_set():
            if inbox.stream in self._to_redo:
                await self._pause(inbox.stream)
                await self._drain(reader, inbox, work)
            free = await self._slots.take(inbox.stream)
            used = 0
            try:
                if free and clock() >= take_over_at:
                    entries, gone = await inbox.take_over(reader, free)
                    if inbox.swept and not entries:
                        take_over_at = clock() + _TAKE_OVER_EVERY
                    await self._report(reader, inbox, gone)
                    used += await self._start(reader, inbox, entries, work)
                if free > used and not self._stopping.is_set():
                    found = await inbox.new(reader, free - used)
                    used += await self._start(reader, inbox, found, work)
                    idle = not found
                else:
                    idle = False
            finally:
                self._slots.give(inbox.stream, free - used)
            if idle and not self._stopping.is_set():
                await self._dispatch(reader, inbox, await inbox.new(reader, 1, BLOCK_MS), work)
            await others_first()

    async def _drain(self, reader: "Redis", inbox: Inbox, work: asyncio.TaskGroup) -> None:
        """What this consumer got and did not finish, as after a crash or a lost reply."""
        self._to_redo.discard(inbox.stream)
        after, more = 0, True
        while more and not self._stopping.is_set():
            entries, gone, after = await inbox.own(reader, after)
            await self._report(reader, inbox, gone)
            await self._dispatch(reader, inbox, entries, work)
            more = after > 0

    async def _dispatch(self, reader: "Redis", inbox: Inbox, entries: list[Entry], work: asyncio.TaskGroup) -> None:
        """Start them one by one, as slots get free; at a stop the rest stays pending."""
        for entry in entries:
            if await self._slots.take(inbox.stream, 1) == 0:
                return
            if await self._start(reader, inbox, [entry], work) == 0:
                self._slots.give(inbox.stream)

    async def _start(self, reader: "Redis", inbox: Inbox, entries: list[Entry], work: asyncio.TaskGroup) -> int:
        """Start handling those that need it, in slots that are taken already; acknowledge the others. How many."""
        started = 0
        for entry in entries:
            message = entry.message
            if (inbox.stream, message.position) in self._in_hand:
                continue
            if isinstance(message, Delivery) and not self._wakes(message.recorded):
                self._idle[inbox.stream].append(message.position)
                continue
            self._in_hand.add((inbox.stream, message.position))
            work.create_task(self._guarded(partial(self._work, entry)), name=f"{inbox.stream} {message.position}")
            started += 1
        return started

    async def _acknowledge_idle(self) -> None:
        """What needs no reaction, now and then: an acknowledgement is a write, and would delay those that matter."""
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_ACKNOWLEDGE_EVERY):
                    await self._stopping.wait()
            await self._flush_idle()

    async def _flush_idle(self) -> None:
        done = {self._inboxes[stream]: positions for stream, positions in self._idle.items() if positions}
        self._idle = {each: [] for each in CLASSES}
        try:
            await acknowledge(self.log.redis, done)
        except LogUnavailable as error:
            self._on_trouble(error)  # they are pending still, and come again
            self._to_redo.update(inbox.stream for inbox in done)

    async def _work(self, entry: Entry) -> None:
        message = entry.message
        stream = message.stream
        try:
            async with self._locks(message.strategy_id):
                await self._handled(entry)
            self._setbacks[stream] = 0
        except LogUnavailable as error:
            self._on_trouble(error)
            self._setbacks[stream] += 1
            self._to_redo.add(stream)
        finally:
            self._in_hand.discard((stream, message.position))
            self._slots.give(stream)

    async def _handled(self, entry: Entry) -> None:
        """Handle, or have it parked. Raises LogUnavailable when it is to be done again, LogLost."""
        message = entry.message
        error: Exception | None = entry.error
        try:
            if isinstance(message, Delivery):
                for _ in range(TRIES):
                    try:
                        return await self._handle(message)
                    except (LogUnavailable, LogLost, LogHole, RedisError):
                        raise
                    except Exception as failure:  # whatever it is: it is retried, then parked
                        error = failure
                        await asyncio.sleep(0)
            assert error is not None  # noqa: S101
            await self._on_poison(message, error)
        except RedisError as failure:
            raise LogUnavailable(f"Redis, while handling {message.position}: {failure}") from failure

    async def _report(self, reader: "Redis", inbox: Inbox, gone: list[int]) -> None:
        """Pending, but gone from the stream: nothing can be handled, somebody must know."""
        if gone:
            self.gone += len(gone)
            self._on_gone(inbox.stream, gone)
            await acknowledge(reader, {inbox: gone})

    async def _pause(self, stream: Priority) -> None:
        """A little longer after each setback; a stop ends it."""
        pause = _BACK_OFF[min(max(self._setbacks[stream], 1), len(_BACK_OFF)) - 1]
        try:
            async with asyncio.timeout(pause):
                await self._stopping.wait()
        except TimeoutError:
            return

    # --- one by one ------------------------------------------------------------------------------------------------

    async def step(self, limit: int | None = None, *, own: bool = True, on_empty: Callable[[], None] = _ignore) -> int:
        """Handle what is there now, up to `limit` messages, without waiting: for simulations.

        One after the other: own pending ones, then new ones, a few of each class at a time; of those in hand the most
        urgent class first, in position order. What stays unacknowledged is delivered again by the next call. Not
        `own`: nothing of this consumer's is pending, so only new ones are asked for. `on_empty` is called in the moment
        in which the streams hold nothing new for anybody. Returns how many were taken, those without a reaction
        included.
        """
        redis, inboxes = self.log.redis, list(self._inboxes.values())
        held: list[list[Entry]] = [[] for _ in inboxes]
        if own:
            for at, (entries, gone) in enumerate(await own_of(redis, inboxes, 1000)):
                held[at] = entries
                await self._report(redis, inboxes[at], gone)
        taken = 0
        while limit is None or taken < limit:
            if not any(held):
                held = await new_of(redis, inboxes, _FEW)
            urgent = next((at for at, entries in enumerate(held) if entries), None)
            if urgent is None:
                on_empty()
                break
            taken += 1
            await self._one(inboxes[urgent], held[urgent].pop(0))
        await self._flush_idle()
        return taken

    async def _one(self, inbox: Inbox, entry: Entry) -> None:
        message = entry.message
        if isinstance(message, Delivery) and not self._wakes(message.recorded):
            self._idle[inbox.stream].append(message.position)
            return
        try:
            async with self._locks(message.strategy_id):
                await self._handled(entry)
        except LogUnavailable as error:
            self._on_trouble(error)
