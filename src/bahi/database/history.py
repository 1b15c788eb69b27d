"""The archive as auditors and streams read it: by position, user, strategy, type and time, always by an index."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Select, any_, func, literal, select
from sqlalchemy.ext.asyncio import AsyncEngine

from api.audit.ports import End, HistoryRow, Person, Where
from bahi.database.tables import checkpoint, events, strategies, users
from domain.values import Instant
from eventstore.archive import CHECKPOINT
from eventstore.envelope import Raw

__all__ = ["SqlHistory"]

_RAW = (events.c.position, events.c.stream, events.c.version, events.c.recorded_at, events.c.envelope)


class SqlHistory:
    """`api.audit.ports.History` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine, partitions: int) -> None:
        self._engine = engine
        self._partitions = partitions

    async def ends(self) -> list[End]:
        reached = select(checkpoint.c.partition, checkpoint.c.position).where(checkpoint.c.name == CHECKPOINT)
        found = []
        async with self._engine.connect() as connection:
            positions = {row.partition: row.position for row in await connection.execute(reached)}
            for partition in range(self._partitions):
                position = positions.get(partition, 0)
                when = [
                    await connection.scalar(_recorded_at(partition, each)) or 0 if position else 0
                    for each in (1, position)
                ]
                found.append(End(position, *when))
        return found

    async def events(self, partition: int, after: int, until: int, where: Where, limit: int) -> list[HistoryRow]:
        found = select(*_RAW, events.c.type, events.c.strategy_id, events.c.user_id)
        found = _between(found, partition, after, until).order_by(events.c.position).limit(limit)
        if where.user_id is not None:
            found = found.where(events.c.user_id == where.user_id)
        if where.strategy_id is not None:
            found = found.where(events.c.strategy_id == where.strategy_id)
        if where.types:
            found = found.where(events.c.type.in_(where.types))
        async with self._engine.connect() as connection:
            rows = await connection.execute(found)
            return [HistoryRow(partition, Raw(*row[:5]), *row[5:]) for row in rows]

    async def position_at(self, partition: int, at: Instant) -> int:
        found = (
            select(events.c.position)
            .where(events.c.partition == partition, events.c.recorded_at <= at)
            .order_by(events.c.recorded_at.desc(), events.c.position.desc())
            .limit(1)
        )
        async with self._engine.connect() as connection:
            return await connection.scalar(found) or 0

    async def recorded_at(self, partition: int, position: int) -> Instant:
        async with self._engine.connect() as connection:
            return await connection.scalar(_recorded_at(partition, position)) or 0

    async def strategies(
        self, partition: int, *, above: int, after: int, until: int, user_id: int | None, limit: int
    ) -> list[int]:
        theirs = _between(select(events.c.strategy_id).distinct(), partition, after, until).where(
            events.c.strategy_id > above, events.c.version > 0
        )
        if user_id is not None:
            theirs = theirs.where(events.c.user_id == user_id)
        async with self._engine.connect() as connection:
            return list(await connection.scalars(theirs.order_by(events.c.strategy_id).limit(limit)))

    async def of_strategy(self, partition: int, strategy_id: int, after: int, until: int, limit: int) -> list[Raw]:
        found = _between(select(*_RAW), partition, after, until).where(
            events.c.strategy_id == strategy_id, events.c.version > 0
        )
        async with self._engine.connect() as connection:
            return [Raw(*row) for row in await connection.execute(found.order_by(events.c.position).limit(limit))]

    async def counts(
        self, partition: int, strategy_ids: Sequence[int], after: int, until: int
    ) -> Mapping[int, Mapping[str, int]]:
        found = _between(select(events.c.strategy_id, events.c.type, func.count()), partition, after, until).where(
            events.c.strategy_id == any_(literal(list(strategy_ids), ARRAY(BigInteger)))
        )
        counted: dict[int, dict[str, int]] = {}
        async with self._engine.connect() as connection:
            grouped = found.group_by(events.c.strategy_id, events.c.type).order_by(events.c.strategy_id, events.c.type)
            for strategy_id, kind, count in await connection.execute(grouped):
                counted.setdefault(strategy_id, {})[kind] = count
        return counted

    async def people(self, *, above: int, limit: int) -> list[Person]:
        owned = select(func.count()).where(strategies.c.user_id == users.c.id).scalar_subquery()
        found = select(users.c.id, users.c.role, users.c.created_at, owned).where(users.c.id > above)
        async with self._engine.connect() as connection:
            return [Person(*row) for row in await connection.execute(found.order_by(users.c.id).limit(limit))]


def _between(found: Select[Any], partition: int, after: int, until: int) -> Select[Any]:
    return found.where(events.c.partition == partition, events.c.position > after, events.c.position <= until)


def _recorded_at(partition: int, position: int) -> Select[tuple[Instant]]:
    return select(events.c.recorded_at).where(events.c.partition == partition, events.c.position == position)
