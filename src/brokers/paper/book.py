"""The order book's file: connection, transactions, the thread that does the work, and who is told of changes.

A state change is one transaction, so that a process killed at any moment leaves the book whole. Several processes share
the file (WAL: readers never wait; writers wait for each other, up to `BUSY_TIMEOUT`).
"""

import asyncio
import fcntl
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet

from brokers.paper.rows import SCHEMA, VERSION, Rows

__all__ = ["Book", "BookError"]

T = TypeVar("T")

BUSY_TIMEOUT = 5.0
"""Seconds that a writer waits for another process."""


class BookError(RuntimeError):
    """The file is not an order book of this version."""


class Book:
    """`Book(path)` works on a thread of its own. `Book(path, inline=True)`, and `Book()` in memory, work in the event
    loop: fastest, for simulations, with the same statements.
    """

    def __init__(self, path: Path | None = None, *, inline: bool = False) -> None:
        """Opens or creates the book. Raises BookError for a file of another kind or version."""
        self.path = path
        self._thread: ThreadPoolExecutor | None = None
        self._listeners: dict[str, WeakSet[asyncio.Event]] = {}
        if path is None:
            self._sql = self._glance = _connect(":memory:")
            _prepare(self._sql, ":memory:")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two processes that turn on WAL at once would find the file locked, without SQLite waiting.
            with path.with_name(path.name + ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._sql = _connect(str(path))
                _prepare(self._sql, str(path))
            self._glance = self._sql if inline else _connect(str(path))
            if not inline:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="paper-book")

    async def write(self, work: Callable[[Rows], T]) -> T:
        """One transaction: all that `work` writes, or nothing. Raises sqlite3.Error, and whatever `work` raises."""
        if self._thread is None:
            result, touched = self._transaction(work)
            self._announce(touched)
            return result
        loop = asyncio.get_running_loop()

        def transaction() -> T:
            # Announced from here: it must happen even if the caller is cancelled meanwhile.
            result, touched = self._transaction(work)
            if not self._listeners.keys().isdisjoint(touched):
                loop.call_soon_threadsafe(self._announce, touched)
            return result

        return await loop.run_in_executor(self._thread, transaction)

    async def read(self, work: Callable[[Rows], T]) -> T:
        """Reads without a transaction: every statement sees the book as it is then. Raises sqlite3.Error."""
        if self._thread is None:
            return work(Rows(self._sql))
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, Rows(self._sql))

    def changes(self) -> int:
        """The number of the book's last change, by any process: microseconds, never waits. Raises sqlite3.Error."""
        return Rows(self._glance).changes()

    @property
    def connection(self) -> sqlite3.Connection:
        """For whoever reads the tables with statements of its own, while nobody else works on the book."""
        return self._sql

    def listen(self, account: str) -> asyncio.Event:
        """An event that is set whenever this process has changed the account's orders. Whoever wants it keeps it."""
        event = asyncio.Event()
        self._listeners.setdefault(account, WeakSet()).add(event)
        return event

    def close(self) -> None:
        """Waits for the work under way. The book can be opened again."""
        if self._thread is not None:
            self._thread.shutdown()
            self._glance.close()
        self._sql.close()

    def _transaction(self, work: Callable[[Rows], T]) -> tuple[T, dict[str, int]]:
        rows = Rows(self._sql)
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            result = work(rows)
            self._sql.execute("COMMIT")
        except BaseException:
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
            raise
        return result, rows.touched

    def _announce(self, touched: dict[str, int]) -> None:
        for account in touched:
            for event in self._listeners.get(account, ()):
                event.set()


def _connect(path: str) -> sqlite3.Connection:
    # Used by one thread at a time, but opened by another than the one that works.
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)


def _prepare(sql: sqlite3.Connection, path: str) -> None:
    try:
        (version,) = sql.execute("PRAGMA user_version").fetchone()
        (tables,) = sql.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if version == 0 and tables == 0:
            sql.execute("PRAGMA journal_mode = WAL")
            sql.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        elif version != VERSION:
            raise BookError(f"{path} is not an order book of version {VERSION} (its version is {version})")
    except sqlite3.DatabaseError as error:
        raise BookError(f"{path} is not an order book: {error}") from error
    # With WAL, NORMAL loses nothing when a process dies, and keeps the file sound when the machine does.
    sql.execute("PRAGMA synchronous = NORMAL")
