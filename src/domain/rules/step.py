"""What a rule answers."""

from collections.abc import Callable
from typing import Final as Const

from domain.events import Event
from domain.facts import Facts
from domain.state import UNREACHABLE
from domain.strategy import State

__all__ = ["NO_SESSION", "PASS", "UNREACHABLE", "WAIT", "Rule", "Step"]

NO_SESSION: Const = "NO_SESSION"
"""The reason code of an order that the broker refused for want of a valid session."""

Step = tuple[Event, ...] | None
"""Events to append; PASS (None): the rule does not apply; WAIT (empty): nothing, and no later rule either."""
PASS: Const[Step] = None
WAIT: Const[Step] = ()

Rule = Callable[[State, Facts], Step]
