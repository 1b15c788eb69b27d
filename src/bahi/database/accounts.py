"""Broker accounts, their credentials sealed; and the rotation of the key that seals them."""

import datetime as dt
from typing import Any, Final

import msgspec
import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.egress import egress_of, masked
from api.ports import AccountTaken, BrokerAccount, Credentials, EgressShared
from api.security.box import SealBroken, SecretBox
from api.security.keys import UnknownKey
from bahi.database.tables import broker_accounts
from domain.calendar import EXCHANGE_ZONE, instant, wall
from domain.values import Instant

__all__ = ["FIELD", "SqlAccounts", "at_instant", "opened", "rotate_secrets"]

FIELD: Final = "broker_accounts.secrets"
PROXY: Final = "egress_proxy"
"""The name that the proxy has among the sealed credentials: its password is one of them."""
NOBODY: Final = 0
"""Whose the decoy is that is opened for an unknown account."""

log = structlog.get_logger(__name__)


class SqlAccounts:
    """`api.ports.Accounts` on PostgreSQL. Credentials are sealed on the way in, for their user alone."""

    def __init__(self, engine: AsyncEngine, box: SecretBox) -> None:
        self._engine = engine
        self._box = box
        self._decoy = box.seal(msgspec.json.encode({"api_key": "x" * 16, "api_secret": "x" * 32}), **_of(NOBODY))

    async def connect(
        self,
        user_id: int,
        *,
        broker: str,
        broker_user_id: str,
        credentials: Credentials,
        fingerprint: str,
        egress_proxy: str | None,
        expires_at: Instant | None = None,
        own_egress: bool = False,
    ) -> None:
        kept = dict(credentials) if egress_proxy is None else {**credentials, PROXY: egress_proxy}
        sealed = self._box.seal(msgspec.json.encode(kept), **_of(user_id))
        row = {
            "broker": broker,
            "broker_user_id": broker_user_id,
            "secrets": sealed,
            "key_id": self._box.key_id(sealed),
            "fingerprint": fingerprint,
            "status": "connected",
            "connected_at": dt.datetime.now(dt.UTC),
            "expires_at": None if expires_at is None else wall(expires_at),
            "egress_proxy": masked(egress_proxy),
        }
        stored = insert(broker_accounts).values(user_id=user_id, **row)
        async with self._engine.begin() as connection:
            if own_egress:
                # of two that come at once with the same one, the second sees the first
                await connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"egress of {broker}"))))
                if await _shared(connection, user_id, broker, egress_proxy):
                    raise EgressShared(f"another user's {broker} account leaves from the same address")
            try:
                await connection.execute(stored.on_conflict_do_update(index_elements=["user_id"], set_=row))
            except IntegrityError as error:
                if _constraint(error) != TAKEN:
                    raise
                raise AccountTaken(f"{broker} account {broker_user_id} is another user's") from None

    async def get(self, user_id: int) -> BrokerAccount | None:
        columns = [broker_accounts.c[name] for name in BrokerAccount.__struct_fields__]
        async with self._engine.connect() as connection:
            row = (await connection.execute(select(*columns).where(broker_accounts.c.user_id == user_id))).first()
        return None if row is None else BrokerAccount(*row)

    async def kept(self, user_id: int, broker: str) -> Credentials | None:
        theirs = (broker_accounts.c.user_id == user_id) & (broker_accounts.c.broker == broker)
        async with self._engine.connect() as connection:
            sealed = await connection.scalar(select(broker_accounts.c.secrets).where(theirs))
        return None if sealed is None else self._opened(sealed, user_id)

    async def shares_egress(self, user_id: int, broker: str, egress_proxy: str | None) -> bool:
        async with self._engine.connect() as connection:
            return await _shared(connection, user_id, broker, egress_proxy)

    async def find(self, broker: str, broker_user_id: str) -> tuple[int, Credentials] | None:
        theirs = (broker_accounts.c.broker == broker) & (broker_accounts.c.broker_user_id == broker_user_id)
        async with self._engine.connect() as connection:
            row = (
                await connection.execute(select(broker_accounts.c.user_id, broker_accounts.c.secrets).where(theirs))
            ).first()
        user_id, sealed = (NOBODY, self._decoy) if row is None else (row.user_id, row.secrets)
        credentials = self._opened(sealed, user_id)
        return None if row is None or credentials is None else (user_id, credentials)

    def _opened(self, sealed: bytes, user_id: int) -> Credentials | None:
        """Credentials that do not open are reported, and as good as none: the user can give them again."""
        try:
            return opened(self._box, sealed, user_id)
        except (SealBroken, UnknownKey) as error:
            log.error("credentials_do_not_open", user_id=user_id, why=str(error))
            return None

    async def disconnect(self, user_id: int) -> bool:
        async with self._engine.begin() as connection:
            gone = await connection.execute(delete(broker_accounts).where(broker_accounts.c.user_id == user_id))
        return gone.rowcount > 0

    async def expired(self, user_id: int, connected_at: Instant | None = None) -> bool:
        """The broker says that the session is over; the user has to connect again. With `connected_at`: that session,
        and none that was begun since. Returns whether it was taken for alive until now."""
        session = (broker_accounts.c.user_id == user_id) & (broker_accounts.c.status == "connected")
        if connected_at is not None:
            session &= broker_accounts.c.connected_at == wall(connected_at)
        async with self._engine.begin() as connection:
            ended = await connection.execute(update(broker_accounts).where(session).values(status="expired"))
        return ended.rowcount > 0

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
        return None if sealed is None else opened(self._box, sealed, user_id)


TAKEN: Final = "uq_broker_accounts_broker_broker_user_id"


def opened(box: SecretBox, sealed: bytes, user_id: int) -> dict[str, str]:
    """A row's credentials in clear. Raises SealBroken, UnknownKey."""
    return msgspec.json.decode(box.open(sealed, **_of(user_id)), type=dict[str, str])


def at_instant(at: dt.datetime) -> Instant:
    """A moment of PostgreSQL's as the engine has it; both count microseconds."""
    there = at.astimezone(EXCHANGE_ZONE)
    return instant(there.date(), there.time())


def _of(user_id: int) -> dict[str, Any]:
    return {"user_id": user_id, "field": FIELD}


async def _shared(connection: AsyncConnection, user_id: int, broker: str, egress_proxy: str | None) -> bool:
    others = select(broker_accounts.c.egress_proxy).where(
        broker_accounts.c.broker == broker, broker_accounts.c.user_id != user_id
    )
    mine = egress_of(egress_proxy)
    return any(egress_of(other) == mine for other in (await connection.scalars(others)).all())


def _constraint(error: IntegrityError) -> str | None:
    diagnosis = getattr(error.orig, "diag", None)
    return getattr(diagnosis, "constraint_name", None)


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
