"""The engine as a state machine: what users, market, broker, processes and servers do, in any order."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from bahi.testing import EngineMachine, fuzz
from bahi.testing.ground import Ground
from domain.decide import Decision, decide_next
from domain.facts import Facts
from domain.rules.acts import place
from domain.strategy import State, fold
from domain.values import Kind
from tests.one_database import emptied, one_database

__all__ = ["emptied", "one_database"]

README = Path(__file__).parents[2] / "README.md"
LONG = settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],  # to explain would take as long again
)
SHORT = settings(LONG, max_examples=12)
HUNT = settings(LONG, max_examples=200, stateful_step_count=12, phases=[Phase.generate, Phase.shrink], database=None)
"""Until it is found."""


def test_whatever_happens_in_whatever_order_the_invariants_hold(redis_url: str) -> None:
    fuzz(EngineMachine, redis_url, settings=LONG)


def test_nor_does_it_matter_that_redis_forgets_and_is_lost(redis_url: str, database_url: str) -> None:
    fuzz(EngineMachine, redis_url, database_url, settings=SHORT)


def test_what_a_lost_run_has_traded_is_found_before_the_day_is_over(redis_url: str, database_url: str) -> None:
    """Hypothesis found that the machine let a day pass on which nobody read the books, as no engine does."""
    with Ground(redis_url, database_url) as ground:
        machine = EngineMachine(ground)
        machine.begin(quantity=2)
        machine.trigger_buy(n=0)
        machine.work(n=0)
        machine.halt(square_off=True, user=7)
        machine.work(n=0)
        machine.pass_time(span="40 s")
        machine.restore(unarchived=machine.records[-1].position - 2)  # that it is to start is kept
        machine.fill()
        machine.trigger_buy(n=0)  # on the next trading day: today it is too late
        machine.teardown()
    assert any(it.event.type == "ORDER_RECOVERED" for it in machine.records)


# --- a defect is found, and its story is short ----------------------------------------------------------------------


def buys_again(state: State, facts: Facts) -> Decision:
    """The rules, but for one thing: that a BUY was placed is forgotten, once, when it is over."""
    decision = decide_next(state, facts)
    over = state.order is not None and state.order.kind is Kind.BUY and state.order.resolved
    if decision.events or not (state.alive and state.buy_due and over and state.orders == 1):
        return decision
    again = place(state, facts, Kind.BUY, state.quantity)
    return Decision(again, fold(state, again))


class BuysAgain(EngineMachine):
    decide = staticmethod(buys_again)


def story(error: BaseException) -> tuple[list[str], list[str]]:
    """The steps and the lines of the log that a failure tells."""
    (told,) = [note for note in error.__notes__ if " steps:\n" in note]
    steps, _, log = told.partition("the log:\n")
    return steps.strip().splitlines()[1:], log.strip().splitlines()


def test_a_second_buy_is_found_and_told_in_a_few_steps(redis_url: str) -> None:
    with pytest.raises(AssertionError) as caught:
        fuzz(BuysAgain, redis_url, settings=HUNT)
    steps, log = story(caught.value)
    assert len(steps) <= 6, steps
    assert "creates and starts a strategy of 1" in steps[0]
    assert any("the buying time of strategy 42 has come" in step for step in steps)
    bought = [line for line in log if "EXECUTE_BUY" in line]
    assert len(bought) >= 2
    assert all(re.match(r"\s*09:2\d:\d\d\.\d{3}  strategy 42   EXECUTE_BUY +BUY 1 NSE:INFY", line) for line in bought)
    assert "EngineMachine" not in "".join(log)
