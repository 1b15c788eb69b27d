"""What must hold of every log and every order book, however they came about (architecture §4.2).

Checked from the outside: from the entries as the streams hold them and the rows of the broker's book, not from what
the engine believes. Raises Violations.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from brokers.port import BookStatus, Trade
from domain.decide import decide_next
from domain.events import (
    CancelRequested,
    Intent,
    ModifyRequested,
    OrderAccepted,
    OrderFilled,
    OrderFinalized,
    OrderRecovered,
    OrderRetryRequired,
    SafetyAbort,
    StrategyStarted,
    StrategyStopped,
)
from domain.facts import Facts
from domain.strategy import State, apply, evolve, initial
from domain.tags import parse_tag
from domain.values import Final, Instant, Kind, Phase, Product, Quantity, Side, Status, Tag
from eventstore.envelope import Recorded
from projections.runtime import differences


class Row(Protocol):
    """An order in the broker's own book, as the broker itself knows it."""

    @property
    def account(self) -> str: ...
    @property
    def order_id(self) -> int | str: ...
    @property
    def tag(self) -> str: ...
    @property
    def symbol(self) -> str: ...
    @property
    def side(self) -> Side: ...
    @property
    def product(self) -> Product: ...
    @property
    def quantity(self) -> Quantity: ...
    @property
    def filled(self) -> Quantity: ...
    @property
    def status(self) -> BookStatus: ...
    @property
    def placed_at(self) -> Instant: ...


class Violations(AssertionError):
    """What does not hold."""


class Asked(Struct, frozen=True):
    """What an order was to be, by its intent or by what stands for a lost one. `run` 0: of a run that was lost."""

    record: Recorded
    kind: Kind
    run: int
    symbol: str
    quantity: Quantity
    product: Product


def hold(holds: bool, what: str) -> None:
    """Raises Violations with `what` unless it holds."""
    if not holds:
        raise Violations(what)


class Checker:
    """A reading of a whole log: of `records` by `check`, or of one record after the other by `feed`."""

    def __init__(
        self,
        records: Sequence[Recorded] = (),
        rows: Sequence[Row] = (),
        trades: Sequence[Trade] = (),
        *,
        log_ids: Collection[str] = (),
        accounts: Mapping[str, int],
        unreadable: frozenset[int] = frozenset(),
    ) -> None:
        self.records = records
        self.rows = rows
        self.trades = trades
        self.log_ids = log_ids
        """What our tags begin with, in every epoch."""
        self.accounts = accounts
        """The owner of each account."""
        self.unreadable = unreadable
        """Positions of entries that nobody can read."""
        self.states: dict[int, State] = {}
        self.intents: dict[Tag, Asked] = {}
        self.surfaced: set[Tag] = set()
        """Orders that showed up after they had been finalized as not placed."""
        self.found: list[str] = []
        self._positions: list[int] = []
        self._versions: defaultdict[int, int] = defaultdict(int)
        self._ids: set[str] = set()
        self._time: Instant = 0
        self._open: defaultdict[int, set[Tag]] = defaultdict(set)
        self._finals: dict[Tag, Final] = {}
        self._last_of_kind: dict[tuple[int, int, Kind], Tag] = {}
        self._retried: set[Tag] = set()

    def check(self) -> None:
        for record in self.records:
            self.feed(record)
        self.conclude()

    def feed(self, record: Recorded) -> None:
        """The next record of the log; what is wrong with it is in `found`."""
        self._sound(record)
        self._follow(record)

    def conclude(self) -> None:
        """After the last record: what only the whole log and the book can tell. Raises Violations."""
        self._gapless()
        self._looked_after()
        self._book()
        if self.found:
            raise Violations("\n".join(self.found))

    def equals_live(self, live: Mapping[int, State]) -> None:
        """7: the fold of the log is the runtime, field by field."""
        for strategy_id, state in live.items():
            wrong = differences(self.states[strategy_id], state)
            hold(not wrong, f"7: strategy {strategy_id}: {wrong}")

    def at_rest(self, facts: Mapping[int, Facts]) -> None:
        """12: nothing is left to decide, and what the log knows of each order is what the book shows."""
        for strategy_id, state in self.states.items():
            decision = decide_next(state, facts[strategy_id])
            hold(not decision.events, f"12: strategy {strategy_id} still wants {decision.events}")
        now = max((each.now for each in facts.values()), default=0)
        for row in self.rows:
            if row.tag in self.intents and row.placed_at <= now:
                state = self.states[self.intents[Tag(row.tag)].record.strategy_id]
                order = state.find(Tag(row.tag))
                if order is None:
                    raise Violations(f"9: {row.tag} is forgotten")
                hold(order.filled == row.filled, f"9: {row.tag}: {order.filled} filled, the book says {row.filled}")
                hold(order.resolved or not row.status.terminal, f"9: {row.tag} is {row.status} and not resolved")

        for state in self.states.values():
            hold(is_protected(state), f"4: strategy {state.id} is at its stop and does nothing")

    def all_final(self) -> None:
        """Liveness: every run has ended, every order is resolved."""
        for state in self.states.values():
            ended = state.status in (Status.CREATED, Status.STOPPED, Status.FAILED)
            hold(ended, f"liveness: strategy {state.id} is {state.status}")
            hold(not state.unresolved, f"liveness: strategy {state.id}: {state.order}")
            hold(not state.lingering, f"liveness: strategy {state.id}: {state.lingering}")

    # --- the log ---------------------------------------------------------------------------------------------------

    def _complain(self, rule: str, what: str) -> None:
        self.found.append(f"{rule}: {what}")

    def _gapless(self) -> None:
        """8: positions are gapless."""
        positions = sorted(self._positions + list(self.unreadable))
        if positions != list(range(1, len(positions) + 1)):
            self._complain("8", f"positions are not gapless: {positions}")

    def _sound(self, record: Recorded) -> None:
        """8: versions are gapless, ids are unique, causes exist."""
        where = f"position {record.position} {record.event.type}"
        self._positions.append(record.position)
        if record.strategy_id and record.event.versioned:
            self._versions[record.strategy_id] += 1
            if record.version != self._versions[record.strategy_id] and not self.unreadable:
                self._complain("8", f"{where}: version {record.version}, not {self._versions[record.strategy_id]}")
        if record.event_id in self._ids:
            self._complain("8", f"{where}: {record.event_id} twice")
        self._ids.add(record.event_id)
        if record.causation_id and record.causation_id not in self._ids and not self.unreadable:
            self._complain("8", f"{where}: its cause {record.causation_id} is not before it")
        if record.recorded_at < self._time:
            self._complain("8", f"{where}: time runs backwards")
        self._time = record.recorded_at

    def _follow(self, record: Recorded) -> None:
        strategy_id, event = record.strategy_id, record.event
        if not strategy_id:
            return
        finals, open_tags = self._finals, self._open[strategy_id]
        state = self.states.setdefault(strategy_id, initial(strategy_id, record.user_id))
        where = f"position {record.position}, strategy {strategy_id}"
        if record.user_id != state.user_id:
            self._complain("10", f"{where}: {event.type} of user {record.user_id}, not {state.user_id}")
        match event:
            case Intent(tag=tag, kind=kind):
                self._placed(where, state, event, finals)
                before = self._last_of_kind.get((strategy_id, state.run, kind))
                if before is not None and before not in finals:
                    self._complain("12", f"{where}: {kind} again, and {before} has not ended")
                if before is not None and finals.get(before) is Final.REJECTED and before not in self._retried:
                    self._complain("12", f"{where}: {kind} again without a back-off")
                self._last_of_kind[strategy_id, state.run, kind] = tag
                if tag in self.intents:
                    self._complain("9", f"{where}: the tag {tag} twice")
                asked = event.request
                self.intents[tag] = Asked(record, kind, state.run, asked.symbol, asked.quantity, asked.product)
                open_tags.add(tag)
                if len(open_tags - self.surfaced) > 1:
                    self._complain("1", f"{where}: unresolved are {sorted(open_tags)}")
            case OrderRecovered(tag=tag):
                if tag in self.intents:
                    self._complain("9", f"{where}: {tag} is recovered and was never lost")
                self.intents[tag] = Asked(record, event.kind, event.run, event.symbol, event.quantity, event.product)
                open_tags.add(tag)
                if evolve(state, event).lock_state == tag:
                    self._last_of_kind[strategy_id, event.run, event.kind] = tag
                else:
                    self.surfaced.add(tag)
            case OrderFinalized(tag=tag, final=final):
                if tag not in self.intents:
                    self._complain("9", f"{where}: {tag} ends and never began")
                if tag in finals and finals[tag] is not Final.NOT_PLACED and tag not in self.surfaced:
                    self._complain("9", f"{where}: {tag} ends twice")
                finals[tag] = final
                open_tags.discard(tag)
            case OrderAccepted(tag=tag) | OrderFilled(tag=tag) if finals.get(tag) is Final.NOT_PLACED:
                self.surfaced.add(tag)
                open_tags.add(tag)
            case OrderRetryRequired(tag=tag):
                self._retried.add(tag)
            case CancelRequested(tag=tag) | ModifyRequested(tag=tag) if tag not in self.intents:
                self._complain("9", f"{where}: {event.type} of {tag}, which never began")
            case SafetyAbort(run=run):
                if run > record.version:
                    self._complain("6", f"{where}: abort of run {run}, which is to come")
            case StrategyStopped():
                # what is placed after the end is asked for by somebody: that is the answer
                for key in [key for key in self._last_of_kind if key[0] == strategy_id]:
                    del self._last_of_kind[key]
            case StrategyStarted() if open_tags - self.surfaced:
                self._complain("1", f"{where}: started with {sorted(open_tags)} unresolved")
        apply(state, event)
        state.updated_at = record.recorded_at if event.versioned else state.updated_at
        state.position_in_log = record.position if event.versioned else state.position_in_log
        self._of_one_mind(where, state, open_tags)

    def _looked_after(self) -> None:
        """9: what has not ended is known to its strategy."""
        for strategy_id, state in self.states.items():
            for tag in sorted(self._open[strategy_id]):
                order = state.find(tag)
                if order is None or order.resolved:
                    self._complain("9", f"strategy {strategy_id}: {tag} has neither ended nor is it looked after")

    def _placed(self, where: str, state: State, event: Intent, finals: Mapping[Tag, Final]) -> None:
        kind = event.kind
        if kind is Kind.BUY:
            if not state.alive:
                self._complain("6", f"{where}: BUY while {state.status}")
            if state.bought > 0:
                self._complain("5", f"{where}: BUY after {state.bought} were bought")
            for tag, earlier in self.intents.items():
                same = (earlier.record.strategy_id, earlier.run) == (state.id, state.run)
                if same and earlier.kind is Kind.BUY and finals.get(tag) is not Final.REJECTED:
                    self._complain("3", f"{where}: BUY again, and {tag} is {finals.get(tag)}")
        elif kind is Kind.SURFACED:
            if event.request.quantity > state.surfaced:
                self._complain("2", f"{where}: sells {event.request.quantity} of {state.surfaced} surfaced")
        else:
            if event.request.quantity > state.open_quantity:
                self._complain("2", f"{where}: sells {event.request.quantity} of {state.open_quantity} open")
            if not state.alive and not (state.stop_requested and state.square_off):
                self._complain("6", f"{where}: {kind} while {state.status}")
        if event.request.side is not kind.side:
            self._complain("9", f"{where}: {kind} is a {event.request.side}")

    def _of_one_mind(self, where: str, state: State, open_tags: set[Tag]) -> None:
        """1: the state's own view of what is unresolved."""
        if state.unresolved and state.lock_state != (state.order.tag if state.order else ""):
            self._complain("1", f"{where}: the lock is {state.lock_state}, the order {state.order}")
        if state.unresolved and state.order and state.order.tag not in open_tags:
            self._complain("1", f"{where}: {state.order.tag} is unresolved in the state only")

    # --- the book --------------------------------------------------------------------------------------------------

    def _book(self) -> None:
        seen: set[str] = set()
        tag_of: dict[str, str] = {}
        for row in self.rows:
            tag_of[str(row.order_id)] = row.tag
            parts = parse_tag(row.tag)
            if parts is None or parts.log_id not in self.log_ids:
                continue  # not ours
            if row.tag in seen:
                self._complain("9", f"the order {row.tag} was placed twice")
            seen.add(row.tag)
            if Tag(row.tag) not in self.intents:
                self._complain("9", f"the order {row.tag} has no intent")
                continue
            asked = self.intents[Tag(row.tag)]
            if self.accounts[row.account] != asked.record.user_id:
                self._complain("10", f"the order {row.tag} of user {asked.record.user_id} is in {row.account}")
            wanted = (asked.symbol, asked.kind.side, asked.quantity, asked.product)
            if wanted != (row.symbol, row.side, row.quantity, row.product):
                self._complain("9", f"the order {row.tag} is {row}, {wanted} was asked for")
            if row.side is Side.BUY and asked.run:
                self._one_entry(row, parts.strategy_id, asked.run)
        self._never_oversold(tag_of)

    def _one_entry(self, row: Row, strategy_id: int, run: int) -> None:
        """3: no two entries of a run that both lived."""
        lived = [
            other
            for other in self.rows
            if other.side is Side.BUY
            and (asked := self.intents.get(Tag(other.tag))) is not None
            and (asked.record.strategy_id, asked.run) == (strategy_id, run)
            and (other.filled or other.status in (BookStatus.OPEN, BookStatus.COMPLETE))
        ]
        if len(lived) > 1 and row is lived[0]:
            self._complain("3", f"strategy {strategy_id}, run {run}: {[each.tag for each in lived]}")

    def _never_oversold(self, tag_of: Mapping[str, str]) -> None:
        """2: at every trade, no more is sold than was bought, but for orders that surfaced."""
        held: defaultdict[int, int] = defaultdict(int)
        for trade in self.trades:
            parts = parse_tag(tag_of.get(trade.order_id, ""))
            if parts is None or parts.log_id not in self.log_ids:
                continue
            held[parts.strategy_id] += trade.quantity if trade.side is Side.BUY else -trade.quantity
            excused = any(
                (other := parse_tag(tag)) is not None and other.strategy_id == parts.strategy_id
                for tag in self.surfaced
            )
            if held[parts.strategy_id] < 0 and not excused:
                self._complain("2", f"strategy {parts.strategy_id} is over-sold: {held[parts.strategy_id]}")


def is_protected(state: State) -> bool:
    """4: bought, running, and the stop due: an exit is unresolved or being retried."""
    if not (state.alive and state.stop_due and state.open_quantity > 0):
        return True
    order = state.order
    exiting = order is not None and order.phase is not Phase.FINAL
    return exiting or any(tries.not_before for tries in state.tries.values()) or state.abort_due
