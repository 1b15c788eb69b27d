"""The folder `schemas/`: everything in it is written by `export` and held to today's code by `check`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

from bahi.schema import history
from bahi.schema.asyncapi import asyncapi_document
from bahi.schema.compatibility import narrowings
from bahi.schema.envelope import envelope_schema
from bahi.schema.event import Schema, Types, event_schema
from bahi.schema.history import Snapshot, snapshot
from bahi.schema.openapi import openapi_document
from bahi.schema.problem import Problem
from domain.events import EVENT_TYPES
from eventstore.upcasts import UPCASTS, Upcasts

__all__ = ["Exported", "check", "export"]

_EXPORT: Final = "run `bahi schema export` and commit what it writes"

OpenApi = Callable[[], Schema]


class Exported(Struct, frozen=True):
    """What an export did. `problems` are snapshots that it refused to overwrite."""

    written: list[str]
    removed: list[str]
    unchanged: int
    problems: list[Problem]


def export(
    folder: Path,
    *,
    types: Types = EVENT_TYPES,
    upcasts: Upcasts = UPCASTS,
    openapi: OpenApi = openapi_document,
) -> Exported:
    """Write every file anew, and snapshots of the shapes that have none yet. The same code gives the same bytes.

    Files of events that are no more are removed; a snapshot is never removed, nor replaced by one that allows less.
    """
    wanted = _documents(types, openapi)
    old, _ = history.load(folder)
    before = {each.file: each for each in old}
    problems: list[Problem] = []
    for today in _snapshots(types):
        there = before.get(today.file)
        if there is None or not narrowings(there.shape, today.shape):
            wanted[today.file] = _text(today.shape)
        else:
            problems += history.unread(there, types, upcasts)
    written = [name for name, text in wanted.items() if _read(folder / name) != text]
    for name in written:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[name], encoding="utf-8")
    gone = [name for name in _found(folder) if name.startswith("events/") and name not in wanted]
    for name in gone:
        (folder / name).unlink()
    return Exported(sorted(written), gone, len(wanted) - len(written), problems)


def check(
    folder: Path,
    *,
    types: Types = EVENT_TYPES,
    upcasts: Upcasts = UPCASTS,
    openapi: OpenApi = openapi_document,
) -> list[Problem]:
    """What is wrong: files that are stale, missing or extra, and shapes in `history/` that today's code cannot read."""
    return sorted({*_files(folder, types, openapi), *_histories(folder, types, upcasts)})


def _files(folder: Path, types: Types, openapi: OpenApi) -> list[Problem]:
    wanted = _documents(types, openapi)
    problems = []
    for name, text in wanted.items():
        there = _read(folder / name)
        if there is None:
            problems.append(Problem(name, "is missing", "others cannot read what it describes", _EXPORT))
        elif there != text:
            problems.append(Problem(name, "is stale", "it is not what the code does today", _EXPORT))
    extra = [name for name in _found(folder) if name not in wanted and not name.startswith(f"{history.FOLDER}/")]
    return problems + [
        Problem(name, "is extra", "nothing in the code is described by it", "remove it") for name in extra
    ]


def _histories(folder: Path, types: Types, upcasts: Upcasts) -> list[Problem]:
    old, problems = history.load(folder)
    there = {each.file: each for each in old}
    for each in old:
        problems += history.unread(each, types, upcasts)
    for today in _snapshots(types):
        before = there.get(today.file)
        why = "a later change could not be held against it"
        if before is None:
            problems.append(Problem(today.file, "is missing", why, _EXPORT))
        elif before.shape != today.shape and not narrowings(before.shape, today.shape):
            problems.append(Problem(today.file, "is stale: the shape has grown since", why, _EXPORT))
        for number in range(1, today.schema):
            missing = Snapshot(today.type, number, {}).file
            if missing not in there:
                why = "events of that shape may be in the log, and nothing tries to read them"
                problems.append(Problem(missing, "is missing", why, "restore it from the repository's history"))
    return problems


def _documents(types: Types, openapi: OpenApi) -> dict[str, str]:
    documents = {f"events/{name}.json": event_schema(cls) for name, cls in sorted(types.items())}
    documents["envelope.json"] = envelope_schema(types)
    documents["asyncapi.json"] = asyncapi_document(types)
    documents["openapi.json"] = openapi()
    return {name: _text(document) for name, document in documents.items()}


def _snapshots(types: Types) -> list[Snapshot]:
    return [snapshot(name, types) for name in sorted(types)]


def _text(document: Schema) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _found(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
