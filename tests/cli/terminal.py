"""Running `bahi` as a person does, and looking at the installation behind its back."""

import asyncio
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import redis
from typer.testing import CliRunner

from bahi.cli.main import app
from bahi.clock import SystemClock
from bahi.servers import Servers
from eventstore.batch import Appended
from eventstore.envelope import NewEvent, Recorded
from eventstore.log import EventLog
from eventstore.open import open_log
from projections.runtime import DEFAULTS

__all__ = ["Done", "Installation", "bahi", "here", "start"]

T = TypeVar("T")
PROGRAM = Path(sysconfig.get_path("scripts")) / "bahi"


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line, parse_float=Decimal) for line in self.lines]

    @property
    def object(self) -> dict[str, Any]:
        (only,) = self.objects
        return only


def here(*args: object, stdin: str | None = None, home: Path | None = None) -> Done:
    """The command in this process, as fast as can be."""
    given = [str(each) for each in (*args, *(("--home", home) if home is not None else ()))]
    result = CliRunner().invoke(app, given, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BAHI_")}
    tests = {name: value for name, value in os.environ.items() if name.startswith("BAHI_TEST_")}
    return {**kept, **tests, **more}


def bahi(*args: object, timeout: float = 500, **env: str) -> Done:
    """The command in a process of its own."""
    done = subprocess.run(
        [sys.executable, PROGRAM, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def start(*args: object, **env: str) -> "subprocess.Popen[str]":
    """The command, running; its output can be read as it comes."""
    return subprocess.Popen(
        [sys.executable, PROGRAM, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**env),
    )


@dataclass(frozen=True)
class Installation:
    """A HOME whose servers run, and what its log and its tables really hold."""

    home: Path
    servers: Servers

    def here(self, *args: object, stdin: str | None = None) -> Done:
        return here(*args, stdin=stdin, home=self.home)

    @property
    def redis(self) -> "redis.Redis":
        return redis.Redis.from_url(self.servers.redis_url)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        url = self.servers.database_url.replace("+psycopg", "", 1)
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def with_log(self, use: Callable[[EventLog], Awaitable[T]]) -> T:
        async def main() -> T:
            log = await open_log(self.servers.redis_url, clock=SystemClock(), defaults=DEFAULTS)
            try:
                return await use(log)
            finally:
                await log.aclose()

        return asyncio.run(main())

    def events(self) -> list[Recorded]:
        """The log, read without the command line."""

        async def read(log: EventLog) -> list[Recorded]:
            return [recorded async for recorded in log.read()]

        return self.with_log(read)

    def append(self, *events: NewEvent) -> Sequence[int]:
        async def write(log: EventLog) -> Sequence[int]:
            result = await log.append(events)
            assert isinstance(result, Appended)
            return result.positions

        return self.with_log(write)
