"""The broker's limits on orders, per account: fixed windows of the calendar, counted by the append script (§5.6).

Every attempt counts, cancels and changes too. A share is kept for exits. What certainly never reached the broker is
given back to the day's count: exits that are tried every second while the line is out would use it up.
"""

from collections.abc import Sequence

import structlog

from brokers.port import OrderLimits
from domain.events import CancelRequested, Event, Intent, ModifyRequested
from domain.values import DAY, MINUTE, SECOND, Duration, Instant, Kind
from eventstore.batch import Permit
from eventstore.clients import command
from eventstore.errors import LogUnavailable
from eventstore.log import EventLog

ASKING = Intent | CancelRequested | ModifyRequested
log = structlog.get_logger(__name__)

WINDOWS: tuple[tuple[str, Duration], ...] = (("second", SECOND), ("minute", MINUTE), ("day", DAY))


def permits(limits: OrderLimits, user_id: int, events: Sequence[Event], now: Instant) -> tuple[Permit, ...]:
    """The room that a batch needs, narrowest window first; none for a batch that asks the broker for nothing."""
    asked = [e for e in events if isinstance(e, ASKING)]
    if not asked:
        return ()
    entry = any(isinstance(e, Intent) and e.kind is Kind.BUY for e in asked)
    return tuple(
        Permit(
            counter=_counter(user_id, name, now // length),
            limit=_room(getattr(limits, name), limits.reserve if entry else 0),
            ttl=2 * length // SECOND,
            amount=len(asked),
        )
        for name, length in WINDOWS
    )


def _counter(user_id: int, window: str, number: int) -> str:
    return f"{user_id}:{window}:{number}"


async def give_back(store: EventLog, user_id: int, at: Instant) -> None:
    """One permit of the day of `at`, of an order, change or cancel that was certainly not sent. The count of the
    shorter windows stays: they are over soon. If Redis does not answer the permit is lost, which is the safe side."""
    counter = store.keys.limit(_counter(user_id, "day", at // DAY))
    try:
        if int(await command(store.redis, "GET", counter) or 0) > 0:  # it has expired, or was another day's
            await command(store.redis, "DECR", counter)
    except LogUnavailable as error:
        log.warning("permit_not_given_back", user_id=user_id, why=str(error))


def _room(limit: int, reserve: float) -> int:
    return limit - max(1, int(limit * reserve)) if reserve else limit


def window_of(permit_counter: str) -> tuple[str, Duration]:
    """Which window a counter of `permits` counts."""
    name = permit_counter.rsplit(":", 2)[-2]
    return name, dict(WINDOWS)[name]


def next_window(now: Instant, length: Duration) -> Instant:
    return (now // length + 1) * length
