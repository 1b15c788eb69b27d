"""The file of a backup: gzip; inside it frames, each a kind, a length and that many bytes.

    M  the manifest, JSON: the first frame
    T  a table begins: its name and columns, JSON
    D  some of its rows, as PostgreSQL's COPY (FORMAT BINARY) has them
    E  the table has ended: how many rows, and SHA-256 of its D frames, JSON
    F  some bytes of the paper broker's book
    Z  the end: SHA-256 of all frames before, JSON

A file without its end is no backup. It is written beside its name and takes it when it is whole and on the disk.
"""

import contextlib
import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from msgspec import Struct

__all__ = ["FORMAT", "BackupError", "BackupReader", "BackupWriter", "Lineage", "Manifest", "TableHead"]

FORMAT: Final = "backup/1"
LEVEL: Final = 3
"""Of compression: the file is half as large as with none at the speed of a disk."""
LARGEST: Final = 256 * 1024 * 1024
"""Bytes of a frame; more is no frame of ours."""
_HEAD: Final = struct.Struct("!cI")


class BackupError(Exception):
    """The file is no backup, is damaged, or does not fit; the message says what it is and what to do."""


class Lineage(Struct, frozen=True):
    """An epoch of a partition's log."""

    partition: int
    number: int
    epoch: str
    log_id: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What the file says of itself. `archived` is how far each partition's archive reached; `key_ids` name the
    BAHI_SECRET_KEYS that its secrets were sealed with; `months` are the parts of the events' table, in order, each with
    its bounds as PostgreSQL tells them; `sequences` are the last values given out."""

    bahi: str
    version: str
    revision: str
    made_at: str
    partitions: int
    archived: dict[int, int]
    lineage: list[Lineage]
    key_ids: list[str]
    months: dict[str, str]
    sequences: dict[str, int]
    book: bool


class TableHead(Struct, frozen=True):
    name: str
    columns: list[str]


class _TableEnd(Struct, frozen=True):
    rows: int
    sha256: str


class _End(Struct, frozen=True):
    sha256: str


class BackupWriter:
    """Writes FILE, which must not be there. A context manager; without `finish` nothing is left of it."""

    def __init__(self, file: Path) -> None:
        if file.exists():
            raise BackupError(f"{file} is there already: name another file, or move it away")
        self._file = file
        self._new = file.with_name(file.name + ".new")
        self._whole = hashlib.sha256()
        self._table = hashlib.sha256()

    def __enter__(self) -> Self:
        descriptor = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._raw = os.fdopen(descriptor, "wb")
        self._gzip = gzip.GzipFile("", "wb", LEVEL, self._raw, mtime=0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(OSError, ValueError):  # a disk that is full has said so before
            self._gzip.close()
            self._raw.close()
        self._new.unlink(missing_ok=True)

    def manifest(self, manifest: Manifest) -> None:
        self._frame(b"M", msgspec.json.encode(manifest))

    def begin(self, table: TableHead) -> None:
        self._table = hashlib.sha256()
        self._frame(b"T", msgspec.json.encode(table))

    def rows(self, some: bytes) -> None:
        self._table.update(some)
        self._frame(b"D", some)

    def end(self, rows: int) -> str:
        """The table's digest."""
        self._frame(b"E", msgspec.json.encode(_TableEnd(rows, digest := self._table.hexdigest())))
        return digest

    def book(self, some: bytes) -> None:
        self._frame(b"F", some)

    def finish(self) -> int:
        """The file is whole, and on the disk; how large it is."""
        self._frame(b"Z", msgspec.json.encode(_End(self._whole.hexdigest())))
        self._gzip.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        os.link(self._new, self._file)  # fails if somebody has made it meanwhile
        folder = os.open(self._file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return self._file.stat().st_size

    def _frame(self, kind: bytes, body: bytes) -> None:
        head = _HEAD.pack(kind, len(body))
        self._whole.update(head)
        self._whole.update(body)
        self._gzip.write(head)
        self._gzip.write(body)


class BackupReader:
    """Reads FILE, once, from its beginning to its end. Raises BackupError for whatever it is not."""

    def __init__(self, file: Path) -> None:
        self._name = file
        self._whole = hashlib.sha256()
        self.heads: list[TableHead] = []
        self.counts: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        """Of the tables that were read."""

    def __enter__(self) -> Self:
        try:
            self._file = gzip.open(self._name, "rb")
        except OSError as error:
            raise BackupError(f"{self._name} cannot be read: {error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def manifest(self) -> Manifest:
        kind, body = self._frame()
        if kind != b"M":
            raise BackupError(f"{self._name} is no backup of bahi")
        found: dict[str, Any] = self._decode(body, dict)
        if found.get("bahi") != FORMAT:
            raise BackupError(f"{self._name} is {found.get('bahi')!r}; this version of bahi reads {FORMAT!r}")
        manifest: Manifest = self._decode(body, Manifest)
        return manifest

    def parts(self) -> Iterator[TableHead | bytes]:
        """What follows the manifest: a table's head (then read its `rows`), or some bytes of the book. Ends when the
        file has proven to be whole."""
        while True:
            before = self._whole.hexdigest()
            kind, body = self._frame()
            match kind:
                case b"T":
                    yield self._decode(body, TableHead)
                case b"F":
                    yield body
                case b"Z":
                    if self._decode(body, _End).sha256 != before or self._file.read(1):
                        raise BackupError(f"{self._name} was changed: it is not what was backed up")
                    return
                case _:
                    raise BackupError(f"{self._name} is damaged: a frame {kind!r} where a table begins")

    def rows(self, head: TableHead) -> Iterator[bytes]:
        """The rows of the table that has just begun."""
        table = hashlib.sha256()
        while True:
            kind, body = self._frame()
            if kind == b"D":
                table.update(body)
                yield body
                continue
            if kind != b"E":
                raise BackupError(f"{self._name} is damaged: a frame {kind!r} among the rows of {head.name}")
            end: _TableEnd = self._decode(body, _TableEnd)
            if end.sha256 != table.hexdigest():
                raise BackupError(f"{self._name} was changed: the rows of {head.name} are not what was backed up")
            self.heads.append(head)
            self.counts[head.name], self.digests[head.name] = end.rows, end.sha256
            return

    def _frame(self) -> tuple[bytes, bytes]:
        head = self._exactly(_HEAD.size)
        kind, length = _HEAD.unpack(head)
        if length > LARGEST:
            raise BackupError(f"{self._name} is damaged, or no backup of bahi: a frame of {length:,} bytes")
        body = self._exactly(length)
        self._whole.update(head)
        self._whole.update(body)
        return kind, body

    def _exactly(self, size: int) -> bytes:
        try:
            found = self._file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise BackupError(f"{self._name} is damaged or cut short: {error}") from error
        if len(found) < size:
            raise BackupError(f"{self._name} is cut short: it has no end")
        return found

    def _decode(self, body: bytes, kind: Any) -> Any:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BackupError(f"{self._name} is damaged: {error}") from error
