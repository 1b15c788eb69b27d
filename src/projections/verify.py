"""Is the log whole, is it what was sealed, and is everything that is derived from it what it must be?

The whole history streams by once, from both stores; what grows is the state of each strategy, nothing else.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.values import SECOND, Duration, Instant
from eventstore.archive import archive_outages
from eventstore.entries import check_log
from eventstore.log import EventLog
from eventstore.seal_chain import Anchor
from eventstore.seal_rows import read_keys
from eventstore.seals import Seal
from projections.agreement import Agreement
from projections.compare import compare_live
from projections.faults import MOST_FAULTS, Faults
from projections.holdings import Announced, Hot, Outline, Row, announced, first_beyond, hot_entries, outline, rows
from projections.reading_check import ReadingCheck
from projections.replay import Fault, Kind, Progress
from projections.sealed import SealCheck, Trusted
from projections.table_check import check_strategies

__all__ = ["MOST_FAULTS", "Report", "verify"]

_PAGE = 2000
TURN = 256
"""Entries worked on before others have their turn: two milliseconds."""
_TELLING = (Kind.ARCHIVE, Kind.DELETED, Kind.CORRUPT, Kind.VERSION, Kind.TIME, Kind.COLUMNS, Kind.ILLEGAL, Kind.CAUSE)
"""What else may show where in a sealed range something was changed."""


class Report(Struct, frozen=True, kw_only=True):
    """What was looked at, and the faults in the order of their positions, the first thousand; `kinds` are those of all.

    `head` is the newest seal; `unsealed_since` the time of the first archived event under none, 0 if there is none.
    """

    events: int
    archived: int
    strategies: int
    faults: tuple[Fault, ...]
    fault_count: int
    kinds: frozenset[str]
    seals: int = 0
    head: Seal | None = None
    unsealed_since: Instant = 0

    @property
    def ok(self) -> bool:
        return not self.fault_count

    @property
    def first(self) -> Fault | None:
        return self.faults[0] if self.faults else None

    @property
    def sealed(self) -> int:
        """The last position under a seal."""
        return 0 if self.head is None else self.head.last

    def holds(self, *kinds: str) -> bool:
        """Whether there is no fault of these kinds (`Kind`)."""
        return self.kinds.isdisjoint(kinds)


async def verify(
    log: EventLog,
    *,
    trusted: Trusted | None = None,
    anchors: Sequence[Anchor] = (),
    overdue: Duration | None = None,
    partitions: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Checks, while trading may go on: positions without a hole, once each, over the streams and the archive, both
    holding the same where both hold something; every entry readable, and found by the columns that it says; time never
    running backwards; the versions of each strategy without a gap; every effect naming what caused it; the chain of
    seals, and what they cover; Redis, and the table of strategies, holding exactly what the log makes of each.

    `trusted` are the keys whose seals count; without it those in the database are taken at their word. `anchors` are
    seals that must be there. With `overdue` it is a fault that something archived is under no seal for so long. With
    `partitions` it is one that the archive holds something of another partition than there are.

    Raises LogUnavailable, LogLost.
    """
    told = await announced(log)  # before the archive is looked at: what was told then is there now
    engine: AsyncEngine | None = getattr(log.archive, "engine", None)
    if engine is None:
        return await _Check(log, told, Outline(), Trusted([], []), anchors).run(None, overdue, progress)
    with archive_outages():
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            seen = await outline(connection, log.keys.partition, partitions)
            if trusted is None:
                keys = await read_keys(connection)
                trusted = Trusted(keys, [key.public_key for key in keys])
            return await _Check(log, told, seen, trusted, anchors).run(connection, overdue, progress)


class _Page(Struct, frozen=True):
    after: int
    until: int
    hot: Hot
    rows: Sequence[Row]


class _Check:
    def __init__(
        self, log: EventLog, told: Announced, seen: Outline, trusted: Trusted, anchors: Sequence[Anchor]
    ) -> None:
        self._log = log
        self._told = told
        self._seen = seen
        self._faults = Faults()
        mine = [] if told.seal is None else [Anchor(log.keys.partition, *told.seal)]
        mine += [each for each in anchors if each.partition == log.keys.partition]
        self._seals = SealCheck(log.keys.partition, seen.seals, trusted, mine, self._faults)
        self._agreement = Agreement(seen.reached, told.before_epoch, self._faults.add)
        self._reading = ReadingCheck(self._faults.add)

    async def run(self, connection: AsyncConnection | None, overdue: Duration | None, tell: Progress | None) -> Report:
        last = await check_log(self._log)
        end = max(last, self._seen.reached)
        async with aclosing(self._pages(connection, end)) as pages:
            async for page in pages:
                entries, archived = self._agreement.page(page.after, page.until, page.hot, page.rows)
                for start in range(0, len(archived), TURN):
                    self._seals.page(archived[start : start + TURN])
                    await asyncio.sleep(0)
                for start in range(0, len(entries), TURN):
                    self._reading.page(entries[start : start + TURN])
                    await asyncio.sleep(0)
                if tell is not None:
                    tell(page.until, end)
        self._seals.end()
        await self._edges(last)
        for difference in await compare_live(self._log, self._reading.replay):
            self._fault(difference.position, Kind.LIVE, str(difference), difference.strategy_id)
        if connection is not None:
            await check_strategies(
                connection,
                self._log.keys.partition,
                self._reading.replay.states,
                reached=self._seen.reached,
                end=end,
                tell=self._faults.add,
            )
        self._mind_overdue(overdue)
        return Report(
            events=end,
            archived=self._seen.reached,
            strategies=len(self._reading.replay.states),
            faults=tuple(self._faults.first(_TELLING)),
            fault_count=self._faults.count,
            kinds=frozenset(self._faults.kinds),
            seals=self._seals.count,
            head=self._seals.head,
            unsealed_since=self._seals.unsealed_since,
        )

    async def _pages(self, connection: AsyncConnection | None, end: int) -> AsyncGenerator[_Page, None]:
        """The next one is fetched while one is worked on."""
        oldest = min((await hot_entries(self._log, 0, 0)).oldest.values(), default=end + 1)
        ahead: asyncio.Task[_Page] | None = None
        try:
            for after in range(0, end, _PAGE):
                page = await (ahead or self._fetch(connection, after, end, oldest))
                ahead = None
                if page.until < end:
                    ahead = asyncio.create_task(self._fetch(connection, page.until, end, oldest))
                    await asyncio.sleep(0)  # let it ask before the work begins
                yield page
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def _fetch(self, connection: AsyncConnection | None, after: int, end: int, oldest: int) -> _Page:
        until = min(after + _PAGE, end)
        hot = await hot_entries(self._log, after, until) if until >= oldest else Hot({}, [], {})
        cold: Sequence[Row] = []
        if connection is not None and after < self._seen.reached:
            cold = await rows(connection, self._log.keys.partition, after, min(until, self._seen.reached))
            await self._seals.fetch(connection, until)
        return _Page(after, until, hot, cold)

    async def _edges(self, last: int) -> None:
        """What is where nothing should be, and what should go on."""
        seen, reached = self._seen, self._seen.reached
        if (beyond := await first_beyond(self._log)) is not None:
            self._fault(beyond[0], Kind.CORRUPT, f"the streams hold an entry beyond the end of the log, {beyond[1]}")
        if reached > last:
            self._fault(last + 1, Kind.HOLE, f"the log ends at {last}, and the archive reaches to {reached}")
        if self._told.archived > reached:
            text = f"the archive reached to {self._told.archived}, as Redis was told, and now ends at {reached}"
            self._fault(reached + 1, Kind.ARCHIVE, text)
        if seen.beyond is not None:
            self._fault(seen.beyond, Kind.ARCHIVE, f"the archive holds it, after its checkpoint {reached}")
        if seen.before is not None:
            self._fault(seen.before, Kind.ARCHIVE, "the archive holds it, before the first position")
        if seen.stray is not None:
            text = f"the archive holds it of partition {seen.stray[0]}, which does not exist"
            self._fault(seen.stray[1], Kind.ARCHIVE, text)

    def _mind_overdue(self, overdue: Duration | None) -> None:
        since = self._seals.unsealed_since
        if overdue is None or not since or (age := self._log.clock.now() - since) < overdue:
            return
        text = f"from here on nothing is under a seal, since {age / SECOND:,.0f} s: sealing has stopped"
        self._fault(self._seals.sealed + 1, Kind.UNSEALED, text)

    def _fault(self, position: int, kind: str, text: str, strategy_id: int = 0) -> None:
        self._faults.add(Fault(position, strategy_id, kind, text))
