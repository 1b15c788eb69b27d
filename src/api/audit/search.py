"""Looking for events of a kind in a long history: a stretch at a time, and no longer than a page may take."""

from collections.abc import Sequence
from typing import Final

from api.audit.ports import History, HistoryRow, Span, Where

__all__ = ["search"]

STRETCH: Final = 500_000
"""Positions looked through by one statement when no index finds the events: well under a second."""
MOST: Final = 5_000_000
"""Positions that one page looks through."""


async def search(
    history: History, spans: Sequence[Span], where: Where, limit: int
) -> tuple[list[HistoryRow], tuple[int, int] | None]:
    """The first `limit` events of these spans, and the partition and position after which the next page goes on (None
    at the end). There may be fewer than `limit` although there are more: then it took too long to find them."""
    indexed = where.user_id is not None or where.strategy_id is not None or not where.types
    rows: list[HistoryRow] = []
    looked = 0
    for span in spans:
        after = span.after
        while after < span.until:
            until = span.until if indexed else min(after + STRETCH, span.until)
            rows += await history.events(span.partition, after, until, where, limit + 1 - len(rows))
            if len(rows) > limit:
                last = rows[limit - 1]
                return rows[:limit], (last.partition, last.raw.position)
            looked += until - after
            after = until
            if not indexed and looked >= MOST:
                return rows, (span.partition, after)
    return rows, None
