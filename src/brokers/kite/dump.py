"""The instruments dump of Kite: a CSV of everything that may be traded, read strictly and row by row.

Kite makes it anew once a day. A damaged row is left out and named; a dump that is no dump, or breaks off, is refused
as a whole, because what is missing from it would be taken for delisted.
"""

import csv
import datetime as dt
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from decimal import Decimal
from typing import IO, Final, NamedTuple

__all__ = ["HEADER", "BadRow", "Dump", "DumpError", "DumpRow"]

HEADER: Final = (
    "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,"
    "instrument_type,segment,exchange"
)
"""Kite Connect docs: the first line, exactly. A dump with other columns is not read by position."""
COLUMNS: Final = HEADER.count(",") + 1
INDICES: Final = "INDICES"
"""The segment whose rows have neither tick nor lot: an index has a price, and cannot be traded."""
KINDS: Final = frozenset({"EQ", "FUT", "CE", "PE"})
KEPT = 100
"""So many damaged rows are named; the others are counted."""
LONGEST = 1_000
"""Bytes of the longest row that is read; a usual one has about ninety."""

_GZIP: Final = b"\x1f\x8b"
_TOKEN = re.compile(r"[1-9][0-9]{0,9}")
_WHOLE = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,8})?")
_SYMBOL = re.compile(r"[^\s:,\"\\](?:[^:,\"\\]{0,78}[^\s:,\"\\])?")
_NAME = re.compile(r"[A-Z0-9]{1,12}(?:-[A-Z]{1,8})?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LARGEST_TOKEN = 2**32 - 1
_REMEMBERED = 10_000


class DumpError(Exception):
    """The dump as a whole is refused; what was stored before stays. The message says why."""


class BadRow(NamedTuple):
    """A row that was left out: its line (the header is line 1) and why."""

    line: int
    reason: str


class DumpRow(NamedTuple):
    """An instrument as Kite lists it. `last_price` and `strike` may be empty, `expiry` is for derivatives only.

    `token` names it on the tick stream and in history, and is given to another instrument after an expiry; orders name
    it by exchange and `tradingsymbol`. An index (segment INDICES) has tick size and lot 0.
    """

    line: int
    token: int
    exchange_token: int
    tradingsymbol: str
    name: str
    last_price: Decimal | None
    expiry: dt.date | None
    strike: Decimal | None
    tick_size: Decimal
    lot: int
    kind: str
    segment: str
    exchange: str

    @property
    def symbol(self) -> str:
        """`EXCHANGE:TRADINGSYMBOL`"""
        return f"{self.exchange}:{self.tradingsymbol}"


class Dump:
    """A dump, plain or gzip. Iterating yields its good rows in their order, once; one row is in memory at a time.

    During and after it `rows` counts the good rows, `bad_count` those left out, and `bad` names the first hundred;
    `odd_tokens` counts rows whose token is not `exchange_token << 8 | segment`, which nothing relies on. Iterating
    raises `DumpError` when the header is another or the dump breaks off; rows may have been yielded before that, so
    whoever stores them does it in a transaction.
    """

    def __init__(self, source: bytes | IO[bytes]) -> None:
        self._file = io.BytesIO(source) if isinstance(source, bytes) else source
        self.rows = 0
        self.bad_count = 0
        self.bad: list[BadRow] = []
        self.odd_tokens = 0
        self._numbers: dict[str, Decimal] = {}
        self._dates: dict[str, dt.date] = {}

    def __iter__(self) -> Iterator[DumpRow]:
        lines = self._lines()
        header = next(lines, b"")
        if header.rstrip(b"\r\n") != HEADER.encode():
            raise DumpError(
                f"this is no instruments dump of Kite: it begins with {_shown(header)}, not with its header"
            )
        exchanges: set[str] = set()
        blank = 0
        for number, line in enumerate(lines, 2):
            ended = line.endswith(b"\n")
            text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            if not text:  # what ends the dump is no row, one inside it is a damaged row
                blank += 1
                continue
            for back in range(blank, 0, -1):
                self._leave_out(number - back, "is empty")
            blank = 0
            try:
                row = self._row(number, text)
            except ValueError as error:
                if not ended:
                    raise DumpError(f"the dump breaks off in line {number}") from error
                self._leave_out(number, str(error))
            else:
                if not ended and row.exchange not in exchanges:  # `NS` would be an exchange too
                    raise DumpError(f"the dump breaks off in line {number}")
                exchanges.add(row.exchange)
                self.rows += 1
                if row.token >> 8 != row.exchange_token:
                    self.odd_tokens += 1
                yield row

    def _lines(self) -> Iterator[bytes]:
        start = self._file.read(2)
        self._file.seek(0)
        if start != _GZIP:
            yield from _bounded(self._file)
            return
        with gzip.GzipFile(fileobj=self._file) as unpacked:
            try:
                yield from _bounded(unpacked)
            except (EOFError, OSError, zlib.error) as error:
                raise DumpError(f"the compressed dump breaks off or is damaged ({error})") from error

    def _leave_out(self, line: int, reason: str) -> None:
        self.bad_count += 1
        if len(self.bad) < KEPT:
            self.bad.append(BadRow(line, reason))

    def _row(self, line: int, text: str) -> DumpRow:
        """The row. Raises ValueError with what is wrong with it."""
        if not text.isprintable():
            raise ValueError("holds bytes that are no text")
        if len(text) > LONGEST:
            raise ValueError(f"is longer than {LONGEST} characters")
        columns = text.split(",") if '"' not in text else _quoted(text)
        if len(columns) != COLUMNS:
            raise ValueError(f"has {len(columns)} columns, not {COLUMNS}")
        (
            token_text, exchange_token, tradingsymbol, name, last_price, expiry, strike, tick_size, lot_size, kind,
            segment, exchange,
        ) = columns  # fmt: skip
        if not _TOKEN.fullmatch(token_text) or (token := int(token_text)) > _LARGEST_TOKEN:
            raise ValueError(f"instrument_token {_shown(token_text)} is no whole number above 0 of 32 bits")
        if not _WHOLE.fullmatch(exchange_token):
            raise ValueError(f"exchange_token {_shown(exchange_token)} is no whole number")
        if not _SYMBOL.fullmatch(tradingsymbol):
            raise ValueError(f"tradingsymbol {_shown(tradingsymbol)} is no symbol")
        if kind not in KINDS:
            raise ValueError(f"instrument_type {_shown(kind)} is none of {', '.join(sorted(KINDS))}")
        if not _NAME.fullmatch(segment):
            raise ValueError(f"segment {_shown(segment)} is no segment")
        if not _NAME.fullmatch(exchange):
            raise ValueError(f"exchange {_shown(exchange)} is no exchange")
        if not _WHOLE.fullmatch(lot_size):
            raise ValueError(f"lot_size {_shown(lot_size)} is no whole number")
        tick, lot = self._number("tick_size", tick_size), int(lot_size)
        if segment != INDICES:
            if tick <= 0:
                raise ValueError(f"tick_size {tick} is not above 0")
            if lot <= 0:
                raise ValueError(f"lot_size {lot} is not above 0")
        return DumpRow(
            line,
            token,
            int(exchange_token),
            tradingsymbol,
            name,
            self._number("last_price", last_price) if last_price else None,
            self._date(expiry) if expiry else None,
            self._number("strike", strike) if strike else None,
            tick,
            lot,
            kind,
            segment,
            exchange,
        )

    # Ticks, strikes and dates repeat: each text is read once and remembered, within bounds.

    def _number(self, column: str, text: str) -> Decimal:
        number = self._numbers.get(text)
        if number is None:
            if not _NUMBER.fullmatch(text):
                raise ValueError(f"{column} {_shown(text)} is no number")
            if len(self._numbers) >= _REMEMBERED:
                self._numbers.clear()
            number = self._numbers[text] = Decimal(text)
        return number

    def _date(self, text: str) -> dt.date:
        date = self._dates.get(text)
        if date is None:
            try:
                if not _DATE.fullmatch(text):
                    raise ValueError(text)
                date = self._dates[text] = dt.date.fromisoformat(text)
            except ValueError:
                raise ValueError(f"expiry {_shown(text)} is no date") from None
        return date


def _bounded(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """The lines. Of one that is far too long only the beginning is kept, which is then a damaged row."""
    most = 4 * LONGEST + 8
    while line := file.readline(most):
        whole = line
        while len(whole) == most and not whole.endswith(b"\n"):
            whole = file.readline(most)
            if whole.endswith(b"\n"):
                line += b"\n"
        yield line


def _quoted(text: str) -> list[str]:
    """A row that has quotes. A field never spans lines: a quote that is not closed damages its own row alone."""
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise ValueError(f"its quotes do not match ({error})") from None


def _shown(text: str | bytes) -> str:
    """Safe to print: quoted, escaped, and cut to forty characters."""
    text = text.decode("utf-8", "replace").rstrip("\r\n") if isinstance(text, bytes) else text
    return ascii(text if len(text) <= 40 else f"{text[:37]}...")
