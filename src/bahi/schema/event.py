"""The JSON Schema of one event, from its class: what its JSON looks like, and what the log does with it."""

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any, Final, cast

import msgspec
from msgspec.inspect import Metadata, StructType, TimeType, Type, UnionType

from bahi.schema.samples import samples
from domain.events import Event, PriceTick
from domain.values import Priority
from eventstore.keys import MARKET_TICKS, Keys

__all__ = ["DIALECT", "Schema", "Types", "event_schema", "schema_of", "shape", "streams_of", "type_of"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]
Types = Mapping[str, type[Event]]
"""Event classes by their name on the wire."""

_STREAMS = Keys().streams
_PLAIN = {Event, msgspec.Struct}


def type_of(event: type[Event]) -> str:
    """The name on the wire."""
    return str(event.__struct_config__.tag)


def schema_of(event: type[Event]) -> int:
    """The number of the shape that the class writes today."""
    return int(next(field.default for field in msgspec.structs.fields(event) if field.name == "schema"))


def shape(event: type[Event]) -> Schema:
    """The bare JSON Schema: the event's object at the root, what it is made of in `$defs`."""
    (generated,), defs = msgspec.json.schema_components([event])
    name = generated["$ref"].rpartition("/")[2]
    for cls in _structs(event):
        _refine(defs[cls.__name__], cls)
    root = defs.pop(name)
    root["properties"]["type"] = {"const": type_of(event)}
    root["properties"]["schema"] = {"const": schema_of(event), "default": schema_of(event)}
    # msgspec leaves it out of `required` because it has a default; but it is always written.
    root["required"] = ["type", "schema", *(name for name in root["required"] if name != "type")]
    return {**root, "$defs": defs} if defs else root


def event_schema(event: type[Event]) -> Schema:
    """The published schema: the shape, its words, and which class, streams and reactions the event has."""
    schema = shape(event)
    described = event.__doc__ or next((base.__doc__ for base in event.__mro__[1:-2] if base not in _PLAIN), None)
    if described and "description" not in schema:
        schema["description"] = inspect.cleandoc(described)
    return {
        "$schema": DIALECT,
        **schema,
        "title": type_of(event),
        "x-catalogue-id": event.catalogue_id,
        "x-class": "market" if issubclass(event, PriceTick) else str(event.stream),
        "x-streams": list(streams_of(event)),
        "x-versioned": event.versioned,
        "x-wakes": event.wakes,
    }


def streams_of(event: type[Event]) -> tuple[str, ...]:
    """The streams that an event of this type may be appended to, the most urgent first.

    More than one where the class is a property of the instance: then every sample of the type is asked.
    """
    if issubclass(event, PriceTick):
        return (MARKET_TICKS,)
    if event.priority is Event.priority:
        return (_STREAMS[event.stream],)
    classes = {msgspec.convert(sample, event).priority for sample in samples(shape(event))}
    return tuple(_STREAMS[each] for each in Priority if each in classes)


def _structs(event: type[Event]) -> list[type[msgspec.Struct]]:
    """The event's class and those of the structs inside it."""
    found: list[type[msgspec.Struct]] = []

    def walk(it: Any) -> None:
        if isinstance(it, StructType):
            if it.cls in found:
                return
            found.append(it.cls)
        if isinstance(it, Type):
            for part in it.__struct_fields__:
                walk(getattr(it, part))
        elif isinstance(it, tuple):
            for part in it:
                walk(part)
        elif isinstance(it, msgspec.inspect.Field):
            walk(it.type)

    walk(msgspec.inspect.type_info(event))
    return found


def _refine(schema: Schema, cls: type[msgspec.Struct]) -> None:
    """What msgspec leaves out: the form of wall-clock times, and the words under a field in the source."""
    words = _words(cls)
    for field in cast(StructType, msgspec.inspect.type_info(cls)).fields:
        described = schema["properties"][field.encode_name]
        if _is_wall_clock(field.type):
            target = described["anyOf"][0] if "anyOf" in described else described
            target["format"] = "time-local"
        if field.name in words:
            described["description"] = words[field.name]


def _is_wall_clock(it: Type) -> bool:
    if isinstance(it, Metadata):
        return _is_wall_clock(it.type)
    if isinstance(it, UnionType):
        return _is_wall_clock(it.types[0])
    return isinstance(it, TimeType) and it.tz is not True


@cache
def _words(cls: type) -> Mapping[str, str]:
    """The string that follows a field's line in the class, by field: its documentation."""
    words: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not (issubclass(base, msgspec.Struct) and base is not msgspec.Struct):
            continue
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):  # a class made at run time has no source
            continue
        body = cast(ast.ClassDef, ast.parse(textwrap.dedent(source)).body[0]).body
        for line, after in pairwise(body):
            match line, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                    words[name] = re.sub(r"\s+", " ", text).strip()
                case _:
                    pass
    return words
