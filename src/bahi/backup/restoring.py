"""Restoring a backup into an empty installation: everything, or nothing.

1. The file is read to its end once before anything is written: what is damaged changes nothing.
2. The database gets the schema that the backup was made with; it must be empty.
3. One transaction: the rows, the numbers that ids are taken from; then every table is read again and compared with what
   was backed up. Only then it is committed, and the book of the paper broker takes its place; but one that is there
   stays: the broker has outlived us, and knows more.
4. The schema is brought up to date.

Ids that were given out after the backup, and of which it therefore knows nothing, are not given out again.
"""

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import psycopg
from alembic.util.exc import CommandError
from msgspec import Struct
from psycopg import sql

from bahi.backup.file import BackupError, BackupReader, Manifest, TableHead
from bahi.backup.parts import CopyOut, connect, copied_in, heads, sequences
from bahi.database.migrate import head, migrate

__all__ = ["SKIPPED", "Restored", "look", "restore"]

Progress = Callable[[str, int], None]
"""What is being done, and how many bytes of rows are done."""

SKIPPED: Final = 1_000_000
"""Ids left out after the last one that the backup knows: of a strategy that was created after it, orders may be at the
broker, and another strategy must not be taken for it."""
_NAME: Final = re.compile(r"events_[a-z0-9]+")
_BOUNDS: Final = re.compile(r"FOR VALUES FROM \('?(-?\d+|MINVALUE)'?\) TO \('?(-?\d+|MAXVALUE)'?\)")


class Restored(Struct, frozen=True, kw_only=True):
    archived: dict[int, int]
    rows: dict[str, int]
    book: bool
    """Whether the paper broker's book was restored, too."""
    made_at: str


def look(file: Path, progress: Progress) -> Manifest:
    """The manifest of a file that is whole. Raises BackupError."""
    with BackupReader(file) as backup:
        manifest = backup.manifest()
        done = 0
        for part in backup.parts():
            if isinstance(part, TableHead):
                for some in backup.rows(part):
                    done += len(some)
                    progress("reading", done)
    return manifest


def restore(url: str, book: Path, file: Path, *, progress: Progress) -> Restored:
    """Raises BackupError when it does not fit or is not what it was; psycopg.Error, OSError. Then nothing is changed,
    but that an empty database may have got its tables."""
    manifest = look(file, progress)
    with_book = manifest.book and not book.exists()
    _prepare(url, manifest)
    fresh = book.with_name(book.name + ".restored")
    fresh.unlink(missing_ok=True)
    try:
        with connect(url) as connection, BackupReader(file) as backup:
            backup.manifest()
            _lock(connection)
            _check_empty(connection)
            _make_months(connection, manifest)
            _read(connection, backup, fresh, progress)
            _give_ids(connection, manifest)
            _compare(connection, backup, progress)
            if with_book:
                fresh.replace(book)
            try:
                connection.commit()
            except BaseException:
                if with_book:
                    book.unlink(missing_ok=True)
                raise
    finally:
        fresh.unlink(missing_ok=True)
    migrate(url)
    return Restored(archived=manifest.archived, rows=backup.counts, book=with_book, made_at=manifest.made_at)


def _prepare(url: str, manifest: Manifest) -> None:
    """The schema of the backup, in an empty database."""
    with connect(url) as connection:
        if _is_there(connection, "alembic_version"):
            _check_empty(connection)
            (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
            if revision != manifest.revision:
                raise BackupError(
                    f"the backup is of revision {manifest.revision}, the empty database of {revision}: drop the "
                    "database and make it anew, so that it gets the backup's revision first"
                )
            return
    try:
        migrate(url, manifest.revision)
    except CommandError as error:
        raise BackupError(
            f"the backup is of revision {manifest.revision}, which this version of bahi does not know (it knows "
            f"{head()}): restore it with version {manifest.version} or a newer one"
        ) from error


def _lock(connection: "psycopg.Connection[Any]") -> None:
    """Whoever starts now waits until it is done."""
    there = [head.name for head in heads() if _is_there(connection, head.name)]
    tables = sql.SQL(", ").join(map(sql.Identifier, there))
    connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables))


def _is_there(connection: "psycopg.Connection[Any]", name: str) -> bool:
    found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()
    return found is not None and bool(found[0])


def _check_empty(connection: "psycopg.Connection[Any]") -> None:
    for table in heads():
        if not _is_there(connection, table.name):
            continue
        query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(table.name))
        found = connection.execute(query).fetchone()
        if found is not None and found[0]:
            raise BackupError(
                f"the table {table.name} is not empty: a backup is restored into an empty installation only. Name "
                "another --home or database, or drop this one if it is to be given up"
            )


def _make_months(connection: "psycopg.Connection[Any]", manifest: Manifest) -> None:
    for name, bounds in manifest.months.items():
        if bounds == "DEFAULT":
            continue
        if not _NAME.fullmatch(name) or not _BOUNDS.fullmatch(bounds):
            raise BackupError(f"the backup names a part of the events that is none: {name} {bounds}")
        made = sql.SQL("CREATE TABLE IF NOT EXISTS {} PARTITION OF events ").format(sql.Identifier(name))
        connection.execute(made + sql.SQL(bounds))


def _read(connection: "psycopg.Connection[Any]", backup: BackupReader, book: Path, progress: Progress) -> None:
    done = 0

    def told(rows: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal done
        for some in rows:
            done += len(some)
            progress("writing", done)
            yield some

    descriptor: int | None = None
    try:
        for part in backup.parts():
            if isinstance(part, TableHead):
                written = copied_in(connection, part, told(backup.rows(part)))
                if written != backup.counts[part.name]:
                    raise BackupError(f"{part.name}: {written} rows were written, {backup.counts[part.name]} backed up")
                continue
            if descriptor is None:
                descriptor = os.open(book, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, part)
        if descriptor is not None:
            os.fsync(descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)
    if descriptor is not None:
        _check_book(book)


def _check_book(book: Path) -> None:
    with sqlite3.connect(f"file:{book}?immutable=1", uri=True) as found:
        ((said,),) = found.execute("PRAGMA quick_check(1)").fetchall()
    found.close()
    if said != "ok":
        raise BackupError(f"the paper broker's book in the backup is damaged: {said}")


def _give_ids(connection: "psycopg.Connection[Any]", manifest: Manifest) -> None:
    for name in sequences():
        if name in manifest.sequences:
            connection.execute("SELECT setval(%s, %s)", [name, manifest.sequences[name] + SKIPPED])


def _compare(connection: "psycopg.Connection[Any]", backup: BackupReader, progress: Progress) -> None:
    """What was written is read again, and must be what was backed up."""
    done = 0
    for table in backup.heads:
        digest = sha256()
        for some in CopyOut(connection, table):
            digest.update(some)
            done += len(some)
            progress("comparing", done)
        if digest.hexdigest() != backup.digests[table.name]:
            raise BackupError(f"{table.name}: what was written is not what was backed up; nothing was restored")
