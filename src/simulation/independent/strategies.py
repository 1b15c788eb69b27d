"""What the history has told so far of a strategy and of its orders: as much as the rules need."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from simulation.independent.values import Malformed, text, whole

__all__ = ["Asked", "Strategy"]


class Asked:
    """An order as it was asked for, and what was told of it since. `run` 0: of a run that is not known."""

    def __init__(
        self, strategy: "Strategy", tag: str, kind: str, run: int, request: Mapping[str, Any], position: int, at: int
    ) -> None:
        """Raises Malformed for a request that lacks something."""
        self.strategy = strategy
        self.tag = tag
        self.kind = kind
        self.side = "BUY" if kind == "BUY" else "SELL"
        self.run = run
        self.symbol = text(request, "symbol")
        self.quantity = whole(request, "quantity")
        self.product = text(request, "product")
        self.position = position
        self.at = at
        self.recovered = False
        """It stands for a lost intent, so it is told of after it was placed."""
        self.order_id: str | None = None
        self.filled = 0
        self.average: Decimal | None = None
        self.final: str | None = None
        self.denied = False
        """We did not send it."""
        self.open = True
        self.surfaced = False
        """It showed up after it was given up, or when the log had forgotten it and its run was over."""

    @property
    def never_was(self) -> bool:
        """It is known not to exist: the broker refused it, or we did not send it."""
        return not self.filled and (self.final == "rejected" or (self.final == "not_placed" and self.denied))


class Strategy:
    """One strategy. The quantities are those of the fills that were told."""

    def __init__(self, strategy_id: int, user: int) -> None:
        self.id = strategy_id
        self.user = user
        self.version = 0
        self.symbol = ""
        self.product = ""
        self.quantity = 0
        self.stop: Decimal | None = None
        self.stop_revision = 0
        self.lock = ""
        self.open: dict[str, Asked] = {}
        """Not finalized, or surfaced since."""
        self.orders: list[Asked] = []
        """Of this run."""
        self.surfaced = 0
        """Bought by orders that no run accounts for. An upper bound once a position was settled."""
        self.balance = 0
        """All that was bought less all that was sold."""
        self.short: int | None = None
        """The position at which that first fell below zero."""
        self.alerted = False
        """OVERSOLD was."""
        self.squaring_off = False
        """Asked for since the run ended."""
        self.begin(0)
        self.alive = False

    def begin(self, run: int) -> None:
        """A run begins."""
        self.run = run
        self.alive = True
        self.exited = False
        self.bought = self.sold = 0
        self.held = 0
        """Bought and not sold in this run. An upper bound once a position was settled."""
        self.buy_triggered = False
        self.stop_price: Decimal | None = None
        """Of the trade that reached the stop as it is now."""
        self.squaring_off = False
        self.open_at = self.close_at = self.buy_at = 0
        self.orders = []

    def asked_for(self, order: Asked) -> None:
        self.open[order.tag] = order
        if order.run == self.run:
            self.orders.append(order)

    @property
    def exiting(self) -> bool:
        """An exit of this run was asked for."""
        return any(order.side == "SELL" for order in self.orders)

    def fill(self, order: Asked, filled: int, average: Decimal | None, position: int) -> bool:
        """The order is filled so far, all in all; whether that is news. Raises Malformed for an average that is
        missing."""
        more = filled - order.filled
        if more <= 0:
            return False
        if average is None:
            raise Malformed("its average_price is missing")
        order.filled, order.average = filled, average
        of_this_run = order.run == self.run
        if order.side == "BUY":
            self.balance += more
            if of_this_run and self.alive:
                self.bought += more
                self.held += more
            else:
                self.surfaced += more
        else:
            self.balance -= more
            if of_this_run and order.kind != "SURFACED":
                self.sold += more
                self.held -= more
            else:
                self.surfaced -= more
            if self.balance < 0 and self.short is None:
                self.short = position
        return True

    def settle(self) -> None:
        """Shares were closed, or bought back, elsewhere: whatever was sold too much may be even again."""
        self.held = max(self.held, 0)
        self.surfaced = max(self.surfaced, 0)
