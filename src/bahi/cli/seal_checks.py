"""The doctor's checks of the seals: can the archive seal, and has it."""

import time
from typing import TYPE_CHECKING

from bahi.cli.check import Check, ok
from bahi.cli.keys import box_of
from bahi.cli.verify import PATIENCE

if TYPE_CHECKING:
    from bahi.cli.reader import Reader

__all__ = ["seals"]


async def seals(reader: "Reader") -> list[Check]:
    """The newest key opens; how far the history is sealed, and since when what comes after it waits."""
    return [await _key(reader), await _sealed(reader)]


async def _key(reader: "Reader") -> Check:
    from bahi.seal_keys import open_keys

    async with reader.database.connect() as connection:
        opened = await open_keys(connection, box_of(reader.settings))
    if not opened.keys:
        return Check("seal key", "skipped", "none yet: the archive makes one when it starts")
    newest = opened.keys[-1]
    if why := opened.closed.get(newest.id):
        return Check("seal key", "failed", why, "nothing is sealed: bring the secret key back into BAHI_SECRET_KEYS")
    return ok("seal key", f"{newest.id}, the {_ordinal(newest.number)}, opens")


async def _sealed(reader: "Reader") -> Check:
    from sqlalchemy import select

    from eventstore.archive_tables import events
    from eventstore.seal_rows import newest_seal

    found: list[str] = []
    oldest = 0.0
    async with reader.database.connect() as connection:
        for log in reader.logs:
            partition = log.keys.partition
            head = await newest_seal(connection, partition)
            sealed = 0 if head is None else head.last
            if head is not None:
                place = reader.places.show(partition, sealed)
                found.append(f"up to position {place} by seal {head.number} of {reader.times.full(head.sealed_at)}")
            since = await connection.scalar(
                select(events.c.recorded_at).where(events.c.partition == partition, events.c.position == sealed + 1)
            )
            if since is not None:
                oldest = max(oldest, time.time() - since / 1e6)
    told = ", ".join(found) or "nothing yet"
    if not oldest:
        return ok("seals", told) if found else Check("seals", "skipped", told)
    told += f"; what comes after it waits for {oldest:,.0f} s"
    if oldest <= (3 * reader.settings.seal_seconds + PATIENCE).total_seconds():
        return ok("seals", told)
    if "archive" in await reader.running():
        return Check("seals", "failed", told, "sealing has stopped: the archive's log says why")
    return Check("seals", "warning", told, "the archive seals it when it runs: `bahi run archive`")


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
