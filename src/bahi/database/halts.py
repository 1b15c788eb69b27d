"""The kill switch, as PostgreSQL keeps it: written before it is answered, and read when Redis was lost."""

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from api.ports import Halt
from bahi.database.tables import halts

__all__ = ["SqlHalts"]


class SqlHalts:
    """`api.ports.Halts` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def set(self, user_id: int, *, square_off: bool, reason: str) -> Halt:
        """A second halt may add the square-off, never take it back, and keeps the time of the first."""
        wanted = insert(halts).values(user_id=user_id, square_off=square_off, reason=reason, at=func.now())
        either = wanted.on_conflict_do_update(
            index_elements=["user_id"],
            set_={"square_off": halts.c.square_off | wanted.excluded.square_off, "reason": wanted.excluded.reason},
        )
        async with self._engine.begin() as connection:
            row = (await connection.execute(either.returning(halts.c.square_off, halts.c.reason, halts.c.at))).one()
        return Halt(row.square_off, row.reason, row.at)

    async def lift(self, user_id: int) -> bool:
        async with self._engine.begin() as connection:
            gone = await connection.execute(delete(halts).where(halts.c.user_id == user_id))
        return gone.rowcount > 0

    async def get(self, user_id: int) -> Halt | None:
        found = select(halts.c.square_off, halts.c.reason, halts.c.at).where(halts.c.user_id == user_id)
        async with self._engine.connect() as connection:
            row = (await connection.execute(found)).first()
        return None if row is None else Halt(row.square_off, row.reason, row.at)

    async def all(self) -> dict[int, Halt]:
        """Every user that is halted, for recovery."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(halts))
            return {row.user_id: Halt(row.square_off, row.reason, row.at) for row in rows}
