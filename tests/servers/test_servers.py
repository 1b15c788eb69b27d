"""The embedded servers: start, stop, crash, share, refuse."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil
import psycopg
import pytest
from sqlalchemy import create_engine, text

from bahi.servers import EmbeddedPostgres, EmbeddedRedis, FolderInUse, ServerError, attach_or_start
from bahi.servers.append_only import cut_unfinished
from bahi.servers.process import until
from bahi.servers.redis import find_redis_server, redis_version

HOLD = """
    import sys, json
    from bahi.servers import EmbeddedPostgres, EmbeddedRedis, attach_or_start
    servers = attach_or_start(sys.argv[1])
    said = {"owned": servers.owned, "redis": servers.redis_url, "database": servers.database_url}
    print(json.dumps(said), flush=True)
    sys.stdin.read()
    servers.close()
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bahi-t-") as folder:
        yield Path(folder) / "home"


class Other:
    """Another bahi process on the same home."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLD), str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said = json.loads(self._pipe(self.process.stdout).readline())

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def end(self) -> None:
        self._pipe(self.process.stdin).close()
        assert self.process.wait(30) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def alive_on(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_redis_is_durable_and_evicts_nothing(home: Path) -> None:
    with EmbeddedRedis(home) as server, server.client() as client:
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        found = {key: client.config_get(key)[key] for key in wanted}
        assert {key: value.decode() if isinstance(value, bytes) else value for key, value in found.items()} == wanted
        assert server.version >= (6, 2)


def test_what_redis_acknowledged_survives_a_stop_and_a_kill(home: Path) -> None:
    server = EmbeddedRedis(home)
    with server, server.client() as client:
        client.set("stopped", "1")
    server.start()
    with server.client() as client:
        client.set("killed", "1")
    server.kill()
    with server, server.client() as client:
        assert client.mget("stopped", "killed") == [b"1", b"1"]


def test_a_torn_end_of_the_log_file_does_not_stop_the_start(home: Path) -> None:
    with EmbeddedRedis(home) as server, server.client() as client:
        client.set("whole", "1")
    file = max((home / "redis").rglob("appendonly*aof"), key=lambda path: path.stat().st_mtime_ns)
    with file.open("ab") as log:
        log.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    with EmbeddedRedis(home) as server, server.client() as client:
        assert client.get("whole") == b"1"


@pytest.mark.parametrize("torn", [3, 14, 20, 40])
def test_what_is_written_after_a_torn_transaction_is_not_part_of_it(home: Path, torn: int) -> None:
    """The tear is in EXEC, at its beginning, in the command before it, and in the one before that."""
    server = EmbeddedRedis(home)
    with server, server.client() as client:
        client.set("whole", "1")
        with client.pipeline(transaction=True) as both:
            both.set("torn", "1").set("also", "1").execute()
        server.kill()
    file = max((home / "redis").rglob("appendonly*aof"), key=lambda path: path.stat().st_mtime_ns)
    with file.open("r+b") as log:
        log.truncate(file.stat().st_size - torn)
    with server, server.client() as client:
        assert client.mget("whole", "torn", "also") == [b"1", None, None]
        with client.pipeline(transaction=True) as both:
            both.set("then", "2").set("more", "2").execute()
        server.kill()
    with server, server.client() as client:
        assert client.mget("whole", "torn", "also", "then") == [b"1", None, None, b"2"]


@pytest.mark.parametrize("layout", ["appendonlydir/appendonly.aof.{}.incr.aof", "appendonly.aof"])
def test_a_transaction_without_its_end_is_cut_off_wherever_it_was_torn(tmp_path: Path, layout: str) -> None:
    def command(*words: str) -> bytes:
        return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words)])

    sets = [command("SET", f"key{number}", "x" * number) for number in range(3)]
    first = sets[0] + command("MULTI") + sets[1] + command("EXEC")
    second = command("MULTI") + sets[1] + sets[2] + command("EXEC")
    file, older = tmp_path / layout.format(10), tmp_path / layout.format(9)
    file.parent.mkdir(exist_ok=True)
    for size in range(len(first + second) + 1):
        older.write_bytes(second[:20])
        file.write_bytes((first + second)[:size])
        cut = cut_unfinished(tmp_path)
        left = file.read_bytes()
        assert len(left) == size - cut
        if size == len(first + second):
            assert not cut
        elif size >= len(first) + len(command("MULTI")):
            assert left == first
        assert left.count(command("MULTI")) == left.count(command("EXEC"))
        assert cut_unfinished(tmp_path) == 0
        assert older == file or older.read_bytes() == second[:20]


async def test_both_servers_start_in_an_async_with(home: Path) -> None:
    async with EmbeddedRedis(home) as redis, EmbeddedPostgres(home) as postgres:
        assert redis.url.startswith("unix://")
        assert postgres.url.startswith("postgresql+psycopg://")


def test_redis_on_a_port_of_its_own(home: Path) -> None:
    with EmbeddedRedis(home, port=0) as server, server.client() as client:
        assert server.url.startswith("redis://127.0.0.1:")
        assert client.ping()


def test_a_port_in_use_is_named(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {port} .* in use"):
            EmbeddedRedis(home, port=port).start()


def test_a_deep_home_does_not_break_the_sockets(home: Path) -> None:
    deep = home / ("d" * 60) / ("e" * 60)
    with EmbeddedRedis(deep) as redis, EmbeddedPostgres(deep) as postgres, redis.client() as client:
        assert client.ping()
        assert postgres.connect().execute("SELECT 1").fetchone() == (1,)


def test_a_home_with_spaces_and_quotes(home: Path) -> None:
    odd = home / 'a "b" \\c, d\'s'
    with EmbeddedRedis(odd) as redis, EmbeddedPostgres(odd) as postgres, redis.client() as client:
        assert client.ping()
        assert postgres.connect().execute("SELECT 1").fetchone() == (1,)


def test_a_setting_redis_does_not_know_ends_with_its_log(home: Path) -> None:
    with pytest.raises(ServerError, match="no-such-setting"):
        EmbeddedRedis(home, config={"no-such-setting": "1"}).start()
    with EmbeddedRedis(home):
        pass  # and the folder is free again


def test_a_program_that_is_no_redis_is_refused(home: Path) -> None:
    with pytest.raises(ServerError, match="no redis-server"):
        EmbeddedRedis(home, program="/bin/echo")


def test_an_old_redis_is_refused_by_name_and_passed_over_on_the_path(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0'\n")
    old.chmod(0o755)
    with pytest.raises(ServerError, match=r"6\.0\.16"):
        find_redis_server(old)
    monkeypatch.delenv("BAHI_TEST_REDIS", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert redis_version(find_redis_server()) >= (6, 2)
    assert find_redis_server() != old


def test_data_of_a_newer_redis_are_not_started_empty_by_an_older_one(home: Path) -> None:
    with EmbeddedRedis(home):
        pass
    (home / "redis.version").write_text("99.0.0\n")
    with pytest.raises(ServerError, match=r"written by Redis 99\.0\.0"):
        EmbeddedRedis(home).start()


def test_a_folder_in_use_is_named_with_the_pid(home: Path) -> None:
    other = Other(home)
    with pytest.raises(FolderInUse) as refused:
        EmbeddedRedis(home).start()
    with pytest.raises(FolderInUse):
        EmbeddedPostgres(home).start()
    other.end()
    assert refused.value.pid == other.process.pid
    assert str(home) in str(refused.value)
    assert str(other.process.pid) in str(refused.value)


def test_stale_pid_files_and_sockets_do_not_stop_the_start(home: Path) -> None:
    with EmbeddedRedis(home) as redis, EmbeddedPostgres(home) as postgres:
        pidfile = (home / "postgres" / "postmaster.pid").read_text()
        assert redis.socket is not None
        sock = redis.socket
    # A live process of ours that is no server: a pid that was given to another program since.
    mine = str(os.getpid())
    (home / "redis.pid").write_text(mine + "\n")
    (home / "postgres" / "postmaster.pid").write_text(pidfile.replace(pidfile.split("\n")[0], mine, 1))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(sock))
    with EmbeddedRedis(home) as redis, EmbeddedPostgres(home) as postgres:
        assert redis.pid != os.getpid()
        assert postgres.pid != os.getpid()


def test_servers_of_a_killed_owner_are_adopted_and_then_stopped(home: Path) -> None:
    other = Other(home)
    other.kill()
    with attach_or_start(home) as servers:
        assert servers.owned
        assert servers.redis_url == other.said["redis"]
        pids = [int((home / name).read_text().split("\n")[0]) for name in ("redis.pid", "postgres/postmaster.pid")]
        assert all(alive_on(pid) for pid in pids)
        with create_engine(servers.database_url).connect() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
    assert not any(alive_on(pid) for pid in pids)


def test_an_adopted_redis_is_the_same_process_with_the_asked_durability(home: Path) -> None:
    other = Other(home)
    other.kill()
    with EmbeddedRedis(home, appendfsync="everysec") as server, server.client() as client:
        assert server.adopted
        assert client.config_get("appendfsync") in ({"appendfsync": "everysec"}, {b"appendfsync": b"everysec"})
        assert client.info("server")["process_id"] == server.pid
    with EmbeddedPostgres(home) as postgres:
        assert postgres.adopted


def test_a_left_server_that_cannot_be_adopted_is_stopped_and_started_anew(home: Path) -> None:
    other = Other(home)
    other.kill()
    left = int((home / "redis.pid").read_text())
    Path(other.said["redis"].removeprefix("unix://")).unlink()
    with EmbeddedRedis(home) as server, server.client() as client:
        assert not server.adopted
        assert client.ping()
        assert not alive_on(left)
    with EmbeddedPostgres(home):
        pass  # leaves nothing running


def test_the_second_process_attaches_and_may_be_killed(home: Path) -> None:
    with attach_or_start(home) as servers:
        other = Other(home)
        assert other.said == {"owned": False, "redis": servers.redis_url, "database": servers.database_url}
        other.kill()
        with create_engine(servers.database_url).connect() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
        third = Other(home)
        third.end()
        assert (home / "servers.json").exists()
    assert not (home / "servers.json").exists()


def test_attaching_to_an_owner_without_postgres_says_so(home: Path) -> None:
    with (
        attach_or_start(home, postgres=False),
        pytest.raises(ServerError, match="runs no PostgreSQL"),
    ):
        attach_or_start(home)


def test_a_forked_child_does_not_hold_the_folder(home: Path) -> None:
    script = """
        import os, sys
        from bahi.servers import EmbeddedRedis
        EmbeddedRedis(sys.argv[1]).start()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            sys.stdin.read()
            os._exit(0)
        print(child, flush=True)
        os.kill(os.getpid(), 9)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert parent.wait() == -signal.SIGKILL
    assert alive_on(child)
    with EmbeddedRedis(home) as server:
        assert server.adopted
    parent.stdin.close()
    assert until(lambda: not alive_on(child), 60)


def test_postgres_keeps_its_data_over_a_kill(home: Path) -> None:
    server = EmbeddedPostgres(home)
    with server:
        with server.connect() as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            connection.execute("CREATE TABLE kept (n int)")
            connection.execute("INSERT INTO kept VALUES (7)")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            server.connect()
        server.start()
        with server.connect() as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (7,)


def test_an_initdb_that_was_cut_short_is_made_again(home: Path) -> None:
    half = home / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(home) as server:
        assert server.connect().execute("SELECT 1").fetchone() == (1,)
    assert not half.exists()


def test_a_folder_with_other_files_is_not_touched(home: Path) -> None:
    (home / "postgres").mkdir(parents=True)
    (home / "postgres" / "letter.txt").write_text("mine")
    with pytest.raises(ServerError, match="not empty"):
        EmbeddedPostgres(home).start()
    assert (home / "postgres" / "letter.txt").read_text() == "mine"


def test_a_home_nobody_else_can_enter_works_and_stays_so(home: Path) -> None:
    """As root PostgreSQL runs as another user, who cannot walk to this folder."""
    home.parent.chmod(0o700)
    private = home / "private"
    private.mkdir(parents=True, mode=0o700)
    with EmbeddedPostgres(private / "bahi") as server:
        assert server.connect().execute("SELECT 1").fetchone() == (1,)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert stat.S_IMODE((private / "bahi").stat().st_mode) == 0o700


def test_the_sockets_are_out_of_reach_of_other_users(home: Path) -> None:
    with EmbeddedRedis(home) as redis, EmbeddedPostgres(home) as postgres:
        assert redis.socket is not None
        assert postgres._sockets is not None
        folders = (redis.socket.parent, postgres._sockets)
        for folder in folders:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not any(folder.exists() for folder in folders if not folder.is_relative_to(home))


def test_ctrl_c_in_the_terminal_does_not_reach_the_servers(home: Path) -> None:
    with EmbeddedRedis(home) as redis, EmbeddedPostgres(home) as postgres:
        for pid in (redis.pid, postgres.pid):
            assert os.getsid(pid) != os.getsid(0)
