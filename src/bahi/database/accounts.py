"""Broker accounts, their credentials sealed; and the rotation of the key that seals them."""

import datetime as dt
from typing import Final

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from api.ports import BrokerAccount, Credentials
from api.security.box import SecretBox
from bahi.database.tables import broker_accounts

__all__ = ["SqlAccounts", "rotate_secrets"]

FIELD: Final = "broker_accounts.secrets"


class SqlAccounts:
    """`api.ports.Accounts` on PostgreSQL. Credentials are sealed on the way in, for their user alone."""

    def __init__(self, engine: AsyncEngine, box: SecretBox) -> None:
        self._engine = engine
        self._box = box

    async def connect(
        self,
        user_id: int,
        *,
        broker: str,
        broker_user_id: str,
        credentials: Credentials,
        fingerprint: str,
        egress_proxy: str | None,
    ) -> None:
        sealed = self._box.seal(msgspec.json.encode(dict(credentials)), user_id=user_id, field=FIELD)
        row = {
            "broker": broker,
            "broker_user_id": broker_user_id,
            "secrets": sealed,
            "key_id": self._box.key_id(sealed),
            "fingerprint": fingerprint,
            "status": "connected",
            "connected_at": dt.datetime.now(dt.UTC),
            "egress_proxy": egress_proxy,
        }
        stored = insert(broker_accounts).values(user_id=user_id, **row)
        async with self._engine.begin() as connection:
            await connection.execute(stored.on_conflict_do_update(index_elements=["user_id"], set_=row))

    async def get(self, user_id: int) -> BrokerAccount | None:
        columns = [broker_accounts.c[name] for name in BrokerAccount.__struct_fields__]
        async with self._engine.connect() as connection:
            row = (await connection.execute(select(*columns).where(broker_accounts.c.user_id == user_id))).first()
        return None if row is None else BrokerAccount(*row)

    async def disconnect(self, user_id: int) -> bool:
        async with self._engine.begin() as connection:
            gone = await connection.execute(delete(broker_accounts).where(broker_accounts.c.user_id == user_id))
        return gone.rowcount > 0

    async def expired(self, user_id: int) -> None:
        """The broker says that the session is over; the user has to connect again."""
        async with self._engine.begin() as connection:
            await connection.execute(
                update(broker_accounts).where(broker_accounts.c.user_id == user_id).values(status="expired")
            )

    async def connected(self) -> list[int]:
        """The users with a broker session, as far as we know."""
        async with self._engine.connect() as connection:
            found = select(broker_accounts.c.user_id).where(broker_accounts.c.status == "connected")
            return list((await connection.scalars(found)).all())

    async def credentials(self, user_id: int) -> Credentials | None:
        """The credentials in clear, for the broker's adapter and nobody else; None when there is no live account."""
        live = (broker_accounts.c.user_id == user_id) & (broker_accounts.c.status == "connected")
        async with self._engine.connect() as connection:
            sealed = await connection.scalar(select(broker_accounts.c.secrets).where(live))
        if sealed is None:
            return None
        return msgspec.json.decode(self._box.open(sealed, user_id=user_id, field=FIELD), type=dict[str, str])


async def rotate_secrets(engine: AsyncEngine, box: SecretBox, *, batch: int = 100) -> int:
    """Seal every stored secret with the newest key; afterwards the older keys may go. Returns how many were resealed.

    Works in small transactions, may be broken off and repeated, and may run beside a live system.
    Raises `UnknownKey` or `SealBroken`, naming the user, at the first secret that does not open.
    """
    resealed = 0
    outdated = (
        select(broker_accounts.c.user_id, broker_accounts.c.secrets)
        .where(broker_accounts.c.key_id != box.newest)
        .order_by(broker_accounts.c.user_id)
        .limit(batch)
        .with_for_update()
    )
    while True:
        async with engine.begin() as connection:
            rows = (await connection.execute(outdated)).all()
            for row in rows:
                sealed = box.reseal(row.secrets, user_id=row.user_id, field=FIELD)
                await connection.execute(
                    update(broker_accounts)
                    .where(broker_accounts.c.user_id == row.user_id)
                    .values(secrets=sealed, key_id=box.key_id(sealed))
                )
        resealed += len(rows)
        if len(rows) < batch:
            return resealed
