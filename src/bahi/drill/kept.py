"""Results of a drill in a file, so that one that was broken off goes on where it was."""

from pathlib import Path

import msgspec
from msgspec import Struct

from bahi.drill.moments import Result
from bahi.drill.rows import Moment

__all__ = ["Kept"]

_encode = msgspec.json.Encoder().encode


class _Line(Struct, frozen=True, omit_defaults=True):
    """The options of a drill that now begins, or a moment on a day with so many strategies and what came of it."""

    asked: str = ""
    strategies: int = 0
    result: Result | None = None


class Kept:
    """The results in a file, a line of JSON each; the file is made when there is something to keep. Raises OSError, and
    ValueError naming the line that is none of these."""

    def __init__(self, file: Path, strategies: int) -> None:
        self.results: dict[Moment, Result] = {}
        self.asked: list[str] = []
        """The options of every drill that has written into it."""
        self._file = file
        self._strategies = strategies
        lines = file.read_bytes().split(b"\n") if file.exists() else []
        if lines and lines.pop():
            raise ValueError(f"{file} ends within a line: take that line away, its moment is played again")
        for number, line in enumerate(lines, 1):
            try:
                kept = msgspec.json.decode(line, type=_Line)
            except msgspec.DecodeError as error:
                raise ValueError(f"line {number} of {file} is no result of a drill: {error}") from error
            if kept.result is None and not kept.asked:
                raise ValueError(f"line {number} of {file} is no result of a drill: it is empty")
            if kept.asked:
                self.asked.append(kept.asked)
            elif kept.result is not None and kept.strategies == strategies:
                self.results[kept.result.moment] = kept.result

    def begin(self, asked: str) -> None:
        self.asked.append(asked)
        self._write(_Line(asked=asked))

    def keep(self, result: Result) -> None:
        if result.moment not in self.results:
            self.results[result.moment] = result
            self._write(_Line(strategies=self._strategies, result=result))

    def _write(self, line: _Line) -> None:
        with self._file.open("ab") as file:
            file.write(_encode(line) + b"\n")
