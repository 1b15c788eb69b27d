"""What became of each order, counted under the faults and deaths that befell it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from domain.events import (
    AlertTriggered,
    Intent,
    OrderAccepted,
    OrderDenied,
    OrderFilled,
    OrderFinalized,
    OrderOutcomeUnknown,
)
from domain.tags import parse_tag
from domain.values import Code, Duration, Final, Side
from eventstore.envelope import Recorded
from simulation.crashes import CrashPoint
from simulation.kite.accounts import Account, AttemptKind

__all__ = ["CLEAN", "Outcome", "Tally", "tally"]

CLEAN = "no fault"


class Outcome(StrEnum):
    """How an order ended. Nothing may be OPEN when a round is over."""

    FILLED = "filled"
    PART = "part filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    ABSENT = "given up, never there"
    SURFACED = "surfaced, dealt with"
    NOT_SENT = "not sent"
    OPEN = "open"


class Tally:
    """`rows`: outcome by fault; `fired`: how often a fault played, those too that concern no order. A fault of a
    reading, a session or the stream has no orders of its own."""

    def __init__(self) -> None:
        self.orders = 0
        """Requests to place that reached the broker, carried out or not."""
        self.unknown = 0
        """Orders whose outcome was unknown at some time."""
        self.rows: defaultdict[str, Counter[Outcome]] = defaultdict(Counter)
        self.fired: Counter[str] = Counter()
        self.alerts: Counter[str] = Counter()
        self.duplicates: list[str] = []
        """Tags with more than one order of ours in the book."""
        self.strangers: list[str] = []
        """Orders of ours in the book that were not intended before they came."""
        self.sold_twice: list[str] = []
        """Strategies that sold more than they had bought, without an alert that says so."""
        self.surfaced_sales: list[str] = []
        """Strategies that sold more because an order surfaced after its quarantine, with the alert."""
        self.open: list[str] = []
        """Orders that nobody resolved."""

    def add(self, other: "Tally") -> None:
        self.orders += other.orders
        self.unknown += other.unknown
        for row, counts in other.rows.items():
            self.rows[row] += counts
        self.fired += other.fired
        self.alerts += other.alerts
        self.duplicates += other.duplicates
        self.strangers += other.strangers
        self.sold_twice += other.sold_twice
        self.surfaced_sales += other.surfaced_sales
        self.open += other.open

    @property
    def faults(self) -> list[str]:
        """What must not be."""
        return [
            *(f"placed twice: {tag}" for tag in self.duplicates),
            *(f"placed without an intent before it: {tag}" for tag in self.strangers),
            *(f"sold twice: {each}" for each in self.sold_twice),
            *(f"never resolved: {tag}" for tag in self.open),
        ]


def tally(
    records: Sequence[Recorded],
    accounts: Iterable[Account],
    struck: Mapping[str, Sequence[CrashPoint]],
    *,
    skew: Duration = 0,
) -> Tally:
    """From the log and the broker's own book, of one round. `struck`: who died where, by tag or order id; `skew`: how
    far the broker's clock was ahead."""
    counted = Tally()
    accounts = list(accounts)
    outcomes = _outcomes(records)
    befell = _befell(accounts, struck)
    intended: dict[str, int] = {each.event.tag: each.recorded_at for each in records if isinstance(each.event, Intent)}
    for tag, outcome in outcomes.items():
        for row in sorted(befell.get(tag, {CLEAN})):
            counted.rows[row][outcome] += 1
        if outcome is Outcome.OPEN:
            counted.open.append(tag)
    seen: Counter[str] = Counter()
    for account in accounts:
        counted.orders += sum(each.kind is AttemptKind.PLACE for each in account.attempts)
        for order in account.orders:
            if order.foreign or order.tag is None:
                continue
            seen[order.tag] += 1
            if order.tag not in intended or intended[order.tag] > order.received_at - skew:
                counted.strangers.append(order.tag)
    counted.duplicates = [tag for tag, count in seen.items() if count > 1]
    for record in records:
        match record.event:
            case OrderOutcomeUnknown():
                counted.unknown += 1
            case AlertTriggered(code=code):
                counted.alerts[code] += 1
    over, alerted = _oversold(accounts), _alerted(records)
    surfaced = {parts.strategy_id for tag in _surfaced(records) if (parts := parse_tag(tag)) is not None}
    counted.surfaced_sales = [f"strategy {each}: {over[each]}" for each in over if each in alerted & surfaced]
    counted.sold_twice = [f"strategy {each}: {over[each]}" for each in over if each not in alerted & surfaced]
    return counted


def _outcomes(records: Sequence[Recorded]) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    filled: Counter[str] = Counter()
    given_up: set[str] = set()
    for record in records:
        match record.event:
            case Intent(tag=tag):
                outcomes[tag] = Outcome.OPEN
            case OrderDenied(tag=tag) if tag is not None:
                outcomes[tag] = Outcome.NOT_SENT
            case OrderAccepted(tag=tag) if tag in given_up:
                outcomes[tag] = Outcome.OPEN
            case OrderFilled(tag=tag, filled=quantity):
                filled[tag] = quantity
            case OrderFinalized(tag=tag, final=final):
                if final is Final.NOT_PLACED:
                    given_up.add(tag)
                    if outcomes.get(tag) is not Outcome.NOT_SENT:
                        outcomes[tag] = Outcome.ABSENT
                elif tag in given_up:
                    outcomes[tag] = Outcome.SURFACED
                elif final is Final.COMPLETE:
                    outcomes[tag] = Outcome.FILLED
                elif final is Final.REJECTED:
                    outcomes[tag] = Outcome.REJECTED
                else:
                    outcomes[tag] = Outcome.PART if filled[tag] else Outcome.CANCELLED
    return outcomes


def _befell(accounts: Sequence[Account], struck: Mapping[str, Sequence[CrashPoint]]) -> dict[str, set[str]]:
    befell: defaultdict[str, set[str]] = defaultdict(set)
    tags: dict[str, str] = {}
    for account in accounts:
        for order in account.orders:
            if order.tag is None or order.foreign:
                continue
            tags[order.order_id] = order.tag
            if order.life is not None:
                befell[order.tag].add(order.life.fault.value)
        for attempt in account.attempts:
            tag = attempt.tag or tags.get(attempt.order_id or "")
            if tag and attempt.fault is not None:
                befell[tag].add(attempt.fault.value)
    for name, points in struck.items():
        befell[tags.get(name, name)].update(point.value for point in points)
    return befell


def _oversold(accounts: Sequence[Account]) -> dict[int, int]:
    """Strategies that sold more than they had bought, by the broker's own trades."""
    tag_of = {order.order_id: order.tag for account in accounts for order in account.orders if not order.foreign}
    held: Counter[int] = Counter()
    for account in accounts:
        for trade in account.trades:
            parts = parse_tag(tag_of.get(trade.order_id))
            if parts is not None:
                held[parts.strategy_id] += trade.quantity if trade.side is Side.BUY else -trade.quantity
    return {strategy_id: net for strategy_id, net in held.items() if net < 0}


def _alerted(records: Sequence[Recorded]) -> set[int]:
    return {
        record.strategy_id
        for record in records
        if isinstance(record.event, AlertTriggered) and record.event.code in (Code.OVERSOLD, Code.ORDER_SURFACED)
    }


def _surfaced(records: Sequence[Recorded]) -> set[str]:
    """Orders that showed up after they had been given up."""
    given_up: set[str] = set()
    surfaced: set[str] = set()
    for record in records:
        match record.event:
            case OrderFinalized(tag=tag):
                given_up.add(tag)
            case OrderAccepted(tag=tag) | OrderFilled(tag=tag) if tag in given_up:
                surfaced.add(tag)
    return surfaced
