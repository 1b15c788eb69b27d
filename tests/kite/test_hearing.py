"""Whose session brings the prices, and what is heard of an account's orders when Kite refuses it the stream."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest
from structlog.testing import capture_logs

import bahi.kite
from bahi.kite import Kite
from brokers.instruments import BUILT_IN
from brokers.kite.account import KiteAccount, KiteAddress
from brokers.port import Brokers, BrokerUnavailable, SessionExpired
from domain.calendar import instant
from domain.values import DAY, MINUTE, SECOND
from simulation.clock import VirtualClock
from sources.updates import OpenOrders, Updates

NOW = instant(dt.date(2026, 7, 1), dt.time(10))


def account(user_id: int, *, at: int = NOW) -> KiteAccount:
    return KiteAccount(
        user_id=user_id,
        kite_user_id=f"AB{user_id:04}",
        api_key=f"key{user_id}",
        access_token="t0psecret",
        connected_at=at,
        expires_at=at + DAY,
    )


class Sessions:
    """Who is logged in."""

    def __init__(self, *accounts: KiteAccount) -> None:
        self.accounts = list(accounts)

    async def all_kite(self) -> list[KiteAccount]:
        return self.accounts

    async def kite(self, user_id: int) -> KiteAccount | None:
        return next((each for each in self.accounts if each.user_id == user_id), None)


class Postbacks:
    """Hints of other processes."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()

    async def listen(self, user_id: int) -> AsyncIterator[str]:
        while True:
            yield await self.queue.get()


class Hearing:
    """An account to which Kite refuses the stream, whose hints are taken down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *accounts: KiteAccount) -> None:
        self.clock = VirtualClock(NOW)
        self.sessions = Sessions(*accounts)
        self.postbacks = Postbacks()
        self.asked = 0
        self.heard: list[str] = []
        self.kite = Kite(
            KiteAddress(),
            self.sessions,  # type: ignore[arg-type]
            BUILT_IN,
            self.clock,
            reads=None,
            hints=self.postbacks,  # type: ignore[arg-type]
        )
        monkeypatch.setattr(bahi.kite, "order_updates", self._refuse)
        monkeypatch.setattr(self.kite.brokers, "of", self._of)

    async def _refuse(self, _account: KiteAccount, _address: KiteAddress, _clock: VirtualClock) -> AsyncIterator[str]:
        self.asked += 1
        if self.asked:
            raise SessionExpired("Kite refuses the stream (403)")
        yield ""

    async def _of(self, user_id: int) -> None:
        """Whether the session is over is asked elsewhere."""

    async def listen(self, mine: KiteAccount) -> None:
        async with aclosing(self.kite._hear(mine)) as hints:  # type: ignore[type-var]
            async for hint in hints:
                self.heard.append(hint)

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(1_000):
            if holds():
                return
            await asyncio.sleep(0)
        raise AssertionError("it never does")

    async def pass_time(self, duration: int) -> None:
        end = self.clock.now() + duration
        while self.clock.now() < end:
            for _ in range(30):
                await asyncio.sleep(0)
            self.clock.set(min(self.clock.now() + SECOND, end))
        for _ in range(30):
            await asyncio.sleep(0)


async def test_without_a_stream_postbacks_are_heard_and_kite_is_asked_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An app without streaming has a good session all the same."""
    mine = account(1)
    world = Hearing(monkeypatch, mine)
    with capture_logs() as lines:
        listening = asyncio.create_task(world.listen(mine))
        await world.pass_time(30 * SECOND)
        world.postbacks.queue.put_nowait("7")
        await world.until(lambda: world.heard == ["7"])
        assert world.asked == 1
        await world.pass_time(5 * MINUTE)
        assert world.asked == 6
    assert [line["event"] for line in lines] == ["kite_orders_refused"], "said once"
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_it_ends_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = account(1)
    world = Hearing(monkeypatch, mine)
    listening = asyncio.create_task(world.listen(mine))
    await world.pass_time(20 * SECOND)
    assert not listening.done()
    world.sessions.accounts = [account(1, at=NOW + SECOND)]
    await world.pass_time(10 * SECOND)
    assert isinstance(listening.exception(), SessionExpired)


async def test_prices_come_through_a_session_to_which_the_stream_is_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = account(1), account(2)
    world = Hearing(monkeypatch, one, two)
    assert await world.kite.feed_account() == one
    await world.kite.refused(one)
    assert await world.kite.feed_account() == two
    world.sessions.accounts = [one]
    assert await world.kite.feed_account() == one, "there is no other"
    world.sessions.accounts = [one, two]
    world.clock.set(NOW + 61 * MINUTE)
    assert await world.kite.feed_account() == one


async def test_a_refusal_that_is_the_end_of_the_session_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended:
        async def positions(self) -> None:
            raise SessionExpired("log in again")

    mine = account(1)
    world = Hearing(monkeypatch, mine)

    async def of(_user_id: int) -> Ended:
        return Ended()

    monkeypatch.setattr(world.kite.brokers, "of", of)
    with capture_logs() as lines:
        await world.kite.refused(mine)
    assert lines == []


async def test_that_there_are_no_hints_is_said_once_for_each_reason() -> None:
    clock = VirtualClock(NOW)

    class Silent:
        account = "AB0001"
        tries = 0

        async def updates(self) -> AsyncIterator[str]:
            Silent.tries += 1
            if Silent.tries:
                raise BrokerUnavailable("no stream today" if Silent.tries < 6 else "the address is wrong")
            yield ""

    class One:
        async def of(self, user_id: int) -> Silent:
            return Silent()

        async def connected(self) -> list[int]:
            return [1]

    async def poll(_user_id: int, _strategies: frozenset[int]) -> int:
        raise ValueError("a defect")

    async def nothing() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield None

    brokers: Brokers = One()  # type: ignore[assignment]
    updates = Updates(brokers=brokers, clock=clock, poll=poll, orders=OpenOrders())
    with capture_logs() as lines:
        running = asyncio.create_task(updates.run(nothing()))  # type: ignore[arg-type]
        while Silent.tries < 40:
            for _ in range(30):
                await asyncio.sleep(0)
            clock.set(clock.now() + 5 * SECOND)
        await updates.stop()
        await running
    said = [(line["event"], line.get("why")) for line in lines]
    assert said.count(("no_push", "no stream today")) == 1
    assert said.count(("no_push", "the address is wrong")) == 1
    assert said.count(("account_not_read", None)) == 1
