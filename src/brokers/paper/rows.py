"""The order book's tables and every statement on them.

A `Rows` works on an open connection; `Book` decides what is one transaction.
"""

import sqlite3
from decimal import Decimal
from typing import Any

from msgspec import Struct, json

from brokers.paper.matching import Fill, Order
from brokers.paper.plan import FAITHFUL, Script
from brokers.port import BookStatus, Trade
from domain.values import Instant, Price, Product, Quantity, Side

__all__ = ["SCHEMA", "VERSION", "AccountState", "Movement", "Rows"]

VERSION = 1
"""Of the schema, kept in the file; another one is refused."""

# Decimals are text, for SQLite's numbers are floats. `changed` numbers all changes of the book, for its followers.
SCHEMA = """
CREATE TABLE counters (orders INTEGER NOT NULL, changes INTEGER NOT NULL) STRICT;
INSERT INTO counters VALUES (0, 0);
CREATE TABLE accounts (
    account    TEXT PRIMARY KEY,
    attempts   INTEGER NOT NULL DEFAULT 0,
    expired    INTEGER NOT NULL DEFAULT 0,
    failing    INTEGER NOT NULL DEFAULT 0,
    dark_from  INTEGER NOT NULL DEFAULT 0,
    dark_until INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE orders (
    order_id        INTEGER PRIMARY KEY,
    account         TEXT NOT NULL,
    tag             TEXT NOT NULL,
    symbol          TEXT NOT NULL,
    side            TEXT NOT NULL,
    product         TEXT NOT NULL,
    quantity        INTEGER NOT NULL CHECK (quantity > 0),
    filled          INTEGER NOT NULL CHECK (filled BETWEEN 0 AND quantity),
    value           TEXT NOT NULL,
    price           TEXT NOT NULL,
    status          TEXT NOT NULL,
    placed_at       INTEGER NOT NULL,
    lapses_at       INTEGER,
    script          TEXT,
    released        INTEGER NOT NULL,
    modify_attempts INTEGER NOT NULL,
    modifications   INTEGER NOT NULL,
    cancel_attempts INTEGER NOT NULL,
    reason          TEXT NOT NULL,
    text            TEXT NOT NULL,
    curable         INTEGER NOT NULL,
    changed         INTEGER NOT NULL
) STRICT;
CREATE INDEX orders_of_account ON orders (account, placed_at);
CREATE INDEX orders_changed ON orders (account, changed);
CREATE INDEX orders_live_of_account ON orders (account) WHERE status = 'open';
CREATE INDEX orders_live_in_symbol ON orders (symbol) WHERE status = 'open';
CREATE TABLE trades (
    trade_id INTEGER PRIMARY KEY,
    order_id INTEGER NOT NULL REFERENCES orders,
    account  TEXT NOT NULL,
    symbol   TEXT NOT NULL,
    side     TEXT NOT NULL,
    product  TEXT NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    price    TEXT NOT NULL,
    at       INTEGER NOT NULL
) STRICT;
CREATE INDEX trades_of_account ON trades (account, at);
"""


class AccountState(Struct, frozen=True):
    """What stands between the account and its book."""

    expired: bool
    failing: int
    dark_from: Instant
    dark_until: Instant


class Movement(Struct, frozen=True):
    """A trade, as a position sees it: `quantity` is negative for a sale."""

    symbol: str
    product: Product
    quantity: Quantity
    price: Price


class Rows:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection
        self.touched: dict[str, int] = {}
        """The accounts written to in this transaction, each with the number of its last change."""

    # --- accounts

    def attempt(self, account: str) -> int:
        """Counts one more attempt to place an order, and gives its number."""
        number: int = self._one(
            "INSERT INTO accounts (account, attempts) VALUES (?, 1)"
            " ON CONFLICT DO UPDATE SET attempts = attempts + 1 RETURNING attempts",
            account,
        )[0]
        return number

    def account(self, account: str) -> AccountState:
        row = self._sql.execute(
            "SELECT expired, failing, dark_from, dark_until FROM accounts WHERE account = ?", (account,)
        ).fetchone()
        return AccountState(False, 0, 0, 0) if row is None else AccountState(bool(row[0]), *row[1:])

    def keep_account(self, account: str, state: AccountState) -> None:
        self._sql.execute(
            "INSERT INTO accounts (account, expired, failing, dark_from, dark_until) VALUES (?1, ?2, ?3, ?4, ?5)"
            " ON CONFLICT DO UPDATE SET expired = ?2, failing = ?3, dark_from = ?4, dark_until = ?5",
            (account, int(state.expired), state.failing, state.dark_from, state.dark_until),
        )

    # --- orders

    def next_order_number(self) -> int:
        number: int = self._one("UPDATE counters SET orders = orders + 1 RETURNING orders")[0]
        return number

    def insert(self, order: Order) -> None:
        self._sql.execute(
            "INSERT INTO orders VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                order.order_id, order.account, order.tag, order.symbol, order.side.value, order.product.value,
                order.quantity, order.filled, str(order.value), str(order.limit), order.status.value, order.placed_at,
                order.lapses_at, None if order.script == FAITHFUL else json.encode(order.script).decode(),
                int(order.released), order.modify_attempts, order.modifications, order.cancel_attempts,
                order.reason, order.text, int(order.curable), self._next_change(order.account),
            ),
        )  # fmt: skip

    def update(self, order: Order) -> None:
        """Writes what may change of an order."""
        self._sql.execute(
            "UPDATE orders SET filled = ?, value = ?, price = ?, status = ?, released = ?, modify_attempts = ?,"
            " modifications = ?, cancel_attempts = ?, reason = ?, text = ?, curable = ?, changed = ?"
            " WHERE order_id = ?",
            (
                order.filled, str(order.value), str(order.limit), order.status.value, int(order.released),
                order.modify_attempts, order.modifications, order.cancel_attempts, order.reason, order.text,
                int(order.curable), self._next_change(order.account), order.order_id,
            ),
        )  # fmt: skip

    def find(self, account: str, order_id: int, now: Instant) -> Order | None:
        """An order of this account that shows in its book by now."""
        row = self._sql.execute(
            "SELECT * FROM orders WHERE order_id = ? AND account = ? AND placed_at <= ?", (order_id, account, now)
        ).fetchone()
        return None if row is None else _order(row)

    def live_of(self, account: str) -> list[Order]:
        return self._orders("SELECT * FROM orders WHERE account = ? AND status = 'open' ORDER BY order_id", account)

    def live_in(self, symbol: str) -> list[Order]:
        return self._orders("SELECT * FROM orders WHERE symbol = ? AND status = 'open' ORDER BY order_id", symbol)

    def between(self, account: str, since: Instant, until: Instant) -> list[Order]:
        """The account's orders placed since … until, both included, in the order of placing."""
        return self._orders(
            "SELECT * FROM orders WHERE account = ? AND placed_at BETWEEN ? AND ? ORDER BY placed_at, order_id",
            account, since, until,
        )  # fmt: skip

    def changed(self, account: str, after: int, now: Instant) -> list[tuple[int, int]]:
        """The orders in the account's book that changed after that change: (change, order id), ascending."""
        return self._sql.execute(
            "SELECT changed, order_id FROM orders WHERE account = ? AND changed > ? AND placed_at <= ?"
            " ORDER BY changed",
            (account, after, now),
        ).fetchall()

    def changes(self) -> int:
        """The number of the last change of the whole book."""
        number: int = self._one("SELECT changes FROM counters")[0]
        return number

    # --- trades

    def trade(self, order: Order, fill: Fill, at: Instant) -> None:
        self._sql.execute(
            "INSERT INTO trades (order_id, account, symbol, side, product, quantity, price, at)"
            " VALUES (?,?,?,?,?,?,?,?)",
            (
                order.order_id, order.account, order.symbol, order.side.value, order.product.value, fill.quantity,
                str(fill.price), at,
            ),
        )  # fmt: skip

    def trades(self, account: str, since: Instant) -> list[Trade]:
        return [
            Trade(
                trade_id=str(trade_id),
                order_id=str(order_id),
                symbol=symbol,
                side=Side(side),
                quantity=quantity,
                price=Decimal(price),
                at=at,
            )
            for trade_id, order_id, symbol, side, quantity, price, at in self._sql.execute(
                "SELECT trade_id, order_id, symbol, side, quantity, price, at FROM trades"
                " WHERE account = ? AND at >= ? ORDER BY trade_id",
                (account, since),
            )
        ]

    def movements(self, account: str, since: Instant) -> list[Movement]:
        """What positions are made of: deliveries of all days, intraday trades since `since`."""
        return [
            Movement(symbol, Product(product), quantity if side == Side.BUY else -quantity, Decimal(price))
            for symbol, product, side, quantity, price in self._sql.execute(
                "SELECT symbol, product, side, quantity, price FROM trades"
                " WHERE account = ? AND (product = 'CNC' OR at >= ?) ORDER BY trade_id",
                (account, since),
            )
        ]

    # --- the statements' plumbing

    def _next_change(self, account: str) -> int:
        number: int = self._one("UPDATE counters SET changes = changes + 1 RETURNING changes")[0]
        self.touched[account] = number
        return number

    def _one(self, statement: str, *values: object) -> tuple[Any, ...]:
        # Fetched to the end: a RETURNING statement that is not would still be running at the commit.
        ((row),) = self._sql.execute(statement, values).fetchall()
        found: tuple[Any, ...] = row
        return found

    def _orders(self, statement: str, *values: object) -> list[Order]:
        return [_order(row) for row in self._sql.execute(statement, values)]


_script = json.Decoder(Script)


def _order(row: tuple[Any, ...]) -> Order:
    return Order(
        order_id=row[0],
        account=row[1],
        tag=row[2],
        symbol=row[3],
        side=Side(row[4]),
        product=Product(row[5]),
        quantity=row[6],
        filled=row[7],
        value=Decimal(row[8]),
        limit=Decimal(row[9]),
        status=BookStatus(row[10]),
        placed_at=row[11],
        lapses_at=row[12],
        script=FAITHFUL if row[13] is None else _script.decode(row[13]),
        released=bool(row[14]),
        modify_attempts=row[15],
        modifications=row[16],
        cancel_attempts=row[17],
        reason=row[18],
        text=row[19],
        curable=bool(row[20]),
    )
