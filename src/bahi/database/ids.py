"""The ids of users and strategies are given out by PostgreSQL, and the log remembers them: a database that was restored
from an older copy must not give one out again."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.entries import read_entries
from eventstore.envelope import owner_of
from eventstore.log import EventLog
from eventstore.members import all_strategies

__all__ = ["keep_ids_ahead"]

_AHEAD = "SELECT setval('{0}', :seen) FROM {0} WHERE last_value < :seen"


async def keep_ids_ahead(log: EventLog, engine: AsyncEngine) -> None:
    """No id that the log knows of comes again. Looks at what is not archived, which is little, unless the archive is
    an older copy; what is archived was written beside the ids. Raises LogUnavailable, LogLost."""
    if log.archive is None:
        return
    strategy_id = user_id = 0
    archived, last = await log.archive.last_position(), await log.last_position()
    if archived == last:
        return
    async for some in all_strategies(log):
        strategy_id = max(strategy_id, *some)
    async for page in read_entries(log, archived, last, on_hole=lambda _: None):
        for raw in page:
            owner = owner_of(raw.envelope)
            strategy_id, user_id = max(strategy_id, owner.strategy_id), max(user_id, owner.user_id)
    async with engine.begin() as connection:
        for name, seen in (("strategy_ids", strategy_id), ("user_ids", user_id)):
            if seen:
                await connection.execute(text(_AHEAD.format(name)), {"seen": seen})
