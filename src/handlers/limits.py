"""The broker's limits on orders, per account: fixed windows of the calendar, counted by the append script (§5.6).

Every attempt counts, cancels and changes too. A share is kept for exits.
"""

from collections.abc import Sequence

from brokers.port import OrderLimits
from domain.events import CancelRequested, Event, Intent, ModifyRequested
from domain.values import DAY, MINUTE, SECOND, Duration, Instant, Kind
from eventstore.batch import Permit
from eventstore.keys import Keys

ASKING = Intent | CancelRequested | ModifyRequested
WINDOWS: tuple[tuple[str, Duration], ...] = (("second", SECOND), ("minute", MINUTE), ("day", DAY))


def permits(limits: OrderLimits, keys: Keys, user_id: int, events: Sequence[Event], now: Instant) -> tuple[Permit, ...]:
    """The room that a batch needs, narrowest window first; none for a batch that asks the broker for nothing."""
    asked = [e for e in events if isinstance(e, ASKING)]
    if not asked:
        return ()
    entry = any(isinstance(e, Intent) and e.kind is Kind.BUY for e in asked)
    return tuple(
        Permit(
            counter=keys.limit(f"{user_id}:{name}:{now // length}"),
            limit=_room(getattr(limits, name), limits.reserve if entry else 0),
            ttl=2 * length // SECOND,
            amount=len(asked),
        )
        for name, length in WINDOWS
    )


def _room(limit: int, reserve: float) -> int:
    return limit - max(1, int(limit * reserve)) if reserve else limit


def window_of(permit_counter: str) -> tuple[str, Duration]:
    """Which window a counter of `permits` counts."""
    name = permit_counter.rsplit(":", 2)[-2]
    return name, dict(WINDOWS)[name]


def next_window(now: Instant, length: Duration) -> Instant:
    return (now // length + 1) * length
