"""Timers, locks, slots, loading: the small parts around the log."""

import asyncio

import pytest

from domain.values import Priority
from eventstore.batch import RuntimeWrite
from eventstore.keys import MARKET_TICKS, price
from eventstore.locks import StrategyLocks
from eventstore.slots import Slots
from eventstore.timers import CLAIMED_FOR, claim_due

# --- timers ----------------------------------------------------------------------------------------------------------


async def wake(log, strategy_id, at):
    await log.append([], strategy_id=strategy_id, runtime=RuntimeWrite(wake_at=at))


async def test_due_timers_are_claimed_the_longest_due_first(log, clock):
    now = clock.now()
    for strategy_id, at in ((1, now), (2, now - 5), (3, now + 1), (4, now - 9)):
        await wake(log, strategy_id, at)
    assert await claim_due(log, now, limit=2) == [4, 2]
    assert await claim_due(log, now) == [1]
    assert await claim_due(log, now) == []
    assert await claim_due(log, now + 1) == [3]


async def test_a_claimed_timer_comes_again_when_nobody_dealt_with_it(log, clock):
    now = clock.now()
    await wake(log, 1, now)
    assert await claim_due(log, now) == [1]
    assert await claim_due(log, now + CLAIMED_FOR - 1) == []
    assert await claim_due(log, now + CLAIMED_FOR) == [1]
    await wake(log, 1, None)
    assert await claim_due(log, now + 9 * CLAIMED_FOR) == []


async def test_a_timer_is_claimed_by_one_of_many(opened, clock):
    logs = [await opened(writer=f"w{n}") for n in range(4)]
    for strategy_id in range(100):
        await wake(logs[0], strategy_id + 1, clock.now() - strategy_id)
    claims = await asyncio.gather(*(claim_due(log, clock.now(), 10) for log in logs for _ in range(5)))
    assert sorted(each for claim in claims for each in claim) == list(range(1, 101))


async def test_instants_are_exact_as_scores(log, redis):
    for at in (1_795_000_000_000_001, 2**53 - 1):
        await wake(log, 1, at)
        assert await redis.zscore(log.keys.timers, "1") == at


# --- loading ---------------------------------------------------------------------------------------------------------


async def test_what_is_not_there_loads_as_nothing(log):
    loaded = await log.load(42, user_id=7, symbol="NSE:INFY")
    assert (loaded.strategy, loaded.runtime, loaded.halt, loaded.price, loaded.version) == ({}, {}, None, None, 0)
    assert await log.load_many([]) == []


async def test_halt_and_price_are_loaded_when_asked_for(log, redis):
    await redis.set(log.keys.halt(7), "yes")
    await redis.set(price("NSE:INFY"), "1500.05")
    loaded = await log.load(42, user_id=7, symbol="NSE:INFY")
    assert (loaded.halt, loaded.price) == (b"yes", b"1500.05")
    assert (await log.load(42, symbol="NSE:INFY")).price == b"1500.05"
    assert (await log.load(42, user_id=7)).price is None
    assert (await log.load(42)).halt is None
    assert (price("NSE:INFY"), MARKET_TICKS) == ("price:NSE:INFY", "market:ticks")


# --- locks and slots -------------------------------------------------------------------------------------------------


async def test_a_strategy_is_held_by_one_and_forgotten_when_free():
    locks = StrategyLocks()
    order = []

    async def hold(strategy_id, name):
        async with locks(strategy_id):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    await asyncio.gather(hold(1, "a"), hold(1, "b"), hold(2, "c"))
    assert order.index("a out") < order.index("b in")
    assert order.index("c in") < order.index("a out")
    assert locks._locks == {}


async def test_no_strategy_is_never_waited_for():
    locks = StrategyLocks()
    async with locks(0), locks(0):
        pass


async def test_slots_keep_a_share_for_critical_and_serve_the_urgent_first():
    slots = Slots(4, 1)
    assert await slots.take(Priority.LOW) == 3
    assert (slots.free(Priority.HIGH), slots.free(Priority.CRITICAL)) == (0, 1)
    got = []

    async def want(priority):
        got.append((priority, await slots.take(priority, 1)))

    waiting = [asyncio.create_task(want(each)) for each in (Priority.MEDIUM, Priority.HIGH)]
    await asyncio.sleep(0)
    slots.give(Priority.LOW)
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert got == [(Priority.HIGH, 1)]
    slots.wake_all()
    await asyncio.gather(*waiting)
    assert got[-1] == (Priority.MEDIUM, 0)


async def test_critical_may_use_every_slot():
    slots = Slots(4, 1)
    assert await slots.take(Priority.CRITICAL) == 4
    assert slots.free(Priority.HIGH) == 0


def test_slots_for_nobody_are_refused():
    with pytest.raises(ValueError, match="reserved"):
        Slots(2, 2)
