"""Values as the strings of a Redis hash, where a field that is absent stands for its default."""

import datetime as dt
from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import Enum

from domain.blind import Case

__all__ = ["encode_case", "encode_condition", "encode_field"]

ABSENT = ""
"""In a condition: the field may be missing."""


def encode_field(value: object) -> str | None:
    """The string that stands for the value, or None if the field is to be absent."""
    match value:
        case None:
            return None
        case bool():
            return "1" if value else "0"
        case Enum():
            return str(value.value)
        case str():
            return value
        case int() | Decimal():
            return str(value)
        case dt.date() | dt.time():
            return value.isoformat()
        case _:
            raise TypeError(f"a {type(value).__name__} is not a field of a hash: {value!r}")


def encode_condition(values: Iterable[object], default: object) -> list[str]:
    """What the hash may hold so that the field is one of `values`; "" stands for a field that is missing."""
    allowed: list[str] = []
    for value in values:
        encoded = encode_field(value)
        if encoded is not None:
            allowed.append(encoded)
        if (encoded is None or value == default) and ABSENT not in allowed:
            allowed.append(ABSENT)
    return allowed


def encode_case(case: Case, defaults: Mapping[str, object]) -> dict[str, object]:
    """A case as the append script takes it: conditions as pairs, what to set as a flat list, and what to delete."""
    setting: list[str] = []
    deleting: list[str] = []
    for name, value in case.then.items():
        encoded = encode_field(value)
        if encoded is None or value == defaults.get(name):
            deleting.append(name)
        else:
            setting += (name, encoded)
    return {
        "when": [(name, encode_condition(values, defaults.get(name))) for name, values in case.when.items()],
        "positive": [(name, _is_positive(defaults.get(name))) for name in case.positive],
        "set": setting,
        "delete": deleting,
    }


def _is_positive(default: object) -> bool:
    return isinstance(default, int | Decimal) and default > 0
