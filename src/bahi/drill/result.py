"""What came of one moment."""

from msgspec import Struct, field

from bahi.drill.checks import Found
from bahi.drill.rows import Moment
from domain.values import Duration, Instant

__all__ = ["Result"]


class Result(Struct, kw_only=True):
    """What came of a moment. `trading_after`: seconds of real time from the start of what was killed until the engine
    had done all that there was to do. `exits_held`, `entries_held`: microseconds of the market's time for which they
    waited for the order book. `only_redis`: events that were nowhere but in what was destroyed."""

    moment: Moment
    found: Found = field(default_factory=Found)
    happened_at: Instant = 0
    trading_after: float = 0.0
    exits_held: Duration = 0
    entries_held: Duration = 0
    only_redis: int = 0
    events: int = 0
    orders: int = 0
    acknowledged: int = 0
    torn: int = 0
    epochs: int = 1
    restarted: bool = False
    """Whether processes of the engine were started for it."""
    reopened: int = 0
    seconds: float = 0.0
