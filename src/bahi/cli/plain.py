"""Structs as plain values for JSON: instants, which are integers inside, as moments of the exchange's clock.

How to convert a type is found out once, so that a long log can be printed at the speed of the terminal.
"""

import types
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from bahi.cli.times import Times

__all__ = ["Plain"]

Convert = Callable[[Any], Any]


class Plain:
    """Makes plain values of Structs. An instant of 0 stands for none."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._known: dict[type[Struct], Convert] = {}

    def __call__(self, value: Struct) -> dict[str, Any]:
        fields: dict[str, Any] = self._of_struct(type(value))(value)
        return fields

    def _of_struct(self, cls: type[Struct]) -> Convert:
        known = self._known.get(cls)
        if known is None:
            hints = get_type_hints(cls, include_extras=True)
            parts = [(f.name, f.encode_name, self._of(hints[f.name])) for f in msgspec.structs.fields(cls)]

            def convert(value: Any) -> dict[str, Any]:
                return {
                    name: (each if to is None else to(each))
                    for attribute, name, to in parts
                    for each in (getattr(value, attribute),)
                }

            known = self._known[cls] = convert
        return known

    def _of(self, hint: Any) -> Convert | None:
        """How to convert a value of this type; None: it is plain."""
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            if any(isinstance(each, Meta) and (each.extra or {}).get("kind") == "instant" for each in arguments):
                return lambda at: self._times.wall(at) if at else None
            return self._of(arguments[0])
        inner: Convert | None = None
        if origin in (Union, types.UnionType):
            inner = next((to for each in arguments if (to := self._of(each)) is not None), None)
            return None if inner is None else _optional(inner)
        if origin in (list, tuple) and arguments and (inner := self._of(arguments[0])) is not None:
            return _list(inner)
        if origin is dict and (inner := self._of(arguments[1])) is not None:
            return _dict(inner)
        if isinstance(hint, type) and issubclass(hint, Struct):
            return lambda value: self._of_struct(type(value))(value)
        return None


def _optional(inner: Convert) -> Convert:
    return lambda value: None if value is None else inner(value)


def _list(inner: Convert) -> Convert:
    return lambda values: [inner(each) for each in values]


def _dict(inner: Convert) -> Convert:
    return lambda values: {name: inner(each) for name, each in values.items()}
