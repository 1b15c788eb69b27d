"""What a test sees of the engine: the log, the states, the book, and what the invariants say of them."""

from collections import defaultdict
from typing import TypeVar

from redis.asyncio import Redis

import eventstore.keys
from brokers.paper.book import Book
from brokers.paper.matching import Order as Row
from brokers.port import Trade
from domain.events import Event, Intent
from domain.strategy import State
from eventstore.clients import command
from eventstore.entries import read_entries
from eventstore.envelope import Raw, Recorded, decode
from eventstore.errors import CorruptEvent
from eventstore.export.cloudevents import Source, as_map
from eventstore.log import EventLog
from eventstore.members import all_strategies
from handlers.desk import Desk
from simulation.independent import Finding, Rule, judge, read_book
from simulation.invariants import Checker

__all__ = ["Sight"]

T = TypeVar("T")


class Sight:
    """It changes nothing. `users` are those whose accounts are looked at."""

    redis: "Redis"
    log: EventLog
    desk: Desk
    book: Book
    users: tuple[int, ...]

    async def state(self, strategy_id: int) -> State:
        state, _ = await self.desk.look(strategy_id)
        return state

    async def states(self) -> dict[int, State]:
        found: dict[int, State] = {}
        async for page in all_strategies(self.log):
            for strategy_id in page:
                found[strategy_id] = await self.state(strategy_id)
        return dict(sorted(found.items()))

    async def raw(self, after: int = 0) -> list[Raw]:
        return [raw async for page in read_entries(self.log, after) for raw in page]

    async def records(self, after: int = 0) -> list[Recorded]:
        """The events that can be read."""
        found = []
        for raw in await self.raw(after):
            try:
                found.append(decode(raw))
            except CorruptEvent:
                continue
        return found

    async def history(self, strategy_id: int) -> list[Event]:
        return [record.event for record in await self.records() if record.strategy_id == strategy_id]

    async def types(self, strategy_id: int) -> list[str]:
        return [event.type for event in await self.history(strategy_id)]

    async def of_type(self, kind: type[T], strategy_id: int | None = None) -> list[T]:
        """The events of a type, of one strategy or of all."""
        return [
            record.event
            for record in await self.records()
            if isinstance(record.event, kind) and strategy_id in (None, record.strategy_id)
        ]

    async def intents(self, strategy_id: int | None = None) -> list[Intent]:
        return await self.of_type(Intent, strategy_id)

    async def rows(self, user: int | None = None) -> list[Row]:
        """The book, with what has not surfaced yet."""
        found: list[Row] = []
        for each in self.users if user is None else (user,):
            found += await self.book.read(lambda rows, a=f"PAPER-{each}": rows.between(a, 0, 2**62))  # type: ignore[misc]
        return sorted(found, key=lambda row: row.order_id)

    async def trades(self) -> list[Trade]:
        found: list[Trade] = []
        for user in self.users:
            found += await self.book.read(lambda rows, a=f"PAPER-{user}": rows.trades(a, 0))  # type: ignore[misc]
        return sorted(found, key=lambda trade: int(trade.trade_id))

    async def pending(self) -> int:
        """How many wake-ups are delivered and not acknowledged."""
        counts: defaultdict[str, int] = defaultdict(int)
        for stream in self.log.keys.streams.values():
            summary = await command(self.redis, "XPENDING", stream, eventstore.keys.GROUP)
            counts[stream] = int(summary["pending"] if isinstance(summary, dict) else summary[0])
        return sum(counts.values())

    # --- what the invariants say -----------------------------------------------------------------------------------

    async def checker(self) -> Checker:
        raws = await self.raw()
        records, unreadable = [], set()
        for raw in raws:
            try:
                records.append(decode(raw))
            except CorruptEvent:
                unreadable.add(raw.position)
        checker = Checker(
            records,
            await self.rows(),
            await self.trades(),
            log_ids=self.log.log_ids,
            accounts={f"PAPER-{user}": user for user in self.users},
            unreadable=frozenset(unreadable),
        )
        checker.check()
        return checker

    async def check_at_rest(self, *, alive: bool = True) -> Checker:
        """The invariants of a world in which nothing happens; with `alive` workers nothing is left undone."""
        checker = await self.checker()
        states = await self.states()
        if not checker.unreadable:
            checker.equals_live(states)
            if alive:
                checker.at_rest({each: (await self.desk.look(each))[1] for each in states})
        if alive:
            assert await self.pending() == 0
        found = [one for one in await self.judged() if not (checker.unreadable and one.rule is Rule.UNREADABLE)]
        assert not found, "\n".join(map(str, found))
        return checker

    async def judged(self, *, ended: bool = False) -> list[Finding]:
        """What the independent judge finds in the history, as it would be exported, and in the broker's own tables."""
        source = Source(self.log.lineage[0].log_id)
        history = [as_map(raw, source) for raw in await self.raw()]
        accounts = {f"PAPER-{user}": user for user in self.users}
        return judge(history, *read_book(self.book.connection), accounts=accounts, ended=ended)
