"""Recorded ticks in files: `timestamp,symbol,ltp,volume`, plain or gzip, streamed in the order of arrival.

A recording is dirty: rows repeat a stamp, step back a second, fall in volume, or are damaged. Good rows are kept as
they came, also outside the session: what to make of them is the reader's business. A damaged row is skipped and named.
"""

from __future__ import annotations

import datetime as dt
import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import Path
from typing import IO, NamedTuple, Protocol, cast

from domain.calendar import instant, wall
from domain.values import Instant, Tick

__all__ = ["HEADER", "BadRow", "TickFile", "TickFileError", "write_ticks"]

HEADER = "timestamp,symbol,ltp,volume"
MAX_LINE = 200
"""Bytes of the longest row that is read; a good one has about fifty."""
KEPT_BAD_ROWS = 100
MAX_PRICE = Decimal(10_000_000)
MAX_VOLUME = 10**12

_BLOCK = 1 << 17
_MAX_SYMBOLS = 20_000
_MAX_PRICES = 100_000
_GZIP = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"

_UNPRINTABLE = re.compile(rb"[^\x20-\x7e]")
_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?")
_SYMBOL = re.compile(r"(?:[A-Z]{2,5}:)?[A-Z0-9][A-Z0-9&_ -]{0,39}")
_PRICE = re.compile(r"[0-9]{1,8}(?:\.[0-9]{1,6})?")
_VOLUME = re.compile(r"[0-9]{1,13}")


class TickFileError(Exception):
    """The file as a whole cannot be read. Says which file, which line where there is one, and what to do."""

    def __init__(self, path: Path, problem: str, remedy: str, *, line: int | None = None) -> None:
        where = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {problem}; {remedy}")
        self.path = path
        self.line = line


class BadRow(NamedTuple):
    """A row that was skipped: its line (the header is line 1) and why."""

    line: int
    reason: str


class _Source(Protocol):
    def read1(self, size: int, /) -> bytes: ...


class TickFile:
    """A tick file. Iterating yields its good rows in the order of the file, and may be done again from the start.

    During and after an iteration `rows` counts the data rows seen, `bad_count` those that were skipped, and `bad` names
    the first hundred of them. Nothing but a bounded block of the file is in memory. Iterating raises `TickFileError`
    when the file is missing, does not start with the header, or breaks off; what could be read before has been yielded.
    """

    def __init__(self, path: str | os.PathLike[str], *, exchange: str = "NSE") -> None:
        """A symbol without an exchange is taken to be of `exchange`."""
        self.path = Path(path)
        self.exchange = exchange
        self.rows = 0
        self.bad_count = 0
        self.bad: list[BadRow] = []

    def __iter__(self) -> Iterator[Tick]:
        self.rows, self.bad_count, self.bad = 0, 0, []
        parse = _Parser(self.exchange).parse
        with self._open() as source:
            lines = self._lines(cast(_Source, source))
            self._check_header(next(lines, None))
            blank_before = 0
            number = 1
            for number, line in enumerate(lines, 2):
                if line == b"":  # one that ends the file is no row, one inside it is a bad row
                    blank_before += 1
                    continue
                for back in range(blank_before, 0, -1):
                    self._skip(number - back, "empty line")
                blank_before = 0
                outcome = parse(line)
                if type(outcome) is Tick:
                    self.rows += 1
                    yield outcome
                else:
                    self._skip(number, cast(str, outcome))

    def _open(self) -> AbstractContextManager[object]:
        try:
            raw = self.path.open("rb")
        except OSError as error:
            raise TickFileError(self.path, f"cannot be opened ({error.strerror})", "check the path") from error
        try:
            start = raw.read(2)
            raw.seek(0)
        except OSError as error:
            raw.close()
            raise TickFileError(self.path, f"cannot be read ({error.strerror})", "check the file") from error
        if start == _GZIP:
            return _Gzip(raw)
        if self.path.suffix == ".gz":
            raw.close()
            raise TickFileError(self.path, "is named .gz but is not gzip", "rename it or compress it")
        return raw

    def _lines(self, source: _Source) -> Iterator[bytes]:
        """The file's lines without their ends; one longer than allowed is cut short, which `parse` then reports."""
        rest = b""
        number = 0
        while True:
            try:
                block = source.read1(_BLOCK)
            except (EOFError, OSError, zlib.error) as error:
                raise TickFileError(
                    self.path,
                    f"breaks off or is damaged ({error})",
                    "the rows before this line were read; copy the file again",
                    line=number + 1,
                ) from error
            if not block:
                if rest:
                    yield rest.removesuffix(b"\r")
                return
            lines = (rest + block).split(b"\n")
            # Of an unfinished line only as much is kept as shows that it is too long.
            rest = lines.pop()[: MAX_LINE + 1]
            for line in lines:
                number += 1
                yield line[: MAX_LINE + 1].removesuffix(b"\r")

    def _check_header(self, line: bytes | None) -> None:
        remedy = f"the first line must be {HEADER}"
        if line is None:
            raise TickFileError(self.path, "is empty", remedy, line=1)
        found = line.removeprefix(_UTF8_MARK).decode("utf-8", "replace").strip()
        if found.lower() != HEADER:
            raise TickFileError(self.path, f"no header, found {_shown(found)}", remedy, line=1)

    def _skip(self, line: int, reason: str) -> None:
        self.rows += 1
        self.bad_count += 1
        if len(self.bad) < KEPT_BAD_ROWS:
            self.bad.append(BadRow(line, reason))


class _Gzip(gzip.GzipFile):
    """A gzip reader that closes the file beneath it too."""

    def __init__(self, raw: IO[bytes]) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self._raw = raw

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._raw.close()


class _Parser:
    """Parses rows. Stamps, symbols and prices repeat: each text is checked once and remembered, within bounds."""

    def __init__(self, exchange: str) -> None:
        self._exchange = exchange
        self._stamp = ""
        self._at: Instant = 0
        self._symbols: dict[str, str] = {}
        self._prices: dict[str, Decimal] = {}

    def parse(self, line: bytes) -> Tick | str:
        """The row's tick, or why there is none."""
        if len(line) > MAX_LINE:
            return f"longer than {MAX_LINE} bytes"
        if _UNPRINTABLE.search(line):
            return _unprintable(line)
        columns = line.decode("ascii").split(",")
        if len(columns) != 4:
            return f"{len(columns)} columns, expected 4"
        stamp, symbol_text, price_text, volume_text = columns
        if stamp != self._stamp:
            at = _instant(stamp)
            if at is None:
                return f"timestamp {_shown(stamp)} is not YYYY-MM-DD HH:MM:SS"
            self._stamp, self._at = stamp, at
        symbol = self._symbols.get(symbol_text) or self._symbol(symbol_text)
        if symbol is None:
            return f"symbol {_shown(symbol_text)} is not a trading symbol"
        price = self._prices.get(price_text) or self._price(price_text)
        if price is None:
            return f"price {_shown(price_text)} is not a number above 0 and at most {MAX_PRICE}"
        if not _VOLUME.fullmatch(volume_text) or (volume := int(volume_text)) > MAX_VOLUME:
            return f"volume {_shown(volume_text)} is not a whole number up to {MAX_VOLUME}"
        return Tick(symbol, price, self._at, volume)

    def _symbol(self, text: str) -> str | None:
        if not _SYMBOL.fullmatch(text) or text.endswith(" "):
            return None
        if len(self._symbols) >= _MAX_SYMBOLS:
            self._symbols.clear()
        self._symbols[text] = symbol = text if ":" in text else f"{self._exchange}:{text}"
        return symbol

    def _price(self, text: str) -> Decimal | None:
        if not _PRICE.fullmatch(text):
            return None
        price = Decimal(text)
        if not 0 < price <= MAX_PRICE:
            return None
        if len(self._prices) >= _MAX_PRICES:
            self._prices.clear()
        self._prices[text] = price
        return price


def _instant(stamp: str) -> Instant | None:
    if not _STAMP.fullmatch(stamp):
        return None
    try:
        moment = dt.datetime.fromisoformat(stamp[:19])
    except ValueError:
        return None
    if moment.year < 1970:
        return None
    return instant(moment.date(), moment.time()) + int(stamp[20:].ljust(6, "0"))


def _unprintable(line: bytes) -> str:
    if b"\0" in line:
        return "contains a NUL byte"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return "is not valid UTF-8"
    return "contains control or non-ASCII characters"


def _shown(text: str) -> str:
    """Safe to print: quoted, escaped, and cut to forty characters."""
    return ascii(text if len(text) <= 40 else f"{text[:37]}...")


def write_ticks(path: str | os.PathLike[str], ticks: Iterable[Tick]) -> int:
    """Writes a file that `TickFile` reads back as the same ticks, compressed if its name ends in .gz.

    Returns how many were written. The file appears whole or not at all, and the same ticks give the same bytes.
    """
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as raw:
            if target.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
                    count = _write(cast(IO[bytes], packed), ticks)
            else:
                count = _write(raw, ticks)
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return count


def _write(out: IO[bytes], ticks: Iterable[Tick]) -> int:
    out.write(f"{HEADER}\n".encode())
    count = 0
    at: Instant | None = None
    stamp = ""
    for tick in ticks:
        if tick.at != at:
            at = tick.at
            stamp = wall(at).replace(tzinfo=None).isoformat(" ")
        out.write(f"{stamp},{tick.symbol.removeprefix('NSE:')},{tick.price:f},{tick.volume}\n".encode())
        count += 1
    return count
