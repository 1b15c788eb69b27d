"""Decisions as they are recorded, and as the rules of today make them."""

from typing import Any

import msgspec
from msgspec import Struct

from bahi.histories.facts import FactsLine
from bahi.histories.states import plain_value
from domain import decide
from domain.events import AnyEvent, Event
from domain.facts import Facts
from domain.rules.step import PASS
from domain.strategy import State, evolve
from domain.values import Instant
from eventstore.upcasts import UPCASTS, upcast

__all__ = ["DecisionLine", "as_events", "event_differences", "plain_event", "speaking", "where_apart"]

STEPS = 32
"""`decide_next` gives up after so many, too."""


class DecisionLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was decided for a strategy that was at `version`. `written` is the position of the first of its events in
    the log; 0 when there was none to write, or somebody else came first. `rules` are those that spoke, in order."""

    strategy: int
    version: int
    facts: FactsLine
    events: list[dict[str, Any]] = []
    wake_at: Instant | None = None
    written: int = 0
    rules: list[str] = []


def plain_event(event: Event) -> dict[str, Any]:
    """The map that the log holds, with texts for what JSON has no form for."""
    told: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event))
    return told


def as_events(line: DecisionLine) -> tuple[Event, ...]:
    """The recorded events in today's shape. Raises ValueError or LookupError when they cannot be read."""
    return tuple(msgspec.convert(upcast(dict(each), UPCASTS), AnyEvent) for each in line.events)


def event_differences(then: tuple[Event, ...], now: tuple[Event, ...]) -> tuple[str, Any, Any]:
    """Where two decisions first go apart: what, how it was and how it is."""
    for number, (one, other) in enumerate(zip(then, now, strict=False), start=1):
        if one.type != other.type:
            return f"event {number}", one.type, other.type
        for name in one.__struct_fields__:
            if (was := getattr(one, name)) != (is_now := getattr(other, name)):
                return f"event {number}, {one.type}.{name}", plain_value(was), plain_value(is_now)
    number = min(len(then), len(now)) + 1
    return f"event {number}", _type_of(then[number - 1 :]), _type_of(now[number - 1 :])


def _type_of(events: tuple[Event, ...]) -> str:
    return events[0].type if events else "none"


def speaking(state: State, facts: Facts) -> list[str]:
    """The names of the rules that make the decision, in their order; the last may be one that says to wait."""
    names: list[str] = []
    for _ in range(STEPS):
        for rule in decide.ALWAYS + (decide.ALIVE if state.alive else decide.ENDED):
            step = rule(state, facts)
            if step is PASS:
                continue
            names.append(rule.__name__)
            break
        else:
            return names
        if not step:
            return names
        for event in step:
            state = evolve(state, event)
    return names


def where_apart(then: list[str], now: list[str]) -> tuple[str, ...]:
    """The two rules with which decisions went apart; all that spoke if they are the same ones."""
    for number in range(max(len(then), len(now))):
        pair = (*then[number : number + 1], *now[number : number + 1])
        if len(set(pair)) == 2 or len(pair) == 1:
            return pair
    return tuple(dict.fromkeys(then))
