"""The broker's limits on orders, per account: fixed windows of the calendar, counted by the append script (§5.6).

Every attempt counts, cancels and changes too. A share is kept for exits. What certainly never reached the broker is
given back to the day's count: exits that are tried every second while the line is out would use it up.

The windows are the broker's, by its clock, and an order gets there some time after it was counted. So it takes room in
every window that it may fall into, which near a boundary are two: of thirty stops hit 30 ms before a full second,
fifteen would else arrive in one second (measured). What is held up before it is sent is counted anew (`permits_anew`).
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
EARLY: Duration = 100_000
"""How far the broker's clock may be behind ours: so much earlier, by its clock, an order may arrive."""
SENT_WITHIN: Duration = 250_000
"""From the decision to the first byte; later it is counted anew."""
LATE: Duration = SENT_WITHIN + 150_000
"""How much later than it was decided an order may arrive by the broker's clock: sending, the way, and its clock."""


def permits(limits: OrderLimits, user_id: int, events: Sequence[Event]) -> tuple[Permit, ...]:
    """The room that a batch needs, narrowest window first; none for a batch that asks the broker for nothing."""
    asked = [e for e in events if isinstance(e, ASKING)]
    if not asked:
        return ()
    entry = any(isinstance(e, Intent) and e.kind is Kind.BUY for e in asked)
    return _permits(limits, user_id, max(e.at for e in asked), amount=len(asked), entry=entry)


def permits_anew(
    limits: OrderLimits, user_id: int, asked: ASKING, counted_at: Instant, now: Instant
) -> tuple[Permit, ...]:
    """The room that an order, change or cancel needs which is sent later than it was counted for: in the windows of
    now that it is not counted in yet."""
    entry = isinstance(asked, Intent) and asked.kind is Kind.BUY
    taken = {each.counter for each in _permits(limits, user_id, counted_at, amount=1, entry=entry)}
    return tuple(each for each in _permits(limits, user_id, now, amount=1, entry=entry) if each.counter not in taken)


def _permits(limits: OrderLimits, user_id: int, at: Instant, *, amount: int, entry: bool) -> tuple[Permit, ...]:
    return tuple(
        Permit(
            counter=_counter(user_id, name, number),
            limit=_room(getattr(limits, name), limits.reserve if entry else 0),
            ttl=2 * length // SECOND,
            amount=amount,
        )
        for name, length in WINDOWS
        for number in range((at - EARLY) // length, (at + LATE) // length + 1)
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


def window_of(permit_counter: str) -> tuple[str, Instant]:
    """Which window a counter of `permits` counts, and from when on an order need not be counted in it."""
    _, name, number = permit_counter.rsplit(":", 2)
    return name, (int(number) + 1) * dict(WINDOWS)[name] + EARLY
