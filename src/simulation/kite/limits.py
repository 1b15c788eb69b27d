"""Kite's rate limits: fixed calendar windows on the server's clock, not sliding ones.

Orders count per account over all its keys, placings, changes and cancels together, the refused ones too; the other
limits are per api_key, which is the same as long as each account has its own. A breach is answered with 429 until the
window refreshes.
"""

from collections.abc import Hashable
from enum import StrEnum

from msgspec import Struct

from domain.calendar import wall
from domain.values import MINUTE, SECOND, Instant

__all__ = ["Counters", "Limit", "SimLimits"]


class Limit(StrEnum):
    """Which limit a call falls under."""

    NONE = "none"
    ORDERS = "orders"
    QUOTES = "quotes"
    HISTORICAL = "historical"
    OTHERS = "others"


class SimLimits(Struct, frozen=True, kw_only=True):
    """How many calls per window; None switches a limit off."""

    orders_per_second: int | None = 10
    orders_per_minute: int | None = 400
    orders_per_day: int | None = 5_000
    modifications: int | None = 25
    """Per order; then it must be cancelled and placed again."""
    quotes_per_second: int | None = 1
    historical_per_second: int | None = 3
    others_per_second: int | None = 10


class Counters:
    """Counts the calls of one account or key in the windows that are open now."""

    def __init__(self, limits: SimLimits) -> None:
        self._windows: dict[Limit, tuple[tuple[str, int | None], ...]] = {
            Limit.NONE: (),
            Limit.ORDERS: (
                ("second", limits.orders_per_second),
                ("minute", limits.orders_per_minute),
                ("day", limits.orders_per_day),
            ),
            Limit.QUOTES: (("second", limits.quotes_per_second),),
            Limit.HISTORICAL: (("second", limits.historical_per_second),),
            Limit.OTHERS: (("second", limits.others_per_second),),
        }
        self._counts: dict[tuple[Limit, str], tuple[Hashable, int]] = {}

    def take(self, limit: Limit, now: Instant) -> str | None:
        """Counts one call. The window whose limit it breaches ("second", "minute", "day"), None when it is within all.

        A call that breaches one is counted in all the same: a client that hammers gains nothing.
        """
        breached = None
        for window, most in self._windows[limit]:
            opened = _opened(window, now)
            since, count = self._counts.get((limit, window), (opened, 0))
            count = count + 1 if since == opened else 1
            self._counts[limit, window] = (opened, count)
            if most is not None and count > most:
                breached = window
        return breached


def _opened(window: str, now: Instant) -> Hashable:
    """When the window that contains `now` began. India's offset is whole minutes, so only days need the wall clock."""
    match window:
        case "second":
            return now // SECOND
        case "minute":
            return now // MINUTE
        case _:
            return wall(now).date()
