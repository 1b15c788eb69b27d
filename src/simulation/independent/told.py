"""What the history has told up to the entry that is being read: what its rules share, and what the book is held to."""

from decimal import Decimal
from typing import NamedTuple

from simulation.independent.finding import Finding, Rule
from simulation.independent.lines import Entry
from simulation.independent.stops import Guards
from simulation.independent.strategies import Asked, Strategy

__all__ = ["Exited", "Told"]


class Exited(NamedTuple):
    """A run's end: the profit or loss told, and how much of each of its orders had been filled."""

    position: int
    partition: int
    strategy: int
    run: int
    realised: Decimal
    fills: list[tuple[Asked, int]]


class Told:
    def __init__(self) -> None:
        self.entry = Entry()
        """Being read."""
        self.found: list[Finding] = []
        self.strategies: dict[int, Strategy] = {}
        self.asked: dict[str, Asked] = {}
        """Every order that was asked for, by its tag."""
        self.exits: list[Exited] = []
        self.families: set[str] = set()
        """What our tags begin with: the first two characters of the log's name."""
        self.halted: set[int] = set()
        """Users."""
        self.guards = Guards()
        self.last_at = 0

    def find(self, rule: Rule, what: str) -> None:
        """The entry being read breaks the rule."""
        self.found.append(Finding(rule, what, self.entry.position, partition=self.entry.partition))

    def one_unresolved(self, strategy: Strategy, what: str) -> None:
        """Nothing may be begun while an order is unresolved; one that surfaced is minded aside."""
        for order in strategy.open.values():
            if not order.surfaced:
                why = f"strategy {strategy.id} {what} while {order.kind} {order.tag} is unresolved"
                self.find(Rule.UNRESOLVED, why)

    def guard(self, strategy: Strategy) -> None:
        """What is held is watched from now on; what is not, or is being sold, no more."""
        if strategy.held <= 0 or not strategy.alive:
            self.unguard(strategy)
        elif strategy.stop is not None and strategy.stop_price is None and not strategy.exiting:
            self.guards.begin(
                strategy.id,
                strategy.run,
                strategy.symbol,
                strategy.stop,
                self.entry.at,
                self.entry.position,
                (strategy.open_at, strategy.close_at),
            )

    def unguard(self, strategy: Strategy) -> None:
        self.guards.end(strategy.id, self.entry.at)
