"""Everything that tells an order's story: its strategy's events, its user's own, and when the user's other orders went
out. What is archived is found by index; only what is not yet is read through."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from msgspec import Struct
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.tags import TagParts
from domain.values import Instant
from eventstore.archive import archive_outages
from eventstore.archive_tables import events
from eventstore.entries import read_entries
from eventstore.envelope import Raw, Recorded, decode, owner_of
from eventstore.errors import CorruptEvent
from eventstore.log import EventLog

__all__ = ["OrderHistory", "archived_history", "order_history"]

INTENT: Final = b"EXECUTE_"
"""In the envelope of an order's intent: those of others are only counted, not read."""
_INTENTS: Final = ("EXECUTE_BUY", "EXECUTE_SELL", "EXECUTE_STOPLOSS")


class OrderHistory(Struct, frozen=True):
    """`events` in the log's order; `others`: when orders of the user's other strategies were decided."""

    events: Sequence[Recorded]
    others: Sequence[Instant]


async def archived_history(engine: AsyncEngine, partition: int, parts: TagParts, until: int) -> OrderHistory:
    """As far as the archive has it, up to the position `until`. Raises LogUnavailable."""
    columns = (events.c.position, events.c.stream, events.c.version, events.c.recorded_at, events.c.envelope)
    here = (events.c.partition == partition, events.c.position <= until)
    owner = select(func.min(events.c.user_id)).where(*here, events.c.strategy_id == parts.strategy_id)
    with archive_outages():
        async with engine.connect() as connection:
            user_id = await connection.scalar(owner)
            if user_id is None:
                return OrderHistory((), ())
            theirs = (*here, events.c.user_id == user_id)
            of_it = or_(events.c.strategy_id == parts.strategy_id, events.c.strategy_id.is_(None))
            raws = [Raw(*row) for row in await connection.execute(select(*columns).where(*theirs, of_it))]
            placed = select(events.c.recorded_at).where(
                *theirs, events.c.type.in_(_INTENTS), events.c.strategy_id != parts.strategy_id
            )
            others = sorted(await connection.scalars(placed))
    raws.sort(key=lambda raw: raw.position)
    return OrderHistory(_readable(raws), others)


async def order_history(log: EventLog, engine: AsyncEngine | None, parts: TagParts) -> OrderHistory:
    """Up to the log's end. Without a database everything is in the streams, and read there.

    Raises LogUnavailable, LogLost, LogHole.
    """
    archived, known = 0, OrderHistory((), ())
    if engine is not None and log.archive is not None:
        archived = await log.archive.last_position()
        known = await archived_history(engine, log.keys.partition, parts, archived)
    told, placed = list(known.events), [(0, at) for at in known.others]
    user_id = next((it.user_id for it in told if it.strategy_id == parts.strategy_id), 0)
    async with aclosing(read_entries(log, archived)) as pages:
        async for page in pages:
            for raw in page:
                owner = owner_of(raw.envelope)
                of_strategy = owner.strategy_id == parts.strategy_id
                user_id = user_id or (owner.user_id if of_strategy else 0)
                if not of_strategy and owner.strategy_id and INTENT in raw.envelope:
                    placed.append((owner.user_id, raw.recorded_at))
                if of_strategy or (not owner.strategy_id and user_id and owner.user_id == user_id):
                    told += _readable([raw])
    return OrderHistory(told, [at for owner_id, at in placed if owner_id in (0, user_id)])


def _readable(raws: Sequence[Raw]) -> list[Recorded]:
    """Those that can be read: `bahi verify` names the others; here the rest tells what it can."""
    found = []
    for raw in raws:
        try:
            found.append(decode(raw))
        except CorruptEvent:
            continue
    return found
