"""`changes.toml`: what a release decides or folds otherwise than an earlier one did, on purpose, and why.

Each entry names what differs, by one of `rule`, `position`, `field` or `event`, and the reason. An entry that nothing
needs any more is a difference itself: the file says what is so, not what was feared.
"""

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from bahi.histories.differing import Difference
from bahi.histories.files import HistoryError

__all__ = ["FILE", "Change", "Changes", "load_changes"]

FILE: Final = "changes.toml"


class Change(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`rule`: decisions in which it speaks or spoke. `position`: the decision or state at it. `field`: of states.
    `event`: events of this type that are read otherwise. `history`: only there."""

    reason: str
    history: str = ""
    rule: str = ""
    position: int = 0
    field: str = ""
    event: str = ""

    @property
    def what(self) -> str:
        named = {name: getattr(self, name) for name in ("rule", "position", "field", "event") if getattr(self, name)}
        return ", ".join(f"{name} = {value!r}" for name, value in named.items())

    def covers(self, it: Difference) -> bool:
        if self.history not in ("", it.history):
            return False
        if self.rule:
            return it.kind == "decision" and self.rule in it.rules
        if self.position:
            return it.position == self.position
        if self.field:
            return it.kind == "state" and it.what == self.field
        return it.kind == "event" and it.what.partition(".")[0] == self.event


class _File(Struct, forbid_unknown_fields=True):
    change: list[Change] = []


class Changes:
    """The entries of a folder, and which of them were needed."""

    def __init__(self, path: Path, entries: list[Change]) -> None:
        self._path = path
        self._entries = entries
        self._used: set[int] = set()

    def explain(self, it: Difference) -> bool:
        """Whether an entry says why."""
        for number, entry in enumerate(self._entries):
            if entry.covers(it):
                self._used.add(number)
                return True
        return False

    def unused(self) -> list[Difference]:
        """The entries that explained nothing, as differences."""
        return [
            Difference(
                history=entry.history or self._path.name,
                kind="change",
                what=entry.what,
                expected="a difference that it explains",
                actual="none",
                todo=f"take the entry out of {self._path}",
            )
            for number, entry in enumerate(self._entries)
            if number not in self._used
        ]


def load_changes(folder: Path) -> Changes:
    """Those of a folder of histories; none if it has no such file. Raises HistoryError."""
    path = folder / FILE
    if not path.exists():
        return Changes(path, [])
    try:
        entries = msgspec.toml.decode(path.read_bytes(), type=_File).change
    except (msgspec.MsgspecError, ValueError) as error:
        raise HistoryError(f"{path}: {error}: see docs/histories.md for what an entry looks like") from error
    for number, entry in enumerate(entries, start=1):
        if not entry.reason.strip():
            raise HistoryError(f"{path}: entry {number} gives no reason")
        if sum(map(bool, (entry.rule, entry.position, entry.field, entry.event))) != 1:
            raise HistoryError(f"{path}: entry {number} must name one of rule, position, field and event")
    return Changes(path, entries)
