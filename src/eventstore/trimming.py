"""Trimming: Redis forgets what the archive has, sealed, for long enough, and what nobody waits for any more.

An entry goes when a seal covers it whose last event is older than the hot hours, when the archive really holds it, and
when every consumer group of its stream has had it delivered and has acknowledged it. Readers do not notice: they read
on in the archive.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from redis.exceptions import ResponseError
from sqlalchemy import func, select

from domain.values import Duration, Instant, Priority
from eventstore.archive import PostgresArchive, archive_outages
from eventstore.archive_tables import events, seals
from eventstore.clients import answers, commands
from eventstore.entries import check_log
from eventstore.errors import LogError
from eventstore.keys import CLASSES, GROUP
from eventstore.log import EventLog

__all__ = ["ArchiveIncomplete", "Trimmed", "trim"]

SLICE: Final = 10_000
"""Positions trimmed at a time: Redis does nothing else meanwhile, for about a millisecond."""


class ArchiveIncomplete(LogError):
    """The archive lacks entries that it has sealed. Nothing of them was trimmed."""


class Trimmed(Struct, frozen=True):
    """`upto`: what comes before or at it is in the archive only. `allowed`: how far the seals let it go. `entries`: how
    many went. `held`: the streams that keep more than that, and why."""

    upto: int
    allowed: int
    entries: int
    held: Mapping[Priority, str]


async def trim(log: EventLog, archive: PostgresArchive, *, hot: Duration, now: Instant) -> Trimmed:
    """Trim the log's streams; `hot` is how old what goes must be, in microseconds.

    May be broken off and repeated, and done by several at once. Raises ArchiveIncomplete, LogUnavailable, LogLost.
    """
    last = await check_log(log)
    held = await _held(log)
    allowed = await _allowed(archive, now - hot)
    limits, why = await _limits(log, allowed)
    highest = max(limits.values(), default=0)
    entries = 0
    for after in range(min(held.values(), default=last + 1) - 1, highest, SLICE):
        upto = min(after + SLICE, highest)
        await _make_sure(archive, after, upto)
        entries += await _xtrim(log, {each: min(limit, upto) for each, limit in limits.items() if limit > after})
    held = await _held(log)
    kept = {each: why[each] for each in why if held.get(each, last + 1) <= allowed}
    return Trimmed(min(held.values(), default=last + 1) - 1, allowed, entries, kept)


async def _held(log: EventLog) -> dict[Priority, int]:
    """The first position that each stream holds, of those that hold any."""
    calls = [("XRANGE", log.keys.streams[each], "-", "+", "COUNT", 1) for each in CLASSES]
    firsts = zip(CLASSES, await answers(log.redis, calls), strict=True)
    return {each: _position(entries[0][0]) for each, entries in firsts if entries}


async def _allowed(archive: PostgresArchive, before: Instant) -> int:
    """The end of the newest seal all of whose events were recorded by `before`; 0 when there is none."""
    ends = seals.c.partition == archive.partition, seals.c.until <= before
    newest = select(seals.c.last).where(*ends).order_by(seals.c.number.desc()).limit(1)
    with archive_outages():
        async with archive.engine.connect() as connection:
            sealed = await connection.scalar(newest)
            return min(sealed or 0, await archive.reached(connection))


async def _limits(log: EventLog, allowed: int) -> tuple[dict[Priority, int], dict[Priority, str]]:
    """How far each stream may be trimmed, and what holds those back that may not be trimmed so far."""
    limits: dict[Priority, int] = {}
    held: dict[Priority, str] = {}
    of = await _groups(log, list(log.keys.streams.values()))
    for each, stream in log.keys.streams.items():
        groups = of[stream]
        if GROUP not in {group.name for group in groups}:
            held[each] = f"its group {GROUP} is missing"
            continue
        limits[each] = allowed
        for group in groups:
            if group.delivered < limits[each]:
                limits[each], held[each] = group.delivered, f"its group {group.name} has seen it up to that position"
            if group.oldest is not None and group.oldest <= limits[each]:
                limits[each], held[each] = group.oldest - 1, f"its group {group.name} works on the position after"
    return limits, held


class _Group(Struct, frozen=True):
    """A consumer group: the last position it was given, and the oldest that it has not acknowledged."""

    name: str
    delivered: int
    oldest: int | None


async def _groups(log: EventLog, streams: Sequence[str]) -> dict[str, list[_Group]]:
    """The groups of each stream; none of one that is not there."""
    described = await commands(log.redis, [("XINFO", "GROUPS", stream) for stream in streams])
    groups = [
        (stream, dict(zip(group[::2], group[1::2], strict=True)))
        for stream, of_it in zip(streams, _unless(described, "no such key"), strict=True)
        for group in of_it
    ]
    pendings = await commands(log.redis, [("XPENDING", stream, group[b"name"]) for stream, group in groups])
    found: dict[str, list[_Group]] = {stream: [] for stream in streams}
    for (stream, group), pending in zip(groups, _unless(pendings, "NOGROUP"), strict=True):
        if pending:  # else it is gone since the first look
            oldest = pending[1] and _position(pending[1])
            name, delivered = group[b"name"].decode(errors="replace"), _position(group[b"last-delivered-id"])
            found[stream].append(_Group(name, delivered, oldest))
    return found


def _unless(answers: Iterable[Any], gone: str) -> Iterator[Sequence[Any]]:
    """The answers, with nothing for those that say that what they were asked about is `gone`."""
    for answer in answers:
        if isinstance(answer, ResponseError) and gone in str(answer):
            yield ()
        elif isinstance(answer, Exception):
            raise answer
        else:
            yield answer


async def _make_sure(archive: PostgresArchive, after: int, upto: int) -> None:
    """The archive holds every one of these: a checkpoint and a seal are not the events themselves."""
    these = events.c.partition == archive.partition, events.c.position > after, events.c.position <= upto
    there = select(func.count(func.distinct(events.c.position))).where(*these)
    with archive_outages():
        async with archive.engine.connect() as connection:
            count = await connection.scalar(there)
    if count != upto - after:
        raise ArchiveIncomplete(
            f"the archive of partition {archive.partition} holds {count} of the positions {after + 1} to {upto}, "
            "which are sealed: nothing of them is trimmed. `bahi verify` names the missing ones"
        )


async def _xtrim(log: EventLog, upto: Mapping[Priority, int]) -> int:
    streams = log.keys.streams
    calls = [("XTRIM", streams[each], "MINID", "=", f"{limit + 1}-0") for each, limit in upto.items()]
    return sum(await answers(log.redis, calls))


def _position(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])
