"""Whether one shape reads everything that another allows. Structural, over what msgspec writes of JSON Schema."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

__all__ = ["Narrowing", "narrowings"]

_WORDS = {"$defs", "$schema", "default", "description", "examples", "title"}
_LOWER = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_UPPER = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
_STRUCTURE = {"$ref", "additionalProperties", "anyOf", "const", "enum", "items", "prefixItems", "properties"}
_STRUCTURE |= {"required", "type"}
_PYTHON: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}

Schema = dict[str, Any]


class Narrowing(Struct, frozen=True):
    """Something that the old shape allows and the new one does not read."""

    what: str
    why: str


def narrowings(old: Schema, new: Schema) -> list[Narrowing]:
    """Why `new` would not read all that `old` allows; nothing when it does.

    A field that is new, optional and has a default is fine, and so are more words in an enum, a wider type and
    different descriptions.
    """
    return list(_narrowings(old, new, old.get("$defs", {}), new.get("$defs", {}), ""))


def _narrowings(old: Schema, new: Schema, olds: Schema, news: Schema, at: str) -> Iterator[Narrowing]:
    old, new = _resolved(old, olds), _resolved(new, news)
    if not _constraints(new):
        return
    if "anyOf" in old:
        for each in old["anyOf"]:
            yield from _narrowings({**each, **_beside(old)}, new, olds, news, at)
        return
    if "anyOf" in new:
        tries = [list(_narrowings(old, {**each, **_beside(new)}, olds, news, at)) for each in new["anyOf"]]
        yield from min(tries, key=len)
        return
    if (allowed := _words_of(new)) is not None:
        yield from _words_lost(old, allowed, at)
        return
    if (words := _words_of(old)) is not None:
        lost = [word for word in words if "format" in new or ("type" in new and not _is_a(word, new["type"]))]
        if lost:
            yield _narrowed(at, _kind(old), _kind(new))
        return
    if "type" in new and old.get("type") != new["type"] and (old.get("type"), new["type"]) != ("integer", "number"):
        yield _narrowed(at, _kind(old), _kind(new))
        return
    yield from _bounds(old, new, at)
    yield from _parts(old, new, olds, news, at)


def _parts(old: Schema, new: Schema, olds: Schema, news: Schema, at: str) -> Iterator[Narrowing]:
    yield from _fields(old, new, olds, news, at)
    if "items" in new:
        yield from _narrowings(old.get("items") or {}, new["items"], olds, news, f"{at}[]")
    befores, nows = old.get("prefixItems", []), new.get("prefixItems", [])
    if len(befores) > len(nows):
        yield Narrowing(f"{_name(at)} lost its last {len(befores) - len(nows)} places", "what they hold would be lost")
    for place, (before, now) in enumerate(zip(befores, nows, strict=False)):
        yield from _narrowings(before, now, olds, news, f"{at}[{place}]")


def _fields(old: Schema, new: Schema, olds: Schema, news: Schema, at: str) -> Iterator[Narrowing]:
    befores, nows = old.get("properties", {}), new.get("properties", {})
    rest = new.get("additionalProperties", True)
    for name, before in befores.items():
        path = f"{at}.{name}" if at else name
        if name not in nows:
            if "properties" in new or rest is False:
                yield Narrowing(f"field {path} was removed or renamed", "old events hold it, and it would be lost")
            elif isinstance(rest, dict):
                yield from _narrowings(before, rest, olds, news, path)
            continue
        yield from _narrowings(before, nows[name], olds, news, path)
        yield from _default(before, nows[name], path)
    for name in new.get("required", []):
        if name not in old.get("required", []):
            path = f"{at}.{name}" if at else name
            was = "became required" if name in befores else "is new and has no default"
            yield Narrowing(f"field {path} {was}", "old events may lack it, and would not decode")
    if isinstance(before := old.get("additionalProperties"), dict) and not befores and "properties" not in new:
        yield from _narrowings(before, rest if isinstance(rest, dict) else {}, olds, news, f"{at}.*")


def _default(before: Schema, now: Schema, path: str) -> Iterator[Narrowing]:
    """An old event without the field has always been read with the old default; replaying it must give the same."""
    if "default" in before and "default" in now and before["default"] != now["default"]:
        yield Narrowing(
            f"the default of {path} went from {before['default']!r} to {now['default']!r}",
            "old events that lack the field would be read as another fact",
        )


def _words_lost(old: Schema, allowed: list[Any], at: str) -> Iterator[Narrowing]:
    words = _words_of(old)
    if words is None:
        yield _narrowed(at, _kind(old), f"one of {_list(allowed)}")
    elif lost := [word for word in words if word not in allowed]:
        yield Narrowing(f"{_name(at)} lost the words {_list(lost)}", "old events may hold them, and would not decode")


def _bounds(old: Schema, new: Schema, at: str) -> Iterator[Narrowing]:
    for key in sorted(set(new) - _WORDS - _STRUCTURE):
        before, now = old.get(key), new[key]
        if key.startswith("x-") or before == now:
            continue
        if before is not None and key in _LOWER and now <= before:
            continue
        if before is not None and key in _UPPER and now >= before:
            continue
        yield _narrowed(at, f"{key} {before}" if before is not None else f"no {key}", f"{key} {now}")


def _narrowed(at: str, before: str, now: str) -> Narrowing:
    return Narrowing(f"{_name(at)} went from {before} to {now}", "old values may not fit")


def _resolved(schema: Schema, defs: Schema) -> Schema:
    while "$ref" in schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**defs[schema["$ref"].rpartition("/")[2]], **beside}
    return schema


def _beside(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key not in _WORDS and key != "anyOf"}


def _constraints(schema: Schema) -> bool:
    return any(key not in _WORDS and not key.startswith("x-") for key in schema)


def _words_of(schema: Schema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _is_a(value: Any, kind: str) -> bool:
    return isinstance(value, _PYTHON.get(kind, ())) and (kind == "boolean" or not isinstance(value, bool))


def _kind(schema: Schema) -> str:
    if (words := _words_of(schema)) is not None:
        return f"one of {_list(words)}"
    return f"{schema.get('type', 'anything')}{' of form ' + schema['format'] if 'format' in schema else ''}"


def _name(at: str) -> str:
    return f"field {at}" if at else "the event"


def _list(words: list[Any]) -> str:
    return ", ".join(map(str, words))
