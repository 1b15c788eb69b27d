"""Sealing with real keys, and the seals as they are in the database."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from api.security.box import SecretBox
from api.security.keys import SecretKeys
from bahi.seal_keys import SqlSealKeys, open_keys
from domain.values import SECOND
from eventstore.archive import PostgresArchive
from eventstore.seal_chain import ChainFault, SealChain
from eventstore.seal_rows import read_seals
from eventstore.seal_trust import Trust
from eventstore.sealing import Sealing
from eventstore.seals import Seal, leaf

OLD, NEW = "an old secret key of forty characters ...", "a new secret key of forty characters ...."
BOX = SecretBox(SecretKeys([OLD]))
NEWER = SecretBox(SecretKeys([NEW, OLD]))
STRANGE = SecretBox(SecretKeys(["somebody else's secret key, of forty ...."]))


def sealing(box: SecretBox = BOX, *, events: int = 10, partition: int = 0, **options: Any) -> Sealing:
    return Sealing(partition, SqlSealKeys(box), events=events, age=60 * SECOND, **options)


async def chain(engine: AsyncEngine, partition: int = 0) -> list[Seal]:
    async with engine.connect() as connection:
        return [seal for seal, _ in await read_seals(connection, partition)]


async def ranges(engine: AsyncEngine, partition: int = 0) -> list[tuple[int, int]]:
    return [(seal.first, seal.last) for seal in await chain(engine, partition)]


async def faults(engine: AsyncEngine, box: SecretBox = BOX, partition: int = 0) -> list[ChainFault]:
    """What the chain of seals says of the archive."""
    async with engine.connect() as connection:
        opened = await open_keys(connection, box)
    check = SealChain(Trust(opened.keys, opened.trusted), partition)
    for raw in await PostgresArchive(engine, partition).entries(0, 2**62):
        check.take(raw.position, leaf(raw))
    return [fault for seal in await chain(engine, partition) for fault in check.seal(seal)]
