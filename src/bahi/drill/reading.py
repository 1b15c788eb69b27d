"""The log and the books as they are, for looking at them: nothing is recovered or written here."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bahi.clock import SystemClock
from bahi.database.engine import create_engine
from bahi.drill.checks import Books, read_books
from eventstore.archive import PostgresArchive
from eventstore.clients import log_client
from eventstore.envelope import Ids
from eventstore.epochs import held
from eventstore.keys import Keys
from eventstore.log import EventLog
from projections.runtime import DEFAULTS

__all__ = ["books_of", "reading"]


@asynccontextmanager
async def reading(redis_url: str, database_url: str) -> AsyncIterator[EventLog]:
    """The log with its archive. Raises RuntimeError when there is none."""
    engine = create_engine(database_url)
    redis, keys = log_client(redis_url), Keys()
    try:
        here = await held(redis, keys)
        if not here.lineage:
            raise RuntimeError("Redis holds no log")
        newest = here.lineage[-1]
        log = EventLog(
            redis,
            keys=keys,
            clock=SystemClock(),
            ids=Ids("drill"),
            epoch=newest.epoch,
            defaults=DEFAULTS,
            archive=PostgresArchive(engine),
            log_id=newest.log_id,
            lineage=here.lineage,
        )
        try:
            yield log
        finally:
            await log.aclose()
    finally:
        await redis.aclose()
        await engine.dispose()


async def books_of(home: Path, users: Sequence[int]) -> Books:
    """The paper broker's books of these users."""
    return await read_books(home / "paper.db", [f"PAPER-{user_id}" for user_id in users])
