"""What the script of a simulated life, and the check of its times, know of what may be lost and given up."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from bahi.testing import Scene, given
from bahi.testing.story import aborted, at, bought, decided, sell_triggered, started
from domain.events import OrderRecovered, StrategyStopped
from domain.facts import Policy
from domain.strategy import State
from domain.values import SECOND, Exit, Kind
from eventstore.envelope import Recorded
from simulation.script import Days
from simulation.timely import untimely

LATE = 200


def told(*, placed: int | None) -> list[str]:
    """What is untimely of a run that ends LATE seconds after its time to sell, which is not in the log; `placed`: an
    order that was recovered from the book was placed so many seconds after that time."""
    scene: Scene = given(started, bought()).scene
    due = scene.state.sell_at
    if placed is not None:
        recovered = OrderRecovered(
            tag="TAG",
            kind=Kind.SELL,
            run=scene.state.run,
            number=2,
            order_id="1",
            symbol=scene.state.symbol,
            quantity=10,
            product=scene.state.product,
            placed_at=due + placed * SECOND,
        )
        scene.fold(recovered)
    scene.look(now=due + LATE * SECOND)
    scene.fold(StrategyStopped(run=scene.state.run, reason=Exit.SELL, at=scene.facts.now))
    records = [
        Recorded(number, number, when, f"e{number}", 7, 1, "", "", "w", event)
        for number, (when, event) in enumerate(scene.events, 1)
    ]
    return [each for each in untimely(records, Policy()) if "SELL was due" in each]


def test_a_timer_that_never_fired_is_told_of() -> None:
    (found,) = told(placed=None)
    assert f"SELL was due {LATE} s before the run ended, and never triggered" in found
    assert told(placed=-1), "that order was another's: it was placed before"


def test_an_order_that_was_recovered_says_that_its_timer_had_fired() -> None:
    """Found by seed 9692: the log lost the trigger and the sale; the book showed the sale, with which the run ended."""
    assert not told(placed=0)


@dataclass
class Life:
    """As much of a world as the users look at."""

    states: dict[int, State]
    asked: list[str] = field(default_factory=list)

    def world(self) -> Any:
        def later(_: int, then: Callable[[], None]) -> None:
            then()

        return SimpleNamespace(
            at=later,
            clock=SimpleNamespace(now=lambda: 0),
            story=SimpleNamespace(tell=lambda *_: None),
            client=SimpleNamespace(ask=lambda what, _: self.asked.append(what)),
            watch=SimpleNamespace(states=lambda: self.states),
            chance=None,
            faults=None,
        )


@pytest.mark.parametrize("given_up", [True, False])
def test_whoever_is_told_that_a_run_was_given_up_with_its_shares_asks_for_their_sale_again(given_up: bool) -> None:
    """Found by seed 7901: the sale that was asked for before the engine gave up is not tried any more after that."""
    scene = given(
        started, bought(qty=10), at("15:10:00"), sell_triggered, *((aborted(), decided) if given_up else ())
    ).scene
    assert scene.state.open_quantity == 10
    life = Life({7: scene.state})
    days = Days(life.world(), 1)
    days._insist()
    assert life.asked == (["stop 7, square off, again"] if given_up else [])
