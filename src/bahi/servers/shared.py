"""One pair of servers for every bahi process of a HOME: the first starts them, the others attach."""

import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from bahi.servers.folder import FolderInUse, FolderLock, ServerError, private_folder
from bahi.servers.postgres import EmbeddedPostgres
from bahi.servers.process import EmbeddedServer
from bahi.servers.redis import EmbeddedRedis, Fsync

__all__ = ["Servers", "attach_or_start"]

WATCH_EVERY: Final = 0.25
"""Seconds between looks at the servers."""

log = structlog.get_logger(__name__)


class Servers:
    """Running servers: where they are, and whether this process owns them. A context manager.

    `close` stops the servers that this process owns, and leaves others' alone.
    """

    def __init__(
        self,
        home: Path,
        redis_url: str | None,
        database_url: str | None,
        owner: int,
        stack: ExitStack,
        own: Sequence[EmbeddedServer] = (),
    ) -> None:
        self.home = home
        self._own = own
        self._closing = threading.Event()
        self._watching: threading.Thread | None = None
        self._redis_url = redis_url
        self._database_url = database_url
        self.owner_pid = owner
        self._stack = stack

    @property
    def owned(self) -> bool:
        """True in the process that started (or took over) the servers, and will stop them."""
        return self.owner_pid == os.getpid()

    @property
    def redis_url(self) -> str:
        if self._redis_url is None:
            raise ServerError(f"the bahi process {self.owner_pid} runs no Redis of its own in {self.home}")
        return self._redis_url

    @property
    def database_url(self) -> str:
        if self._database_url is None:
            raise ServerError(f"the bahi process {self.owner_pid} runs no PostgreSQL of its own in {self.home}")
        return self._database_url

    def watch(self) -> None:
        """From now on until `close`, a server of ours that died is started again, on the data that it left."""
        if self._own and self._watching is None:
            self._watching = threading.Thread(target=self._watch, name="servers", daemon=True)
            self._watching.start()

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_EVERY):
            for server in self._own:
                if server.is_running:
                    continue
                log.error("server_died", server=server.name, folder=str(server.folder))
                try:
                    server.start()
                    log.warning("server_started_again", server=server.name)
                except (ServerError, OSError) as error:  # next time, perhaps
                    log.error("server_not_started", server=server.name, why=str(error))

    def close(self) -> None:
        self._closing.set()
        if self._watching is not None:
            self._watching.join()
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def attach_or_start(
    home: Path | str,
    *,
    redis: bool = True,
    postgres: bool = True,
    appendfsync: Fsync = "always",
    timeout: float = 60.0,
) -> Servers:
    """The servers of HOME: those of the live process that owns them, else our own, started or taken over.

    1. Take HOME/servers.lock. Taken: start what is asked for, write HOME/servers.json, and own them.
    2. Held by a live process: wait for its servers.json and attach. A process that only attached may end in any
       way, kill -9 included; the servers go on.
    3. The holder ended meanwhile: from the start. Its servers, if still running, are adopted.
    Raises ServerError, also when the owner does not run what is asked for. Blocking; call it before the loop runs
    or in a thread.
    """
    home = private_folder(Path(home).expanduser().resolve())
    record = home / "servers.json"
    lock = FolderLock(home / "servers.lock")
    deadline = time.monotonic() + timeout
    while True:
        try:
            lock.acquire()
        except FolderInUse as busy:
            if (found := _read(record, busy.pid)) is not None:
                servers = Servers(home, found["redis_url"], found["database_url"], int(busy.pid or 0), ExitStack())
                # Named now, not at first use: a role that misses a server should not start.
                _ = (redis and servers.redis_url, postgres and servers.database_url)
                return servers
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        return _start(home, lock, record, redis, postgres, appendfsync, timeout)


def _start(
    home: Path, lock: FolderLock, record: Path, redis: bool, postgres: bool, appendfsync: Fsync, timeout: float
) -> Servers:
    with ExitStack() as stack:
        stack.callback(lock.release)
        stack.callback(record.unlink, missing_ok=True)
        record.unlink(missing_ok=True)
        redis_url = database_url = None
        own: list[EmbeddedServer] = []
        if redis:
            own.append(server := stack.enter_context(EmbeddedRedis(home, appendfsync=appendfsync, timeout=timeout)))
            redis_url = server.url
        if postgres:
            own.append(database := stack.enter_context(EmbeddedPostgres(home, timeout=timeout)))
            database_url = database.url
        new = record.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps({"pid": os.getpid(), "redis_url": redis_url, "database_url": database_url}) + "\n")
        new.replace(record)
        return Servers(home, redis_url, database_url, os.getpid(), stack.pop_all(), own)


def _read(record: Path, holder: int | None) -> dict[str, str | None] | None:
    """What the holder of the lock wrote; None while it is still starting (the record of an earlier one is stale)."""
    try:
        found = json.loads(record.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found if found.get("pid") == holder else None
