"""What an exported file holds besides events and seals, into PostgreSQL, within the transaction of an import."""

import datetime as dt
from collections.abc import Sequence

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.archive_tables import epochs, seal_keys
from eventstore.epochs import archived_lineage
from eventstore.export.lines import Key, Part
from projections.import_fit import CannotImport

__all__ = ["raise_sequences", "write_epochs", "write_keys"]


async def write_keys(connection: AsyncConnection, keys: Sequence[Key]) -> None:
    """Those that are not here yet, without their private halves. Raises CannotImport for other keys than ours."""
    rows = await connection.execute(select(seal_keys.c.number, seal_keys.c.id, seal_keys.c.public_key))
    ours = {row.number: (row.id, row.public_key.hex()) for row in rows}
    for key in keys:
        if (here := ours.get(key.number)) is not None:
            if here != (key.id, key.public_key):
                raise CannotImport(
                    f"seal key {key.number} is {here[0]} here and {key.id} in the file: the seals went on with another "
                    "line of keys, and so did the history"
                )
            continue
        plain = key.plain
        await connection.execute(
            insert(seal_keys).values(
                number=plain.number,
                id=plain.id,
                public_key=plain.public_key,
                private_key=None,
                endorsement=plain.endorsement,
                acceptance=plain.acceptance,
                created_at=_moment(key.created_at),
            )
        )


async def write_epochs(connection: AsyncConnection, part: Part) -> None:
    """Those that are not here yet; the others are the same (`import_fit`)."""
    known = await archived_lineage(connection, part.partition)
    for reign in part.epochs[len(known) :]:
        await connection.execute(
            insert(epochs).values(
                partition=part.partition,
                number=reign.number,
                epoch=reign.epoch,
                log_id=reign.log_id,
                after_position=reign.after,
                reason=reign.reason,
                began_at=_moment(reign.began_at),
            )
        )


async def raise_sequences(connection: AsyncConnection, strategy_id: int, user_id: int) -> None:
    """Ids up to these are not given out again. A sequence that is set so takes part in the transaction."""
    for name, used in (("strategy_ids", strategy_id), ("user_ids", user_id)):
        last, called = (await connection.execute(text(f"SELECT last_value, is_called FROM {name}"))).one()  # noqa: S608
        if used >= last + bool(called):
            await connection.execute(text(f"ALTER SEQUENCE {name} RESTART WITH {used + 1}"))


def _moment(told: str) -> dt.datetime:
    try:
        return dt.datetime.fromisoformat(told)
    except ValueError:
        raise CannotImport(f"the manifest names no moment: {told!r}") from None
