"""A difference between what a history tells and what today's program makes of it."""

from typing import Any, Final

from msgspec import Struct

__all__ = ["Difference", "decision_differs", "digest_differs", "event_unread", "field_lost", "state_differs"]

NOTHING: Final = "nothing"


class Difference(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`kind` is event, state, decision, digest, replay or change; `what` names the event's or the state's field, or
    what of the decision differs. `position` is that of the event after which it is so."""

    history: str
    kind: str
    what: str
    expected: Any
    actual: Any
    todo: str
    position: int = 0
    strategy: int = 0
    version: int = 0
    rules: tuple[str, ...] = ()


def event_unread(history: str, position: int, strategy: int, error: str) -> Difference:
    return Difference(
        history=history,
        position=position,
        strategy=strategy,
        kind="event",
        what="envelope",
        expected="an event that this program reads",
        actual=error,
        todo="give the event's class the next `schema` and write the step to it in eventstore/upcasts.py",
    )


def field_lost(history: str, position: int, strategy: int, name: str, was: Any, now: Any) -> Difference:
    """`name` is TYPE.FIELD."""
    return Difference(
        history=history,
        position=position,
        strategy=strategy,
        kind="event",
        what=name,
        expected=was,
        actual=now,
        todo="a field that was renamed, dropped or read otherwise needs the next `schema` of its class and an upcast",
    )


def state_differs(history: str, position: int, strategy: int, name: str, was: Any, now: Any) -> Difference:
    return Difference(
        history=history,
        position=position,
        strategy=strategy,
        kind="state",
        what=name,
        expected=was,
        actual=now,
        todo=f"mend evolve; or, if it is meant, say why in changes.toml: field = {name!r}",
    )


def decision_differs(
    history: str,
    position: int,
    strategy: int,
    version: int,
    what: str,
    was: Any,
    now: Any,
    rules: tuple[str, ...],
) -> Difference:
    named = " or ".join(f"rule = {rule!r}" for rule in rules) or f"position = {position}"
    return Difference(
        history=history,
        position=position,
        strategy=strategy,
        version=version,
        kind="decision",
        what=what,
        expected=was,
        actual=now,
        rules=rules,
        todo=f"mend the rule; or, if it is meant, say why in changes.toml: {named}",
    )


def digest_differs(history: str, position: int, was: str, now: str) -> Difference:
    return Difference(
        history=history,
        position=position,
        kind="digest",
        what="all states",
        expected=was,
        actual=now,
        todo="no single field differs: the canonical form in bahi/histories/states.py has changed; undo that",
    )
