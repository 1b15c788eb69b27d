"""The incarnations of the log, and whether Redis and the archive tell of the same one.

Each side keeps the whole lineage, so that after the loss or the restoration of either it can be told which is behind.
Only recovery begins an epoch, one process at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from msgspec import Struct
from redis.asyncio import Redis
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.tags import LOG_ID_LENGTH
from eventstore.archive_tables import epochs
from eventstore.clients import answers
from eventstore.errors import LogLost, NeedsRecovery
from eventstore.keys import Keys

__all__ = [
    "REJOINING",
    "RESTORING",
    "Epoch",
    "Held",
    "archived_lineage",
    "held",
    "judge",
    "newest_epoch",
    "record",
    "restoring",
]

RESTORING: Final = "restoring:"
"""How the fence begins while the log is being restored: nobody who trades knows it, so nobody can append."""
REJOINING: Final = "rejoining:"
"""The same while Redis keeps what it has; the epoch before follows, and a random rest."""
_FAMILY: Final = 2
_LOCK: Final = 0x62616869
"""Of PostgreSQL's advisory locks, with the partition: one process restores."""
_LOOK_EVERY: Final = 0.1


class Epoch(Struct, frozen=True, kw_only=True):
    """One incarnation. `number` counts from 1, `after` is the last position before it, `log_id` is in its tags."""

    number: int
    epoch: str
    log_id: str
    after: int = 0
    reason: str = "FIRST_START"


def is_of_family(log_id: str, lineage: Sequence[Epoch]) -> bool:
    """Whether an order tag's log id is one of this log's, also of an epoch that nobody remembers: a backup may be older
    than it. All ids of a log begin with the same two characters; those of another log seldom do."""
    return any(log_id[:_FAMILY] == each.log_id[:_FAMILY] for each in lineage)


def next_log_id(lineage: Sequence[Epoch], random: Callable[[int], str]) -> str:
    """The log id of the epoch to come."""
    family = lineage[0].log_id[:_FAMILY] if lineage else random(_FAMILY)
    known = {each.log_id for each in lineage}
    while (log_id := family + random(LOG_ID_LENGTH - _FAMILY)) in known:
        pass
    return log_id


class Held(Struct, frozen=True):
    """What Redis holds: its lineage (empty: nothing, or only half of something), and the last position.

    `rejoining`: the end of it is in doubt, and whoever was to ask for what is missing did not come to finish.
    `half`: it was begun or restored, and whoever did that did not come to finish, or Redis lost a part of it.
    """

    lineage: tuple[Epoch, ...]
    position: int
    rejoining: bool = False
    half: bool = False


async def held(redis: "Redis", keys: Keys) -> Held:
    """Raises LogUnavailable."""
    calls = [
        *(("GET", keys.epoch), ("GET", keys.log_id), ("HGET", keys.position, "position")),
        ("LRANGE", keys.epochs, 0, -1),
    ]
    fence, log_id, position, lineage = await answers(redis, calls)
    if fence is None or log_id is None or position is None or fence.startswith(RESTORING.encode()):
        return Held((), int(position or 0), half=fence is not None)
    rejoining = fence.startswith(REJOINING.encode())
    epoch = fence.decode().split(":")[1] if rejoining else fence.decode()
    known = tuple(msgspec.json.decode(each, type=Epoch) for each in lineage)
    if not known:
        known = (Epoch(number=1, epoch=epoch, log_id=log_id.decode()),)
    elif known[-1].epoch != epoch:
        return Held((), int(position), half=True)
    return Held(known, int(position), rejoining)


async def archived_lineage(connection: AsyncConnection, partition: int) -> tuple[Epoch, ...]:
    """The epochs that the archive knows of; empty for a new one."""
    columns = (epochs.c.number, epochs.c.epoch, epochs.c.log_id, epochs.c.after_position, epochs.c.reason)
    found = select(*columns).where(epochs.c.partition == partition).order_by(epochs.c.number)
    return tuple(
        Epoch(number=number, epoch=epoch, log_id=log_id, after=after, reason=reason)
        for number, epoch, log_id, after, reason in await connection.execute(found)
    )


async def newest_epoch(connection: AsyncConnection, partition: int) -> str | None:
    """The epoch that the archive is at; None for a new one."""
    found = select(epochs.c.epoch).where(epochs.c.partition == partition)
    epoch: str | None = await connection.scalar(found.order_by(epochs.c.number.desc()).limit(1))
    return epoch


async def record(connection: AsyncConnection, partition: int, lineage: Sequence[Epoch]) -> None:
    """The archive is of this lineage from now on. Raises LogLost when it is another log's, or further than it."""
    known = await archived_lineage(connection, partition)
    if list(known) == list(lineage):
        return
    _same_log(known, lineage)
    if len(known) > len(lineage):
        raise LogLost(f"the archive is at epoch {known[-1].number}, this process at epoch {lineage[-1].number}")
    rows = [
        {
            "partition": partition,
            "number": each.number,
            "epoch": each.epoch,
            "log_id": each.log_id,
            "after_position": each.after,
            "reason": each.reason,
        }
        for each in lineage[len(known) :]
    ]
    await connection.execute(insert(epochs).on_conflict_do_nothing(), rows)
    _same_log(await archived_lineage(connection, partition), lineage)  # another process may have been quicker


def judge(here: Held, known: Sequence[Epoch], archived: int) -> None:
    """Whether what Redis holds may be traded on. Raises NeedsRecovery when it lacks what the archive has; LogLost when
    the two are not of one log, for the operator to decide."""
    if here.rejoining:
        raise NeedsRecovery("OLDER" if here.position < archived else "RESTARTED", archived, here.position)
    if not known and not archived and not here.half:
        return  # there is no archive yet, or none any more: it follows
    if not here.lineage:
        raise NeedsRecovery("EMPTY", archived, here.position)
    _same_log(known, here.lineage)
    if len(here.lineage) < len(known):
        raise NeedsRecovery("EARLIER_EPOCH", archived, here.position)
    if here.position < archived:
        raise NeedsRecovery("OLDER", archived, here.position)


def _same_log(archive: Sequence[Epoch], log: Sequence[Epoch]) -> None:
    for one, other in zip(archive, log, strict=False):
        if (one.epoch, one.log_id) != (other.epoch, other.log_id):
            raise LogLost(
                f"the archive belongs to log {one.log_id}, epoch {one.epoch}; Redis to log {other.log_id}, epoch "
                f"{other.epoch}: they are not of one installation. Point BAHI_REDIS_URL and BAHI_DATABASE_URL at what "
                "belongs together; if this Redis is to be given up, empty it, and it is restored from the archive"
            )


@asynccontextmanager
async def restoring(engine: AsyncEngine, partition: int) -> AsyncIterator[None]:
    """Within, no other process restores this partition (-1: what concerns all of them); the lock dies with the process.
    Raises what outages raise."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        mine = {"lock": _LOCK, "partition": partition}
        while not await connection.scalar(text("SELECT pg_try_advisory_lock(:lock, :partition)"), mine):  # noqa: ASYNC110
            await asyncio.sleep(
                _LOOK_EVERY
            )  # a wait for the lock in PostgreSQL would hit the bounds of every statement
        try:
            yield
        finally:
            await connection.execute(text("SELECT pg_advisory_unlock(:lock, :partition)"), mine)
