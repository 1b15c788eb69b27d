"""Making an exported file from the archive, while trading goes on.

`plan` fixes what will be told: where the archive ends, its newest seals, its keys. What it holds up to there never
changes, so `lines` may take its time.
"""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.values import SECOND, Instant
from eventstore.archive import CHECKPOINT, PostgresArchive, archive_outages
from eventstore.archive_tables import checkpoint, epochs, events, seal_keys, seals
from eventstore.envelope import Raw
from eventstore.export.cloudevents import Source
from eventstore.export.lines import (
    End,
    EndLine,
    Filters,
    Key,
    Manifest,
    ManifestLine,
    Part,
    PartEnd,
    Reign,
    SealSpan,
    encode,
)
from eventstore.export.part_writing import PartWriter
from eventstore.seal_rows import read_seals
from eventstore.seal_trust import Trust, key_id, public_bytes
from eventstore.seals import Seal

__all__ = ["Wish", "lines", "plan", "rfc3339"]

PAGE = 5_000
"""Entries read at once."""
_SEALS = 500
_BIGGEST = 2**63 - 1

Progress = Callable[[int, int], None]


class Wish(Struct, frozen=True, kw_only=True):
    """What to export. `first` and `last` are positions by partition: where they name any, only those partitions are
    told of. `since` and `until` are moments; `told` is how all this was asked for."""

    since: Instant | None = None
    until: Instant | None = None
    first: Mapping[int, int] = {}
    last: Mapping[int, int] = {}
    told: Filters = Filters()


async def plan(engine: AsyncEngine, wish: Wish, *, now: Instant, private: Ed25519PrivateKey | None) -> Manifest:
    """The manifest of what the archive holds now, to be signed with the key. Raises LogUnavailable."""
    with archive_outages():
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            async with connection.begin():
                reached = await _checkpoints(connection)
                named = {*wish.first, *wish.last}
                parts = [
                    await _part(connection, each, reached[each], wish, len(reached))
                    for each in sorted(reached)
                    if not named or each in named
                ]
                keys = await _keys(connection)
    return Manifest(
        exported_at=rfc3339(now),
        partitions=len(reached),
        filters=wish.told,
        parts=tuple(parts),
        keys=tuple(keys),
        signed_by="" if private is None else key_id(public_bytes(private)),
    )


async def lines(
    engine: AsyncEngine, manifest: Manifest, private: Ed25519PrivateKey | None, progress: Progress | None = None
) -> AsyncIterator[bytes]:
    """The file, some lines at a time, each with its line feed. Raises ArchiveDamaged, LogUnavailable."""
    trust = Trust([key.plain for key in manifest.keys], [key.plain.public_key for key in manifest.keys])
    digest, count = sha256(), 0
    head = ManifestLine(manifest=manifest, signature=_signature(private, manifest.body))

    def written(some: Sequence[bytes]) -> bytes:
        nonlocal count
        chunk = b"\n".join([*some, b""])
        digest.update(chunk)
        count += len(some)
        return chunk

    yield written([encode(head)])
    done, total = 0, sum(max(part.last - part.first + 1, 0) for part in manifest.parts)
    writers: list[PartWriter] = []
    ends: list[PartEnd] = []
    for part in manifest.parts:
        source = Source(part.epochs[0].log_id, part.partition, several=manifest.partitions > 1)
        writer = PartWriter(part, source, manifest.filters, trust)
        writers.append(writer)
        async for some in _part_lines(engine, part, writer):
            yield written(some)
            if progress is not None:
                progress(done + writer.next - part.first, total)
        ends.append(writer.ended)
        done += max(part.last - part.first + 1, 0)
    end = End(
        lines=count,
        events=sum(writer.events for writer in writers),
        left_out=sum(writer.left_out for writer in writers),
        seals=sum(writer.seals for writer in writers),
        sha256=digest.hexdigest(),
        parts=tuple(ends),
    )
    yield encode(EndLine(end=end, signature=_signature(private, end.body))) + b"\n"


async def _part_lines(engine: AsyncEngine, part: Part, writer: PartWriter) -> AsyncIterator[list[bytes]]:
    """A page of lines at a time: the entries, and each seal after the last that it covers."""
    chain = _chain(engine, part)
    seal = await anext(chain, None)
    async for raws in _pages(engine, part):
        out: list[bytes] = []
        begin = 0
        while seal is not None and begin < len(raws) and seal[0].last <= raws[-1].position:
            upto = begin + seal[0].last - raws[begin].position + 1
            out += writer.entries(raws[begin:upto])
            out += writer.seal(*seal)
            begin, seal = max(upto, begin), await anext(chain, None)
        out += writer.entries(raws[begin:])
        yield out
    yield list(writer.end())


async def _pages(engine: AsyncEngine, part: Part) -> AsyncIterator[list[Raw]]:
    """The next page is fetched while one is worked on."""
    archive = PostgresArchive(engine, part.partition)
    after = part.first - 1
    ahead: asyncio.Task[list[Raw]] | None = None
    try:
        while after < part.last:
            upto = min(after + PAGE, part.last)
            raws = await (ahead or archive.entries(after, upto))
            ahead = None
            if upto < part.last:
                ahead = asyncio.create_task(archive.entries(upto, min(upto + PAGE, part.last)))
                await asyncio.sleep(0)
            yield raws
            after = upto
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


async def _chain(engine: AsyncEngine, part: Part) -> AsyncIterator[tuple[Seal, bytes]]:
    """The seals of the part and the hints beside them."""
    if part.seals is None:
        return
    after = part.seals.first - 1
    while after < part.seals.last:
        with archive_outages():
            async with engine.connect() as connection:
                found = await read_seals(connection, part.partition, after=after, limit=_SEALS)
        if not found:
            return
        for seal, hints in found:
            if seal.number > part.seals.last:
                return
            yield seal, hints
        after = found[-1][0].number


def _signature(private: Ed25519PrivateKey | None, body: bytes) -> str:
    return "" if private is None else private.sign(body).hex()


# --- what there is --------------------------------------------------------------------------------------------------


async def _checkpoints(connection: AsyncConnection) -> dict[int, int]:
    """How far each partition is archived."""
    found = select(epochs.c.partition, checkpoint.c.position).distinct()
    join = epochs.outerjoin(
        checkpoint, (checkpoint.c.partition == epochs.c.partition) & (checkpoint.c.name == CHECKPOINT)
    )
    return {row.partition: row.position or 0 for row in await connection.execute(found.select_from(join))}


async def _part(connection: AsyncConnection, partition: int, reached: int, wish: Wish, partitions: int) -> Part:
    reigns = await _reigns(connection, partition, reached)
    first = max(1, wish.first.get(partition, 1))
    last = min(reached, wish.last.get(partition, reached))
    if wish.since is not None:
        first = max(first, await _first_since(connection, partition, wish.since) or reached + 1)
    if wish.until is not None:
        last = min(last, await _last_until(connection, partition, wish.until) or 0)
    begin, end, span = first, last, None
    if first <= last:
        span, begin, end = await _span(connection, partition, first, last, reached)
    else:
        begin, end, first, last = 1, 0, 1, 0
    return Part(
        partition=partition,
        source=Source(reigns[0].log_id, partition, several=partitions > 1).uri,
        epochs=tuple(reigns),
        archived=reached,
        first=begin,
        last=end,
        wanted_first=first,
        wanted_last=last,
        seals=span,
    )


async def _span(
    connection: AsyncConnection, partition: int, first: int, last: int, reached: int
) -> tuple[SealSpan | None, int, int]:
    """The seals over a range, and the range that it takes to prove them."""
    found = (
        select(seals.c.number, seals.c.first, seals.c.last, seals.c.previous)
        .where(seals.c.partition == partition, seals.c.last >= first, seals.c.first <= last, seals.c.last <= reached)
        .limit(1)
    )
    oldest = (await connection.execute(found.order_by(seals.c.number))).one_or_none()
    newest = (await connection.execute(found.order_by(seals.c.number.desc()))).one_or_none()
    if oldest is None or newest is None:
        return None, first, last
    span = SealSpan(first=oldest.number, last=newest.number, previous=bytes(oldest.previous).hex())
    return span, min(first, oldest.first), max(last, newest.last)


async def _first_since(connection: AsyncConnection, partition: int, at: Instant) -> int | None:
    found = select(events.c.position).where(events.c.partition == partition, events.c.recorded_at >= at)
    return await connection.scalar(found.order_by(events.c.recorded_at, events.c.position).limit(1))


async def _last_until(connection: AsyncConnection, partition: int, at: Instant) -> int | None:
    found = select(events.c.position).where(events.c.partition == partition, events.c.recorded_at <= at)
    return await connection.scalar(found.order_by(events.c.recorded_at.desc(), events.c.position.desc()).limit(1))


async def _reigns(connection: AsyncConnection, partition: int, reached: int) -> list[Reign]:
    """The epochs, but for one that began after the archive's end."""
    found = select(epochs).where(epochs.c.partition == partition, epochs.c.after_position <= reached)
    return [
        Reign(
            number=row.number,
            epoch=row.epoch,
            log_id=row.log_id,
            after=row.after_position,
            reason=row.reason,
            began_at=_text(row.began_at),
        )
        for row in await connection.execute(found.order_by(epochs.c.number))
    ]


async def _keys(connection: AsyncConnection) -> list[Key]:
    columns = [each for each in seal_keys.columns if each.name != "private_key"]
    rows = await connection.execute(select(*columns).order_by(seal_keys.c.number))
    return [
        Key(
            number=row.number,
            id=row.id,
            public_key=row.public_key.hex(),
            endorsement=None if row.endorsement is None else row.endorsement.hex(),
            acceptance=None if row.acceptance is None else row.acceptance.hex(),
            created_at=_text(row.created_at),
        )
        for row in rows
    ]


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def rfc3339(at: Instant) -> str:
    """To the microsecond, UTC."""
    return _text(_EPOCH + dt.timedelta(seconds=at // SECOND, microseconds=at % SECOND))


def _text(moment: Any) -> str:
    return str(moment.astimezone(dt.UTC).isoformat(timespec="microseconds")).replace("+00:00", "Z")
