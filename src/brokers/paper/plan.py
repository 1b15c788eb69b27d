"""What goes wrong with an order at the paper broker: one `Script` per order, given by a `Plan`.

A script is stored with its order, so that every process, and the same process after a crash, plays the same one.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from brokers.port import NotPlaced
from domain.values import DAY, SECOND, Duration, OrderRequest, Quantity

__all__ = [
    "FAITHFUL", "NEVER", "SESSION_EXPIRED", "THROTTLED", "ChangeFault", "Lost", "NoFaults", "Plan", "Portion",
    "Rejection", "Script", "ScriptedPlan",
]  # fmt: skip

NEVER: Duration = 100_000 * DAY
"""As a rest: until the order is modified."""

THROTTLED = NotPlaced(reason="TOO_MANY_REQUESTS", curable=True, counted=False, text="Too many requests")
SESSION_EXPIRED = NotPlaced(
    reason="SESSION_EXPIRED", curable=False, session=True, text="Token is invalid or has expired."
)


class Portion(Struct, frozen=True):
    """A partial fill: so many shares, or such a fraction of the order, `after` the order reached the market."""

    size: Quantity | Decimal
    after: Duration = 0

    def of(self, quantity: Quantity) -> Quantity:
        """In shares; a fraction is rounded down, to one share at least."""
        return self.size if isinstance(self.size, int) else max(1, int(quantity * self.size))


class Rejection(Struct, frozen=True, kw_only=True):
    """The order was accepted, shows in the book, and is rejected `after` it reached the market. It never fills."""

    reason: str
    after: Duration = 0
    curable: bool = False
    text: str = ""


class Lost(Struct, frozen=True, kw_only=True):
    """No answer: `Unanswered` after `timeout`. The order is in the book `surfaces` later: 0 at once, None never."""

    surfaces: Duration | None
    timeout: Duration = 7 * SECOND


class ChangeFault(StrEnum):
    """What becomes of one attempt to cancel or modify."""

    NONE = "none"
    REFUSED = "refused"
    FILLED = "filled"
    """The order fills completely just before; so the attempt is refused."""
    LOST_DONE = "lost_done"
    """Carried out, but unanswered."""
    LOST_IGNORED = "lost_ignored"
    """Neither carried out nor answered."""


class Script(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fate of one order. The default is a broker without faults and without delay.

    `latency`: the broker answers, and the order reaches the market, so long after it was sent.
    `refuse`: rejected before acceptance, nothing enters the book.
    `lost`, `reject`: see their types.
    `fills`: partial fills, by ascending `after`; what is left fills `rest` after the last of them (`NEVER`: the market
    protection ran out). A modification ends the rest. No portion fills while the price is outside the limit.
    `cancels`, `modifies`: what becomes of the first, second, … attempt; later ones are carried out.
    `failed_readings`: from now on, so many readings of the account's book fail; `dark`: all readings do for so long.
    """

    latency: Duration = 0
    refuse: NotPlaced | None = None
    lost: Lost | None = None
    reject: Rejection | None = None
    fills: tuple[Portion, ...] = ()
    rest: Duration = 0
    cancels: tuple[ChangeFault, ...] = ()
    modifies: tuple[ChangeFault, ...] = ()
    failed_readings: int = 0
    dark: Duration = 0

    def __post_init__(self) -> None:
        afters = [portion.after for portion in self.fills]
        if afters != sorted(afters):
            raise ValueError(f"fills must be in the order of their `after`, got {afters}")


FAITHFUL = Script()


class Plan(Protocol):
    """Gives every order its script."""

    def for_order(self, request: OrderRequest, n: int) -> Script:
        """`n` counts the account's attempts to place an order, from 1, over all processes.

        Must be a pure function: it is called in the book's thread.
        """
        ...


class NoFaults:
    """Every order is carried out, after `latency`."""

    def __init__(self, latency: Duration = 0) -> None:
        self._script = Script(latency=latency)

    def for_order(self, request: OrderRequest, n: int) -> Script:
        return self._script


class ScriptedPlan:
    """Rules `(which, script)`: `which` is the attempt's number or a predicate on the request. The first fit counts."""

    def __init__(
        self,
        rules: Sequence[tuple[int | Callable[[OrderRequest], bool], Script]],
        otherwise: Script = FAITHFUL,
    ) -> None:
        self._rules = tuple(rules)
        self._otherwise = otherwise

    def for_order(self, request: OrderRequest, n: int) -> Script:
        for which, script in self._rules:
            if which == n if isinstance(which, int) else which(request):
                return script
        return self._otherwise
