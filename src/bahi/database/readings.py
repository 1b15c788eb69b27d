"""What the API lists: pages of the projections and of the archive, of one user."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from api.ports import ArchivedEvent, OrderRow, StrategyRow
from bahi.database.tables import events, order_logs, strategies, strategy_ids

__all__ = ["SqlReadings"]


class SqlReadings:
    """`api.ports.Readings` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def next_strategy_id(self) -> int:
        async with self._engine.begin() as connection:
            return int((await connection.execute(select(strategy_ids.next_value()))).scalar_one())

    async def strategies(self, user_id: int, *, before: int | None, limit: int) -> Sequence[StrategyRow]:
        columns = {
            name: strategies.c["id" if name == "strategy_id" else name] for name in StrategyRow.__struct_fields__
        }
        found = select(*(column.label(name) for name, column in columns.items())).where(strategies.c.user_id == user_id)
        if before is not None:
            found = found.where(strategies.c.id < before)
        async with self._engine.connect() as connection:
            rows = await connection.execute(found.order_by(strategies.c.id.desc()).limit(limit))
            return [StrategyRow(**row._mapping) for row in rows]

    async def orders(self, user_id: int, strategy_id: int, *, after: int, limit: int) -> Sequence[OrderRow]:
        found = (
            select(*(order_logs.c[name] for name in OrderRow.__struct_fields__))
            .where(
                order_logs.c.user_id == user_id,
                order_logs.c.strategy_id == strategy_id,
                order_logs.c.intent_position > after,
            )
            .order_by(order_logs.c.intent_position)
            .limit(limit)
        )
        async with self._engine.connect() as connection:
            return [OrderRow(**row._mapping) for row in await connection.execute(found)]

    async def events(self, user_id: int, strategy_id: int, *, after: int, limit: int) -> Sequence[ArchivedEvent]:
        found = (
            select(*(events.c[name] for name in ArchivedEvent.__struct_fields__))
            .where(events.c.user_id == user_id, events.c.strategy_id == strategy_id, events.c.position > after)
            .order_by(events.c.position)
            .limit(limit)
        )
        async with self._engine.connect() as connection:
            return [ArchivedEvent(*row) for row in await connection.execute(found)]
