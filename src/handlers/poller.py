"""The poller of one account: reads the order book, tells every strategy what it lacks, and reconciles unknown orders.

The book is the truth; what wakes a reading is a hint (architecture §5.5). Any number of pollers may read one account:
the state decides what is new.
"""

from collections.abc import Awaitable, Sequence

import structlog

from brokers.port import BookOrder, BookStatus, Broker, BrokerError, PartialReading, Unread
from domain.events import AlertTriggered, Event, RecoverySettled, UnknownOrderSeen
from domain.facts import Facts
from domain.strategy import State, evolve
from domain.tags import TagParts, parse_tag
from domain.values import SECOND, Code, Duration, Instant, Phase, Severity, Tag
from eventstore.envelope import Dedupe, NewEvent
from eventstore.errors import LogLost, LogUnavailable
from handlers import outcomes
from handlers.adopt import lost_order
from handlers.decider import Wake, persist
from handlers.desk import Desk, NoStrategy
from handlers.effects import record
from handlers.evidence import Evidence
from handlers.positions import AccountPositions
from handlers.reconcile import Searches
from handlers.repair import look_soundly
from projections.runtime import CorruptState, decode_state

Seen = tuple[BookStatus, int, str | None]
PATIENCE: Duration = 5 * SECOND
"""A row that cannot be understood, or is missing, for a reading or two is a hiccup of the broker's."""

log = structlog.get_logger(__name__)


class Poller:
    """Reads one user's account. `poll` returns how many events came of it."""

    def __init__(self, desk: Desk, user_id: int) -> None:
        self._desk = desk
        self._user_id = user_id
        self._searches = Searches(desk.policy)
        self._positions = AccountPositions(desk, user_id)
        self._dark_since: Instant | None = None
        """When the book could not be read for the first time since it last could."""
        self._evidence = Evidence()
        self._failed: set[int] = set()
        """Strategies of which the last reading showed something that could not be dealt with."""
        self._settling: dict[int, int] = {}
        """How many readings have shown nothing lost, by strategies that lost the end of the log."""
        self._foreign: dict[str, BookOrder] = {}
        """The orders that are not ours, as they were last read, by their ids."""
        self._seen: dict[str, Seen] = {}
        """What the last reading showed of each order, by its id: an unchanged row is not worth a look at the state."""

    async def poll(self, strategies: frozenset[int]) -> int:
        """One reading of the book; `strategies` may have unresolved orders. A failed reading is no reading; of one that
        is not whole, what it shows is told, and nothing is concluded from what it does not."""
        asked_at = self._desk.clock.now()
        try:
            broker = await self._desk.brokers.of(self._user_id)
            if broker is None:
                self._searches.failed(asked_at)
                return 0
            rows, unread = await _reading(broker)
        except BrokerError as error:
            self._searches.failed(asked_at)
            if self._dark_since is None:  # said once, not with every attempt
                self._dark_since = asked_at
                log.warning("book_not_read", user_id=self._user_id, why=f"{type(error).__name__}: {error}")
            return 0
        self._evidence.read(broker.account, rows, unread, self._desk.clock.now())
        if self._evidence.lacking:
            self._searches.failed(asked_at)
            if self._evidence.lacking_for(asked_at) >= PATIENCE:
                await self._alone("lacking", self._report_lacking(broker, self._evidence.lacking[0]))
        else:
            self._searches.read(asked_at)
        if self._dark_since is not None:
            dark, self._dark_since = asked_at - self._dark_since, None
            log.info("book_read_again", user_id=self._user_id, after_s=round(dark / SECOND, 1))
        written = 0
        for each in (row for row in unread if self._evidence.odd_for(row.order_id, asked_at) >= PATIENCE):
            await self._alone(each.order_id or "unread", self._report_unread(broker, each))
        self._failed.clear()
        for row in sorted(rows, key=_by_age):
            written += await self._alone(row.tag or row.order_id, self._tell(broker, row), of=parse_tag(row.tag))
        shown = frozenset(row.tag for row in rows if row.tag)
        whole = not unread and not self._evidence.lacking
        is_open = False
        for strategy_id, state in await self._states(sorted(strategies)):
            concluded = await self._alone(strategy_id, self._conclude(strategy_id, state, shown, asked_at))
            is_open = is_open or (state is not None and state.unresolved and not concluded)
            written += concluded
        if whole:  # what has gone has gone with its day
            ids = {row.order_id for row in rows}
            self._seen = {order_id: seen for order_id, seen in self._seen.items() if order_id in ids}
            self._foreign = {order_id: row for order_id, row in self._foreign.items() if order_id in ids}
        foreign = list(self._foreign.values())
        await self._positions.note(foreign)
        if whole and not is_open:  # what moves just now cannot be compared
            await self._positions.check(broker, foreign, at_once=written > 0)
        return written

    async def _alone(self, what: str | int, work: Awaitable[int], of: TagParts | None = None) -> int:
        """One order that cannot be dealt with does not keep the others waiting; the next reading tries again."""
        try:
            return await work
        except (LogUnavailable, LogLost):
            raise
        except Exception as error:
            if of is not None:
                self._failed.add(of.strategy_id)
            log.exception("not_reconciled", user_id=self._user_id, what=what, error=str(error))
            return 0

    async def _tell(self, broker: Broker, row: BookOrder) -> int:
        """Tells the strategy that the row belongs to."""
        seen = (row.status, row.filled, row.tag)
        if row.order_id in self._foreign:
            self._foreign[row.order_id] = row
        if self._seen.get(row.order_id) == seen:
            return 0
        parts = parse_tag(row.tag)
        if parts is None or not self._desk.log.is_ours(parts.log_id):
            written = await self._report(broker, row)
        else:
            try:
                written = await self._book(broker, parts, Tag(row.tag or ""), row)
            except NoStrategy:
                written = await self._report(broker, row)
        self._seen[row.order_id] = seen
        return written

    async def _book(self, broker: Broker, parts: TagParts, tag: Tag, row: BookOrder) -> int:
        strategy_id = parts.strategy_id
        before, facts = await self._look(strategy_id)
        lost = lost_order(before, parts, row, facts)
        if before.user_id != self._user_id or not (lost or outcomes.is_ours(before, tag, row)):
            return await self._report(broker, row)  # it bears our sign, but nobody here ever asked for it
        self._searches.settled(tag)
        self._foreign.pop(row.order_id, None)  # a reading before may have shown it without its tag

        def news(state: State, facts: Facts) -> tuple[Event, ...]:
            lost = lost_order(state, parts, row, facts)
            if lost is None:
                return outcomes.booked(state, tag, row)
            return lost, *outcomes.booked(evolve(state, lost), tag, row)

        if not news(before, facts):
            return 0
        after = await record(self._desk, strategy_id, news, Wake())
        return after.version - before.version

    async def _look(self, strategy_id: int) -> tuple[State, Facts]:
        return await persist(lambda: look_soundly(self._desk, strategy_id), self._desk.clock)

    async def _states(self, strategies: Sequence[int]) -> list[tuple[int, State | None]]:
        """Their states, read in one go; None, while one cannot be read: then each is looked at by itself."""
        if not strategies:
            return []
        log = self._desk.log
        try:
            loaded = await persist(lambda: log.load_many(strategies), self._desk.clock)
            return [(each.strategy_id, decode_state(each.strategy_id, each.strategy, each.runtime)) for each in loaded]
        except (CorruptState, UnicodeDecodeError):
            return [(each, None) for each in strategies]

    async def _conclude(self, strategy_id: int, state: State | None, shown: frozenset[str], asked_at: Instant) -> int:
        """What the reading of `asked_at` says by what it does not show."""
        if state is None:
            state, _ = await self._look(strategy_id)
        written = await self._reconcile(state, shown, asked_at)
        if self._evidence.whole and strategy_id not in self._failed:
            written += await self._settle(state, asked_at)
        return written

    async def _reconcile(self, state: State, shown: frozenset[str], asked_at: Instant) -> int:
        """An unknown order that the reading did not show: given up once it is certainly absent."""
        order = state.order
        if order is None or order.phase is not Phase.UNKNOWN or order.tag in shown:
            return 0
        if not self._evidence.concerns(order, self._desk.policy.skew):
            return 0
        if not self._searches.missed(order, asked_at):
            return 0
        await record(self._desk, state.id, lambda now, facts: outcomes.absent(now, order, facts), Wake())
        self._searches.settled(order.tag)
        return 1

    async def _settle(self, state: State, asked_at: Instant) -> int:
        """The end of the log was lost: once whole readings, late enough, show nothing that the strategy lacks, it goes
        on. What they did show was told before this."""
        if not state.settle_after or asked_at < state.settle_after:
            self._settling.pop(state.id, None)
            return 0
        readings = self._settling[state.id] = self._settling.get(state.id, 0) + 1
        if readings < self._desk.policy.sufficient_readings:
            return 0

        def settled(now: State, facts: Facts) -> tuple[Event, ...]:
            if not now.settle_after:
                return ()
            return RecoverySettled(at=facts.now, readings=readings), *outcomes.of_another_day(now, facts)

        await record(self._desk, state.id, settled, Wake())
        self._settling.pop(state.id, None)
        return 1

    async def _report(self, broker: Broker, row: BookOrder) -> int:
        """An order of unknown origin: reported, never adopted."""
        desk = self._desk
        self._foreign[row.order_id] = row
        unknown = UnknownOrderSeen(
            account=broker.account,
            order_id=row.order_id,
            symbol=row.symbol,
            side=row.side,
            quantity=row.quantity,
            filled=row.filled,
            status=row.status,
            tag=row.tag,
        )
        told = {"order_id": row.order_id, "symbol": row.symbol, "side": row.side, "quantity": str(row.quantity)}
        alert = self._alert({**told, "tag": row.tag or ""}, row.tag)
        name = f"foreign:{broker.account}:{row.order_id}"
        fresh = [
            NewEvent(
                unknown,
                user_id=self._user_id,
                dedupe=Dedupe(f"{name}:{row.status}:{row.filled}", "seen"),
            ),
            NewEvent(alert, user_id=self._user_id, dedupe=Dedupe(name, "alerted")),
        ]
        await persist(lambda: desk.log.append(fresh), desk.clock)
        return 0

    async def _report_unread(self, broker: Broker, row: Unread) -> int:
        """A row that cannot be understood: while it is there, an unknown order cannot be called absent."""
        desk = self._desk
        alert = self._alert({"order_id": row.order_id or "", "tag": row.tag or "", "unreadable": row.why}, row.tag)
        once = Dedupe(f"unread:{broker.account}:{row.order_id}", "alerted")
        await persist(lambda: desk.log.append([NewEvent(alert, user_id=self._user_id, dedupe=once)]), desk.clock)
        return 0

    async def _report_lacking(self, broker: Broker, order_id: str) -> int:
        """An order that was there is not in the book any more: no order can be called absent."""
        desk = self._desk
        alert = self._alert({"order_id": order_id, "missing": "it was in the book of today before"}, None)
        once = Dedupe(f"lacking:{broker.account}:{order_id}", "alerted")
        await persist(lambda: desk.log.append([NewEvent(alert, user_id=self._user_id, dedupe=once)]), desk.clock)
        return 0

    def _alert(self, told: dict[str, str], tag: str | None) -> AlertTriggered:
        """Critical when it bears our sign."""
        parts = parse_tag(tag)
        ours = parts is not None and self._desk.log.is_ours(parts.log_id)
        severity = Severity.CRITICAL if ours else Severity.WARNING
        return AlertTriggered(severity=severity, code=Code.UNKNOWN_ORDER, at=self._desk.clock.now(), facts=told)


async def _reading(broker: Broker) -> tuple[list[BookOrder], tuple[Unread, ...]]:
    try:
        return await broker.orders(), ()
    except PartialReading as partial:
        return partial.rows, partial.unread


def _by_age(row: BookOrder) -> tuple[int, str]:
    """Ids grow: of two orders with one tag, the first is the one that was asked for."""
    return len(row.order_id), row.order_id
