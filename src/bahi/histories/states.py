"""A state as values that any program can compare, and digests of all states together.

The form is canonical: it depends on the state alone, not on hash seeds, time zones, locales or the order in which
anything was put into a mapping. A field that holds its default is left out, so that a new field changes no digest
while it has nothing to say. `updated_at` and `position_in_log` are not in it: they are the entry's, not the fold's.
"""

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import Struct

from domain.state import State

__all__ = ["CHECKPOINT", "Line", "Plain", "changed", "digest", "plain_state", "plain_value"]

CHECKPOINT: Final = 100
"""After so many events, and after the last one, there is a digest."""

Plain = dict[str, Any]
"""A state's fields that do not hold their defaults."""

_NOT_FOLDED: Final = frozenset({"updated_at", "position_in_log"})
_NEW = State()
FIELDS: Final = tuple(name for name in State.__struct_fields__ if name not in _NOT_FOLDED)


class Line(Struct, frozen=True, omit_defaults=True):
    """What the event at `position` did to its strategy: the fields with their new values, None for the default.
    Or a digest of all strategies as they were after it; or that it could not be read even then."""

    position: int
    strategy: int = 0
    fields: Plain = {}
    digest: str = ""
    unreadable: bool = False


def plain_value(value: Any) -> Any:
    """Lists, mappings, texts and whole numbers only. Numbers that are equal look equal."""
    return _exact(msgspec.to_builtins(value, builtin_types=(Decimal,), str_keys=True))


def _exact(value: Any) -> Any:
    match value:
        case Decimal():
            return format(value.normalize(), "f") if value.is_finite() and value else str(value + 0)
        case dict():
            return {str(name): _exact(each) for name, each in sorted(value.items())}
        case list() | tuple():
            return [_exact(each) for each in value]
        case float():
            raise TypeError(f"a float in a state: {value!r}")
        case _:
            return value


def plain_state(state: State) -> Plain:
    """All of it."""
    return changed(_NEW, state)


def changed(before: State, after: State) -> Plain:
    """What a step changed: the fields' new values, None for those that went back to their defaults."""
    fields: Plain = {}
    for name in FIELDS:
        value = getattr(after, name)
        if value is (was := getattr(before, name)):
            continue
        new = plain_value(value)
        if new != plain_value(was):
            fields[name] = None if new == plain_value(getattr(_NEW, name)) else new
    return fields


def digest(states: Mapping[int, Plain]) -> str:
    """SHA-256 over all states, by strategy and field."""
    return hashlib.sha256(msgspec.json.encode(sorted(states.items()), order="deterministic")).hexdigest()
