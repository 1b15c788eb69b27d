"""An account's positions: what is there that is not ours, and whether what we hold is there (architecture §5.5).

Fills of orders of unknown origin are kept per symbol and product; an exit is clipped to what they leave. The broker's
positions are compared with the sum of the strategies; a difference that stays is alerted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec
import structlog

from brokers.port import BookOrder, Broker, BrokerError
from domain.events import AlertTriggered
from domain.strategy import State
from domain.values import SECOND, Code, Instant, Product, Quantity, Severity, Side
from eventstore.clients import command
from eventstore.envelope import Dedupe, NewEvent
from eventstore.members import user_strategies
from handlers.desk import Desk
from projections.runtime import CorruptState, decode_state

__all__ = ["AccountPositions", "net_fills"]

CHECK_EVERY = 30 * SECOND

Holding = tuple[str, Product]

log = structlog.get_logger(__name__)


def net_fills(rows: Iterable[BookOrder]) -> Counter[Holding]:
    """Net quantity of the fills, by symbol and product."""
    net: Counter[Holding] = Counter()
    for row in rows:
        net[row.symbol, row.product] += row.filled if row.side is Side.BUY else -row.filled
    return Counter({holding: quantity for holding, quantity in net.items() if quantity})


def encode_foreign(net: Mapping[Holding, Quantity]) -> bytes:
    return msgspec.json.encode({f"{symbol}|{product}": quantity for (symbol, product), quantity in sorted(net.items())})


def _explained(expected: Quantity, settled: Quantity, there: Quantity) -> bool:
    """What was settled may be among the others' fills, and is counted twice then, or not (a conversion is no fill)."""
    return min(expected, expected + settled) <= there <= max(expected, expected + settled)


class AccountPositions:
    """Watches one user's account beside its poller."""

    def __init__(self, desk: Desk, user_id: int) -> None:
        self._desk = desk
        self._user_id = user_id
        self._written: bytes | None = None
        self._checked_at: Instant = 0
        self._differed: dict[Holding, tuple[Quantity, Quantity]] = {}
        self._unread = ""
        """Why the positions could not be read the last time."""

    async def note(self, foreign: Iterable[BookOrder]) -> None:
        """Keeps what a reading of the book shows of others' orders. Raises LogUnavailable."""
        value = encode_foreign(net_fills(foreign))
        if value != self._written:
            await command(self._desk.log.redis, "SET", self._desk.log.keys.foreign(self._user_id), value)
            self._written = value

    async def check(self, broker: Broker, foreign: Iterable[BookOrder], *, at_once: bool = False) -> None:
        """Now and then, and `at_once` when something has just ended, while no order of ours is open: is what we hold
        there? Raises LogUnavailable."""
        now = self._desk.clock.now()
        if not at_once and now - self._checked_at < CHECK_EVERY:
            return
        self._checked_at = now
        states = await self._states()
        if states is None or any(state.unresolved for state in states):
            return
        try:
            there = {(each.symbol, each.product): each.quantity for each in await broker.positions()}
        except BrokerError as error:  # no reading: the next one will tell, unless it is for ever
            if (why := f"{type(error).__name__}: {error}") != self._unread:
                log.warning("positions_not_read", user_id=self._user_id, why=why)
                self._unread = why
            return
        self._unread = ""
        expected = net_fills(foreign)
        settled: Counter[Holding] = Counter()
        today = self._desk.calendar.wall(now).date()
        for state in states:
            if state.session_date == today:
                expected[state.symbol, state.product] += state.open_quantity + state.surfaced
                settled[state.symbol, state.product] += state.settled
        differing = {
            holding: (expected[holding], there.get(holding, 0))
            for holding in {(state.symbol, state.product) for state in states if state.session_date == today}
            if not _explained(expected[holding], settled[holding], there.get(holding, 0))
        }
        for holding, quantities in differing.items():
            if self._differed.get(holding) == quantities:
                await self._alert(holding, quantities, now)
        self._differed = differing

    async def _states(self) -> list[State] | None:
        """All of the user's strategies; None while one cannot be read, which whoever decides on it will repair."""
        store = self._desk.log
        try:
            loaded = await store.load_many(await user_strategies(store, self._user_id))
            return [decode_state(each.strategy_id, each.strategy, each.runtime) for each in loaded]
        except (CorruptState, UnicodeDecodeError):
            return None

    async def _alert(self, holding: Holding, quantities: tuple[Quantity, Quantity], now: Instant) -> None:
        symbol, product = holding
        ours, there = quantities
        alert = AlertTriggered(
            severity=Severity.CRITICAL,
            code=Code.POSITION_MISMATCH,
            at=now,
            facts={"symbol": symbol, "product": product, "expected": str(ours), "at_the_broker": str(there)},
        )
        once = Dedupe(f"mismatch:{self._user_id}:{symbol}:{product}:{ours}:{there}", "alerted")
        await self._desk.log.append([NewEvent(alert, user_id=self._user_id, dedupe=once)])
