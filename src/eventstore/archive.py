"""The archive: every event of the log for ever, as the exact bytes of its envelope, in PostgreSQL.

`store` writes within the caller's transaction, with the checkpoint that says how far the archive reaches, so that what
else is written there stands for exactly the same events.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
import sqlalchemy.exc
from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.values import Instant
from eventstore.archive_tables import checkpoint
from eventstore.bulk import fetch_entries, fetch_histories
from eventstore.envelope import Owner, Raw, Recorded, decode, owner_of
from eventstore.epochs import Epoch, archived_lineage, record
from eventstore.errors import LogError, LogUnavailable
from eventstore.months import Months

__all__ = ["CHECKPOINT", "OUTAGES", "ArchiveGap", "PostgresArchive", "archive_outages", "finder_columns"]

CHECKPOINT = "archive"
"""The name of the archive's own checkpoint."""
PAGE = 1000
_BIGGEST = 2**63 - 1

OUTAGES = (
    OSError,
    TimeoutError,
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.InternalError,
    sqlalchemy.exc.TimeoutError,
    sqlalchemy.exc.PendingRollbackError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
)
"""What passes by itself: no connection, no answer, a deadlock, a disk that is full, a server that is starting."""


class ArchiveGap(LogError):
    """A batch does not continue what is archived. Nothing was written."""


@contextmanager
def archive_outages() -> Iterator[None]:
    """For readers of the log: an archive that does not answer is a log that does not answer."""
    try:
        yield
    except OUTAGES as error:
        raise LogUnavailable(f"no answer from the archive: {error}") from error


class PostgresArchive:
    """The archive of one partition."""

    def __init__(self, engine: AsyncEngine, partition: int = 0) -> None:
        self.engine = engine
        self.partition = partition
        self._months = Months()

    # --- reading ----------------------------------------------------------------------------------------------------

    async def last_position(self) -> int:
        """How far the archive reaches; 0 for an empty one. Raises LogUnavailable."""
        with archive_outages():
            async with self.engine.connect() as connection:
                return await self.reached(connection)

    async def identity(self) -> tuple[Sequence[Epoch], int]:
        """The log's lineage as it is known here, and how far the archive reaches. Raises LogUnavailable."""
        with archive_outages():
            async with self.engine.connect() as connection:
                return await archived_lineage(connection, self.partition), await self.reached(connection)

    async def claim(self, lineage: Sequence[Epoch]) -> None:
        """From now on it is the archive of this log. Raises LogLost if it is another log's, LogUnavailable."""
        with archive_outages():
            async with self.engine.begin() as connection:
                await record(connection, self.partition, lineage)

    async def read(self, after: int, until: int | None) -> AsyncIterator[Recorded]:
        """The archived events after `after`, up to `until` or the end. Raises CorruptEvent, LogUnavailable."""
        reached = await self.last_position()
        until = reached if until is None else min(until, reached)
        for start in range(after, until, PAGE):
            for raw in await self.entries(start, min(start + PAGE, until)):
                yield decode(raw)

    async def entries(self, after: int, until: int) -> list[Raw]:
        """The entries of a range as they were in the streams. Raises LogUnavailable."""
        with archive_outages():
            async with self.engine.connect() as connection:
                return await fetch_entries(connection, self.partition, after, until)

    async def histories(
        self, connection: AsyncConnection, strategy_ids: Sequence[int], until: int, *, after: int = 0
    ) -> list[Raw]:
        """All that happened to these strategies after `after` and up to `until`, in position order."""
        return await fetch_histories(connection, self.partition, list(strategy_ids), after, until)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def reached(self, connection: AsyncConnection, *, lock: bool = False) -> int:
        """The checkpoint. With `lock` it is this transaction's: whoever else wants to write waits."""
        mine = {"name": CHECKPOINT, "partition": self.partition}
        if not lock:
            return await connection.scalar(_REACHED, mine) or 0
        position = await connection.scalar(_LOCKED, mine)
        if position is None:
            first = insert(checkpoint).values({**mine, "position": 0})
            await connection.execute(first.on_conflict_do_nothing())
            position = await connection.scalar(_LOCKED, mine)
        return position or 0

    async def store(self, connection: AsyncConnection, raws: Sequence[Raw], *, reached: int | None = None) -> int:
        """Archive the entries and move the checkpoint, in the transaction of `connection`. How many were new.

        Those at or under the checkpoint are there already. Raises ArchiveGap when the rest does not follow it at once.
        `reached` is the checkpoint, if this transaction has locked it before.
        """
        if reached is None:
            reached = await self.reached(connection, lock=True)
        new = [raw for raw in raws if raw.position > reached]
        for expected, raw in enumerate(new, reached + 1):
            if raw.position != expected:
                raise ArchiveGap(f"the archive reaches to {expected - 1}, and {raw.position} was to follow")
        if not new:
            return 0
        await self._months.ensure(connection, [raw.recorded_at for raw in new])
        await self._copy(connection, new)
        mine = {"name": CHECKPOINT, "partition": self.partition, "position": new[-1].position}
        await connection.execute(_MOVE, mine)
        return len(new)

    def committed(self) -> None:
        """The transaction that stored something was committed."""
        self._months.committed()

    async def prepare(self, now: Instant) -> None:
        """Make the next month before it begins. Raises what outages raise: nothing is lost, it may be tried again."""
        async with self.engine.begin() as connection:
            await Months().prepare(connection, now)

    async def _copy(self, connection: AsyncConnection, raws: Sequence[Raw]) -> None:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        async with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.set_types(_TYPES)
            partition = self.partition
            for raw in raws:
                what, strategy_id, user_id = finder_columns(raw.envelope)
                await copy.write_row(
                    (
                        partition,
                        raw.position,
                        str(raw.stream),
                        raw.version if raw.version <= _BIGGEST else 0,
                        raw.recorded_at if raw.recorded_at <= _BIGGEST else 0,
                        what,
                        strategy_id,
                        user_id,
                        raw.envelope,
                    )
                )


_REACHED = text("SELECT position FROM checkpoint WHERE name = :name AND partition = :partition")
_LOCKED = text("SELECT position FROM checkpoint WHERE name = :name AND partition = :partition FOR UPDATE")
_MOVE = text(
    "UPDATE checkpoint SET position = :position, updated_at = clock_timestamp()"
    " WHERE name = :name AND partition = :partition"
)
_COPY = (
    "COPY events (partition, position, stream, version, recorded_at, type, strategy_id, user_id, envelope)"
    " FROM STDIN (FORMAT BINARY)"
)
_TYPES = ["int2", "int8", "varchar", "int8", "int8", "text", "int8", "int8", "bytea"]


class _Type(Struct, frozen=True, gc=False):
    type: str


class _Index(Struct, frozen=True, array_like=True, gc=False):
    format: int
    event_id: str
    strategy_id: int
    user_id: int
    correlation_id: str
    causation_id: str
    writer: str
    event: _Type


_read_index = msgspec.msgpack.Decoder(_Index).decode


def finder_columns(envelope: bytes) -> tuple[str, int | None, int | None]:
    """What the columns say that only find an entry: its type, strategy and user, as far as they can be told."""
    try:
        it: _Index | Owner = _read_index(envelope)
        what = it.event.type if isinstance(it, _Index) else ""
    except (msgspec.MsgspecError, UnicodeDecodeError):
        it, what = owner_of(envelope), ""
    return what.replace("\0", ""), _id(it.strategy_id), _id(it.user_id)


def _id(number: int) -> int | None:
    return number if 0 < number <= _BIGGEST else None
