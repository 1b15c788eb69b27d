"""Exported files on a disk: whole or not there at all, and read as a stream, however large they are."""

import io
import os
import secrets
import stat
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

__all__ = ["LONGEST", "Compressed", "NewFile", "Unreadable", "read_lines"]

LONGEST: Final = 64 * 1024 * 1024
"""Bytes of a line that are read, at most; a longer one is none of ours."""
_LEVEL = 4
_CHUNK = 1 << 20
_WAITING = 4


class Unreadable(Exception):
    """What follows in a file is damaged or missing; the message says how."""


class NewFile:
    """A file that appears under its name when it is whole, on the disk, and not before: until `commit` it lies beside
    it under another name, and is removed when the block is left. What is no ordinary file (a pipe, a device) is written
    to directly. Raises FileExistsError, unless `replace`, before anything is written; OSError."""

    def __init__(self, path: Path, *, replace: bool = False) -> None:
        self.path = path
        self._replace = replace
        self._beside: Path | None = None
        self.file: IO[bytes]

    def __enter__(self) -> Self:
        if self.path.exists() and not stat.S_ISREG(self.path.stat().st_mode):
            if self.path.is_dir():
                raise IsADirectoryError(f"{self.path} is a folder: name a file in it")
            self.file = self.path.open("wb")
            return self
        self._mind()
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        self.file = os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._beside = beside
        return self

    def commit(self) -> int:
        """Everything was written: how many bytes that were (0 for what is no ordinary file)."""
        self.file.flush()
        size = self.file.tell() if self._beside is not None else 0
        if self._beside is not None:
            os.fsync(self.file.fileno())
            self._mind()
        self.file.close()
        if self._beside is not None:
            self._beside.rename(self.path)
            self._beside = None
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return size

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.file.close()
        except OSError:
            if error is None:
                raise
        finally:
            if self._beside is not None:
                self._beside.unlink(missing_ok=True)

    def _mind(self) -> None:
        if not self._replace and self.path.exists():
            raise FileExistsError(f"{self.path} is there already: name another file, or say --force")


class Compressed:
    """What is written to it goes to the file compressed, by a thread of its own: that is half of the work. The same
    content gives the same bytes. `close` it before the file; an error of a write is raised by a later call."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._compress = zlib.compressobj(_LEVEL, wbits=31)  # 31: with gzip's frame, of no time and no name
        self._thread = ThreadPoolExecutor(1, "compress")
        self._jobs: list[Future[None]] = []
        self._buffer = bytearray()

    def write(self, some: bytes) -> None:
        self._buffer += some
        if len(self._buffer) >= _CHUNK:
            self._send()

    def close(self) -> None:
        """Everything is in the file when it returns. Raises OSError."""
        self._send()
        self._jobs.append(self._thread.submit(self._finish))
        for job in self._jobs:
            job.result()
        self._thread.shutdown()

    def abandon(self) -> None:
        """Nobody wants it any more."""
        self._thread.shutdown(cancel_futures=True)

    def _send(self) -> None:
        some, self._buffer = bytes(self._buffer), bytearray()
        self._jobs.append(self._thread.submit(self._work, some))
        while len(self._jobs) > _WAITING or (self._jobs and self._jobs[0].done()):
            self._jobs.pop(0).result()

    def _work(self, some: bytes) -> None:
        self._file.write(self._compress.compress(some))

    def _finish(self) -> None:
        self._file.write(self._compress.flush())
        self._file.flush()


class _Unpacked(io.RawIOBase):
    """What is packed in a file, one buffer at a time: what comes before a damage is given out before it is told."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpack = zlib.decompressobj(31)

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        """Raises Unreadable, OSError."""
        while True:
            if self._unpack.eof:  # another packed stream may follow
                some = self._unpack.unused_data or self._file.read(_CHUNK)
                if not some:
                    return 0
                self._unpack = zlib.decompressobj(31)
            else:
                some = self._unpack.unconsumed_tail or self._file.read(_CHUNK)
            try:
                found = self._unpack.decompress(some, len(into))
            except zlib.error as error:
                raise Unreadable(f"the packed data are damaged: {error}") from None
            if found:
                into[: len(found)] = found
                return len(found)
            if not some and not self._unpack.eof:
                raise Unreadable("the packed data stop before their end: the file is cut short")


def read_lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of an open file, packed or not, without their line feeds. Raises Unreadable, OSError."""
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream: IO[bytes] = io.BufferedReader(_Unpacked(file), _CHUNK) if packed else file
    while line := stream.readline(LONGEST):
        if not line.endswith(b"\n"):
            long = len(line) >= LONGEST
            raise Unreadable(f"a line is longer than {LONGEST} bytes" if long else "the last line is cut short")
        yield line[:-1]
