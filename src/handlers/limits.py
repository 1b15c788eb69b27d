"""The broker's limits on orders, per account: fixed windows of the calendar, counted by the append script (§5.6).

Kite: 10 orders per calendar second, 400 a minute, 5,000 a day, all accounts alike; every attempt counts, cancels and
changes too. A share is kept for exits.
"""

from collections.abc import Sequence

from msgspec import Struct

from domain.events import CancelRequested, Event, Intent, ModifyRequested
from domain.values import DAY, MINUTE, SECOND, Duration, Instant, Kind
from eventstore.batch import Permit
from eventstore.keys import Keys

WINDOWS: tuple[tuple[str, Duration], ...] = (("second", SECOND), ("minute", MINUTE), ("day", DAY))


class Limits(Struct, frozen=True, kw_only=True):
    """How many orders, cancels and changes an account may ask for in each window; `reserve` is kept for exits."""

    second: int = 10
    minute: int = 400
    day: int = 5_000
    reserve: float = 0.2

    def permits(self, keys: Keys, user_id: int, events: Sequence[Event], now: Instant) -> tuple[Permit, ...]:
        """The room that a batch needs, narrowest window first; none for a batch that asks the broker for nothing."""
        asked = [e for e in events if isinstance(e, Intent | CancelRequested | ModifyRequested)]
        if not asked:
            return ()
        entry = any(isinstance(e, Intent) and e.kind is Kind.BUY for e in asked)
        return tuple(
            Permit(
                counter=keys.limit(f"{user_id}:{name}:{now // length}"),
                limit=self._room(getattr(self, name), entry),
                ttl=2 * length // SECOND,
                amount=len(asked),
            )
            for name, length in WINDOWS
        )

    def _room(self, limit: int, entry: bool) -> int:
        return limit - max(1, int(limit * self.reserve)) if entry else limit


def window_of(permit_counter: str) -> tuple[str, Duration]:
    """Which window a counter of `permits` counts."""
    name = permit_counter.rsplit(":", 2)[-2]
    return name, dict(WINDOWS)[name]


def next_window(now: Instant, length: Duration) -> Instant:
    return (now // length + 1) * length
