"""Whether an exported file fits to what is archived: it is all there is, and continues it without a gap."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.archive_tables import epochs, events
from eventstore.epochs import archived_lineage
from eventstore.errors import LogError
from eventstore.export.lines import Manifest, Part

__all__ = ["CannotImport", "check_fit", "check_partitions"]


class CannotImport(LogError):
    """Nothing was imported; the message says which fact stands against it."""


async def check_partitions(connection: AsyncConnection, manifest: Manifest) -> None:
    """Raises CannotImport for a file of less than everything."""
    if manifest.filters.by_owner:
        raise CannotImport("the file holds only what it was filtered for: only a file of everything can be imported")
    found = await connection.execute(select(epochs.c.partition).distinct())
    there = {row.partition for row in found}
    told = {part.partition for part in manifest.parts}
    if missing := sorted(set(range(manifest.partitions)) - told - there):
        raise CannotImport(f"the file tells nothing of partition {missing[0]}, of which the archive holds nothing yet")
    if there and max(there) >= manifest.partitions:
        raise CannotImport(f"the file is of a log of {manifest.partitions} partitions, the archive of {len(there)}")


async def check_fit(connection: AsyncConnection, part: Part, before: int) -> None:
    """Raises CannotImport when the part does not continue what is archived up to `before`."""
    of = f"partition {part.partition}: "
    known = await archived_lineage(connection, part.partition)
    lineage = [reign.plain for reign in part.epochs]
    for ours, theirs in zip(known, lineage, strict=False):
        if (ours.epoch, ours.log_id, ours.after) != (theirs.epoch, theirs.log_id, theirs.after):
            raise CannotImport(
                f"{of}the archive belongs to log {ours.log_id}, epoch {ours.epoch}; the file is of {theirs.log_id}, "
                f"epoch {theirs.epoch}. To put the file in its place, import it into an empty database"
            )
    if len(lineage) < len(known) and part.last > before:
        gone_on = known[len(lineage)]
        raise CannotImport(
            f"{of}here the log went on in epoch {gone_on.epoch} after position {gone_on.after}; the file tells of "
            f"the epoch before, up to {part.last}"
        )
    if part.last < part.first:
        return
    if part.wanted_last < part.last or part.last < part.archived:
        raise CannotImport(
            f"{of}the file was cut off at {part.wanted_last}, and the history went on to {part.archived}: only a file "
            "up to its end can be imported"
        )
    if part.wanted_first > before + 1:
        raise CannotImport(
            f"{of}the archive reaches to {before}, and the file begins with {part.wanted_first}: positions "
            f"{before + 1} to {part.wanted_first - 1} are missing in between"
        )
    if not before:
        anything = await connection.scalar(
            select(events.c.position).where(events.c.partition == part.partition).limit(1)
        )
        if anything is not None:
            raise CannotImport(f"{of}the archive holds events, {anything} for one, and says that it reaches to 0")
