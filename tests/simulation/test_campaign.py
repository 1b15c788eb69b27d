"""A small campaign: the engine holds every invariant at a failing Kite, and the campaign sees it when it does not."""

from collections import Counter

import pytest
from redis.asyncio import Redis

from brokers.kite import classify
from brokers.kite.wire import Reply
from brokers.port import NotPlaced, Placing, Unanswered
from simulation.crashes import CrashPoint
from simulation.kite.campaign import RATES
from simulation.kite.faults import Fault
from simulation.kite.round import Plan, Round
from simulation.kite.tally import CLEAN, Outcome

SMALL = Plan(users=3, strategies=30, rates=RATES, deaths=0.06, skewed=True)


async def test_every_invariant_holds_under_every_fault_and_death(redis_url: str, redis: Redis) -> None:
    game = Round(redis_url, 1, SMALL)
    counted = await game.play()
    assert counted.faults + game.violations == []
    assert counted.orders > 30
    assert counted.unknown > 3
    assert len([fault for fault in Fault if counted.fired[fault.value]]) > 12
    assert len([point for point in CrashPoint if counted.fired[point.value]]) > 4
    assert {Outcome.FILLED, Outcome.REJECTED, Outcome.ABSENT} <= set().union(*map(set, counted.rows.values()))


async def test_without_faults_everything_that_is_sent_fills(redis_url: str, redis: Redis) -> None:
    game = Round(redis_url, 7, Plan(users=2, strategies=8))
    counted = await game.play()
    assert counted.faults + game.violations == []
    assert counted.rows == {CLEAN: Counter({Outcome.FILLED: counted.orders})}
    assert counted.orders >= 12


async def test_an_engine_that_takes_a_lost_answer_for_a_refusal_is_found_out(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    placing = classify.placing

    def careless(reply: Reply) -> Placing:
        answer = placing(reply)
        return NotPlaced("LOST", curable=True) if isinstance(answer, Unanswered) else answer

    monkeypatch.setattr(classify, "placing", careless)
    game = Round(redis_url, 3, Plan(users=2, strategies=8, rates={Fault.F2_ACCEPTED_THEN_DROPPED: 0.5}))
    counted = await game.play()
    assert counted.faults + game.violations
