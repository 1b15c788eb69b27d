"""Snapshots of the shapes that events have had: `history/TYPE.vSCHEMA.json`, one for each type and schema number.

A snapshot allows every event that was ever written under its number, so today's program must read all it allows. It
grows with changes that lose nothing (a field with a default, another word of an enum), and never otherwise.
"""

import re
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from bahi.schema.compatibility import narrowings
from bahi.schema.event import DIALECT, Schema, Types, schema_of, shape
from bahi.schema.problem import Problem
from bahi.schema.samples import Unsampled, samples
from eventstore.upcasts import Upcasts, upcast

__all__ = ["FOLDER", "Snapshot", "load", "snapshot", "unread"]

FOLDER: Final = "history"
_FILE: Final = re.compile(r"([A-Z][A-Z0-9_]*)\.v([1-9][0-9]*)\.json")
_WORDS: Final = {"title", "description"}


class Snapshot(Struct, frozen=True, order=True):
    """The shape that `type` had under the number `schema`."""

    type: str
    schema: int
    shape: Schema

    @property
    def file(self) -> str:
        return f"{FOLDER}/{self.type}.v{self.schema}.json"


def snapshot(name: str, types: Types) -> Snapshot:
    """Today's shape, without words: those may change freely."""
    bare = cast(Schema, _wordless(shape(types[name])))
    return Snapshot(name, schema_of(types[name]), {"$schema": DIALECT, **bare})


def load(folder: Path) -> tuple[list[Snapshot], list[Problem]]:
    """The snapshots in the folder, and what is there but is none."""
    found, problems = [], []
    for path in sorted((folder / FOLDER).glob("*")):
        name = _FILE.fullmatch(path.name)
        try:
            if name is None:
                raise ValueError("its name is not TYPE.vNUMBER.json")
            content = msgspec.json.decode(path.read_bytes(), type=Schema)
            found.append(Snapshot(name[1], int(name[2]), content))
        except ValueError as error:
            problems.append(
                Problem(
                    f"{FOLDER}/{path.name}",
                    f"is no snapshot: {error}",
                    "what it says of old events cannot be known",
                    "restore it from the repository's history, or remove it if it never was one",
                )
            )
    return found, problems


def unread(old: Snapshot, types: Types, upcasts: Upcasts) -> list[Problem]:
    """Why events of this snapshot would not be read by the classes of today; nothing when all are.

    The shape is compared where the number is today's; in any case samples of it are written, upcast and decoded.
    """
    cls = types.get(old.type)
    today = schema_of(cls) if cls is not None else None
    if today is not None and today < old.schema:
        return [
            Problem(
                old.file,
                f"{old.type} went back from schema {old.schema} to {today}",
                f"events of schema {old.schema} are in the log, and an older program refuses them",
                f"set the `schema` of its class to {old.schema} or more",
            )
        ]
    if cls is not None and today == old.schema:
        todo = (
            f"undo it; or set the `schema` of {cls.__name__} to {today + 1} and register UPCASTS[{old.type!r}][{today}]"
        )
        lost = [
            Problem(old.file, each.what, each.why, todo)
            for each in narrowings(old.shape, snapshot(old.type, types).shape)
        ]
        return lost or _undecoded(old, types, upcasts, todo)
    todo = f"register UPCASTS[{old.type!r}][{old.schema}]: the step from that shape to the next"
    if old.schema not in upcasts.get(old.type, {}):
        gone = f"{old.type} was removed" if cls is None else f"{old.type} went from schema {old.schema} to {today}"
        return [
            Problem(
                old.file,
                f"{gone}, and no upcast is registered",
                "events of that shape are in the log, and would not decode",
                todo if cls is not None else f"bring its class back, or {todo}, which may also change the type",
            )
        ]
    return _undecoded(old, types, upcasts, f"correct the steps of UPCASTS[{old.type!r}] from {old.schema} on")


def _undecoded(old: Snapshot, types: Types, upcasts: Upcasts, todo: str) -> list[Problem]:
    """The first sample that today's decoder does not read, or reads as something else."""
    try:
        written = samples(old.shape)
    except Unsampled as error:
        return [Problem(old.file, str(error), "reading it cannot be tried", "teach bahi.schema.samples about it")]
    decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(_union(types))
    for sample in written:
        why = _misread(sample, decoder, types, upcasts)
        if why is not None:
            example = msgspec.json.encode(sample).decode()
            return [Problem(old.file, f"an event of schema {old.schema} is not read: {example}", why, todo)]
    return []


def _misread(
    sample: dict[str, Any], decoder: "msgspec.msgpack.Decoder[Any]", types: Types, upcasts: Upcasts
) -> str | None:
    try:
        raised = upcast(dict(sample), upcasts)
        event = decoder.decode(msgspec.msgpack.encode(raised))
    except Exception as error:  # a step is any code, and whatever it raises would park the event
        return f"{type(error).__name__}: {error}"
    today = schema_of(types[event.type])
    if event.schema != today:
        return f"it ends as schema {event.schema} of {event.type}, and today's is {today}"
    if sample["schema"] != today or sample["type"] != event.type:
        return None  # the steps may have left things behind on purpose
    lost = _lost(sample, msgspec.to_builtins(event))
    return f"{lost} does not survive decoding" if lost is not None else None


def _lost(written: Any, read: Any, at: str = "") -> str | None:
    """The first place whose value is not the same after decoding."""
    match written, read:
        case dict(), dict():
            for key, value in written.items():
                if key not in read:
                    return f"{at}.{key}".lstrip(".")
                if (lost := _lost(value, read[key], f"{at}.{key}")) is not None:
                    return lost
            return None
        case list(), list() if len(written) == len(read):
            places = (_lost(a, b, f"{at}[{n}]") for n, (a, b) in enumerate(zip(written, read, strict=True)))
            return next((place for place in places if place is not None), None)
        case _:
            return None if written == read else f"{at} = {written!r}".lstrip(".")


def _union(types: Types) -> Any:
    union: Any = None
    for cls in types.values():
        union = cls if union is None else union | cls
    return union


def _wordless(it: Any, is_names: bool = False) -> Any:
    """Without titles and descriptions, except where those are names of fields or definitions."""
    if isinstance(it, dict):
        return {
            key: _wordless(value, key in {"properties", "$defs"} and not is_names)
            for key, value in it.items()
            if is_names or key not in _WORDS
        }
    return [_wordless(value) for value in it] if isinstance(it, list | tuple) else it
