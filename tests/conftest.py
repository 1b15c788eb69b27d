"""Real servers for every test: embedded ones, or with BAHI_TEST_SERVERS=containers Redis 8 and PostgreSQL 17.

BAHI_TEST_REDIS=PATH runs the same tests on another redis-server. With pytest-xdist every worker has servers of its own.

The servers' files, and whatever else tests write, are in memory where the machine has room for it (/dev/shm): to make
and to copy a hundred databases on a disk is half of a run's time. No test pulls the plug of the machine, and what a
killed process has written is there on either. With TMPDIR set the files are there, and what pytest keeps stays.
"""

import gc
import importlib
import importlib.util
import logging
import os
import random
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import hypothesis.core
import psutil
import psycopg
import pytest
import structlog
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bahi.quiet import settle_memory
from bahi.servers import EmbeddedPostgres, EmbeddedRedis

CONTAINERS = os.environ.get("BAHI_TEST_SERVERS") == "containers"

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=False, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


LONG = (
    "e2e/test_drill.py",
    "simulation/test_lives.py",
    "simulation/test_points.py",
    "chaos/test_processes.py",
    "e2e/test_house.py",
    "e2e/test_operations.py",
    "chaos/test_prove.py",
    "e2e/test_kite.py",
    "e2e/test_readme.py",
    "engine/test_processes.py",
    "simulation/test_demo.py",
    "property/test_machine.py",
    "cli/test_bench.py",
)
"""The files that take half a minute and more, the longest first."""
MEMORY = Path("/dev/shm")
ENOUGH = 2 * 2**30
"""Bytes free in it: several times what the workers of a small machine use."""


gc.disable()
"""Until all tests are loaded: nothing of it is garbage."""


def pytest_configure(config: pytest.Config) -> None:
    """On CI every run explores anew, and says with which seed, so that a failure can be had again.

    Both the seed and the folder reach the workers of pytest-xdist: one as an option, the other in the environment.

    Whoever is started in the background by a shell ignores SIGINT, and so does whatever it starts; a person in front
    of the terminal does not, and that is who is tested.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("CI") and config.getoption("--hypothesis-seed", None) is None:
        seed = random.SystemRandom().randrange(2**32)
        config.option.hypothesis_seed = str(seed)
        vars(hypothesis.core)["global_force_seed"] = seed
    if "TMPDIR" not in os.environ and _roomy(MEMORY):
        folder = tempfile.mkdtemp(prefix="bahi-", dir=MEMORY)
        config.add_cleanup(lambda: _remove(Path(folder)))
        Path(folder).chmod(0o755)  # PostgreSQL, as another user, has its socket below it
        os.environ["TMPDIR"] = tempfile.tempdir = folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones come first, so that nobody works at the last of them alone."""
    order = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(f"{item.path.parent.name}/{item.path.name}", len(LONG)))


def pytest_collection_finish() -> None:
    """What was imported stays: not to look at it again and again saves a tenth of a run's time."""
    settle_memory()
    gc.enable()


def _remove(folder: Path) -> None:
    """With whatever still works in it: what a worker of pytest-xdist had started that was ended itself."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(folder) or Path(process.cwd()).is_relative_to(folder):
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def _roomy(folder: Path) -> bool:
    """Whether there is such a folder, with enough room, where programs can be started."""
    try:
        found = os.statvfs(folder)
    except (AttributeError, OSError):
        return False
    return os.access(folder, os.W_OK) and found.f_bavail * found.f_frsize > ENOUGH and not found.f_flag & os.ST_NOEXEC


def pytest_xdist_auto_num_workers() -> int:
    """Tests wait for servers, for other processes and for the clock: two more at a time than there are cores; and not
    very many, since each has its servers, and files are not of one size."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores + 2, 8)


@pytest.fixture(autouse=True)
def _no_handler_left() -> Iterator[None]:
    """A command run in this process logs into the output that its test captured, which is closed afterwards."""
    yield
    root = logging.getLogger()
    if left := [each for each in root.handlers if getattr(each, "_bahi", False)]:
        for handler in left:
            root.removeHandler(handler)
        structlog.reset_defaults()
        logging.raiseExceptions = True


def pytest_report_header() -> str:
    servers = "containers" if CONTAINERS else os.environ.get("BAHI_TEST_REDIS", "embedded")
    seed = hypothesis.core.global_force_seed
    return f"bahi servers: {servers}" + ("" if seed is None else f"; rerun with --hypothesis-seed={seed}")


class HasUrl(Protocol):
    """A running server."""

    @property
    def url(self) -> str: ...


class _At:
    def __init__(self, url: str) -> None:
        self.url = url


@pytest.fixture(scope="session")
def servers_home() -> Iterator[Path]:
    """The folder of the session's servers: short, because the paths of unix sockets are."""
    home = Path(tempfile.mkdtemp(prefix="bahi-test-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server(servers_home: Path) -> Iterator[HasUrl]:
    """A Redis for the whole session. `everysec`: nobody pulls the plug on a test, and an fsync for each of a
    hundred thousand appends would be most of the run. Tests of durability start a server of their own."""
    if CONTAINERS:
        from testcontainers.redis import RedisContainer

        command = "redis-server --appendonly yes --appendfsync everysec --maxmemory-policy noeviction"
        with RedisContainer("redis:8").with_command(command) as container:
            yield _At(f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0")
    else:
        with EmbeddedRedis(servers_home, appendfsync="everysec") as server:
            yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: HasUrl) -> str:
    """Where the session's Redis is. Tests that use it without the `redis` fixture empty it themselves."""
    return redis_server.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client on an empty Redis, without retries (architecture §3.5)."""
    client = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0), decode_responses=False)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def postgres_server(servers_home: Path) -> Iterator[HasUrl]:
    """A PostgreSQL for the whole session, without fsync, for the reason given for Redis."""
    if CONTAINERS:
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer("postgres:17", driver="psycopg") as container:
            yield _At(container.get_connection_url())
    else:
        hasty = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        with EmbeddedPostgres(servers_home, config=hasty) as server:
            yield server


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _execute(url: str, *statements: str) -> None:
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@pytest.fixture(scope="session")
def database_template(postgres_server: HasUrl) -> str:
    """A database with the schema, migrated once per session; each test gets a copy."""
    name = "bahi_template"
    _execute(postgres_server.url, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
    if importlib.util.find_spec("bahi.database") and importlib.util.find_spec("bahi.database.migrate"):
        migrate: Callable[[str], Any] = importlib.import_module("bahi.database.migrate").migrate
        migrate(with_database(postgres_server.url, name))
    return name


@pytest.fixture
def database_url(postgres_server: HasUrl, database_template: str) -> Iterator[str]:
    """`postgresql+psycopg://…` of a database of this test's own, with the schema and no rows."""
    name = f"test_{random.SystemRandom().randrange(16**12):012x}"
    # as files: half of what it costs to write them through its log, which nobody reads
    _execute(postgres_server.url, f"CREATE DATABASE {name} TEMPLATE {database_template} STRATEGY FILE_COPY")
    yield with_database(postgres_server.url, name)
    _execute(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)")
