"""The rules that the history alone must keep: one pass over its lines, in their order."""

from collections.abc import Iterable, Mapping
from typing import Any

from simulation.independent.finding import Finding, Rule
from simulation.independent.lines import Entry, entry_of
from simulation.independent.orders import Orders
from simulation.independent.places import Places
from simulation.independent.runs import Runs
from simulation.independent.told import Told
from simulation.independent.values import Malformed

__all__ = ["at_the_end", "read_all"]


def read_all(lines: Iterable[Any]) -> Told:
    """What they tell, and what is wrong with that."""
    told = Told()
    places = Places(told)
    on = Runs(told).on | Orders(told).on
    for number, line in enumerate(lines, 1):
        if not isinstance(line, Mapping):
            told.found.append(Finding(Rule.LINE, f"line {number} is no map, but {type(line).__name__}"))
            continue
        try:
            entry = entry_of(line)
            if entry is None or not places.take(entry):
                continue
            handler = on.get(entry.type)
            if entry.strategy:
                strategy = places.strategy(entry)
                if handler is not None:
                    handler(strategy, entry.data)
            elif handler is not None and entry.type != "ALERT_TRIGGERED":
                told.find(Rule.LINE, f"{entry.type} names no strategy")
            else:
                _of_no_strategy(told, entry)
        except Malformed as error:
            places.malformed(number, line, error)
    return told


def _of_no_strategy(told: Told, entry: Entry) -> None:
    match entry.type:
        case "SYSTEM_RECOVERY" if entry.data.get("old_epoch") != entry.data.get("new_epoch"):
            for strategy in told.strategies.values():
                strategy.exited = False  # the end of the log is gone: of an exit and the stop with it, the stop may be
        case "USER_HALTED":
            told.halted.add(entry.user)
        case "USER_RESUMED":
            told.halted.discard(entry.user)
        case "PRICE_STREAM_DISCONNECTED":
            told.guards.blind(entry.at)
        case "PRICE_STREAM_RESTORED":
            told.guards.seeing(entry.at)


def at_the_end(told: Told) -> None:
    """Everything has come to its end: no run is alive, no order is unresolved, whatever was oversold was alerted."""
    for strategy in told.strategies.values():
        if strategy.alive:
            what = f"run {strategy.run} of strategy {strategy.id} has not ended"
            told.found.append(Finding(Rule.RUN_OPEN, what))
        for order in strategy.open.values():
            what = f"{order.kind} {order.tag} of strategy {strategy.id} was never finalized"
            told.found.append(Finding(Rule.NOT_FINAL, what, order.position))
        if strategy.short is not None and not strategy.alerted:
            what = f"strategy {strategy.id} sold more than it bought, and no critical alert OVERSOLD was raised"
            told.found.append(Finding(Rule.NO_ALERT, what, strategy.short))
