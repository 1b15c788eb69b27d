"""The poller of one account: reads the order book, tells every strategy what it lacks, and reconciles unknown orders.

The book is the truth; what wakes a reading is a hint (architecture §5.5). Any number of pollers may read one account:
the state decides what is new.
"""

import structlog

from brokers.port import BookOrder, BookStatus, Broker, BrokerError
from domain.events import AlertTriggered, UnknownOrderSeen
from domain.tags import parse_tag
from domain.values import Code, Phase, Severity, Tag
from eventstore.envelope import Dedupe, NewEvent
from handlers import outcomes
from handlers.decider import Wake, persist
from handlers.desk import Desk, NoStrategy
from handlers.effects import record
from handlers.reconcile import Searches

Seen = tuple[BookStatus, int]
log = structlog.get_logger(__name__)


class Poller:
    """Reads one user's account. `poll` returns how many events came of it."""

    def __init__(self, desk: Desk, user_id: int) -> None:
        self._desk = desk
        self._user_id = user_id
        self._searches = Searches(desk.policy)
        self._seen: dict[str, Seen] = {}
        """What the last reading showed of each order, by its id: an unchanged row is not worth a look at the state."""

    async def poll(self, strategies: frozenset[int]) -> int:
        """One reading of the book; `strategies` may have unresolved orders. A failed reading is no reading."""
        broker = await self._desk.brokers.of(self._user_id)
        if broker is None:
            return 0
        try:
            rows = await broker.orders()
        except BrokerError as error:
            self._searches.failed(self._desk.clock.now())
            log.warning("book_not_read", user_id=self._user_id, why=f"{type(error).__name__}: {error}")
            return 0
        self._searches.read(self._desk.clock.now())
        written = 0
        for row in rows:
            written += await self._tell(broker, row)
        written += await self._reconcile(strategies, frozenset(row.tag for row in rows if row.tag))
        return written

    async def _tell(self, broker: Broker, row: BookOrder) -> int:
        """Tells the strategy that the row belongs to."""
        seen = (row.status, row.filled)
        if self._seen.get(row.order_id) == seen:
            return 0
        parts = parse_tag(row.tag)
        if parts is None or parts.log_id != self._desk.log.log_id:
            written = await self._report(broker, row)
        else:
            try:
                written = await self._book(parts.strategy_id, Tag(row.tag or ""), row)
            except NoStrategy:
                written = await self._report(broker, row)
        self._seen[row.order_id] = seen
        return written

    async def _book(self, strategy_id: int, tag: Tag, row: BookOrder) -> int:
        before, _ = await persist(lambda: self._desk.look(strategy_id), self._desk.clock)
        if before.find(tag) is not None:
            self._searches.settled(tag)
        if not outcomes.booked(before, tag, row):
            return 0
        after = await record(self._desk, strategy_id, lambda state, _: outcomes.booked(state, tag, row), Wake())
        return after.version - before.version

    async def _reconcile(self, strategies: frozenset[int], shown: frozenset[str]) -> int:
        """The unknown orders that this reading did not show: given up once they are certainly absent."""
        written = 0
        for strategy_id in sorted(strategies):
            state, facts = await persist(lambda s=strategy_id: self._desk.look(s), self._desk.clock)  # type: ignore[misc]
            order = state.order
            if order is None or order.phase is not Phase.UNKNOWN or order.tag in shown:
                continue
            if self._searches.missed(order, facts.now):
                tag = order.tag
                await record(self._desk, strategy_id, lambda s, _, t=tag: outcomes.absent(s, t), Wake())  # type: ignore[misc]
                self._searches.settled(tag)
                written += 1
        return written

    async def _report(self, broker: Broker, row: BookOrder) -> int:
        """An order of unknown origin: reported, never adopted."""
        desk = self._desk
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
        alert = AlertTriggered(
            severity=Severity.WARNING,
            code=Code.UNKNOWN_ORDER,
            at=desk.clock.now(),
            facts={"order_id": row.order_id, "symbol": row.symbol, "side": row.side, "quantity": str(row.quantity)},
        )
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
