"""All SQL projections of a partition together: a batch of the log is folded, written, and then remembered.

The states of the strategies that something happened to lately are kept in memory. One that is not there is recalled
from the archive, so a start needs no replay of the whole log. Nothing is remembered before the batch is
committed (`keep`), so a transaction that failed leaves no trace.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from msgspec import Struct, field
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.values import Tag
from eventstore.archive import PostgresArchive
from eventstore.envelope import Raw, Recorded, decode, owner_of
from eventstore.errors import CorruptEvent
from projections.replay import Fault, Kind
from projections.sql.order_logs import OrderChange, fold_order, write_orders
from projections.sql.parked import PARKING, write_parked
from projections.sql.recall import AT_ONCE, snapshotted
from projections.sql.strategies import Strategy, write_strategies

__all__ = ["TURN", "Changes", "Entry", "SqlProjections", "open_entry"]

REMEMBERED = 10_000
"""Strategies in memory: a few kilobytes each."""
TURN = 16
"""Entries worked on before others have their turn: a worker of this process may have an order to send."""


class Entry(Struct, frozen=True):
    """An entry and its event; or, for one that cannot be read, the error and as much of its owner as can be told."""

    raw: Raw
    recorded: Recorded | None
    error: CorruptEvent | None
    strategy_id: int
    user_id: int


def open_entry(raw: Raw) -> Entry:
    try:
        it = decode(raw)
        return Entry(raw, it, None, it.strategy_id, it.user_id)
    except CorruptEvent as error:
        owner = owner_of(raw.envelope)
        return Entry(raw, None, error, owner.strategy_id, owner.user_id)


class Changes(Struct):
    """What a batch did: the strategies as they are after it, and what happened to orders and the parked list."""

    strategies: dict[int, Strategy] = field(default_factory=dict)
    orders: dict[Tag, OrderChange] = field(default_factory=dict)
    parked: list[Recorded] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    """Events that could not be folded; their strategies stay as they were."""


class SqlProjections:
    """The folds of one partition."""

    def __init__(self, archive: PostgresArchive, *, remembered: int = REMEMBERED) -> None:
        self._archive = archive
        self._remembered = remembered
        self._strategies: OrderedDict[int, Strategy] = OrderedDict()

    def forget(self) -> None:
        """Start from the archive again."""
        self._strategies.clear()

    async def fold(self, connection: AsyncConnection, entries: Sequence[Entry]) -> Changes:
        """What these entries do, which follow the archive at once. Nothing is written."""
        changes = Changes()
        await self._recall(connection, entries, changes)
        for number, entry in enumerate(entries):
            self._fold(entry, changes)
            if number % TURN == 0:
                await asyncio.sleep(0)
        return changes

    async def _recall(self, connection: AsyncConnection, entries: Sequence[Entry], changes: Changes) -> None:
        """Bring the strategies that something happened to, as they were before it."""
        unknown: list[int] = []
        for entry in entries:
            strategy_id = entry.strategy_id
            if not entry.raw.version or not 0 < strategy_id < 2**63 or strategy_id in changes.strategies:
                continue
            known = self._strategies.get(strategy_id)
            changes.strategies[strategy_id] = (known or Strategy.new(strategy_id, entry.user_id)).copy()
            if known is None and entry.raw.version > 1:
                unknown.append(strategy_id)
        if not unknown:
            return
        until = entries[0].raw.position - 1
        for start in range(0, len(unknown), AT_ONCE):
            await self._recall_some(connection, unknown[start : start + AT_ONCE], until, changes)

    async def _recall_some(
        self, connection: AsyncConnection, strategy_ids: list[int], until: int, changes: Changes
    ) -> None:
        """From the last snapshot and what happened since; those that it lacks from their first event on."""
        earlier = Changes(strategies=changes.strategies)
        point, held = await snapshotted(connection, self._archive, strategy_ids, until)
        changes.strategies.update(held)
        for some, after in ((list(held), point), ([each for each in strategy_ids if each not in held], 0)):
            raws = await self._archive.histories(connection, some, until, after=after) if some else []
            for number, raw in enumerate(raws):
                self._fold(open_entry(raw), earlier)
                if number % TURN == 0:
                    await asyncio.sleep(0)

    def _fold(self, entry: Entry, changes: Changes) -> None:
        raw, it = entry.raw, entry.recorded
        if it is not None and isinstance(it.event, PARKING):
            changes.parked.append(it)
        strategy = changes.strategies.get(entry.strategy_id) if raw.version else None
        if strategy is None:
            return
        if it is None:
            strategy.skip(raw.version, raw.recorded_at, raw.position)
            return
        before = strategy.copy()
        try:
            strategy.fold(it)
            fold_order(changes.orders, strategy.state, it)
        except Exception as error:
            text = f"{it.event.type} cannot be folded: {type(error).__name__}: {error}"
            changes.faults.append(Fault(raw.position, entry.strategy_id, Kind.ILLEGAL, text))
            before.skip(raw.version, raw.recorded_at, raw.position)
            changes.strategies[entry.strategy_id] = before

    async def write(self, connection: AsyncConnection, changes: Changes) -> None:
        """Into the tables, in the transaction of `connection`."""
        partition = self._archive.partition
        await write_strategies(connection, partition, list(changes.strategies.values()))
        await write_orders(connection, partition, changes.orders.values())
        await write_parked(connection, partition, changes.parked)

    def keep(self, changes: Changes) -> None:
        """The batch is committed."""
        for strategy_id, strategy in changes.strategies.items():
            self._strategies[strategy_id] = strategy
            self._strategies.move_to_end(strategy_id)
        while len(self._strategies) > self._remembered:
            self._strategies.popitem(last=False)
