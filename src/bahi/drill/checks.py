"""What must hold after a moment of the drill, whatever was broken.

Acknowledged is what a user was told, and what the broker holds. All of it must be in the history, once, and in the live
state; and the history must be one: gapless, equal to its archive, equal to the live state when it is replayed.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from msgspec import Struct

from bahi.drill.users import Acknowledged
from brokers.paper.book import Book
from brokers.paper.matching import Order as Row
from brokers.port import BookStatus, Trade
from domain.events import (
    Event,
    RecoverySettled,
    StrategyCreated,
    StrategyRecovered,
    StrategyStartRefused,
    StrategyStartRequested,
    StrategyStopped,
    StrategyStopRequested,
    StrategyUpdated,
    UserHalted,
    UserResumed,
)
from domain.strategy import State
from domain.tags import parse_tag
from domain.values import ALIVE, Side
from eventstore.entries import read_entries
from eventstore.envelope import Raw, Recorded, decode
from eventstore.log import EventLog
from projections.live import live_states
from projections.stop_index import StopIndex
from projections.verify import verify
from simulation.invariants import Checker, Violations

__all__ = [
    "Books",
    "Found",
    "History",
    "check",
    "check_acknowledged",
    "held_back",
    "holdings",
    "read_books",
    "read_history",
    "unwatched",
]

_EVENT_OF: Mapping[str, type[Event]] = {
    "create": StrategyCreated,
    "start": StrategyStartRequested,
    "stop": StrategyStopRequested,
    "update": StrategyUpdated,
    "halt": UserHalted,
    "resume": UserResumed,
}


class Books(Struct, frozen=True):
    """The broker's orders and trades of all accounts."""

    rows: list[Row]
    trades: list[Trade]


class Found(Struct):
    """What does not hold, by what it means to those concerned. All empty: all is well."""

    lost: list[str] = []
    """Acknowledged, and not in the history."""
    positions: list[str] = []
    """Shares at the broker that no strategy knows of, or that a strategy believes in and are not there."""
    stops: list[str] = []
    duplicates: list[str] = []
    reused: list[str] = []
    """Positions of the log that meant one event and now mean another."""
    broken: list[str] = []
    """Everything else: invariants, replay, gaps, the archive, what did not come to its end."""

    def all(self) -> list[str]:
        return [*self.lost, *self.positions, *self.stops, *self.duplicates, *self.reused, *self.broken]

    def add(self, other: "Found") -> None:
        for name in self.__struct_fields__:
            getattr(self, name).extend(getattr(other, name))


async def read_books(file: Path, accounts: Sequence[str]) -> Books:
    book = Book(file, inline=True)
    try:
        rows: list[Row] = []
        trades: list[Trade] = []
        for account in accounts:
            rows += await book.read(lambda it, account=account: it.between(account, 0, 2**62))  # type: ignore[misc]
            trades += await book.read(lambda it, account=account: it.trades(account, 0))  # type: ignore[misc]
        return Books(rows, sorted(trades, key=lambda trade: int(trade.trade_id)))
    finally:
        book.close()


def holdings(books: Books, log_ids: frozenset[str]) -> dict[int, int]:
    """What the orders of each strategy have bought and not sold again, by the broker's own account."""
    strategy_of = {str(row.order_id): parts.strategy_id for row in books.rows if (parts := parse_tag(row.tag))}
    held: defaultdict[int, int] = defaultdict(int)
    for trade in books.trades:
        held[strategy_of[trade.order_id]] += trade.quantity if trade.side is Side.BUY else -trade.quantity
    return held


def unwatched(states: Sequence[State], watched: Sequence[int]) -> list[str]:
    """The stops that ought to be watched and are not."""
    wanted = {stop.strategy_id for stop in StopIndex.from_states(states).armed()}
    return [f"the stop of strategy {each} is not watched" for each in sorted(wanted - set(watched))]


class History(Struct, frozen=True):
    """The whole log."""

    raws: list[Raw]
    records: list[Recorded]


async def read_history(log: EventLog) -> History:
    raws: list[Raw] = []
    async with aclosing(read_entries(log)) as pages:
        async for page in pages:
            raws += page
    return History(raws, [decode(raw) for raw in raws])


def held_back(history: History) -> tuple[int, int]:
    """For how long at most, by the market's clock, exits and entries waited for the order book; 0: none did."""
    exits = entries = 0
    since: dict[int, int] = {}
    for record in history.records:
        match record.event:
            case StrategyRecovered(at=at, entries_after=entries_after):
                since.setdefault(record.strategy_id, at)
                entries = max(entries, entries_after - since[record.strategy_id])
            case RecoverySettled(at=at) if record.strategy_id in since:
                exits = max(exits, at - since.pop(record.strategy_id))
    return exits, entries


async def check(
    log: EventLog,
    history: History,
    books: Books,
    *,
    users: Sequence[int],
    acknowledged: Sequence[Acknowledged],
    known: Mapping[int, bytes],
) -> Found:
    """At the end of the day. `known`: the envelopes of the positions that could not be lost, when it was broken."""
    found = Found()
    raws, records = history.raws, history.records
    report = await verify(log)
    found.broken += [f"position {fault.position}: {fault.text}" for fault in report.faults]
    if report.archived != report.events:
        found.broken.append(f"{report.events} events, {report.archived} archived")
    _, live, corrupt = await live_states(log)
    found.broken += [f"strategy {strategy_id} is corrupt: {why}" for strategy_id, why in corrupt.items()]
    _check_invariants(found, log, records, books, users, live)
    check_acknowledged(found, records, acknowledged)
    _check_broker(found, log, records, books, live)
    at = {raw.position: raw.envelope for raw in raws}
    found.reused += [
        f"position {position} is {'another event' if position in at else 'gone'}"
        for position, envelope in known.items()
        if at.get(position) != envelope
    ]
    return found


def _check_invariants(
    found: Found, log: EventLog, records: Sequence[Recorded], books: Books, users: Sequence[int], live: Sequence[State]
) -> None:
    accounts = {f"PAPER-{user_id}": user_id for user_id in users}
    checker = Checker(records, books.rows, books.trades, log_ids=log.log_ids, accounts=accounts)
    states = {state.id: state for state in live}
    for look in (checker.check, lambda: checker.equals_live(states), checker.all_final):
        try:
            look()
        except Violations as violations:
            for each in str(violations).splitlines():
                kind = found.duplicates if "placed twice" in each or each.startswith("3:") else found.broken
                kind.append(each)
        except KeyError as error:
            found.broken.append(f"strategy {error} is live and not in the log")


def check_acknowledged(found: Found, records: Sequence[Recorded], acknowledged: Sequence[Acknowledged]) -> None:
    """Each answer has its event, by the request's id or, when an earlier attempt did it, by what was asked for."""
    created: Counter[int] = Counter()
    by_request: defaultdict[str, list[Recorded]] = defaultdict(list)
    for record in records:
        by_request[record.correlation_id].append(record)
        if isinstance(record.event, StrategyCreated):
            created[record.strategy_id] += 1
    ended = {
        record.strategy_id for record in records if isinstance(record.event, StrategyStopped | StrategyStartRefused)
    }
    switches = {
        record.user_id: record.event for record in records if isinstance(record.event, UserHalted | UserResumed)
    }
    for each in acknowledged:
        if each.what == "stop" and each.strategy_id in ended and _says_idle(each.answer):
            continue  # what has ended, or did not begin, need not be ended
        if each.what == "resume" and not isinstance(switches.get(each.user_id), UserHalted):
            continue  # and who is told that nothing is halted, when nothing is
        wanted = _EVENT_OF[each.what]
        its = [record for request in each.requests for record in by_request[request]]
        if each.what == "create" or each.unanswered or not any(isinstance(record.event, wanted) for record in its):
            its = [record for record in records if record.user_id == each.user_id]
        if not any(isinstance(it.event, wanted) and _is_it(each, it) for it in its):
            found.lost.append(f"user {each.user_id} was told of {each.what} {each.body} and it is not in the history")
    found.duplicates += [f"strategy {each} was created {times} times" for each, times in created.items() if times > 1]


def _says_idle(answer: Mapping[str, Any]) -> bool:
    """Whether by the answer to a stop there was nothing left to stop or to sell."""
    return answer["status"] not in ALIVE and answer["open_quantity"] <= 0


def _is_it(told: Acknowledged, record: Recorded) -> bool:
    if told.strategy_id and record.strategy_id != told.strategy_id:
        return False
    match record.event:
        case StrategyCreated(config=config):
            return (config.symbol, config.quantity) == (told.body["symbol"], told.body["quantity"])
        case StrategyUpdated(stop_loss=stop_loss):
            return stop_loss is not None and float(stop_loss) == float(told.body["stop_loss"])
        case StrategyStopRequested(square_off=square_off):
            return square_off or not told.body["square_off"]  # who sells what is held, stops
        case _:
            return True


def _check_broker(
    found: Found, log: EventLog, records: Sequence[Recorded], books: Books, live: Sequence[State]
) -> None:
    """What the broker holds is what the strategies know; and nobody bought twice."""
    held = holdings(books, log.log_ids)
    for state in live:
        ours = state.open_quantity + state.surfaced
        theirs = held.pop(state.id, 0)
        if ours != theirs:
            found.positions.append(f"strategy {state.id} knows of {ours} shares, the broker of {theirs}")
    for strategy_id, quantity in held.items():
        found.positions.append(f"strategy {strategy_id} is not there, the broker has {quantity} shares of it")
    for row in books.rows:
        parts = parse_tag(row.tag)
        if parts is None or parts.log_id not in log.log_ids:
            found.lost.append(f"the order {row.tag} at the broker is of no epoch of this log")
    started = Counter(record.strategy_id for record in records if isinstance(record.event, StrategyStartRequested))
    lived: Counter[int] = Counter()
    for row in books.rows:
        alive = row.filled > 0 or row.status in (BookStatus.OPEN, BookStatus.COMPLETE)
        if row.side is Side.BUY and alive and (parts := parse_tag(row.tag)) is not None:
            lived[parts.strategy_id] += 1
    for strategy_id, orders in lived.items():
        if orders > started[strategy_id]:
            found.duplicates.append(f"strategy {strategy_id} bought {orders} times, started {started[strategy_id]}")
