"""The calls to the broker that are under way, each with the outcome that it appends.

`start` lets a call run by itself: a slow broker holds up nobody. `step` is for a clock that is turned by hand: a call
goes on until it is done or waits for the clock, and outcomes are appended one after the other in the order in which
the calls began, so that a simulation is the same each time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from domain.clock import Clock
from domain.events import Intent
from domain.strategy import State
from domain.values import Kind
from eventstore.errors import LogLost
from handlers.decider import Wake
from handlers.desk import Desk
from handlers.effects import Effect, Events, ask, record

__all__ = ["HandTurned", "Sends"]


@runtime_checkable
class HandTurned(Protocol):
    """A clock that moves only when it is told to, and knows who waits for it."""

    def asleep(self, task: "asyncio.Task[Any]") -> bool: ...


AT_ONCE = 4
"""Outcomes of entries appended at once: a thousand entries due at one second leave room for the exits among them."""

OnFailure = Callable[[State, Exception], Awaitable[None]]


@dataclass
class _Send:
    state: State
    effect: Effect
    cause: Wake
    asking: "asyncio.Task[Events]"
    recording: "asyncio.Task[None] | None" = None


class Sends:
    """`on_failure` hears of a call whose outcome could not be made or appended: a defect, or a state that cannot be
    read. `on_lost` hears that the log is lost."""

    def __init__(self, desk: Desk, *, on_failure: OnFailure, on_lost: Callable[[LogLost], None]) -> None:
        self._desk = desk
        self._on_failure = on_failure
        self._on_lost = on_lost
        self._room = asyncio.Semaphore(AT_ONCE)
        self._running: set[asyncio.Task[None]] = set()
        self._by_hand: list[_Send] = []

    # --- by themselves ---------------------------------------------------------------------------------------------

    def start(self, state: State, effect: Effect, cause: Wake) -> None:
        task = asyncio.create_task(self._carry_out(state, effect, cause), name=f"send {effect.tag}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def drain(self) -> None:
        """Until every call is answered and its outcome appended."""
        while self._running:
            await asyncio.wait(self._running)

    def drop(self) -> None:
        """Gives up whatever is under way, as the death of the process would: the orders are left without an answer."""
        for task in self._running:
            task.cancel()
        for send in self._by_hand:
            send.asking.cancel()
            if send.recording is not None:
                send.recording.cancel()
        self._by_hand.clear()

    async def _carry_out(self, state: State, effect: Effect, cause: Wake) -> None:
        await self._guarded(state, self._ask_and_record(state, effect, cause))

    async def _ask_and_record(self, state: State, effect: Effect, cause: Wake) -> None:
        events = await ask(self._desk, state, effect)
        urgent = not isinstance(effect, Intent) or effect.kind is not Kind.BUY
        async with nullcontext() if urgent else self._room:
            await record(self._desk, state.id, events, cause)

    async def _guarded(self, state: State, work: Awaitable[None]) -> None:
        try:
            await work
        except LogLost as error:
            self._on_lost(error)
        except Exception as error:  # whatever it is: the others' calls go on
            await self._on_failure(state, error)

    # --- step by step ----------------------------------------------------------------------------------------------

    async def begin(self, state: State, effect: Effect, cause: Wake) -> None:
        """Begins a call, and goes on with all of them as far as the clock allows."""
        asking = asyncio.create_task(ask(self._desk, state, effect), name=f"send {effect.tag}")
        self._by_hand.append(_Send(state, effect, cause, asking))
        await self.step()

    async def step(self) -> int:
        """Goes on until every call is done or waits for the clock. How many were done."""
        await self._rest(send.asking for send in self._by_hand)
        ended = 0
        for send in list(self._by_hand):
            if not send.asking.done():
                continue
            if send.recording is None:
                send.recording = asyncio.create_task(self._guarded(send.state, self._record(send)))
            await self._rest([send.recording])
            if send.recording.done() and send in self._by_hand:
                self._by_hand.remove(send)
                ended += 1
        return ended

    async def _record(self, send: _Send) -> None:
        await record(self._desk, send.state.id, send.asking.result(), send.cause)

    async def _rest(self, tasks: "Iterable[asyncio.Task[Any]]") -> None:
        waiting = list(tasks)
        clock: Clock = self._desk.clock
        if not isinstance(clock, HandTurned):
            if waiting:
                await asyncio.wait(waiting)
            return
        while any(not task.done() and not clock.asleep(task) for task in waiting):  # noqa: ASYNC110 (a sleep is no event)
            await asyncio.sleep(0)
