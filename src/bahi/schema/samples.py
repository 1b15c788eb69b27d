"""Sample values of a JSON Schema: few, always the same, and together every choice that the schema leaves."""

import re
from collections.abc import Iterator
from typing import Any

__all__ = ["Unsampled", "samples"]

_STRINGS = {
    None: ["x", "", "बही"],
    "date": ["2024-02-29"],
    "date-time": ["2024-02-29T09:15:00.000001+05:30"],
    "decimal": ["1234.05", "0", "-1", "1E+2"],
    "time": ["09:20:00+05:30"],
    "time-local": ["09:20:00", "15:10:00.000001"],
}
_INTEGERS = [1, 0, -1, 2**62]


class Unsampled(ValueError):
    """The schema says something that no sample is known for: teach `samples.py` about it."""


def samples(schema: dict[str, Any]) -> list[Any]:
    """Values that the schema allows: the smallest, the fullest, and the fullest with each part varied in turn.

    Understands what msgspec writes. Raises Unsampled.
    """
    return _values(schema, schema.get("$defs", {}))


def _values(schema: dict[str, Any], defs: dict[str, Any]) -> list[Any]:
    match schema:
        case {"$ref": ref}:
            return _values(defs[ref.rpartition("/")[2]], defs)
        case {"const": value}:
            return [value]
        case {"enum": values}:
            return list(values)
        case {"anyOf": alternatives} | {"oneOf": alternatives}:
            return [value for each in alternatives for value in _values(each, defs)]
        case {"type": "null"}:
            return [None]
        case {"type": "boolean"}:
            return [False, True]
        case {"type": "integer"}:
            return _some([n for n in _integers(schema) if _within(n, schema)], schema)
        case {"type": "number"}:
            return _some([n for n in [*_integers(schema), 0.5] if _within(n, schema)], schema)
        case {"type": "string"}:
            return _strings(schema)
        case {"type": "array"}:
            return list(_arrays(schema, defs))
        case {"type": "object", "properties": _}:
            return list(_objects(schema, defs))
        case {"type": "object"}:
            inside = schema.get("additionalProperties", {})
            return [{}, {f"k{n}": value for n, value in enumerate(_values(inside, defs))}]
        case _ if not set(schema) - {"default", "description", "title"}:
            return [None, "x", 1, {}]  # anything goes
    raise Unsampled(f"no sample is known for {schema}")


def _integers(schema: dict[str, Any]) -> list[int]:
    edges = [schema.get("minimum"), schema.get("maximum")]
    edges += [schema["exclusiveMinimum"] + 1] if "exclusiveMinimum" in schema else []
    edges += [schema["exclusiveMaximum"] - 1] if "exclusiveMaximum" in schema else []
    return list(dict.fromkeys([*_INTEGERS, *(edge for edge in edges if edge is not None)]))


def _within(n: float, schema: dict[str, Any]) -> bool:
    return (
        schema.get("minimum", n) <= n <= schema.get("maximum", n)
        and schema.get("exclusiveMinimum", n - 1) < n < schema.get("exclusiveMaximum", n + 1)
        and n % schema.get("multipleOf", 1) in (0, n % 1)
    )


def _strings(schema: dict[str, Any]) -> list[str]:
    form = schema.get("format")
    if form not in _STRINGS:
        raise Unsampled(f"no sample is known for {schema}")
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength")
    values = [value.ljust(shortest, "x")[:longest] if form is None else value for value in _STRINGS[form]]
    return _some([value for value in values if re.search(schema.get("pattern", ""), value)], schema)


def _arrays(schema: dict[str, Any], defs: dict[str, Any]) -> Iterator[list[Any]]:
    fixed = [_values(each, defs) for each in schema.get("prefixItems", [])]
    if fixed:
        first = [values[0] for values in fixed]
        yield first
        for place, values in enumerate(fixed):
            yield from ([*first[:place], value, *first[place + 1 :]] for value in values[1:])
        return
    values = _values(schema.get("items", {}), defs)
    shortest, longest = schema.get("minItems", 0), schema.get("maxItems", len(values) + schema.get("minItems", 0))
    yield [values[0]] * shortest
    yield from ([value] * max(1, shortest) for value in values if longest)
    yield (values * (shortest + 1))[:longest]


def _objects(schema: dict[str, Any], defs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    choices = {name: _values(each, defs) for name, each in schema["properties"].items()}
    fullest = {name: values[0] for name, values in choices.items()}
    yield {name: value for name, value in fullest.items() if name in schema.get("required", [])}
    yield fullest
    for name, values in choices.items():
        yield from ({**fullest, name: value} for value in values[1:])


def _some(values: list[Any], schema: dict[str, Any]) -> list[Any]:
    if not values:
        raise Unsampled(f"no sample is known for {schema}")
    return values
