"""The orders as the history tells them: what is asked for, whether it may be, and what becomes of it."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from simulation.independent.finding import Rule
from simulation.independent.strategies import Asked, Strategy
from simulation.independent.tags import read_tag
from simulation.independent.told import Told
from simulation.independent.values import choice, money, nested, text, whole

__all__ = ["Orders"]

_INTENTS: Final = {
    "EXECUTE_BUY": frozenset({"BUY"}),
    "EXECUTE_SELL": frozenset({"SELL", "SURFACED"}),
    "EXECUTE_STOPLOSS": frozenset({"STOPLOSS"}),
}
"""Which kinds of orders each asks for."""
_KINDS: Final = frozenset({"BUY", "SELL", "STOPLOSS", "SURFACED"})
_FINALS: Final = frozenset({"complete", "cancelled", "rejected", "not_placed"})
_OF_AN_ORDER: Final = (
    *("ORDER_REJECTED", "ORDER_CANCELLED", "ORDER_OUTCOME_UNKNOWN", "ORDER_RETRY_REQUIRED"),
    *("CANCEL_REQUESTED", "CANCEL_REJECTED", "MODIFY_REQUESTED", "MODIFY_REJECTED"),
)


class Orders:
    def __init__(self, told: Told) -> None:
        self._told = told
        self.on: dict[str, Callable[[Strategy, Mapping[str, Any]], object]] = {
            "LOCK_ACQUIRED": self._locked,
            **dict.fromkeys(_INTENTS, self._intended),
            "ORDER_RECOVERED": self._recovered,
            "ORDER_ACCEPTED": self._accepted,
            "ORDER_FILLED": self._filled,
            "ORDER_FINALIZED": self._finalized,
            "ORDER_DENIED": self._denied,
            **dict.fromkeys(_OF_AN_ORDER, self._order),
            "POSITION_SETTLED": self._settled,
        }
        """What each type of event means to its strategy. They raise Malformed."""

    # --- asked for

    def _locked(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        strategy.lock = text(data, "tag")

    def _intended(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        entry, request, tag = self._told.entry, nested(data, "request"), text(data, "tag")
        kind = choice(data, "kind", _INTENTS[entry.type])
        order = Asked(strategy, tag, kind, strategy.run, request, entry.position, whole(data, "at"))
        what = f"strategy {strategy.id}: {kind} of {order.quantity}, {tag},"
        self._tagged(order, what, text(request, "tag"))
        if strategy.lock != tag:
            self._told.find(Rule.LOCK, f"{what} comes without its lock")
        self._as_configured(strategy, order, what, text(request, "side"))
        self._permitted(strategy, order, what)
        self._told.one_unresolved(strategy, f"asks for {kind} {tag}")
        if tag not in self._told.asked:
            self._add(strategy, order)
        if kind != "BUY":
            self._told.unguard(strategy)

    def _tagged(self, order: Asked, what: str, requested: str) -> None:
        parts = read_tag(order.tag)
        if parts is None or requested != order.tag:
            self._told.find(Rule.TAG, f"{what} is no tag of ours, or not the request's, {requested}")
        elif (parts.strategy, parts.run) != (order.strategy.id, order.run):
            says = f"says strategy {parts.strategy}, run {parts.run}; it is run {order.run}"
            self._told.find(Rule.TAG, f"{what} {says}")
        if (earlier := self._told.asked.get(order.tag)) is not None:
            self._told.find(Rule.TAG_TWICE, f"{what} has the tag of position {earlier.position}")

    def _as_configured(self, strategy: Strategy, order: Asked, what: str, side: str) -> None:
        wrong = (order.symbol, side) != (strategy.symbol, order.side) or order.quantity <= 0
        if order.kind == "BUY":
            wrong = wrong or (order.quantity, order.product) != (strategy.quantity, strategy.product)
        if wrong:
            is_, configured = (
                f"{side} {order.symbol}, {order.product}",
                f"{strategy.quantity} {strategy.symbol}, {strategy.product}",
            )
            self._told.find(Rule.CONFIG, f"{what} is {is_}; the strategy is {configured}")

    def _permitted(self, strategy: Strategy, order: Asked, what: str) -> None:
        """Whether the order may be placed now: the first rule that it breaks."""
        find, kind = self._told.find, order.kind
        if kind == "SURFACED":
            if order.quantity > strategy.surfaced:
                find(Rule.SELLS_TOO_MUCH, f"{what} and {strategy.surfaced} surfaced")
        elif not strategy.alive and not (kind == "SELL" and strategy.squaring_off):
            find(Rule.AFTER_STOP, f"{what} and no run is alive")
        elif strategy.sold >= strategy.bought > 0:
            find(Rule.AFTER_EXIT, f"{what} and {strategy.sold} of {strategy.bought} are sold already")
        elif kind == "BUY":
            self._may_enter(strategy, what)
        elif order.quantity > strategy.held:
            find(Rule.SELLS_TOO_MUCH, f"{what} and {strategy.held} are held")
        elif kind == "STOPLOSS" and strategy.stop_price is None:
            find(Rule.UNTRIGGERED, f"{what} and no trade at or under the stop was told")

    def _may_enter(self, strategy: Strategy, what: str) -> None:
        find = self._told.find
        if strategy.user in self._told.halted:
            find(Rule.HALTED, f"{what} and user {strategy.user} is halted")
        for earlier in strategy.orders:
            if earlier.kind == "BUY" and not earlier.never_was:
                how = f"{earlier.final or 'unresolved'}, {earlier.filled} filled"
                find(Rule.SECOND_BUY, f"{what} and {earlier.tag} of the same run is {how}")
        if not strategy.buy_triggered:
            find(Rule.UNTRIGGERED, f"{what} and it was not triggered")

    def _recovered(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        """The order of an intent that the log has lost."""
        tag, kind = text(data, "tag"), choice(data, "kind", _KINDS)
        order = Asked(
            strategy, tag, kind, whole(data, "run"), data, self._told.entry.position, whole(data, "placed_at")
        )
        order.recovered = True
        order.order_id = text(data, "order_id")
        if (earlier := self._told.asked.get(tag)) is not None:
            what = f"{tag} is recovered, and position {earlier.position} asked for it"
            self._told.find(Rule.TAG_TWICE, what)
            return
        in_time = order.run == strategy.run and (strategy.alive or kind == "SURFACED")
        order.surfaced = not in_time or any(not other.surfaced for other in strategy.open.values())
        self._add(strategy, order)

    def _add(self, strategy: Strategy, order: Asked) -> None:
        self._told.asked[order.tag] = order
        strategy.asked_for(order)

    # --- told

    def _order(self, strategy: Strategy, data: Mapping[str, Any]) -> Asked | None:
        """The order that an event is about."""
        tag = text(data, "tag")
        order = self._told.asked.get(tag)
        if order is None or order.strategy is not strategy:
            what = f"{self._told.entry.type} of {tag}, which strategy {strategy.id} never asked for"
            self._told.find(Rule.UNASKED, what)
            return None
        return order

    def _accepted(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if (order := self._order(strategy, data)) is not None:
            order.order_id = text(data, "order_id")
            _shows_up(order)

    def _filled(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if (order := self._order(strategy, data)) is not None:
            filled, average = whole(data, "filled"), money(data, "average_price")
            order.order_id = text(data, "order_id")
            _shows_up(order)
            self._fill(order, filled, average)

    def _finalized(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if (order := self._order(strategy, data)) is None:
            return
        final, filled = choice(data, "final", _FINALS), whole(data, "filled") if "filled" in data else 0
        average = money(data, "average_price") if data.get("average_price") is not None else None
        if not order.open:
            if order.final != "not_placed" or final == "not_placed":
                self._told.find(Rule.FINAL_TWICE, f"{order.tag} ends {final}, and has ended {order.final}")
            order.surfaced = order.surfaced or final != "not_placed"
        self._fill(order, filled, order.average if average is None else average)
        order.final = final
        order.open = False
        strategy.open.pop(order.tag, None)

    def _denied(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if data.get("tag") is not None and (order := self._order(strategy, data)) is not None:
            order.denied = True

    def _fill(self, order: Asked, filled: int, average: Decimal | None) -> None:
        if filled > order.quantity:
            what = f"{filled} of {order.tag} are filled, and {order.quantity} were asked for"
            self._told.find(Rule.FILLS, what)
        if order.strategy.fill(order, filled, average, self._told.entry.position):
            self._told.guard(order.strategy)

    def _settled(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if whole(data, "quantity"):
            strategy.settle()
            self._told.unguard(strategy)


def _shows_up(order: Asked) -> None:
    """An order that was given up is there after all."""
    if order.final == "not_placed" and not order.open:
        order.surfaced = order.open = True
        order.strategy.open[order.tag] = order
