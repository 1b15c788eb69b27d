"""Anything may happen, in any order: triggers, ticks, stops, halts, faults of the broker and of the log, dying workers.

The invariants hold whatever happened; and once the faults stop, everything comes to its end within bounded time.
"""

import asyncio
import datetime as dt
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from brokers.paper.plan import FAITHFUL, Plan, Script
from brokers.paper.seeded import Rates, SeededPlan
from domain.values import HOUR, MINUTE, SECOND, OrderRequest
from handlers.limits import Limits
from tests.engine.world import OPENING, Process, World

USERS = (7, 8)
PER_USER = 2
RATES = Rates(
    throttled=0.06,
    rejected=0.08,
    margin=0.03,
    session=0.02,
    rejected_after=0.08,
    timeout_exists=0.1,
    timeout_surfaces=0.1,
    timeout_never=0.1,
    partial=0.2,
    rests=0.2,
    cancel_refused=0.1,
    cancel_filled=0.1,
    cancel_unanswered=0.2,
    modify_refused=0.2,
    modify_unanswered=0.2,
    readings=0.2,
)

which = st.integers(0, len(USERS) * PER_USER - 1)
user = st.sampled_from(USERS)
action = st.one_of(
    st.tuples(st.just("buy"), which),
    st.tuples(st.just("sell"), which),
    st.tuples(st.just("stop_loss"), which),
    st.tuples(st.just("stop"), which, st.booleans()),
    st.tuples(st.just("start"), which),
    st.tuples(st.just("halt"), user, st.booleans()),
    st.tuples(st.just("resume"), user),
    st.tuples(st.just("tick"), st.sampled_from(["139", "141", "145", "150", "155"])),
    st.tuples(
        st.just("pass"), st.sampled_from([SECOND // 10, SECOND, 3 * SECOND, 11 * SECOND, 40 * SECOND, 3 * MINUTE])
    ),
    st.tuples(st.just("jump"), st.sampled_from([SECOND, 5 * SECOND, 30 * SECOND])),
    st.tuples(st.just("step"), st.integers(0, 3)),
    st.tuples(st.just("poll")),
    st.tuples(st.just("watch")),
    st.tuples(st.just("kill"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("hire")),
    st.tuples(st.just("lose"), st.integers(0, 3), st.integers(1, 4), st.sampled_from(["call lost", "reply lost"])),
    st.tuples(st.just("disconnect"), user),
    st.tuples(st.just("connect"), user),
    st.tuples(st.just("dark"), user, st.sampled_from([5 * SECOND, 60 * SECOND])),
)
# the usual things more often than they would come by chance
usual = st.sampled_from([("buy", n) for n in range(4)] + [("stop_loss", n) for n in range(4)] + [("pass", SECOND)] * 3)


class HealingPlan:
    """Faults by chance, until it is healed."""

    def __init__(self, seed: int) -> None:
        self._faults: Plan = SeededPlan(seed, RATES)
        self.healed = False

    def for_order(self, request: OrderRequest, n: int) -> Script:
        return FAITHFUL if self.healed else self._faults.for_order(request, n)


class Nemesis:
    """Does what it is told to a world."""

    def __init__(self, world: World, strategies: list[int]) -> None:
        self.world = world
        self.strategies = strategies
        self.deaths = 0

    def process(self, n: int) -> Process | None:
        return self.world.processes[n % len(self.world.processes)] if self.world.processes else None

    async def do(self, name: str, *args: Any) -> None:
        await getattr(self, f"_{name}")(*args)

    async def _buy(self, n: int) -> None:
        strategy = self.strategies[n]
        if (await self.world.state(strategy)).run:
            await self.world.buy(strategy)

    async def _sell(self, n: int) -> None:
        await self.world.sell(self.strategies[n])

    async def _stop_loss(self, n: int) -> None:
        await self.world.stop_loss(self.strategies[n])

    async def _stop(self, n: int, square_off: bool) -> None:
        await self.world.stop(self.strategies[n], square_off=square_off)

    async def _start(self, n: int) -> None:
        if not (await self.world.state(self.strategies[n])).alive:
            await self.world.start(self.strategies[n])

    async def _halt(self, user_id: int, square_off: bool) -> None:
        await self.world.halt(user_id, square_off=square_off)

    async def _resume(self, user_id: int) -> None:
        await self.world.resume(user_id)

    async def _tick(self, price: str) -> None:
        await self.world.tick(price)

    async def _pass(self, duration: int) -> None:
        await self.world.pass_time(duration)

    async def _jump(self, duration: int) -> None:
        self.world.clock.set(self.world.clock.now() + duration)

    async def _step(self, n: int) -> None:
        if (process := self.process(n)) is not None:
            await self.world.step(process)

    async def _poll(self) -> None:
        await self.world.poll()

    async def _watch(self) -> None:
        await self.world.watch()

    async def _kill(self, n: int, same_name: bool) -> None:
        if (process := self.process(n)) is None:
            return
        await self.world.kill(process)
        self.deaths += 1
        if same_name:
            await self.world.hire(process.name)
        else:
            await self.world.inherit(await self.world.hire(f"d{self.deaths}"))

    async def _hire(self) -> None:
        if len(self.world.processes) < 3:
            self.deaths += 1
            await self.world.hire(f"h{self.deaths}")

    async def _lose(self, n: int, soon: int, fault: str) -> None:
        if (process := self.process(n)) is not None:
            at = process.wire.calls + soon
            process.wire.fault = lambda number, _: fault if number == at else ""

    async def _disconnect(self, user_id: int) -> None:
        self.world.connected.discard(user_id)

    async def _connect(self, user_id: int) -> None:
        self.world.connected.add(user_id)

    async def _dark(self, user_id: int, duration: int) -> None:
        now = self.world.clock.now()
        await self.world.exchange.fail_readings(f"PAPER-{user_id}", since=now, until=now + duration)


async def _live_through(redis_url: str, seed: int, limited: bool, actions: list[tuple[Any, ...]]) -> None:
    redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0))
    await redis.flushall()
    plan = HealingPlan(seed)
    limits = Limits(second=3, reserve=0.34) if limited else None
    world = World(redis_url, redis, plan=plan, users=USERS, limits=limits, at=OPENING + MINUTE)
    try:
        await world.open("w1", "w2")
        strategies = [
            await world.running(user=each, buy_time=dt.time(9, 17), quantity=10)
            for each in USERS
            for _ in range(PER_USER)
        ]
        await world.pass_time(MINUTE)
        nemesis = Nemesis(world, strategies)
        for each in actions:
            await nemesis.do(*each)
        await _heal(world, plan)
        for checker in [await world.check()]:
            checker.all_final()
        for state in (await world.states()).values():
            assert state.open_quantity <= 0, state
            assert state.surfaced <= 0, state
    finally:
        await world.close()
        await redis.aclose()


async def _heal(world: World, plan: HealingPlan) -> None:
    """The faults stop; then everything is to be sold and stopped within an hour."""
    plan.healed = True
    for process in world.processes:
        process.wire.fault = None
    for user_id in USERS:
        world.connected.add(user_id)
        await world.exchange.renew_session(f"PAPER-{user_id}")
        await world.resume(user_id)
    if not world.processes:
        await world.hire("w1")
    await world.inherit(world.processes[0])
    await world.tick("150")
    await world.pass_time(3 * MINUTE)
    for _ in range(3):
        await world.tick("150")
        for state in (await world.states()).values():
            if state.alive or state.open_quantity > 0:
                await world.stop(state.id, square_off=True)
        await world.finish(HOUR)
        await world.pass_time(3 * MINUTE)


@pytest.mark.parametrize("limited", [False, True], ids=["free", "limited"])
@settings(max_examples=int(__import__("os").environ.get("EX","150")), suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), actions=st.lists(st.one_of(action, usual), min_size=5, max_size=40))
def test_whatever_happens_the_invariants_hold_and_everything_ends(
    redis_url: str, limited: bool, seed: int, actions: list[tuple[Any, ...]]
) -> None:
    note(f"seed {seed}")
    asyncio.run(_live_through(redis_url, seed, limited, actions))
