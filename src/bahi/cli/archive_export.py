"""`bahi archive export`: the work of it."""

import datetime as dt
import re
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from sqlalchemy import func, select

from bahi.cli.archive_home import ArchiveHome, open_archive
from bahi.cli.audited import record_read
from bahi.cli.common import CHECK_FAILED, OK, bar, err, fail, print_json, say
from bahi.cli.keys import box_of
from bahi.cli.offline import needs_pyarrow
from bahi.cli.places import BadPlace, Places
from bahi.cli.times import BadMoment, Times
from bahi.clock import SystemClock
from bahi.seal_keys import SqlSealKeys
from domain.events import EVENT_TYPES
from domain.values import DAY, Instant
from eventstore.archive_tables import epochs, events, seal_keys
from eventstore.epochs import held
from eventstore.export.cloudevents import CORRUPT
from eventstore.export.files import Compressed, NewFile
from eventstore.export.lines import End, EndLine, Filters, Manifest, read
from eventstore.export.parquet import Rows, proof_of
from eventstore.export.part_writing import ArchiveDamaged
from eventstore.export.writing import Wish, lines, plan, rfc3339
from eventstore.keys import Keys
from eventstore.sealing import SealingStopped

__all__ = ["Asked", "export_archive"]


READING = "AUDIT_READ"


class Asked(Struct, frozen=True, kw_only=True):
    """The command line."""

    file: Path
    parquet: bool = False
    since: str | None = None
    until: str | None = None
    first: str | None = None
    last: str | None = None
    users: tuple[int, ...] = ()
    strategies: tuple[int, ...] = ()
    types: tuple[str, ...] = ()
    force: bool = False
    unsigned: bool = False


async def export_archive(settings: Any, asked: Asked, json: bool, *, recorded: bool = True) -> int:
    """The exit code; exits with 2 for what makes no sense."""
    to_stdout = str(asked.file) == "-"
    if to_stdout and (json or asked.parquet):
        fail(f"standard output takes the events: {'--json' if json else '--format parquet'} needs a file")
    types = tuple(sorted({_type(each) for each in asked.types}))
    begun = time.perf_counter()
    async with open_archive(settings) as home:
        if recorded:
            await record_read(home.redis, home.engine, "export", {"file": asked.file, **_filters(asked)})
        private = await _private_key(home, asked.unsigned)
        wish = await _wish(home, asked, types)
        manifest = await plan(home.engine, wish, now=SystemClock().now(), private=private)
        if not manifest.parts:
            fail(f"nothing was ever archived in {settings.home}")
        behind = await _not_archived(home, manifest)
        with bar("export", hidden=json) as progress:
            try:
                async with _target(asked) as target:
                    async for chunk in lines(home.engine, manifest, private, progress):
                        target.write(chunk)
            except ArchiveDamaged as error:
                fail(str(error), CHECK_FAILED)
    end = target.end
    told = {
        "file": None if to_stdout else asked.file,
        "format": "parquet" if asked.parquet else "jsonl",
        "events": end.events,
        "left_out": end.left_out,
        "seals": end.seals,
        "bytes": target.bytes,
        "signed_by": manifest.signed_by or None,
        "partitions": [_part(manifest, number, end) for number in range(len(manifest.parts))],
        "not_archived_yet": behind,
        "seconds": round(time.perf_counter() - begun, 3),
    }
    if json:
        print_json(told)
    else:
        _show(told, to_stdout)
    return OK


def _filters(asked: Asked) -> dict[str, object | None]:
    """As they were given, for the record."""
    several = {"user_id": asked.users, "strategy_id": asked.strategies, "type": asked.types}
    given = {name: ",".join(map(str, values)) for name, values in several.items()}
    return {**given, "from": asked.since or asked.first, "until": asked.until or asked.last}


# --- where to ---------------------------------------------------------------------------------------------------------


class _Target:
    """Takes the lines. `bytes` is what was written to the disk."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._last = b""
        self.bytes = 0

    def write(self, chunk: bytes) -> None:
        self._write(chunk)
        self._last = chunk

    @property
    def end(self) -> End:
        found = read(self._last[:-1], "end")
        assert isinstance(found, EndLine)  # noqa: S101 (it is the last one)
        return found.end


@asynccontextmanager
async def _target(asked: Asked) -> AsyncGenerator[_Target, None]:
    """The file, or the two of them, are there when the block ends well, and nothing is otherwise."""
    if str(asked.file) == "-":
        packed = Compressed(sys.stdout.buffer)
        try:
            yield _Target(packed.write)
            packed.close()
        finally:
            packed.abandon()
        return
    with NewFile(asked.file, replace=asked.force) as new:
        if not asked.parquet:
            packed = Compressed(new.file)
            target = _Target(packed.write)
            try:
                yield target
                packed.close()
            finally:
                packed.abandon()
            target.bytes = new.commit()
            return
        with NewFile(proof_of(asked.file), replace=asked.force) as beside, needs_pyarrow():
            packed = Compressed(beside.file)
            rows = Rows(new.file, packed.write)
            target = _Target(lambda chunk: rows.write(chunk.split(b"\n")[:-1]))
            try:
                yield target
                rows.close()
                packed.close()
            finally:
                packed.abandon()
            target.bytes = beside.commit() + new.commit()


# --- what -------------------------------------------------------------------------------------------------------------


async def _private_key(home: ArchiveHome, unsigned: bool) -> Ed25519PrivateKey | None:
    """The key that signs the file. Exits with 2 when there is none that opens, unless that is accepted."""
    box = box_of(home.settings)
    why = "there are no secret keys here: set BAHI_SECRET_KEYS"
    if box is not None:
        try:
            async with home.engine.connect() as connection:
                if await connection.scalar(select(func.count()).select_from(seal_keys)):
                    return await SqlSealKeys(box).newest(connection)
            why = "there is no seal key yet: the archive makes one when it starts"
        except SealingStopped as error:
            why = str(error)
    if not unsigned:
        fail(f"the file cannot be signed: {why}. Or say --unsigned: then only what is under a seal can be proven")
    return None


async def _wish(home: ArchiveHome, asked: Asked, types: tuple[str, ...]) -> Wish:
    async with home.engine.connect() as connection:
        partitions = await connection.scalar(select(func.count(epochs.c.partition.distinct()))) or 1
        # a reading of a day of last week does not make it today
        newest = await connection.scalar(select(func.max(events.c.recorded_at)).where(events.c.type != READING)) or 0
    times = Times(home.settings.zone)
    today = times.wall(newest).date()
    since = None if asked.since is None else _moment(asked.since, times, today, end=False)
    until = None if asked.until is None else _moment(asked.until, times, today, end=True)
    if since is not None and until is not None and until < since:
        fail(f"--from {asked.since} is later than --until {asked.until}")
    return Wish(
        since=since,
        until=until,
        first=_place(asked.first, partitions),
        last=_place(asked.last, partitions),
        told=Filters(
            since="" if since is None else rfc3339(since),
            until="" if until is None else rfc3339(until),
            first=asked.first or "",
            last=asked.last or "",
            users=asked.users,
            strategies=asked.strategies,
            types=types,
        ),
    )


def _moment(text: str, times: Times, today: dt.date, *, end: bool) -> Instant:
    """A day alone means its beginning, or its end."""
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip()):
            return times.read(f"{text.strip()} 00:00", today) + (DAY - 1 if end else 0)
        return times.read(text, today)
    except BadMoment as error:
        fail(f"{error}; or a day, 2026-06-15")


def _place(text: str | None, partitions: int) -> Mapping[int, int]:
    if text is None:
        return {}
    try:
        place = Places(partitions).read(text)
    except BadPlace as error:
        fail(str(error))
    if place.partition is None and partitions > 1:
        fail(f"there are {partitions} partitions: say of which, {partitions - 1}-{text} for one")
    return {place.partition or 0: place.position}


def _type(name: str) -> str:
    if name.strip().lower() == CORRUPT:
        return CORRUPT
    meant = name.strip().upper().replace("-", "_")
    if meant not in EVENT_TYPES:
        near = get_close_matches(meant, EVENT_TYPES, n=3, cutoff=0.5)
        fail(f"there is no event type {name!r}" + (f"; near: {', '.join(near)}" if near else ""))
    return meant


async def _not_archived(home: ArchiveHome, manifest: Manifest) -> int | None:
    """How many events are in Redis only; None when that cannot be told."""
    if home.redis is None:
        return None
    behind = 0
    for part in manifest.parts:
        here = await held(home.redis, Keys(part.partition, hashtag=manifest.partitions > 1))
        behind += max(here.position - part.archived, 0) if here.lineage else 0
    return behind


# --- telling ----------------------------------------------------------------------------------------------------------


def _part(manifest: Manifest, number: int, end: End) -> dict[str, Any]:
    part, ended, places = manifest.parts[number], end.parts[number], Places(manifest.partitions)
    return {
        "partition": part.partition,
        "first": part.first,
        "last": part.last,
        "archived": part.archived,
        "newest_seal": f"{places.show(part.partition, ended.seal)}:{ended.hash}" if ended.seal else None,
    }


def _show(told: dict[str, Any], to_stdout: bool) -> None:
    def tell(text: str) -> None:
        if to_stdout:
            err.print(text, markup=False, soft_wrap=True)
        else:
            say(text)

    left_out = f", {told['left_out']:,} left out" if told["left_out"] else ""
    size = f", {told['bytes']:,} bytes" if told["bytes"] else ""
    tell(f"{told['file'] or 'standard output'}: {told['events']:,} events{left_out}, {told['seals']:,} seals{size}")
    if behind := told["not_archived_yet"]:
        tell(f"{'1 event is' if behind == 1 else f'{behind:,} events are'} not archived yet, and not in the file")
    for part in told["partitions"]:
        if part["newest_seal"]:
            tell(
                f"The newest seal in it is {part['newest_seal']}: write it down, --anchor holds a later file against it"
            )
    if told["signed_by"]:
        tell(f"Signed by seal key {told['signed_by']}. `bahi keys show --public` prints what others check it with")
    else:
        tell("It is not signed: what no seal covers is not proven")
    tell("Not in it: users, brokers' credentials, sessions, private keys. Back those up with PostgreSQL")
