"""Reading values out of maps that may hold anything: the value in its type, or Malformed with what is there instead."""

import reprlib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

__all__ = ["Malformed", "choice", "money", "nested", "text", "whole"]

_MOST: Final = Decimal(10) ** 18


class Malformed(ValueError):
    """A value is not what it has to be; the message names it."""


def text(data: Mapping[str, Any], name: str) -> str:
    """A string that is not empty."""
    value = data.get(name)
    if type(value) is str and value:
        return value
    raise Malformed(f"its {name} is {reprlib.repr(value)}, not a text")


def whole(data: Mapping[str, Any], name: str) -> int:
    """An integer, or a string of digits."""
    value = data.get(name)
    if type(value) is int and -(10**18) < value < 10**18:
        return value
    if type(value) is str and len(value) < 19 and value.isascii() and value.removeprefix("-").isdigit():
        return int(value)
    raise Malformed(f"its {name} is {reprlib.repr(value)}, not a whole number")


def money(data: Mapping[str, Any], name: str) -> Decimal:
    """An exact decimal: a string, an integer, a Decimal, or a JSON number as it was written."""
    value = data.get(name)
    if type(value) in (str, int, float, Decimal):
        try:
            number = Decimal(str(value)) if type(value) is float else Decimal(value)  # type: ignore[arg-type]
        except (InvalidOperation, ValueError):
            number = Decimal("NaN")
        if number.is_finite() and -_MOST < number < _MOST:
            return number
    raise Malformed(f"its {name} is {reprlib.repr(value)}, not an amount")


def nested(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A map."""
    value = data.get(name)
    if isinstance(value, Mapping):
        return value
    raise Malformed(f"its {name} is {reprlib.repr(value)}, not a map")


def choice(data: Mapping[str, Any], name: str, among: frozenset[str]) -> str:
    """One of these words."""
    value = data.get(name)
    if type(value) is str and value in among:
        return value
    raise Malformed(f"its {name} is {reprlib.repr(value)}, not one of {', '.join(sorted(among))}")
