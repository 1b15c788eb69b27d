"""Redis' file, cut everywhere: after every command of a recorded day, and three bytes into every command.

Each cut is what a crash may leave. Redis is started on it, beside the archive and the broker's book of that moment; the
engine recovers and trades to the end of the day, and then everything must hold. Three bytes into a command, the world
may also have moved on by some steps, as when a disk loses what it had flushed.
"""

import asyncio
import hashlib
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from msgspec import Struct, structs

from bahi.database.engine import create_engine
from bahi.drill.checks import Found, check, read_history
from bahi.drill.engine import Engine
from bahi.drill.reading import books_of, reading
from bahi.drill.stage import Stage
from bahi.prove.framing import resp_end
from bahi.prove.golden import GoldenDay, draw_golden, play_from
from bahi.prove.world import Archive, World, archive_now, archive_reached, book_now, put_back, watching_books
from bahi.servers.append_only import append_only_file
from domain.values import Instant
from eventstore.keys import GROUP, Keys
from eventstore.log import EventLog
from eventstore.months import Months

__all__ = ["Cut", "CutResult", "Cutting", "Golden", "cut_everywhere"]

INSIDE: Final = 3
"""Bytes into a command."""
MOVED_ON: Final = 8
"""Steps at most by which the world is ahead of a file that was torn within a command."""
ARCHIVES: Final = 0.5
"""How probable it is, at each step of the recorded day, that the archive catches up."""
LOG_ID: Final = "GOLD"


class Golden(Struct, frozen=True):
    """A recorded day. `times` are sizes of the file, each with the time at which it was that long; `commands` is where
    each command begins, and at last the end of the file."""

    seed: int
    day: GoldenDay
    file: str
    worlds: list[World]
    archives: list[Archive]
    times: list[tuple[int, Instant]]
    commands: list[int]
    names: list[str]
    events: int
    orders: int


class Cut(Struct, frozen=True):
    """`size` is what is left of the file, `world` the number of the world beside it, `ahead` by how many it is later
    than the file's."""

    number: int
    size: int
    inside: bool
    command: str
    """The first one that is not whole."""
    world: int
    ahead: int


class CutResult(Struct, frozen=True, kw_only=True):
    """What came of a cut. `recovered` says why a new epoch began, if one did. `as_cut`: what Redis made of the file,
    and everything beside it, was the same as after that cut, so its result stands for both; None: it was played."""

    cut: Cut
    as_cut: int | None
    recovered: str
    events: int
    orders: int
    violations: list[str]
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.violations


class Cutting:
    """A golden day, recorded below `home` at the first use and found there again. Each of its `cuts` can be `run` by
    its number. A context manager."""

    def __init__(self, home: Path, seed: int = 1) -> None:
        self._stage = Stage(home / "stage", seed)
        self._kept = home / "golden"
        self._seed = seed
        self._runner = asyncio.Runner()
        self._golden: Golden | None = None
        self._played: dict[tuple[bytes, int, Instant], CutResult] = {}
        """By what Redis held, the world beside it, and the time."""
        self.cuts: list[Cut] = []

    @property
    def golden(self) -> Golden:
        if self._golden is None:
            raise RuntimeError("a cutting is a context manager: enter it first")
        return self._golden

    def __enter__(self) -> Self:
        shutil.rmtree(self._stage.home, ignore_errors=True)
        self._runner.__enter__()
        self._stage.__enter__()
        file = self._kept / "golden.msgpack"
        if file.exists():
            self._golden = msgspec.msgpack.decode(file.read_bytes(), type=Golden)
            self._runner.run(_make_month(self._stage.postgres.url, self._golden.day.begins))
        else:
            self._golden = self._record()
            file.write_bytes(msgspec.msgpack.encode(self._golden))
        self.cuts = list(_cuts(self.golden))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stage.__exit__(kind, error, tb)
        self._runner.__exit__(kind, error, tb)

    # --- recording ---------------------------------------------------------------------------------------------------

    def _record(self) -> Golden:
        stage, day = self._stage, draw_golden(self._seed)
        stage.clear(len(day.strategies), LOG_ID)
        aof = append_only_file(stage.redis.folder)
        book = stage.home / "paper.db"
        worlds: list[World] = []
        archives = [archive_now(stage.postgres.url)]
        times: list[tuple[int, Instant]] = []
        rng = random.Random(f"prove/golden/{self._seed}/archive")

        def changed() -> None:
            worlds.append(World(aof.stat().st_size, book_now(book), len(archives) - 1))

        async def seen(engine: Engine) -> None:
            times.append((aof.stat().st_size, engine.clock.now()))
            if await asyncio.to_thread(archive_reached, stage.postgres.url) != archives[-1].reached:
                archives.append(await asyncio.to_thread(archive_now, stage.postgres.url))
                changed()
            elif not worlds:
                changed()

        with watching_books(changed):
            self._runner.run(
                play_from(
                    stage,
                    self._seed,
                    day,
                    day.begins,
                    archives=lambda: rng.random() < ARCHIVES,
                    seen=seen,
                    anew=True,
                )
            )
        stage.redis.kill()
        data = aof.read_bytes()
        self._kept.mkdir(parents=True, exist_ok=True)
        shutil.copytree(stage.redis.folder, self._kept / "redis")
        commands, names = _commands(data)
        events, orders = archives[-1].reached[0], len(self._runner.run(books_of(stage.home, stage.users)).rows)
        where = str(aof.relative_to(stage.redis.folder))
        return Golden(self._seed, day, where, worlds, archives, times, commands, names, events, orders)

    # --- a cut -------------------------------------------------------------------------------------------------------

    def run(self, number: int) -> CutResult:
        """Cuts, recovers, trades on, checks."""
        cut, begun = self.cuts[number], time.perf_counter()
        found = Found()
        events = orders = 0
        recovered = ""
        same: tuple[bytes, int, Instant] | None = None
        try:
            known = self._set_up(cut)
            at = self._time(cut)
            same = _contents(self._stage), cut.world, at
            if (before := self._played.get(same)) is not None:
                return self._as(before, cut, begun)
            self._runner.run(
                play_from(self._stage, self._seed, self.golden.day, at, archives=lambda: True, seen=_not_seen)
            )
            found, events, orders, recovered = self._runner.run(self._audit(known))
        except Exception as error:  # whatever it is: it is what this cut found
            found.broken.append(f"the day broke off: {type(error).__name__}: {error}")
        result = CutResult(
            cut=cut,
            as_cut=None,
            recovered=recovered,
            events=events,
            orders=orders,
            violations=[f"seed {self._seed}, cut {number} ({cut.command}): {each}" for each in found.all()],
            seconds=round(time.perf_counter() - begun, 3),
        )
        if same is not None:
            self._played[same] = result
        return result

    def _as(self, before: CutResult, cut: Cut, begun: float) -> CutResult:
        """The result of a cut that left the same behind as an earlier one."""
        seconds = round(time.perf_counter() - begun, 3)
        return structs.replace(before, cut=cut, as_cut=before.cut.number, violations=[], seconds=seconds)

    def _set_up(self, cut: Cut) -> dict[int, bytes]:
        """Everything is as it was, and Redis runs on what is left of its file. What the archive holds."""
        stage, golden = self._stage, self.golden
        if stage.redis.is_running:
            stage.redis.kill()
        shutil.rmtree(stage.redis.folder)
        shutil.copytree(self._kept / "redis", stage.redis.folder)
        with (stage.redis.folder / golden.file).open("r+b") as file:
            file.truncate(cut.size)
        world = golden.worlds[cut.world]
        put_back(golden.archives[world.archive], stage.postgres.url, world.book, stage.home / "paper.db")
        stage.redis.start()
        return stage.archived()

    def _time(self, cut: Cut) -> Instant:
        """When the file was as long as this, or when the world was as it is: whichever is later."""
        size = max(cut.size, self.golden.worlds[cut.world].size)
        return next((at for until, at in self.golden.times if until >= size), self.golden.times[-1][1])

    async def _audit(self, known: dict[int, bytes]) -> tuple[Found, int, int, str]:
        stage = self._stage
        async with reading(stage.redis.url, stage.postgres.url) as log:
            history = await read_history(log)
            books = await books_of(stage.home, stage.users)
            found = await check(log, history, books, users=stage.users, acknowledged=[], known=known)
            return found, len(history.records), len(books.rows), _why(log)


def cut_everywhere(
    home: Path,
    seed: int = 1,
    first: int = 0,
    last: int | None = None,
    *,
    every: int = 1,
    began: Callable[[Golden, int], None] = lambda golden, cuts: None,
) -> Iterator[CutResult]:
    """The cuts from number `first` to before `last`, one in `every`; all by default. What was recorded below `home` is
    used again, so that a run can be taken up where it was left. `began` hears of the day and how many cuts it has."""
    with Cutting(home, seed) as cutting:
        began(cutting.golden, len(cutting.cuts))
        for number in range(first, len(cutting.cuts) if last is None else min(last, len(cutting.cuts)), every):
            yield cutting.run(number)


async def _not_seen(engine: Engine) -> None:
    """Nobody looks on."""


def _why(log: EventLog) -> str:
    return "; ".join(each.reason for each in log.lineage[1:])


def _contents(stage: Stage) -> bytes:
    """All that Redis holds, as a digest; but for when its consumers were last seen, which is when the file was read."""
    found: list[Any] = []
    with stage.redis.client() as client:
        streams = set(Keys().streams.values())
        for name in sorted(client.scan_iter(count=1000)):
            found.append(name)
            if name.decode() not in streams:
                found.append(client.dump(name))
                continue
            found.append(client.xrange(name))
            groups: Any = client.xinfo_groups(name)
            for group in groups:
                pending: Any = client.xpending_range(name, GROUP, "-", "+", 100_000)
                found += sorted((key, str(value)) for key, value in group.items())
                found += [(each["message_id"], each["consumer"], each["times_delivered"]) for each in pending]
    return hashlib.sha256(msgspec.msgpack.encode(found)).digest()


async def _make_month(database_url: str, at: Instant) -> None:
    """The archive has a partition for the month, as it had when it was read: rows are put back into it."""
    engine = create_engine(database_url)
    try:
        async with engine.begin() as connection:
            await Months().ensure(connection, [at])
    finally:
        await engine.dispose()


def _commands(data: bytes) -> tuple[list[int], list[str]]:
    """Where each command begins, and the end; and their names."""
    begins, names, at = [0], [], 0
    while at < len(data):
        end = resp_end(data, at)
        if end is None:
            raise ValueError(f"the append-only file ends within the command at byte {at}")
        names.append(data[at:end].split(b"\r\n", 3)[2].decode())
        begins.append(end)
        at = end
    return begins, names


def _cuts(golden: Golden) -> Iterator[Cut]:
    """Two for each command: before it, in the world of that moment, and within it. Redis drops a transaction that is
    not whole, so all that may be left of one comes to the same; its torn ends also have one world."""
    newest = number = 0
    ahead, whole = 0, True
    for begins, name in zip(golden.commands, [*golden.names, "END"], strict=True):
        while newest + 1 < len(golden.worlds) and golden.worlds[newest + 1].size <= begins:
            newest += 1
        yield Cut(number, begins, False, name, newest, 0)
        if name == "END":
            return
        if whole:
            ahead = random.Random(f"prove/cut/{golden.seed}/{number}").randint(0, MOVED_ON)
        whole = (whole and name != "MULTI") or name == "EXEC"
        moved = min(ahead, len(golden.worlds) - 1 - newest)
        yield Cut(number + 1, begins + INSIDE, True, name, newest + moved, moved)
        number += 2
