"""A strategy and the world that it lives in, which words change."""

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from domain.calendar import instant, load_nse
from domain.decide import Decision, decide_next
from domain.events import Event
from domain.facts import Facts
from domain.strategy import State, evolve, initial
from domain.tags import make_tag
from domain.values import Instant, Price, Tag

LOG = "TEST"
DAY = dt.date(2026, 6, 15)
"""A Monday; Tuesday is a trading day too."""
SYMBOL = "NSE:INFY"


class Rules(Struct, frozen=True, kw_only=True):
    """An instrument's trading rules."""

    lot: int = 1
    tick_size: Decimal = Decimal("0.05")
    freeze: int = 1_000_000
    lower_circuit: Price | None = None
    upper_circuit: Price | None = None


def clock_time(text: str, day: dt.date = DAY) -> Instant:
    """The instant at which the exchange's clock shows `text` on the story's day."""
    return instant(day, dt.time.fromisoformat(text))


class Scene:
    """A strategy and the world it lives in; words change it."""

    def __init__(self, strategy_id: int = 7, user_id: int = 1) -> None:
        self.state: State = initial(strategy_id, user_id)
        self.events: list[tuple[Instant, Event]] = []
        """Everything that was folded, with when."""
        self.facts = Facts(
            now=clock_time("09:00"),
            log_id=LOG,
            calendar=load_nse(),
            price=Decimal(100),
            instrument=Rules(),
            cause="w-1",
        )
        self._price_fresh = True
        self.decided: tuple[Event, ...] | None = None
        self.wake_at: Instant | None = None
        self.look()

    def fold(self, *events: Event) -> None:
        for event in events:
            self.state = evolve(self.state, event)
            self.events.append((self.facts.now, event))

    def look(self, **changes: Any) -> None:
        """Changes the facts. The price stays as fresh as the clock unless `price_at` is given."""
        if "price_at" in changes:
            self._price_fresh = False
        self.facts = replace(self.facts, **changes)
        if self._price_fresh:
            self.facts = replace(self.facts, price_at=self.facts.now)

    def decide(self) -> Decision:
        """What would be decided now. Changes nothing."""
        return decide_next(self.state, self.facts)

    def take(self, decision: Decision) -> None:
        """What was decided is appended."""
        self.events += [(self.facts.now, event) for event in decision.events]
        self.state, self.decided, self.wake_at = decision.state, decision.events, decision.wake_at

    def tag(self, number: int | None = None) -> Tag:
        """The current order's tag, or that of the `number`-th order of the current run."""
        if number is None:
            current: Tag = self.order.tag
            return current
        return make_tag(LOG, self.state.id, self.state.run, number)

    @property
    def order(self) -> Any:
        assert self.state.order is not None, "no order was placed yet"
        return self.state.order


Word = Callable[[Scene], None]
