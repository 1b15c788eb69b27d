"""`parked`: the entries that were set aside because they could not be handled, and what became of them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import EventParked, ParkedDismissed, ParkedRetried
from eventstore.envelope import Recorded
from projections.sql.tables import moment, parked, storable

__all__ = ["PARKING", "write_parked"]

PARKING = (EventParked, ParkedRetried, ParkedDismissed)


async def write_parked(connection: AsyncConnection, partition: int, happened: Sequence[Recorded]) -> None:
    """What these events did to the list, one after the other. Rare, so each is a statement of its own."""
    for it in happened:
        event = it.event
        assert isinstance(event, PARKING)  # noqa: S101
        stream, _, number = event.parked.partition("/")
        if not number.isdecimal():
            continue
        statement: Any
        if isinstance(event, EventParked):
            values = {
                "stream": stream,
                "error": storable(event.error) or "",
                "state": "parked",
                "who": None,
                "why": None,
                "parked_at": moment(it.recorded_at or 1),
                "settled_at": None,
            }
            key = {"partition": partition, "position": int(number), "group": storable(event.group) or ""}
            statement = (
                insert(parked)
                .values({**key, **values})
                .on_conflict_do_update(index_elements=["partition", "position", "group"], set_=values)
            )
        else:
            statement = (
                update(parked)
                .where(parked.c.partition == partition, parked.c.position == int(number))
                .values(
                    state="retried" if isinstance(event, ParkedRetried) else "dismissed",
                    who=storable(event.who),
                    why=storable(event.why),
                    settled_at=moment(it.recorded_at or 1),
                )
            )
        await connection.execute(statement)
