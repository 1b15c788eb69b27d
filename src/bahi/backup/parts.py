"""What a backup consists of: every table, its rows always in one order, so that two readings can be compared."""

from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import Sequence as Numbers
from sqlalchemy.engine import make_url

from bahi.backup.file import TableHead
from bahi.database.tables import metadata

__all__ = ["FRAME", "CopyOut", "connect", "copied_in", "heads", "sequences"]

FRAME: Final = 256 * 1024
"""Bytes of rows that go into one frame, about."""


def connect(url: str) -> "psycopg.Connection[Any]":
    """A connection on which a statement may take its time, for `postgresql+psycopg://…`."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, connect_timeout=5, application_name="bahi-backup", options="-c timezone=UTC")


def heads() -> list[TableHead]:
    """The tables of this version of bahi, those that others refer to first."""
    tables = metadata.sorted_tables
    return [TableHead(str(table.name), [str(column.name) for column in table.columns]) for table in tables]


def sequences() -> list[str]:
    return sorted(str(each.name) for each in metadata._sequences.values() if isinstance(each, Numbers))


class CopyOut:
    """The rows of a table, by primary key, in pieces of about FRAME bytes. Iterated once; then `rows` is how many."""

    def __init__(self, connection: "psycopg.Connection[Any]", head: TableHead) -> None:
        self.rows = 0
        self._connection = connection
        self._head = head

    def __iter__(self) -> Iterator[bytes]:
        head, table = self._head, metadata.tables[self._head.name]
        query = sql.SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT (FORMAT BINARY)").format(
            _names(head.columns), sql.Identifier(head.name), _names([column.name for column in table.primary_key])
        )
        with self._connection.cursor() as cursor:
            with cursor.copy(query) as copy:
                gathered: list[bytes] = []
                size = 0
                for piece in copy:
                    gathered.append(bytes(piece))
                    size += len(piece)
                    if size >= FRAME:
                        yield b"".join(gathered)
                        gathered, size = [], 0
                if gathered:
                    yield b"".join(gathered)
            self.rows = cursor.rowcount


def copied_in(connection: "psycopg.Connection[Any]", head: TableHead, rows: Iterator[bytes]) -> int:
    """Writes the rows; how many there were."""
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(head.name), _names(head.columns))
    with connection.cursor() as cursor:
        with cursor.copy(query) as copy:
            for some in rows:
                copy.write(some)
        return cursor.rowcount


def _names(columns: list[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
