"""The README's handler, fuzzed as it stands there; and one that counts a repeated event twice, which is found."""

import re
from pathlib import Path
from typing import Any

import pytest

from bahi.testing import EngineMachine, fuzz
from bahi.testing.ground import Ground
from tests.property.test_machine import SHORT

README = (Path(__file__).parents[2] / "README.md").read_text()


def example(*change: str) -> type[EngineMachine]:
    """The machine of the README, with a text of it replaced by another."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    if change:
        assert change[0] in code
        code = code.replace(*change)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(code, names)  # noqa: S102 (it is our own README)
    machine: type[EngineMachine] = names["Traded"]
    return machine


def test_the_handler_of_the_readme_holds(redis_url: str) -> None:
    fuzz(example(), redis_url, settings=SHORT)


def test_a_handler_that_counts_what_is_repeated_twice_breaks_its_own_invariant(redis_url: str) -> None:
    """One of the ways in which the machine may take its steps."""
    careless = example(
        "self.shares[it.event.tag] = it.event.filled",
        "self.shares[it.event.tag] = self.shares.get(it.event.tag, 0) + it.event.filled",
    )
    with Ground(redis_url) as ground:
        machine: Any = careless(ground)
        machine.begin(quantity=1)
        machine.trigger_buy(n=0)
        machine.fill()
        machine.no_order_trades_more_than_was_asked()
        waking = [it.event.type for it in machine.records if it.event.wakes]
        machine.deliver_again(back=waking[::-1].index("ORDER_FILLED"))
        with pytest.raises(AssertionError):
            machine.no_order_trades_more_than_was_asked()
        assert machine.steps[-1].startswith("ORDER_FILLED of position ")
        machine.teardown()
