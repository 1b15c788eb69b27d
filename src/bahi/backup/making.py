"""Making a backup: one transaction that sees everything as of one moment, while trading goes on."""

import datetime as dt
import sqlite3
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from msgspec import Struct
from psycopg import IsolationLevel, sql

from api.security.box import SecretBox
from bahi.backup.file import FORMAT, BackupError, BackupWriter, Lineage, Manifest
from bahi.backup.parts import FRAME, CopyOut, connect, heads, sequences
from bahi.database.migrate import head

__all__ = ["Made", "make"]

Progress = Callable[[int, int], None]
"""How many bytes of rows are done, of about how many."""


class Made(Struct, frozen=True, kw_only=True):
    """What is in it. `size` is that of the file, in bytes."""

    archived: dict[int, int]
    rows: dict[str, int]
    key_ids: list[str]
    book: bool
    size: int


def make(url: str, book: Path, file: Path, *, partitions: int, progress: Progress) -> Made:
    """Writes FILE. `book` is the paper broker's, if there is one. Raises BackupError, psycopg.Error, OSError."""
    with connect(url) as connection, BackupWriter(file) as out:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        manifest = _manifest(connection, partitions, book.exists())
        out.manifest(manifest)
        total = _size(connection)
        done = 0
        rows = {}
        for table in heads():
            out.begin(table)
            for some in (copied := CopyOut(connection, table)):
                out.rows(some)
                done += len(some)
                progress(min(done, total), total)
            rows[table.name] = copied.rows
            out.end(copied.rows)
        if manifest.book:
            _copy_book(book, out)
        size = out.finish()
    return Made(archived=manifest.archived, rows=rows, key_ids=manifest.key_ids, book=manifest.book, size=size)


def _manifest(connection: "psycopg.Connection[Any]", partitions: int, book: bool) -> Manifest:
    revision = _one(connection, "SELECT version_num FROM alembic_version")
    if revision != head():
        raise BackupError(
            f"the database is at revision {revision}, and this version of bahi knows {head()}: `bahi run` or "
            "`bahi doctor` of the version that runs here bring it up to date"
        )
    archived = connection.execute("SELECT partition, position FROM checkpoint WHERE name = 'archive'").fetchall()
    lineage = connection.execute(
        "SELECT partition, number, epoch, log_id FROM epochs ORDER BY partition, number"
    ).fetchall()
    keys = connection.execute("SELECT DISTINCT key_id FROM broker_accounts ORDER BY 1").fetchall()
    sealed = connection.execute("SELECT private_key FROM seal_keys WHERE private_key IS NOT NULL").fetchall()
    months = connection.execute(_MONTHS).fetchall()
    return Manifest(
        bahi=FORMAT,
        version=version("bahi"),
        revision=head(),
        made_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        partitions=partitions,
        archived=dict(archived),
        lineage=[Lineage(*row) for row in lineage],
        key_ids=sorted({key_id for (key_id,) in keys} | {SecretBox.key_id(bytes(blob)) for (blob,) in sealed}),
        months=dict(months),
        sequences={name: _last(connection, name) for name in sequences()},
        book=book,
    )


_MONTHS = """
    SELECT relname, pg_get_expr(relpartbound, pg_class.oid) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'events'::regclass ORDER BY relname
"""


def _last(connection: "psycopg.Connection[Any]", name: str) -> int:
    """The last number given out."""
    found = connection.execute(
        sql.SQL("SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {}").format(
            sql.Identifier(name)
        )
    ).fetchone()
    return int(found[0]) if found is not None else 0


def _size(connection: "psycopg.Connection[Any]") -> int:
    """About how many bytes of rows there are, for a progress bar."""
    names = [table.name for table in heads()]
    found = connection.execute(
        "SELECT sum(pg_table_size(relid)) FROM (SELECT relid FROM pg_partition_tree('events') WHERE isleaf"
        " UNION SELECT to_regclass(name) FROM unnest(%s::text[]) AS name WHERE name <> 'events') AS each",
        [names],
    ).fetchone()
    return int(found[0] or 0) if found is not None else 0


def _one(connection: "psycopg.Connection[Any]", query: str) -> Any:
    try:
        found = connection.execute(query.encode()).fetchone()
    except psycopg.errors.UndefinedTable:
        raise BackupError("this database is empty: there is nothing to back up") from None
    return None if found is None else found[0]


def _copy_book(book: Path, out: BackupWriter) -> None:
    """The broker's own book, as of a moment after the database's: an order that only it has is adopted."""
    copy = sqlite3.connect(":memory:")
    with sqlite3.connect(f"file:{book}?mode=ro", uri=True) as source:
        source.backup(copy)
    source.close()
    whole = copy.serialize()
    copy.close()
    for start in range(0, len(whole), FRAME):
        out.book(whole[start : start + FRAME])
