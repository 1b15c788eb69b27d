"""The paper broker's book: its orders and its trades, as its SQLite file has them."""

import reprlib
import sqlite3
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from simulation.independent.finding import Finding, Rule
from simulation.independent.values import Malformed, choice, money, text, whole

__all__ = ["Book", "BookUnreadable", "Paper", "Row", "Trade", "read_book"]

SIDES: Final = frozenset({"BUY", "SELL"})
_STATUSES: Final = frozenset({"open", "complete", "cancelled", "rejected"})
_ORDERS: Final = (
    "SELECT order_id, account, tag, symbol, side, product, quantity, filled, status, placed_at"
    " FROM orders ORDER BY order_id"
)
_TRADES: Final = "SELECT trade_id, order_id, account, symbol, side, quantity, price, at FROM trades ORDER BY trade_id"


class BookUnreadable(Exception):
    """The file is no order book of the paper broker; the message says why."""


class Paper(NamedTuple):
    """The tables, as maps of their columns."""

    orders: list[dict[str, Any]]
    trades: list[dict[str, Any]]


def read_book(book: Path | sqlite3.Connection) -> Paper:
    """The whole book, of all accounts, also what has not surfaced yet: of a file, which is only read, or by an open
    connection. Raises BookUnreadable."""
    if isinstance(book, sqlite3.Connection):
        return _read(book, "the connection")
    if not book.is_file():
        raise BookUnreadable(f"{book} is not there")
    # A book at rest has no journal beside it; then nothing has to be written to read it.
    rest = "" if book.with_name(book.name + "-wal").exists() else "&immutable=1"
    sql = sqlite3.connect(f"{book.absolute().as_uri()}?mode=ro{rest}", uri=True, isolation_level=None)
    try:
        sql.execute("BEGIN")
        return _read(sql, str(book))
    except sqlite3.Error as error:
        raise BookUnreadable(f"{book} is no order book: {error}") from error
    finally:
        sql.close()


def _read(sql: sqlite3.Connection, name: str) -> Paper:
    try:
        return Paper(_table(sql, _ORDERS), _table(sql, _TRADES))
    except sqlite3.Error as error:
        raise BookUnreadable(f"{name} is no order book: {error}") from error


def _table(sql: sqlite3.Connection, statement: str) -> list[dict[str, Any]]:
    cursor = sql.execute(statement)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


class Row:
    """An order at the broker, with the trades that it had."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        """Raises Malformed."""
        self.order_id = str(whole(row, "order_id"))
        self.account = text(row, "account")
        tag = row.get("tag")
        if tag is not None and type(tag) is not str:
            raise Malformed(f"its tag is {reprlib.repr(tag)}, not a text")
        self.tag: str = tag or ""
        self.symbol = text(row, "symbol")
        self.side = choice(row, "side", SIDES)
        self.product = text(row, "product")
        self.quantity = whole(row, "quantity")
        self.filled = whole(row, "filled")
        self.status = choice(row, "status", _STATUSES)
        self.placed_at = whole(row, "placed_at")
        self.trades: list[Trade] = []
        self.traded = 0
        self.value = Decimal(0)

    def first(self, quantity: int) -> Decimal:
        """What its first `quantity` shares were traded for."""
        if quantity == self.traded:
            return self.value
        value = Decimal(0)
        for trade in self.trades:
            part = min(quantity, trade.quantity)
            value += part * trade.price
            quantity -= part
        return value


class Trade:
    def __init__(self, trade: Mapping[str, Any]) -> None:
        """Raises Malformed."""
        self.trade_id = whole(trade, "trade_id")
        self.order_id = str(whole(trade, "order_id"))
        self.symbol = text(trade, "symbol")
        self.side = choice(trade, "side", SIDES)
        self.quantity = whole(trade, "quantity")
        self.price = money(trade, "price")
        self.row: Row | None = None


_T = TypeVar("_T", Row, Trade)


class Book:
    """Orders and trades that belong together; what does not is found."""

    def __init__(self, orders: Iterable[Any], trades: Iterable[Any]) -> None:
        self.found: list[Finding] = []
        self.rows: dict[str, Row] = {}
        for order in orders:
            if (row := self._made(Row, order)) is None:
                continue
            if row.order_id in self.rows:
                self._found(Rule.BOOK, "two orders have this id", row.order_id)
                continue
            self.rows[row.order_id] = row
        self.trades = [trade for each in trades if (trade := self._made(Trade, each)) is not None]
        self.trades.sort(key=lambda trade: trade.trade_id)
        for trade in self.trades:
            self._belongs(trade)
        for row in self.rows.values():
            if row.traded != row.filled or not 0 <= row.filled <= row.quantity:
                what = f"{row.filled} of {row.quantity} are filled, its trades are {row.traded}"
                self._found(Rule.BOOK, what, row.order_id)

    def _belongs(self, trade: Trade) -> None:
        row = self.rows.get(trade.order_id)
        if row is None or (row.symbol, row.side) != (trade.symbol, trade.side):
            what = f"trade {trade.trade_id}, {trade.side} {trade.symbol}, is of no such order"
            self._found(Rule.BOOK, what, trade.order_id)
            return
        trade.row = row
        row.trades.append(trade)
        row.traded += trade.quantity
        row.value += trade.quantity * trade.price

    def _made(self, kind: type[_T], row: Any) -> _T | None:
        if not isinstance(row, Mapping):
            self._found(Rule.ROW, f"{reprlib.repr(row)} is no row", None)
            return None
        try:
            return kind(row)
        except Malformed as error:
            named = row.get("order_id")
            order_id = str(named)[:32] if type(named) in (int, str) else None
            self._found(Rule.ROW, f"{kind.__name__.lower()}: {error}", order_id)
            return None

    def _found(self, rule: Rule, what: str, order_id: str | None) -> None:
        self.found.append(Finding(rule, what, order_id=order_id))
