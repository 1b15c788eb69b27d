"""Idempotency keys: a request that is repeated gets the answer of the first, for a day."""

import datetime as dt

import msgspec
from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.ports import Answered, BusyKey, OtherRequest, Taken
from bahi.database.tables import idempotency_keys as keys

__all__ = ["SqlIdempotency"]

LIFETIME = dt.timedelta(days=1)
LOCK = dt.timedelta(seconds=30)
"""Longer than any request may take: whoever held the key for so long is dead."""


class SqlIdempotency:
    """`api.ports.Idempotency` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def take(self, user_id: int, key: str, digest: bytes) -> Taken | Answered | OtherRequest | BusyKey:
        now = func.clock_timestamp()
        fresh = {"digest": digest, "status": None, "locked_until": now + LOCK, "expires_at": now + LIFETIME}
        renewed = fresh | {"reserved_id": None, "headers": None, "body": None, "created_at": now}
        async with self._engine.begin() as connection:
            added = insert(keys).values(user_id=user_id, key=key, **fresh)
            expired = keys.c.expires_at <= now
            new = added.on_conflict_do_update(index_elements=["user_id", "key"], set_=renewed, where=expired)
            if (await connection.execute(new.returning(keys.c.key))).first() is not None:
                await _forget_some(connection, user_id)
                return Taken()
            row = (await connection.execute(select(keys).where(_is(user_id, key)).with_for_update())).one()
            if row.digest != digest:
                return OtherRequest()
            if row.status is not None:
                headers = msgspec.json.decode(row.headers, type=dict[str, str])
                return Answered(row.status, headers, row.body)
            held = or_(keys.c.locked_until.is_(None), keys.c.locked_until <= now)
            ours = update(keys).where(_is(user_id, key), held).values(locked_until=now + LOCK)
            if (await connection.execute(ours)).rowcount == 0:
                return BusyKey()
            return Taken(again=True, reserved_id=row.reserved_id)

    async def reserve(self, user_id: int, key: str, reserved_id: int) -> None:
        await self._set(user_id, key, reserved_id=reserved_id)

    async def answered(self, user_id: int, key: str, answer: Answered) -> None:
        headers = msgspec.json.encode(answer.headers)
        await self._set(user_id, key, status=answer.status, headers=headers, body=answer.body, locked_until=None)

    async def give_up(self, user_id: int, key: str) -> None:
        await self._set(user_id, key, locked_until=None)

    async def _set(self, user_id: int, key: str, **values: object) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(update(keys).where(_is(user_id, key)).values(**values))


async def _forget_some(connection: AsyncConnection, user_id: int) -> None:
    """A user's expired keys go when a new one comes, so that there are never more than a day's."""
    expired = (keys.c.user_id == user_id) & (keys.c.expires_at <= func.clock_timestamp())
    some = select(keys.c.key).where(expired).limit(100).with_for_update(skip_locked=True)
    await connection.execute(delete(keys).where(keys.c.user_id == user_id, keys.c.key.in_(some)))


def _is(user_id: int, key: str) -> ColumnElement[bool]:
    return (keys.c.user_id == user_id) & (keys.c.key == key)
