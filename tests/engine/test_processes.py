"""Several workers at once, in real time; some are killed. No order twice, nobody is left behind."""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

import eventstore.keys
from domain.events import LockConflict
from domain.strategy import State
from domain.values import Status
from eventstore.errors import LogLost
from eventstore.log import EventLog
from tests.engine.live import Live

HERE = Path(__file__).parent


@pytest.fixture
async def live(redis: Redis, redis_url: str, tmp_path: Path) -> Live:
    return Live(redis_url, redis, tmp_path / "paper.db")


def _bought(ids: list[int]) -> Callable[[dict[int, State]], bool]:
    return lambda states: all(states[each].open_quantity == 10 and not states[each].unresolved for each in ids)


def _ended(ids: list[int]) -> Callable[[dict[int, State]], bool]:
    return lambda states: all(not states[each].alive and not states[each].unresolved for each in ids)


async def _orders_once(live: Live) -> None:
    tags = Counter(row.tag for row in await live.rows())
    assert max(tags.values()) == 1


async def test_two_workers_at_once_place_every_order_once(live: Live) -> None:
    async with live, live.worker("w1"), live.worker("w2"):
        states = await live.many(200)
        ids = [state.id for state in states]
        await live.buy_all(states)
        await live.until(_bought(ids))
        await live.stop_all(states)
        folded = await live.until(_ended(ids))
        assert {state.position for state in folded.values()} == {"exited_by_sl"}
        assert len(await live.rows()) == 400
        await _orders_once(live)
        await live.at_rest()
        (await live.check_at_rest()).all_final()
        for conflict in await live.of_type(LockConflict):
            assert conflict.held_by, "somebody was quicker, and holds the lock"


async def test_a_worker_that_is_stopped_drains_what_it_has_begun(live: Live) -> None:
    async with live, live.worker("w1") as (worker, task):
        states = await live.many(40)
        await live.buy_all(states)
        ids = [state.id for state in states]
        await live.until(lambda found: sum(found[each].orders for each in ids) >= 5)
        await worker.stop()
        await task
        begun = [state for state in (await live.states()).values() if state.orders]
        assert len(begun) >= 5
        assert [state.id for state in begun if state.order and state.order.phase == "sending"] == []
        async with live.worker("w1"):
            await live.until(_bought(ids))
            await live.at_rest()
        await _orders_once(live)
        await live.check_at_rest()


async def test_what_a_worker_held_when_its_connections_broke_is_taken_over(live: Live) -> None:
    async with live, live.worker("w1") as (worker, task), live.worker("w2"):
        states = await live.many(60)
        await live.buy_all(states)
        ids = [state.id for state in states]
        await live.until(lambda found: sum(found[each].orders for each in ids) >= 10)
        worker.drop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await _nothing_pending_of(live, "w1")
        folded = await live.until(lambda found: all(not found[e].alive or found[e].open_quantity == 10 for e in ids))
        lost = [state for state in folded.values() if state.open_quantity == 0]
        given_up = {"REJECTED", "DENIED"}  # by whoever finds it; or by a sender that is late, on a slow machine
        assert {state.exit_reason for state in lost} <= given_up, "an entry that was never sent is given up"
        await live.at_rest()
        await _orders_once(live)
        await live.check_at_rest()


async def _nothing_pending_of(live: Live, consumer: str) -> None:
    log: EventLog = live.log
    async with asyncio.timeout(60):
        while True:
            held = 0
            for stream in log.keys.streams.values():
                held += len(
                    await live.redis.xpending_range(stream, eventstore.keys.GROUP, "-", "+", 100, consumername=consumer)
                )
            if not held:
                return
            await asyncio.sleep(0)


class Victim:
    """A worker in a process of its own."""

    def __init__(self, live: Live, consumer: str) -> None:
        self._live, self._consumer = live, consumer

    async def start(self) -> "Victim":
        root = HERE.parent.parent
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(HERE / "worker_process.py")),
            *(self._live.redis_url, str(self._live.path), self._consumer),
            env={**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"},
            stdout=asyncio.subprocess.PIPE,
        )
        await self._said("working")
        return self

    async def _said(self, word: str) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            while line := await self._process.stdout.readline():
                if line.strip() == word.encode():
                    return
        raise AssertionError(f"it ended before it was {word}")

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        await self._said("drained")
        assert await self._process.wait() == 0


async def test_kill_9_at_ten_moments_and_every_strategy_finishes(live: Live) -> None:
    chance = random.Random(20261120)
    async with live, live.worker("w2"):
        everybody: list[State] = []
        for moment in range(10):
            victim = await Victim(live, "w1").start()
            states = await live.many(8)
            everybody += states
            ids = [state.id for state in states]
            exiting = moment % 2 == 1
            if exiting:
                await live.buy_all(states)
                await live.until(_bought(ids))
            before = await live.log.last_position()
            await (live.stop_all(states) if exiting else live.buy_all(states))
            after = before + len(states) + chance.randrange(50)
            await _reached(live, after)
            await victim.kill()
            if chance.random() < 0.5:
                again = await Victim(live, "w1").start()
                await live.until(lambda found, ids=ids: all(_at_ease(found[each]) for each in ids))
                await again.stop()
            else:
                await live.until(lambda found, ids=ids: all(_at_ease(found[each]) for each in ids))
        held = [state for state in (await live.states()).values() if state.alive]
        await live.stop_all(held)
        ids = [state.id for state in everybody]
        folded = await live.until(_ended(ids))
        assert {state.open_quantity for state in folded.values()} == {0}
        assert {state.status for state in folded.values()} == {Status.STOPPED}
        await live.at_rest()
        await _orders_once(live)
        (await live.check_at_rest()).all_final()


def _at_ease(state: State) -> bool:
    return not state.unresolved and (not state.alive or (state.open_quantity == 10 and not state.stop_due))


async def _reached(live: Live, position: int) -> None:
    """Until the log has got so far, or nothing more happens."""
    last, since = 0, time.monotonic()
    while (now := await live.log.last_position()) < position:
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() - since > 0.3:
            return
        await asyncio.sleep(0)


async def test_a_lost_log_ends_the_worker_and_places_nothing_more(live: Live) -> None:
    async with live:
        async with live.worker("w1") as (_, task):
            states = await live.many(10)
            await live.at_rest()
            epoch = await live.redis.get(live.log.keys.epoch)
            await live.redis.set(live.log.keys.epoch, "another")
            await live.redis.zadd(live.log.keys.timers, {str(state.id): 0 for state in states})
            async with asyncio.timeout(60):
                with pytest.raises(LogLost):
                    await task
            await live.redis.set(live.log.keys.epoch, epoch or b"")
        assert await live.rows() == []
