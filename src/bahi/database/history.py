"""The archive as auditors and streams read it: by position, user, strategy, type and time, always by an index."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Select, any_, func, literal, select
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
                began_at = await connection.scalar(_recorded_at(partition, 1)) if position else None
                recorded_at = await connection.scalar(_recorded_at(partition, position)) if position else None
                found.append(End(position, began_at or 0, recorded_at or 0))
        return found

    async def events(self, partition: int, after: int, until: int, where: Where, limit: int) -> list[HistoryRow]:
        those = _between(partition, after, until)
        if where.user_id is not None:
            those.append(events.c.user_id == where.user_id)
        if where.users is not None:
            those.append(events.c.user_id == any_(literal(list(where.users), ARRAY(BigInteger))))
        if where.strategy_id is not None:
            those.append(events.c.strategy_id == where.strategy_id)
        if where.types:
            those.append(events.c.type.in_(where.types))
        found = select(*_RAW, events.c.type, events.c.strategy_id, events.c.user_id).where(*those)
        async with self._engine.connect() as connection:
            rows = await connection.execute(found.order_by(events.c.position).limit(limit))
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
        theirs = [*_between(partition, after, until), events.c.strategy_id > above, events.c.version > 0]
        if user_id is not None:
            theirs.append(events.c.user_id == user_id)
        found = select(events.c.strategy_id).distinct().where(*theirs).order_by(events.c.strategy_id).limit(limit)
        async with self._engine.connect() as connection:
            return [int(each) for each in await connection.scalars(found)]

    async def of_strategy(self, partition: int, strategy_id: int, after: int, until: int, limit: int) -> list[Raw]:
        its = (*_between(partition, after, until), events.c.strategy_id == strategy_id, events.c.version > 0)
        found = select(*_RAW).where(*its).order_by(events.c.position).limit(limit)
        async with self._engine.connect() as connection:
            return [Raw(*row) for row in await connection.execute(found)]

    async def counts(
        self, partition: int, strategy_ids: Sequence[int], after: int, until: int
    ) -> Mapping[int, Mapping[str, int]]:
        both = (events.c.strategy_id, events.c.type)
        theirs = events.c.strategy_id == any_(literal(list(strategy_ids), ARRAY(BigInteger)))
        found = select(*both, func.count().label("number")).where(*_between(partition, after, until), theirs)
        counted: dict[int, dict[str, int]] = {}
        async with self._engine.connect() as connection:
            for row in await connection.execute(found.group_by(*both).order_by(*both)):
                counted.setdefault(row.strategy_id, {})[row.type] = row.number
        return counted

    async def people(self, *, above: int, limit: int) -> list[Person]:
        owned = select(func.count()).where(strategies.c.user_id == users.c.id).scalar_subquery()
        found = select(users.c.id, users.c.role, users.c.created_at, owned).where(users.c.id > above)
        async with self._engine.connect() as connection:
            return [Person(*row) for row in await connection.execute(found.order_by(users.c.id).limit(limit))]


def _between(partition: int, after: int, until: int) -> list[ColumnElement[bool]]:
    return [events.c.partition == partition, events.c.position > after, events.c.position <= until]


def _recorded_at(partition: int, position: int) -> Select[Any]:
    return select(events.c.recorded_at).where(events.c.partition == partition, events.c.position == position)
