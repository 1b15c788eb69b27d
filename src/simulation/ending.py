"""What must hold when a simulated life is over, from the whole history and the broker's whole book.

Nothing of what the processes believed is asked: they are gone. The history is read from the streams and the archive as
anybody reads it.
"""

from collections.abc import Mapping, Sequence

from brokers.instruments import BUILT_IN
from brokers.paper.book import Book
from brokers.paper.matching import Order
from brokers.paper.rows import Rows
from brokers.port import Brokers
from brokers.port import Trade as Fill
from domain.calendar import Calendar
from domain.clock import Clock
from domain.facts import Policy
from domain.strategy import State
from domain.values import SECOND, Duration, Status
from eventstore.archive import PostgresArchive
from eventstore.clients import command
from eventstore.entries import read_entries
from eventstore.envelope import Recorded, decode
from eventstore.export.cloudevents import Source, as_map
from eventstore.keys import GROUP
from eventstore.log import EventLog
from handlers.desk import Desk
from projections.live import live_states
from projections.projector import Projector
from simulation.independent import judge, read_book
from simulation.invariants import Checker, Violations
from simulation.roles import Trade
from simulation.timely import untimely

__all__ = ["book_of", "conclude", "final"]


async def book_of(book: Book, accounts: Sequence[str]) -> tuple[list[Order], list[Fill]]:
    """All orders, also those that have not surfaced yet, and all trades."""

    def read(rows: Rows) -> tuple[list[Order], list[Fill]]:
        orders = [order for account in accounts for order in rows.between(account, 0, 2**62)]
        trades = [trade for account in accounts for trade in rows.trades(account, 0)]
        return sorted(orders, key=lambda order: order.order_id), sorted(trades, key=lambda trade: int(trade.trade_id))

    return await book.read(read)


async def conclude(
    log: EventLog,
    archive: PostgresArchive,
    book: Book,
    *,
    accounts: Mapping[str, int],
    answered: Sequence[str],
    clock: Clock,
    calendar: Calendar,
    policy: Policy,
    brokers: Brokers,
    market: Sequence[Trade],
    hampered: Duration,
) -> tuple[list[str], list[Recorded]]:
    """What is violated, and the history. `answered` are the ids of the events that somebody was told of, `market` are
    the trades that a listener has dealt with."""
    found: list[str] = []
    await Projector(log, archive.engine, clock, lines=lambda _partition, _events: None).step()
    raws = [raw async for page in read_entries(log) for raw in page]
    records = [decode(raw) for raw in raws]
    orders, trades = await book_of(book, sorted(accounts))
    checker = Checker(records, orders, trades, log_ids=log.log_ids, accounts=accounts)
    desk = Desk(log=log, clock=clock, calendar=calendar, policy=policy, instruments=BUILT_IN, brokers=brokers, known={})
    try:
        checker.check()
        _, states, corrupt = await live_states(log)
        found += [f"7: strategy {strategy_id}: {why}" for strategy_id, why in corrupt.items()]
        today = calendar.wall(clock.now()).date()
        checker.rows = [row for row in orders if calendar.wall(row.placed_at).date() == today]  # a book is of one day
        checker.equals_live({state.id: state for state in states})
        checker.at_rest({state.id: (await desk.look(state.id))[1] for state in states})
    except Violations as violations:
        found += str(violations).splitlines()
    last = await log.last_position()
    if (archived := await archive.last_position()) != last:
        found.append(f"archive: it reaches to {archived}, the log to {last}")
    if [raw.position for raw in await archive.entries(0, last)] != list(range(1, last + 1)):
        found.append("archive: it is not gapless")
    known = {record.event_id for record in records}
    found += [f"lost: {event_id} was answered and is gone" for event_id in answered if event_id not in known]
    found += await _left_pending(log)
    found += [f"time {each}" for each in untimely(records, policy, hampered)]
    source = Source(log.lineage[0].log_id)
    lines = [as_map(raw, source) for raw in raws]
    skew = 2 * (policy.skew + SECOND)
    kept = read_book(book.connection)
    judged = judge(lines, *kept, accounts=accounts, ended=True, skew=skew, market=market)
    found += [f"judge: {each}" for each in judged]
    return found, records


async def _left_pending(log: EventLog) -> list[str]:
    """Liveness: every wake-up was delivered and acknowledged."""
    found = []
    for each, stream in log.keys.streams.items():
        pending = await command(log.redis, "XPENDING", stream, GROUP)
        if pending[0]:
            found.append(f"liveness: {pending[0]} messages of {each} are pending: {pending}")
        described = await command(log.redis, "XINFO", "GROUPS", stream)
        group = dict(zip(described[0][::2], described[0][1::2], strict=True))
        newest = await command(log.redis, "XREVRANGE", stream, "+", "-", "COUNT", 1)
        if newest and int(group[b"last-delivered-id"].split(b"-")[0]) < int(newest[0][0].split(b"-")[0]):
            found.append(f"liveness: {each} was not delivered to its end")
    return found


def final(states: Mapping[int, State]) -> list[str]:
    """Liveness: every run has ended, every order is resolved, nobody holds a share."""
    found = []
    for strategy_id, state in states.items():
        if state.status not in (Status.CREATED, Status.STOPPED, Status.FAILED):
            found.append(f"liveness: strategy {strategy_id} is {state.status}")
        if state.unresolved or state.lingering:
            found.append(f"liveness: strategy {strategy_id}: {state.order} {state.lingering}")
        if state.open_quantity > 0 or state.surfaced > 0:
            found.append(f"liveness: strategy {strategy_id} holds {state.open_quantity} + {state.surfaced} shares")
    return found
