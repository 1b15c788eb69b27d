"""Users and their logins."""

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.ports import EmailTaken, LoggedIn, LoggedOut, Reused, Rotated, User
from bahi.database.tables import sessions, users

__all__ = ["SqlSessions", "SqlUsers"]


class SqlUsers:
    """`api.ports.Users` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def registering(self, email: str, password_hash: str, role: str = "trader") -> AsyncIterator[int]:
        async with self._engine.begin() as connection:
            row = (
                insert(users).values(email=email.lower(), password_hash=password_hash, role=role).returning(users.c.id)
            )
            try:
                user_id = (await connection.execute(row)).scalar_one()
            except IntegrityError:
                raise EmailTaken from None
            yield user_id

    async def by_email(self, email: str) -> User | None:
        found = select(users.c.id, users.c.email, users.c.password_hash, users.c.role).where(
            users.c.email == email.lower()
        )
        async with self._engine.connect() as connection:
            row = (await connection.execute(found)).first()
        return None if row is None else User(row.id, row.email, row.password_hash, row.role)

    async def rehashed(self, user_id: int, password_hash: str) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(update(users).where(users.c.id == user_id).values(password_hash=password_hash))


class SqlSessions:
    """`api.ports.Sessions` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def open(self, user_id: int, family: str, token: bytes, lifetime: int) -> None:
        # Rotated tokens are kept until they expire, so that their reuse is noticed; then a new login clears them away.
        expired = (sessions.c.user_id == user_id) & (sessions.c.expires_at <= func.now())
        some = select(sessions.c.token_hash).where(expired).limit(1000).with_for_update(skip_locked=True)
        async with self._engine.begin() as connection:
            await connection.execute(delete(sessions).where(sessions.c.token_hash.in_(some)))
            await _open(connection, user_id, family, token, lifetime)

    async def rotate(self, token: bytes, successor: bytes, lifetime: int) -> Rotated | Reused | LoggedOut:
        # The row's lock makes two uses of one token follow each other: the second one finds it rotated.
        mine = select(sessions).where(sessions.c.token_hash == token).with_for_update()
        async with self._engine.begin() as connection:
            row = (await connection.execute(mine)).first()
            if row is None or row.revoked_at is not None or row.expires_at <= dt.datetime.now(dt.UTC):
                return LoggedOut()
            if row.rotated_at is not None:
                await _revoke(connection, row.family)
                return Reused(row.user_id, row.family)
            await connection.execute(
                update(sessions).where(sessions.c.token_hash == token).values(rotated_at=func.clock_timestamp())
            )
            await _open(connection, row.user_id, row.family, successor, lifetime)
            role = (await connection.execute(select(users.c.role).where(users.c.id == row.user_id))).scalar_one()
            return Rotated(row.user_id, role, row.family)

    async def close(self, token: bytes) -> None:
        async with self._engine.begin() as connection:
            family = await connection.scalar(select(sessions.c.family).where(sessions.c.token_hash == token))
            if family is not None:
                await _revoke(connection, family)

    async def find(self, user_id: int, family: str) -> LoggedIn | None:
        alive = (
            select(users.c.role)
            .join(sessions, sessions.c.user_id == users.c.id)
            .where(
                users.c.id == user_id,
                sessions.c.family == family,
                sessions.c.rotated_at.is_(None),
                sessions.c.revoked_at.is_(None),
                sessions.c.expires_at > func.now(),
            )
        )
        async with self._engine.connect() as connection:
            role = await connection.scalar(alive)
        return None if role is None else LoggedIn(user_id, role, family)


async def _open(connection: AsyncConnection, user_id: int, family: str, token: bytes, lifetime: int) -> None:
    expires = func.clock_timestamp() + dt.timedelta(seconds=lifetime)
    await connection.execute(
        insert(sessions).values(token_hash=token, family=family, user_id=user_id, expires_at=expires)
    )


async def _revoke(connection: AsyncConnection, family: str) -> None:
    """The whole family. One whose token is being rotated at this moment gets no living successor: its row is locked by
    the rotation, so we wait, and then look again for what it added."""
    ours = sessions.c.family == family
    await connection.execute(select(sessions.c.token_hash).where(ours).with_for_update())
    await connection.execute(
        update(sessions).where(ours, sessions.c.revoked_at.is_(None)).values(revoked_at=func.clock_timestamp())
    )
