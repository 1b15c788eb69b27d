"""Planting a defect: a piece of the real code is changed where it stands, and changed back afterwards.

A function keeps its identity and gets another code object, so whoever imported it by name has the defect, too. What is
to be replaced must stand in the source exactly once: a defect whose place has gone does not fit, and says so.
"""

import hashlib
import inspect
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from unittest.mock import patch

from msgspec import Struct

from eventstore.script import Script

__all__ = ["Change", "Edit", "LuaEdit", "SourceEdit", "Unfit", "plant"]


class Unfit(Exception):
    """The code is not as the defect expects it: the defect has to be brought up to date."""


class Edit(Struct, frozen=True):
    """`old` stands in the source of `function` once, and becomes `new`."""

    function: Callable[..., Any]
    old: str
    new: str

    @contextmanager
    def planted(self) -> Iterator[None]:
        function: Any = self.function
        if not isinstance(function, FunctionType):
            raise Unfit(f"{function!r} is no plain function")
        sound = function.__code__
        function.__code__ = self._compiled(function).__code__
        try:
            yield
        finally:
            function.__code__ = sound

    def _compiled(self, function: FunctionType) -> FunctionType:
        name = f"{function.__module__}.{function.__qualname__}"
        try:
            source = textwrap.dedent(inspect.getsource(function))
        except OSError as error:
            raise Unfit(f"{name} has no source to be found: has it a defect already?") from error
        text = _replaced(source, self.old, self.new, name)
        made: dict[str, Any] = {}
        code = compile(text, f"<{function.__qualname__} with a defect>", "exec", dont_inherit=True)
        exec(code, function.__globals__, made)  # noqa: S102 (our own source, with a defect of ours)
        planted: FunctionType = made[function.__name__]
        return planted


class LuaEdit(Struct, frozen=True):
    """The same in a script of the log."""

    script: Script
    old: str
    new: str

    @contextmanager
    def planted(self) -> Iterator[None]:
        text = _replaced(self.script.text.decode(), self.old, self.new, "the script").encode()
        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest()
        with patch.object(self.script, "text", text), patch.object(self.script, "sha", sha):
            yield


class SourceEdit(Struct, frozen=True):
    """The same in a file of a package, for checks that read the source: the package seems to stand elsewhere."""

    package: ModuleType
    file: str
    old: str
    new: str

    @contextmanager
    def planted(self) -> Iterator[None]:
        home = Path(self.package.__file__ or "").parent
        with tempfile.TemporaryDirectory(prefix="bahi-planted-") as folder:
            copy = Path(folder) / home.name
            shutil.copytree(home, copy, ignore=shutil.ignore_patterns("__pycache__"))
            source = (copy / self.file).read_text()
            (copy / self.file).write_text(_replaced(source, self.old, self.new, self.file))
            with patch.object(self.package, "__file__", str(copy / "__init__.py")):
                yield


Change = Edit | LuaEdit | SourceEdit


@contextmanager
def plant(changes: Sequence[Change]) -> Iterator[None]:
    """Within, the code has the defect. Raises Unfit; then nothing was changed."""
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change.planted())
        yield


def _replaced(source: str, old: str, new: str, where: str) -> str:
    if (count := source.count(old)) != 1:
        raise Unfit(f"{where} has {old!r} {count} times, once was expected")
    return source.replace(old, new)
