"""The same rows with `bahi run` itself, in real time: its own processes, its own loops, its own servers.

Traders create strategies over HTTP as fast as they are answered, due seconds later; now and then something is killed or
destroyed under them. No moment can be repeated to the effect here; but nothing is turned by hand.
"""

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil
from msgspec import Struct, field

from bahi.drill.checks import Found, check, read_history
from bahi.drill.damage import tear
from bahi.drill.reading import books_of, reading
from bahi.drill.rows import ALL, SPLIT, Row
from bahi.drill.running import Installation, Missed, until
from bahi.drill.traders import Traders
from bahi.servers import ServerError, attach_or_start
from bahi.servers.process import is_alive

__all__ = ["Real", "play_real"]

AWAY: Final = 6.0
"""Seconds that PostgreSQL stays away."""
TRADERS: Final = 2


class Real(Struct, kw_only=True):
    """What came of a row. `took`: seconds from the start of what was killed, the interpreter's start included where a
    process was started, until a strategy could be started and ran."""

    row: Row
    took: list[float] = []
    found: Found = field(default_factory=Found)
    strategies: int = 0
    events: int = 0
    orders: int = 0
    epochs: int = 1


def play_real(folder: Path, rows: Sequence[Row], moments: int, seed: int) -> Iterator[Real]:
    """Each row in an installation of its own below `folder`."""
    for row in rows:
        yield _Play(folder / str(row), row, random.Random(f"real/{seed}/{row}")).play(moments)


class _Play:
    def __init__(self, home: Path, row: Row, rng: random.Random) -> None:
        self._row = row
        self._rng = rng
        self._it = Installation(home)
        self._apart = SPLIT.get(row, "")
        self._result = Real(row=row)

    def play(self, moments: int) -> Real:
        result, it = self._result, self._it
        try:
            self._start()
            with Traders(it.url, TRADERS) as traders:
                if self._row is Row.OLDER_ARCHIVE:
                    self._copy_archive(traders)
                for number in range(moments):
                    traders.trade()
                    time.sleep(self._rng.uniform(1.5, 3))
                    if self._row is Row.OLDER_REDIS:
                        shutil.rmtree(it.home / "redis.copy", ignore_errors=True)
                        shutil.copytree(it.home / "redis", it.home / "redis.copy")
                        time.sleep(self._rng.uniform(0.3, 1.5))
                    since = self._break(dies=number % 2 == 0)
                    result.took.append(traders.await_started() - since)
                traders.finish()
            it.stop()
            self._audit(traders)
        except (Missed, ServerError, RuntimeError, OSError) as error:
            result.found.broken.append(f"{type(error).__name__}: {error}")
        finally:
            it.close()
        return result

    def _start(self) -> None:
        """The process with the REST application first: it owns the servers."""
        if self._apart:
            self._it.start(tuple(role for role in ALL if role != self._apart))
            self._it.start((self._apart,))
        else:
            self._it.start(())

    def _copy_archive(self, traders: Traders) -> None:
        """An earlier copy of PostgreSQL's cluster, made while it was stopped in good order."""
        traders.trade()
        time.sleep(2)  # the copy is to hold the beginning of their day
        traders.pause()
        self._it.stop()
        shutil.copytree(self._it.home / "postgres", self._it.home / "postgres.copy")
        self._start()

    # --- what is broken ----------------------------------------------------------------------------------------------

    def _break(self, *, dies: bool) -> float:
        """When the start of what was killed began."""
        it, row = self._it, self._row
        if self._apart:
            it.kill(self._apart)
            since = time.monotonic()
            it.start((self._apart,))
            return since
        if row is Row.POSTGRES:
            return self._freeze()
        if row is Row.REDIS or (row is Row.BOTH and not dies):
            return self._kill_servers()
        if row is Row.TORN_LIVE or (row in (Row.EMPTIED, Row.OLDER_REDIS) and not dies):
            return self._damage_under_the_living()
        it.kill("")
        for server in it.servers().values():
            _kill(server)
        self._damage()
        since = time.monotonic()
        self._start()
        return since

    def _kill_servers(self) -> float:
        """Whoever owns them starts them again."""
        for name, server in self._it.servers().items():
            if self._row is Row.BOTH or name == "redis":
                server.kill()
        return time.monotonic()

    def _damage_under_the_living(self) -> float:
        owner, redis = self._it.owner(), self._it.servers()["redis"]
        owner.suspend()
        try:
            _kill(redis)
            self._damage()
        finally:
            since = time.monotonic()
            owner.resume()
        return since

    def _damage(self) -> None:
        home = self._it.home
        match self._row:
            case Row.TORN | Row.TORN_LIVE:
                tear(home / "redis", self._rng)
            case Row.EMPTIED:
                shutil.rmtree(home / "redis")
                (home / "redis").mkdir(mode=0o700)
            case Row.OLDER_REDIS:
                shutil.rmtree(home / "redis")
                shutil.copytree(home / "redis.copy", home / "redis")
            case Row.OLDER_ARCHIVE:
                shutil.rmtree(home / "postgres")
                shutil.copytree(home / "postgres.copy", home / "postgres")
            case _:
                pass

    def _freeze(self) -> float:
        """PostgreSQL is there and does not answer; trading goes on without it."""
        server = self._it.servers()["postgres"]
        family = [server, *server.children(recursive=True)]
        for each in family:
            each.suspend()
        time.sleep(AWAY)
        since = time.monotonic()
        for each in family:
            if psutil.pid_exists(each.pid):
                os.kill(each.pid, signal.SIGCONT)
        return since

    # --- afterwards --------------------------------------------------------------------------------------------------

    def _audit(self, traders: Traders) -> None:
        with attach_or_start(self._it.home) as servers:
            asyncio.run(self._read(traders, servers.redis_url, servers.database_url))

    async def _read(self, traders: Traders, redis_url: str, database_url: str) -> None:
        result = self._result
        async with reading(redis_url, database_url) as log:
            history = await read_history(log)
            books = await books_of(self._it.home, traders.users)
            result.found.add(
                await check(log, history, books, users=traders.users, acknowledged=traders.acknowledged, known={})
            )
            result.strategies = len({record.strategy_id for record in history.records if record.strategy_id})
            result.events = len(history.records)
            result.orders = len(books.rows)
            result.epochs = len(log.lineage)


def _kill(server: psutil.Process) -> None:
    """SIGKILL, and it is gone, or a zombie that its parent has yet to bury."""
    server.kill()
    until(lambda: not is_alive(server), f"{server} is dead")
