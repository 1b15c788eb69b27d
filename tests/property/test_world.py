"""Every interleaving that can be played keeps the invariants of architecture §4.2 (see `tests.property.world`)."""

import random
from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import event, given, settings, target

from domain.decide import decide_next
from domain.events import StrategyStopRequested
from domain.strategy import State, evolve
from tests.property.world import World, play

BYTES = 700


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=BYTES, max_size=BYTES))
def test_whatever_happens_the_invariants_hold_and_all_comes_to_rest(data: bytes) -> None:
    world = World(data)
    world.play()
    for seen in world.seen:
        event(seen)
    target(float(len(world.seen)), label="different things seen")


@pytest.fixture(scope="module")
def reached() -> Counter[str]:
    """What the worlds of many seeds have seen, each of them played to its end without a broken invariant."""
    seen: Counter[str] = Counter()
    for seed in range(8_000):
        if seed >= 800 and all(seen[what] for what in WANTED):
            break
        seen.update(set(play(seed).seen))
    return seen


REACHED = """
surfaced | alert OVERSOLD | alert ORDER_SURFACED | intent SURFACED | cancel: surfaced after it was given up
given up BUY | given up SELL | given up STOPLOSS | unknown SELL | unknown STOPLOSS | dead sender
denied by the sender BUY | denied by the sender SELL | denied by the sender STOPLOSS
MODIFY_REQUESTED | cancel: its changes are used up | alert EXIT_NOT_FILLING | cancel: it rests too long
rejected after a partial fill BUY | rejected after a partial fill SELL | attempt 3 SELL | attempt 2 STOPLOSS
abort BROKER_REFUSED | abort TOKEN_INVALID | abort OPERATOR | after the end SELL | alert UNPROTECTED_POSITION
exited SELL | exited STOPLOSS | exited USER | exited HALTED | exited ABORT | exited DENIED | exited MISSED
exited REJECTED | exited SESSION_END | started again | POSITION_SETTLED | alert POSITION_MISMATCH
sell_time changed after it fired | cancel: an exit is due | cancel: the user is halted | TRIGGER_MISSED
"""
WANTED = [what.strip() for what in REACHED.replace("\n", "|").split("|") if what.strip()]


@pytest.mark.parametrize("what", WANTED)
def test_the_worlds_reach_the_states_that_matter(reached: Counter[str], what: str) -> None:
    assert reached[what] > 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(20, 120), st.randoms(use_true_random=False))
def test_wake_ups_in_any_order_and_number_end_in_the_same_state(seed: int, steps: int, order: random.Random) -> None:
    """What is due is a set of flags: the order in which it became due, and who asked how often, leave no trace."""
    world = World(random.Random(seed).randbytes(BYTES))
    for _ in range(steps):
        world.step()
    arrivals = [*world.triggers(), StrategyStopRequested(square_off=True), StrategyStopRequested(square_off=True)]
    results = []
    for _ in range(4):
        state = world.state
        order.shuffle(arrivals)
        for arrival in arrivals:
            state = evolve(state, arrival)
        events = []
        for _ in range(order.randint(1, 3)):
            decision = decide_next(state, world.facts)
            state = decision.state
            events += decision.events
        results.append((events, _comparable(state), decision.wake_at))
    assert all(result == results[0] for result in results)


def _comparable(state: State) -> dict[str, object]:
    return {name: getattr(state, name) for name in State.__struct_fields__}
