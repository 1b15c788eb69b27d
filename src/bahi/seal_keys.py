"""The keys that seal the history, in PostgreSQL: the private halves sealed with BAHI_SECRET_KEYS, each to its own id.

The first is made by the archive at its first start. `rotate` puts a new one after it, for which the old one vouches;
the archive takes it up with its next seal. Old seals stay valid, and no private key is ever needed to check them.
"""

from pathlib import Path
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from sqlalchemy import insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.security.box import SealBroken, SecretBox
from api.security.keys import UnknownKey
from eventstore.archive_tables import seal_keys, seals
from eventstore.seal_trust import SealKey, key_id, parse_public_key, public_bytes, vouch
from eventstore.sealing import SealingStopped

__all__ = [
    "Opened",
    "SqlSealKeys",
    "open_keys",
    "read_public_key",
    "reseal_keys",
    "rotate_key",
    "succeed_lost_key",
]

_COLUMNS: Final = [seal_keys.c[name] for name in SealKey.__struct_fields__]
_ANEW: Final = "let a new line of trust begin with `bahi keys rotate seal --unvouched`"

log = structlog.get_logger(__name__)


class SqlSealKeys:
    """`eventstore.sealing.SealKeys`: the newest key, or the first, made when nothing was ever sealed."""

    def __init__(self, box: SecretBox) -> None:
        self._box = box

    async def newest(self, connection: AsyncConnection) -> Ed25519PrivateKey:
        """Within the caller's transaction. Raises SealingStopped."""
        found = select(*_COLUMNS, seal_keys.c.private_key).order_by(seal_keys.c.number.desc()).limit(1)
        row = (await connection.execute(found)).one_or_none()
        if row is None:
            sealed = await connection.scalar(select(seals.c.number).limit(1))
            if sealed is not None:
                raise SealingStopped(f"there are seals, and the table seal_keys is empty: restore it, or {_ANEW}")
            await _store(connection, self._box, Ed25519PrivateKey.generate(), number=1)
            row = (await connection.execute(found)).one()
        return _opened(self._box, row)


class Opened(Struct, frozen=True):
    """The line of keys, the public halves of those whose private half opens, and why the others do not, by id."""

    keys: list[SealKey]
    trusted: list[bytes]
    closed: dict[str, str]


async def open_keys(connection: AsyncConnection, box: SecretBox | None) -> Opened:
    """What can be trusted here: a key is ours if its private half opens with our secret keys."""
    rows = (await connection.execute(select(*_COLUMNS, seal_keys.c.private_key).order_by(seal_keys.c.number))).all()
    opened = Opened([], [], {})
    for row in rows:
        named = {name: value for name, value in row._mapping.items() if name != "private_key"}
        opened.keys.append(SealKey(**named))
        if box is None:
            opened.closed[row.id] = "there are no BAHI_SECRET_KEYS to open it with"
            continue
        try:
            opened.trusted.append(public_bytes(_opened(box, row)))
        except SealingStopped as error:
            opened.closed[row.id] = str(error)
    return opened


async def rotate_key(engine: AsyncEngine, box: SecretBox, *, vouched: bool = True) -> SealKey:
    """A new key, which seals from now on. The one before vouches for it, unless that is not wanted because it cannot.

    Raises SealingStopped when the one before does not open.
    """
    new = Ed25519PrivateKey.generate()
    async with engine.begin() as connection:
        await connection.execute(text("LOCK TABLE seal_keys IN SHARE ROW EXCLUSIVE MODE"))
        found = select(*_COLUMNS, seal_keys.c.private_key).order_by(seal_keys.c.number.desc()).limit(1)
        row = (await connection.execute(found)).one_or_none()
        before = None if row is None or not vouched else _opened(box, row)
        number = 1 if row is None else row.number + 1
        key = await _store(connection, box, new, number=number, before=before)
    log.info("seal_key_rotated", key=key.id, number=number, vouched=before is not None)
    return key


async def succeed_lost_key(connection: AsyncConnection, box: SecretBox) -> SealKey | None:
    """After a history was restored, whose newest key has left its private half behind: a key of our own, so that the
    history can be sealed on. It vouches for the one before; the one before, which nobody has, cannot vouch for it.
    None, if nothing was ever sealed or the private half is here. In the caller's transaction."""
    found = select(*_COLUMNS, seal_keys.c.private_key).order_by(seal_keys.c.number.desc()).limit(1)
    row = (await connection.execute(found)).one_or_none()
    if row is None or row.private_key is not None:
        return None
    new = Ed25519PrivateKey.generate()
    key = await _store(connection, box, new, number=row.number + 1, accepts=row.public_key)
    log.info("seal_key_succeeded", key=key.id, number=key.number, before=row.id)
    return key


async def reseal_keys(engine: AsyncEngine, box: SecretBox) -> int:
    """Every private key under the newest of the secret keys; how many were not. Raises SealingStopped."""
    resealed = 0
    async with engine.begin() as connection:
        found = select(*_COLUMNS, seal_keys.c.private_key).order_by(seal_keys.c.number).with_for_update()
        for row in (await connection.execute(found)).all():
            if row.private_key is None or box.key_id(row.private_key) == box.newest:
                continue
            sealed = box.seal(_opened(box, row).private_bytes_raw(), **_of(row.id))
            await connection.execute(
                update(seal_keys).where(seal_keys.c.number == row.number).values(private_key=sealed)
            )
            resealed += 1
    return resealed


def read_public_key(given: str) -> bytes:
    """Of a file, or from 64 hex digits. Raises ValueError, OSError."""
    path = Path(given)
    try:
        return parse_public_key(path.read_text() if path.is_file() else given)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{given}: {error}") from None


async def _store(
    connection: AsyncConnection,
    box: SecretBox,
    private: Ed25519PrivateKey,
    *,
    number: int,
    before: Ed25519PrivateKey | None = None,
    accepts: bytes | None = None,
) -> SealKey:
    """Of two that begin at once, one's key stays. `accepts` is the public key before, if its private half is gone."""
    public = public_bytes(private)
    accepts = public_bytes(before) if before is not None else accepts
    key = SealKey(
        number=number,
        id=key_id(public),
        public_key=public,
        endorsement=None if before is None else vouch(before, public),
        acceptance=None if accepts is None else vouch(private, accepts),
    )
    values: dict[str, Any] = {name: getattr(key, name) for name in key.__struct_fields__}
    values["private_key"] = box.seal(private.private_bytes_raw(), **_of(key.id))
    statement = upsert(seal_keys).on_conflict_do_nothing() if number == 1 else insert(seal_keys)
    await connection.execute(statement.values(values))
    return key


def _opened(box: SecretBox, row: Any) -> Ed25519PrivateKey:
    """The private half. Raises SealingStopped."""
    if row.private_key is None:
        raise SealingStopped(f"the private half of seal key {row.id} was destroyed: {_ANEW}")
    try:
        private = Ed25519PrivateKey.from_private_bytes(box.open(row.private_key, **_of(row.id)))
    except (SealBroken, UnknownKey, ValueError) as error:
        raise SealingStopped(f"seal key {row.id} does not open: {error}") from None
    if public_bytes(private) != row.public_key or key_id(row.public_key) != row.id:
        raise SealingStopped(f"seal key {row.id} is not the public key beside it: its row was changed")
    return private


def _of(key: str) -> dict[str, Any]:
    return {"user_id": 0, "field": f"seal-key/{key}"}
