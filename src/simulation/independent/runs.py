"""The life of a strategy as the history tells it: its settings, its runs and what triggers them."""

from collections.abc import Callable, Mapping
from typing import Any

from simulation.independent.finding import Rule
from simulation.independent.strategies import Strategy
from simulation.independent.told import Exited, Told
from simulation.independent.values import money, nested, text, whole

__all__ = ["Runs"]


class Runs:
    def __init__(self, told: Told) -> None:
        self._told = told
        self.on: dict[str, Callable[[Strategy, Mapping[str, Any]], object]] = {
            "STRATEGY_CREATED": self._created,
            "STRATEGY_UPDATED": self._updated,
            "STRATEGY_STARTED": self._started,
            "STRATEGY_EXITED": self._exited,
            "STRATEGY_STOPPED": self._stopped,
            "STRATEGY_STOP_REQUESTED": self._stop_requested,
            "STRATEGY_RECOVERED": self._log_lost,
            "BUY_TRIGGERED": self._buy_triggered,
            "STOPLOSS_TRIGGERED": self._stop_triggered,
            "SAFETY_ABORT": self._ends_soon,
            "FORCE_STOP": self._ends_soon,
            "ALERT_TRIGGERED": self._alerted,
        }
        """What each type of event means to its strategy. They raise Malformed."""

    def _created(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        _configure(strategy, nested(data, "config"))
        strategy.stop_revision = 1

    def _updated(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if data.get("quantity") is not None:
            strategy.quantity = whole(data, "quantity")
        if data.get("product") is not None:
            strategy.product = text(data, "product")
        if data.get("buy_at") is not None and (buy_at := whole(data, "buy_at")) != strategy.buy_at:
            strategy.buy_at, strategy.buy_triggered = buy_at, False
        if data.get("stop_loss") is not None:
            self._told.unguard(strategy)
            strategy.stop, strategy.stop_revision = money(data, "stop_loss"), whole(data, "stop_revision")
            if strategy.stop_price is not None and strategy.stop_price > strategy.stop:
                strategy.stop_price = None
            self._told.guard(strategy)

    def _started(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if strategy.alive:
            what = f"strategy {strategy.id} is started, and its run {strategy.run} has not ended"
            self._told.find(Rule.LIFE, what)
        self._told.one_unresolved(strategy, "is started")
        self._told.unguard(strategy)
        strategy.begin(self._told.entry.version)
        strategy.open_at, strategy.close_at = whole(data, "open_at"), whole(data, "close_at")
        strategy.buy_at = whole(data, "buy_at")
        _configure(strategy, nested(data, "config"))

    def _exited(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        run, realised = whole(data, "run"), money(data, "realised")
        if run != strategy.run or not strategy.alive or strategy.exited:
            self._told.find(Rule.LIFE, f"run {run} of strategy {strategy.id} exits, and {_standing(strategy)}")
            return
        strategy.exited = True
        fills = [(order, order.filled) for order in strategy.orders if order.filled and order.kind != "SURFACED"]
        entry = self._told.entry
        self._told.exits.append(Exited(entry.position, entry.partition, strategy.id, run, realised, fills))

    def _stopped(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        run = whole(data, "run")
        if run != strategy.run or not strategy.alive or not strategy.exited:
            self._told.find(Rule.LIFE, f"run {run} of strategy {strategy.id} stops, and {_standing(strategy)}")
        self._told.unguard(strategy)
        strategy.alive = strategy.squaring_off = False

    def _stop_requested(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        self._told.unguard(strategy)
        if data.get("square_off") is True and not strategy.alive:
            strategy.squaring_off = True

    def _log_lost(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        """The end of the log is gone: of an exit and the stop that came with it, the stop may be."""
        strategy.exited = False
        self._told.unguard(strategy)

    def _buy_triggered(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if (whole(data, "run"), whole(data, "due_at")) == (strategy.run, strategy.buy_at):
            strategy.buy_triggered = True

    def _stop_triggered(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        price, stop = money(nested(data, "tick"), "price"), money(data, "stop_loss")
        if price > stop:
            what = f"the stop {stop} of strategy {strategy.id} is triggered by a trade at {price}"
            self._told.find(Rule.STOP, what)
        if (whole(data, "run"), whole(data, "stop_revision")) == (strategy.run, strategy.stop_revision):
            strategy.stop_price = price
            self._told.unguard(strategy)

    def _ends_soon(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        self._told.unguard(strategy)

    def _alerted(self, strategy: Strategy, data: Mapping[str, Any]) -> None:
        if data.get("code") == "OVERSOLD" and data.get("severity") == "critical":
            strategy.alerted = True


def _configure(strategy: Strategy, config: Mapping[str, Any]) -> None:
    strategy.symbol = text(config, "symbol")
    strategy.quantity = whole(config, "quantity")
    strategy.stop = money(config, "stop_loss")
    strategy.product = text(config, "product")


def _standing(strategy: Strategy) -> str:
    how = "alive" if strategy.alive else "over"
    return f"run {strategy.run} is {how}, {'exited' if strategy.exited else 'not exited'}"
