"""Fault plans: scripted, seeded, and written in one line."""

import os
import subprocess
import sys
from decimal import Decimal

import msgspec
import pytest

from brokers.paper.plan import (
    NEVER,
    SESSION_EXPIRED,
    ChangeFault,
    Lost,
    NoFaults,
    Portion,
    Rejection,
    Script,
    ScriptedPlan,
)
from brokers.paper.seeded import PlanError, Rates, SeededPlan, parse_plan
from domain.values import SECOND, Side
from tests.brokers.conformance import request

EVERYTHING = (
    "seed=7,latency=5ms,timeout=2s,throttled=0.05,rejected=0.05,margin=0.05,session=0.05,rejected_after=0.05,"
    "timeout_exists=0.05,timeout_surfaces=0.05,timeout_never=0.05,partial=0.3,rests=0.1,cancel_refused=0.1,"
    "cancel_filled=0.1,cancel_unanswered=0.1,modify_refused=0.1,modify_unanswered=0.1,readings=0.1"
)
DIGEST = """
import hashlib, msgspec
from brokers.paper.seeded import parse_plan
from domain.values import *
plan = parse_plan({text!r})
def request(tag):
    return OrderRequest(symbol="NSE:SBIN", side=Side.BUY, quantity=1, product=Product.MIS, tag=tag)
scripts = [plan.for_order(request(f"T{{n}}"), n) for n in range(500)]
print(hashlib.sha256(msgspec.json.encode(scripts)).hexdigest())
"""


def test_a_scripted_plan_plays_the_first_rule_that_fits() -> None:
    second, sells, rest = Script(latency=1), Script(latency=2), Script(latency=3)
    plan = ScriptedPlan([(2, second), (lambda asked: asked.side is Side.SELL, sells)], otherwise=rest)
    sides = [Side.BUY, Side.SELL, Side.SELL]
    assert [plan.for_order(request(side), n) for n, side in enumerate(sides, 1)] == [rest, second, sells]


def test_a_seeded_script_depends_on_seed_and_tag_alone() -> None:
    plan, again = parse_plan(EVERYTHING), parse_plan(EVERYTHING)
    forward = {tag: plan.for_order(request(tag=tag), 1) for tag in map(str, range(300))}
    backward = {tag: again.for_order(request(Side.SELL, 99, tag=tag), 77) for tag in map(str, range(299, -1, -1))}
    assert forward == backward
    other = parse_plan(EVERYTHING.replace("seed=7", "seed=8"))
    assert forward != {tag: other.for_order(request(tag=tag), 1) for tag in forward}


def test_a_seeded_script_is_the_same_in_every_process() -> None:
    digests = set()
    for hash_seed in ("0", "1"):
        program = [sys.executable, "-c", DIGEST.format(text=EVERYTHING)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        digests.add(subprocess.run(program, env=environment, capture_output=True, check=True, text=True).stdout)
    assert len(digests) == 1


def test_every_rate_is_met_and_every_fault_occurs() -> None:
    plan = parse_plan(EVERYTHING)
    scripts = [plan.for_order(request(tag=f"T{n}"), n) for n in range(10_000)]
    lost = [script.lost for script in scripts if script.lost is not None]
    refusals = [script.refuse.reason for script in scripts if script.refuse is not None]
    for seen in (
        [refusal for refusal in refusals if refusal == "TOO_MANY_REQUESTS"],
        [refusal for refusal in refusals if refusal == "EXCHANGE_BUSY"],
        [refusal for refusal in refusals if refusal == "MARGIN"],
        [refusal for refusal in refusals if refusal == SESSION_EXPIRED.reason],
        [script for script in scripts if script.reject is not None],
        [loss for loss in lost if loss.surfaces == 0],
        [loss for loss in lost if loss.surfaces is None],
        [loss for loss in lost if loss.surfaces],
    ):
        assert 400 < len(seen) < 600
    assert all(8 * SECOND <= loss.surfaces <= 90 * SECOND for loss in lost if loss.surfaces)
    assert {loss.timeout for loss in lost} == {2 * SECOND}
    assert {script.latency for script in scripts} == {5_000}
    assert {fault for script in scripts for fault in script.cancels} == set(ChangeFault) - {ChangeFault.NONE}
    assert 800 < sum(script.rest == NEVER for script in scripts) < 1_200
    assert {script.failed_readings for script in scripts} == {0, 1, 2, 3}


def test_a_script_is_stored_and_read_back() -> None:
    script = Script(
        latency=5,
        refuse=SESSION_EXPIRED,
        lost=Lost(surfaces=None),
        reject=Rejection(reason="RMS"),
        fills=(Portion(3), Portion(Decimal("0.25"), SECOND)),
        rest=NEVER,
        cancels=(ChangeFault.NONE, ChangeFault.LOST_DONE),
    )
    assert msgspec.json.decode(msgspec.json.encode(script), type=Script) == script


@pytest.mark.parametrize("text", ["", "none", " none ", "seed=7", "latency=5ms"])
def test_a_plan_without_rates_has_no_faults(text: str) -> None:
    plan = parse_plan(text)
    assert isinstance(plan, NoFaults)
    assert plan.for_order(request(), 1) == Script(latency=5_000 if "latency" in text else 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partial", "'partial' is not NAME=VALUE"),
        ("seed=7,", "'' is not NAME=VALUE"),
        ("sed=7", "unknown name 'sed'; known are seed, latency, timeout, throttled"),
        ("partial=2", "partial must be a probability between 0 and 1, got '2'"),
        ("partial=often", "partial must be a probability between 0 and 1, got 'often'"),
        ("partial=nan", "partial must be a probability"),
        ("partial=0.1,partial=0.2", "partial is given twice"),
        ("seed=x", "seed must be a whole number, got 'x'"),
        ("latency=5", "latency must be a duration such as 250us, 5ms or 7s, got '5'"),
        ("latency=-5ms", "latency must be a duration"),
        ("timeout_exists=0.6,timeout_never=0.6", "may sum to at most 1, got 1.2"),
    ],
)
def test_a_plan_that_cannot_be_read_says_why(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(text)


def test_a_rate_is_a_probability() -> None:
    with pytest.raises(PlanError, match="partial must be between 0 and 1, got 3"):
        SeededPlan(1, Rates(partial=3))
