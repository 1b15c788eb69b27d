"""A hole between the archive and the log: told, so that somebody fills it.

It comes about when PostgreSQL is restored from a backup that is older than what Redis still holds. Trading goes on; the
archive cannot, until `bahi archive import` has brought what is missing.
"""

from domain.events import AlertTriggered
from domain.values import Code, Instant, Severity
from eventstore.clients import commands
from eventstore.envelope import Dedupe, NewEvent
from eventstore.keys import CLASSES
from eventstore.log import EventLog
from projections.log_lines import log_gap

__all__ = ["tell_gap"]


async def tell_gap(log: EventLog, first: int, now: Instant) -> None:
    """Positions from `first` on are in neither: a line in the log each time, an alert once a day.

    Raises LogUnavailable.
    """
    last = await _last_missing(log, first)
    log_gap(log.keys.partition, first, last)
    facts = {"first": str(first), "last": str(last), "partition": str(log.keys.partition)}
    alert = AlertTriggered(severity=Severity.CRITICAL, code=Code.ARCHIVE_GAP, at=now, facts=facts)
    once = Dedupe(key=f"archive-gap:{first}", digest=str(first))
    await log.append([NewEvent(alert, dedupe=once)])


async def _last_missing(log: EventLog, first: int) -> int:
    """The last position before the next that the streams hold, or before the log's end."""
    calls = [("XRANGE", log.keys.streams[each], f"{first}-0", "+", "COUNT", 1) for each in CLASSES]
    held: list[int] = []
    for answer in await commands(log.redis, calls):
        if isinstance(answer, Exception):
            raise answer
        held += [int(entry_id.partition(b"-")[0]) for entry_id, _ in answer]
    return min(held, default=await log.last_position() + 1) - 1
