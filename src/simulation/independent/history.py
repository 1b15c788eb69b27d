"""The rules that the history alone must keep: one pass over its events, in their order."""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from simulation.independent.finding import Finding, Rule
from simulation.independent.lines import CORRUPT, Entry, entry_of, position_of
from simulation.independent.stops import Guards
from simulation.independent.strategies import Asked, Strategy
from simulation.independent.tags import read_tag
from simulation.independent.values import Malformed, choice, money, nested, text, whole

__all__ = ["Exited", "History"]

INTENTS: Final = {
    "EXECUTE_BUY": frozenset({"BUY"}),
    "EXECUTE_SELL": frozenset({"SELL", "SURFACED"}),
    "EXECUTE_STOPLOSS": frozenset({"STOPLOSS"}),
}
"""Which kinds of orders each asks for."""
_KINDS: Final = frozenset({"BUY", "SELL", "STOPLOSS", "SURFACED"})
_FINALS: Final = frozenset({"complete", "cancelled", "rejected", "not_placed"})
_UNVERSIONED: Final = frozenset(
    {
        *("LOCK_CONFLICT", "EVENT_PARKED", "PARKED_RETRIED", "PARKED_DISMISSED", "UNKNOWN_ORDER_SEEN", "AUDIT_READ"),
        *("USER_HALTED", "USER_RESUMED", "RUNTIME_STATE_LOADED", "SYSTEM_RECOVERY", "PRICE_FEED_CONNECTED"),
        *("PRICE_FEED_ERROR", "PRICE_STREAM_DISCONNECTED", "PRICE_STREAM_RESTORED", "PRICE_TICK"),
    }
)
"""What takes no version even when it names a strategy."""


class Exited(NamedTuple):
    """A run's end: the profit or loss told, and how much of each of its orders had been filled."""

    position: int
    partition: int
    strategy: int
    run: int
    realised: Decimal
    fills: list[tuple[Asked, int]]


class History:
    def __init__(self) -> None:
        self.found: list[Finding] = []
        self.strategies: dict[int, Strategy] = {}
        self.asked: dict[str, Asked] = {}
        self.exits: list[Exited] = []
        self.families: set[str] = set()
        """What our tags begin with: the first two characters of the log's name."""
        self.guards = Guards()
        self.last_at = 0
        self._ids: set[str] = set()
        self._next: dict[int, int] = {}
        self._times: dict[int, int] = {}
        self._halted: set[int] = set()
        self._lost_versions: set[int] = set()
        self._entry = Entry()
        self._on: dict[str, Callable[[Strategy, Mapping[str, Any]], object]] = {
            "STRATEGY_CREATED": self._created,
            "STRATEGY_UPDATED": self._updated,
            "STRATEGY_STARTED": self._started,
            "STRATEGY_EXITED": self._exited,
            "STRATEGY_STOPPED": self._stopped,
            "STRATEGY_STOP_REQUESTED": self._stop_requested,
            "BUY_TRIGGERED": self._buy_triggered,
            "STOPLOSS_TRIGGERED": self._stop_triggered,
            "LOCK_ACQUIRED": self._locked,
            **dict.fromkeys(INTENTS, self._intended),
            "ORDER_RECOVERED": self._recovered,
            "ORDER_ACCEPTED": self._accepted,
            "ORDER_FILLED": self._filled,
            "ORDER_FINALIZED": self._finalized,
            "ORDER_DENIED": self._denied,
            **dict.fromkeys(
                (
                    *("ORDER_REJECTED", "ORDER_CANCELLED", "ORDER_OUTCOME_UNKNOWN", "ORDER_RETRY_REQUIRED"),
                    *("CANCEL_REQUESTED", "CANCEL_REJECTED", "MODIFY_REQUESTED", "MODIFY_REJECTED"),
                ),
                self._told,
            ),
            "POSITION_SETTLED": self._settled,
            "SAFETY_ABORT": self._guard_ends,
            "STRATEGY_RECOVERED": self._log_lost,
            "FORCE_STOP": self._guard_ends,
            "ALERT_TRIGGERED": self._alerted,
        }

    def read(self, lines: Iterable[Any]) -> None:
        for number, line in enumerate(lines, 1):
            if not isinstance(line, Mapping):
                self.found.append(Finding(Rule.LINE, f"line {number} is no map, but {type(line).__name__}"))
                continue
            try:
                entry = entry_of(line)
                if entry is not None:
                    self._take(entry)
            except Malformed as error:
                self._malformed(number, line, error)

    def end(self) -> None:
        """Everything has come to its end: no run is alive, no order is unresolved."""
        for strategy in self.strategies.values():
            if strategy.alive:
                what = f"run {strategy.run} of strategy {strategy.id} has not ended"
                self.found.append(Finding(Rule.RUN_OPEN, what))
            for order in strategy.open.values():
                what = f"{order.kind} {order.tag} of strategy {strategy.id} was never finalized"
                self.found.append(Finding(Rule.NOT_FINAL, what, order.position))
            if strategy.short is not None and not strategy.alerted:
                what = f"strategy {strategy.id} sold more than it bought, and no critical alert OVERSOLD was raised"
                self.found.append(Finding(Rule.NO_ALERT, what, strategy.short))

    # --- the log

    def _take(self, entry: Entry) -> None:
        self._entry = entry
        self._in_place(entry)
        self.families.add(entry.log[:2])
        self.last_at = max(self.last_at, entry.at)
        if entry.type == CORRUPT:
            self._lost_versions.add(entry.version)
            self._find(Rule.UNREADABLE, "nobody can read this entry")
            return
        if entry.id in self._ids:
            self._find(Rule.EVENT_ID, f"{entry.type} has the id {entry.id}, as an event before it has")
        for what, cause in (("cause", entry.causation), ("correlation", entry.correlation)):
            if cause and cause not in self._ids and not (what == "correlation" and cause == entry.id):
                self._find(Rule.CAUSE, f"{entry.type} names the {what} {cause}, which no event before it is")
        self._ids.add(entry.id)
        if entry.strategy:
            strategy = self._strategy(entry)
            if (handler := self._on.get(entry.type)) is not None:
                handler(strategy, entry.data)
        elif entry.type == "USER_HALTED":
            self._halted.add(entry.user)
        elif entry.type == "USER_RESUMED":
            self._halted.discard(entry.user)
        elif entry.type == "PRICE_STREAM_DISCONNECTED":
            self.guards.blind(entry.at)
        elif entry.type == "PRICE_STREAM_RESTORED":
            self.guards.seeing(entry.at)
        elif entry.type in self._on and entry.type != "ALERT_TRIGGERED":
            self._find(Rule.LINE, f"{entry.type} names no strategy")

    def _in_place(self, entry: Entry) -> None:
        expected = self._next.get(entry.partition, 1)
        if entry.position != expected:
            how = "comes again, or too late" if entry.position < expected else "leaves a gap"
            self._find(Rule.POSITION, f"{entry.type} {how}: {expected} is next")
        self._next[entry.partition] = max(expected, entry.position + 1)
        before = self._times.get(entry.partition, entry.at)
        if entry.at < before:
            self._find(Rule.TIME, f"{entry.type} was recorded at {entry.at}, the event before it at {before}")
        self._times[entry.partition] = max(before, entry.at)

    def _strategy(self, entry: Entry) -> Strategy:
        strategy = self.strategies.get(entry.strategy)
        if strategy is None:
            strategy = self.strategies[entry.strategy] = Strategy(entry.strategy, entry.user)
        if entry.user != strategy.user:
            what = f"{entry.type} of strategy {strategy.id} is user {entry.user}'s, the strategy user {strategy.user}'s"
            self._find(Rule.OWNER, what)
        if entry.version == 0 and entry.type in _UNVERSIONED:
            return strategy
        expected = strategy.version + 1
        while expected < entry.version and expected in self._lost_versions:
            expected += 1  # an unreadable entry may have it: of which strategy it was, nobody can tell
        if entry.version != expected:
            self._find(
                Rule.VERSION, f"{entry.type} of strategy {strategy.id} is version {entry.version}: {expected} is next"
            )
        strategy.version = max(strategy.version, entry.version)
        return strategy

    # --- the life of a strategy

    def _created(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        self._configure(strategy, nested(data, "config"))

    @staticmethod
    def _configure(strategy: Strategy, config: Mapping[str, Any]) -> None:
        strategy.symbol = text(config, "symbol")
        strategy.quantity = whole(config, "quantity")
        strategy.stop = money(config, "stop_loss")
        strategy.product = text(config, "product")

    def _updated(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if data.get("quantity") is not None:
            strategy.quantity = whole(data, "quantity")
        if data.get("product") is not None:
            strategy.product = text(data, "product")
        if data.get("stop_loss") is not None:
            self._guard_ends(strategy, data)
            strategy.stop = money(data, "stop_loss")
            self._guard(strategy)

    def _started(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if strategy.alive:
            self._find(Rule.LIFE, f"strategy {strategy.id} is started, and its run {strategy.run} has not ended")
        self._one_unresolved(strategy, "is started")
        self._guard_ends(strategy, data)
        strategy.begin(self._entry.version)
        strategy.open_at, strategy.close_at = whole(data, "open_at"), whole(data, "close_at")
        self._configure(strategy, nested(data, "config"))

    def _exited(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        run, realised = whole(data, "run"), money(data, "realised")
        if run != strategy.run or not strategy.alive or strategy.exited:
            self._find(Rule.LIFE, f"run {run} of strategy {strategy.id} exits, {self._standing(strategy)}")
            return
        strategy.exited = True
        fills = [(order, order.filled) for order in strategy.orders if order.filled and order.kind != "SURFACED"]
        entry = self._entry
        self.exits.append(Exited(entry.position, entry.partition, strategy.id, run, realised, fills))

    def _stopped(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        run = whole(data, "run")
        if run != strategy.run or not strategy.alive or not strategy.exited:
            self._find(Rule.LIFE, f"run {run} of strategy {strategy.id} stops, {self._standing(strategy)}")
        self._guard_ends(strategy, data)
        strategy.alive = strategy.squaring_off = False

    @staticmethod
    def _standing(strategy: Strategy) -> str:
        how = "alive" if strategy.alive else "over"
        return f"and run {strategy.run} is {how}, {'exited' if strategy.exited else 'not exited'}"

    def _stop_requested(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        self._guard_ends(strategy, data)
        if data.get("square_off") is True and not strategy.alive:
            strategy.squaring_off = True

    def _log_lost(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        """The end of the log is gone: of an exit and the stop that came with it, the stop may be."""
        strategy.exited = False
        self._guard_ends(strategy, data)

    def _buy_triggered(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if whole(data, "run") == strategy.run:
            strategy.buy_triggered = True

    def _stop_triggered(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        price, stop = money(nested(data, "tick"), "price"), money(data, "stop_loss")
        if price > stop:
            self._find(Rule.STOP, f"the stop {stop} of strategy {strategy.id} is triggered by a trade at {price}")
        if whole(data, "run") == strategy.run:
            strategy.stop_triggered = True
            self._guard_ends(strategy, data)

    def _alerted(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if data.get("code") == "OVERSOLD" and data.get("severity") == "critical":
            strategy.alerted = True

    # --- orders

    def _locked(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        strategy.lock = text(data, "tag")

    def _intended(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        request, tag = nested(data, "request"), text(data, "tag")
        kind = choice(data, "kind", INTENTS[self._entry.type])
        order = Asked(
            strategy,
            tag,
            kind,
            strategy.run,
            text(request, "symbol"),
            whole(request, "quantity"),
            text(request, "product"),
        )
        order.position, order.at = self._entry.position, whole(data, "at")
        what = f"strategy {strategy.id}: {kind} of {order.quantity}, {tag},"
        self._tagged(order, what, text(request, "tag"))
        if strategy.lock != tag:
            self._find(Rule.LOCK, f"{what} comes without its lock")
        self._as_configured(strategy, order, what, text(request, "side"))
        self._permitted(strategy, order, what)
        self._one_unresolved(strategy, f"asks for {kind} {tag}")
        self._add(strategy, order)
        if kind != "BUY":
            self._guard_ends(strategy, data)

    def _tagged(self, order: Asked, what: str, requested: str) -> None:
        parts = read_tag(order.tag)
        if parts is None or requested != order.tag:
            self._find(Rule.TAG, f"{what} is no tag of ours, or not the request's, {requested}")
        elif (parts.strategy, parts.run) != (order.strategy.id, order.run):
            self._find(Rule.TAG, f"{what} says strategy {parts.strategy}, run {parts.run}, not {order.run}")
        if order.tag in self.asked:
            self._find(Rule.TAG_TWICE, f"{what} has the tag of position {self.asked[order.tag].position}")

    def _as_configured(self, strategy: Strategy, order: Asked, what: str, side: str) -> None:
        wrong = (order.symbol, side) != (strategy.symbol, order.side) or order.quantity <= 0
        if order.kind == "BUY":
            wrong = wrong or (order.quantity, order.product) != (strategy.quantity, strategy.product)
        if wrong:
            self._find(
                Rule.CONFIG,
                f"{what} is a {side} of {order.symbol}, {order.product}; the strategy is"
                f" {strategy.quantity} {strategy.symbol}, {strategy.product}",
            )

    def _permitted(self, strategy: Strategy, order: Asked, what: str) -> None:
        """Whether the order may be placed now: the first rule that it breaks."""
        kind = order.kind
        if kind == "SURFACED":
            if order.quantity > strategy.surfaced:
                self._find(Rule.SELLS_TOO_MUCH, f"{what} and {strategy.surfaced} surfaced")
        elif not strategy.alive and not (kind == "SELL" and strategy.squaring_off):
            self._find(Rule.AFTER_STOP, f"{what} and no run is alive")
        elif strategy.sold >= strategy.bought > 0:
            self._find(Rule.AFTER_EXIT, f"{what} and {strategy.sold} of {strategy.bought} are sold already")
        elif kind == "BUY":
            self._may_enter(strategy, what)
        elif order.quantity > strategy.held:
            self._find(Rule.SELLS_TOO_MUCH, f"{what} and {strategy.held} are held")
        elif kind == "STOPLOSS" and not strategy.stop_triggered:
            self._find(Rule.UNTRIGGERED, f"{what} and no trade at or under the stop was told")

    def _may_enter(self, strategy: Strategy, what: str) -> None:
        if strategy.user in self._halted:
            self._find(Rule.HALTED, f"{what} and user {strategy.user} is halted")
        for earlier in strategy.orders:
            if earlier.kind == "BUY" and not earlier.never_was:
                how = earlier.final or "unresolved"
                self._find(
                    Rule.SECOND_BUY, f"{what} and {earlier.tag} of the same run is {how}, {earlier.filled} filled"
                )
        if not strategy.buy_triggered:
            self._find(Rule.UNTRIGGERED, f"{what} and it was not triggered")

    def _one_unresolved(self, strategy: Strategy, what: str) -> None:
        for order in strategy.open.values():
            if not order.surfaced:
                self._find(
                    Rule.UNRESOLVED, f"strategy {strategy.id} {what} while {order.kind} {order.tag} is unresolved"
                )

    def _recovered(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        tag, kind = text(data, "tag"), choice(data, "kind", _KINDS)
        order = Asked(
            strategy,
            tag,
            kind,
            whole(data, "run"),
            text(data, "symbol"),
            whole(data, "quantity"),
            text(data, "product"),
        )
        order.position, order.at = self._entry.position, whole(data, "placed_at")
        order.recovered = True
        order.order_id = text(data, "order_id")
        if tag in self.asked:
            self._find(Rule.TAG_TWICE, f"{tag} is recovered, and position {self.asked[tag].position} asked for it")
            return
        in_time = order.run == strategy.run and (strategy.alive or kind == "SURFACED")
        order.surfaced = not in_time or any(not other.surfaced for other in strategy.open.values())
        self._add(strategy, order)

    def _add(self, strategy: Strategy, order: Asked) -> None:
        if order.tag not in self.asked:
            self.asked[order.tag] = order
            strategy.asked_for(order)

    def _told(self, strategy: Strategy, data: Mapping[str, Any]) -> Asked | None:
        """The order that an event is about."""
        tag = text(data, "tag")
        order = self.asked.get(tag)
        if order is None or order.strategy is not strategy:
            self._find(Rule.UNASKED, f"{self._entry.type} of {tag}, which strategy {strategy.id} never asked for")
            return None
        return order

    def _accepted(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if (order := self._told(strategy, data)) is not None:
            order.order_id = text(data, "order_id")
            self._shows_up(order)

    def _filled(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if (order := self._told(strategy, data)) is not None:
            filled, average = whole(data, "filled"), money(data, "average_price")
            order.order_id = text(data, "order_id")
            self._shows_up(order)
            self._fill(order, filled, average)

    def _finalized(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if (order := self._told(strategy, data)) is None:
            return
        final, filled = choice(data, "final", _FINALS), whole(data, "filled") if "filled" in data else 0
        average = money(data, "average_price") if data.get("average_price") is not None else None
        if not order.open and (order.final != "not_placed" or final == "not_placed"):
            self._find(Rule.FINAL_TWICE, f"{order.tag} ends {final}, and has ended {order.final}")
        if not order.open and final != "not_placed":
            order.surfaced = True
        self._fill(order, filled, order.average if average is None else average)
        order.final = final
        order.open = False
        strategy.open.pop(order.tag, None)

    def _denied(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if data.get("tag") is not None and (order := self._told(strategy, data)) is not None:
            order.denied = True

    def _shows_up(self, order: Asked) -> None:
        """An order that was given up is there after all."""
        if order.final == "not_placed" and not order.open:
            order.surfaced = order.open = True
            order.strategy.open[order.tag] = order

    def _fill(self, order: Asked, filled: int, average: Decimal | None) -> None:
        if filled > order.quantity:
            self._find(Rule.FILLS, f"{filled} of {order.tag} are filled, and {order.quantity} were asked for")
        order.strategy.fill(order, filled, average, self._entry.position)
        self._guard(order.strategy)

    def _settled(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if whole(data, "quantity"):
            strategy.settle()
            self._guard_ends(strategy, data)

    # --- the stop

    def _guard(self, strategy: Strategy) -> None:
        """What is held is watched from now on; what is not, no more."""
        entry = self._entry
        if strategy.held <= 0 or not strategy.alive:
            self.guards.end(strategy.id, entry.at)
        elif strategy.stop is not None and not strategy.stop_triggered and not _exiting(strategy):
            hours = (strategy.open_at, strategy.close_at)
            self.guards.begin(
                strategy.id, strategy.run, strategy.symbol, strategy.stop, entry.at, entry.position, hours
            )

    def _guard_ends(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        self.guards.end(strategy.id, self._entry.at)

    # --- findings

    def _find(self, rule: Rule, what: str) -> None:
        self.found.append(Finding(rule, what, self._entry.position, partition=self._entry.partition))

    def _malformed(self, number: int, line: Mapping[str, Any], error: Malformed) -> None:
        """What can still be told of the line counts, so that it is one finding and not many."""
        try:
            partition, position = position_of(line)
        except Malformed:
            self.found.append(Finding(Rule.LINE, f"line {number}: {error}"))
            return
        self.found.append(Finding(Rule.LINE, f"line {number}: {error}", position, partition=partition))
        self._next[partition] = max(self._next.get(partition, 1), position + 1)
        if type(event_id := line.get("id")) is str:
            self._ids.add(event_id)
        if type(version := line.get("version")) is int:
            self._lost_versions.add(version)


def _exiting(strategy: Strategy) -> bool:
    return any(order.kind != "BUY" for order in strategy.orders)
