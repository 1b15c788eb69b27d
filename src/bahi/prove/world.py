"""The world around Redis at every moment of a recorded day: the broker's book and the archive. Kept, and put back."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from msgspec import Struct
from psycopg import sql

from bahi.backup.parts import CopyOut, connect, copied_in, heads
from bahi.drill.stage import KEPT
from brokers.paper.book import Book
from brokers.paper.rows import Rows

__all__ = ["Archive", "World", "archive_now", "archive_reached", "book_now", "put_back", "watching_books"]

T = TypeVar("T")
_TABLES: Final = [head for head in heads() if head.name not in KEPT]


class Archive(Struct, frozen=True):
    """The rows of every table that a day writes, as COPY has them; `reached` is the last position, and how many seals
    there are."""

    rows: dict[str, bytes]
    reached: tuple[int, int]


class World(Struct, frozen=True):
    """Everything but Redis. `archive` is the number of the archive's reading; the book is an SQLite file."""

    size: int
    """Of the append-only file, when it became so."""
    book: bytes
    archive: int


def book_now(file: Path) -> bytes:
    """The broker's book as one file, without its journal."""
    with closing(sqlite3.connect(file)) as connection:
        return connection.serialize()


@contextmanager
def watching_books(changed: Callable[[], None]) -> Iterator[None]:
    """`changed` is called after each transaction on any book of this process, before anybody can know of it."""
    plain = Book._transaction

    def watched(book: Book, work: Callable[[Rows], T]) -> tuple[T, dict[str, int]]:
        done = plain(book, work)
        if done[1]:
            changed()
        return done

    Book._transaction = watched  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Book._transaction = plain  # type: ignore[method-assign]


def archive_now(database_url: str) -> Archive:
    """All of it as of one moment."""
    with closing(connect(database_url)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        rows = {}
        for head in _TABLES:
            pieces = CopyOut(connection, head)
            text = b"".join(pieces)
            if pieces.rows:
                rows[head.name] = text
        return Archive(rows, _reached(connection))


def archive_reached(database_url: str) -> tuple[int, int]:
    """How far it goes: by that it is known whether it must be read."""
    with closing(connect(database_url)) as connection:
        return _reached(connection)


def _reached(connection: "psycopg.Connection[Any]") -> tuple[int, int]:
    reached = "SELECT (SELECT coalesce(max(position), 0) FROM events), (SELECT count(*) FROM seals)"
    found: Any = connection.execute(reached).fetchone()
    return int(found[0]), int(found[1])


def put_back(archive: Archive, database_url: str, book: bytes, file: Path) -> None:
    """The archive and the book are as they were. Nobody may be using them."""
    with closing(connect(database_url)) as connection, connection.transaction():
        for head in reversed(_TABLES):
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(head.name)))
        for head in _TABLES:
            if head.name in archive.rows:
                copied_in(connection, head, iter([archive.rows[head.name]]))
    for old in file.parent.glob(f"{file.name}-*"):
        old.unlink()
    file.write_bytes(book)
