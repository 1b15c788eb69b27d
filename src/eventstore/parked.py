"""Setting a poisonous message aside: the fact is recorded, the message acknowledged, and the engine goes on."""

from collections.abc import Sequence

from domain.events import EventParked
from eventstore.batch import AppendResult
from eventstore.delivery import Delivery, Undecodable
from eventstore.envelope import Dedupe, NewEvent
from eventstore.keys import GROUP
from eventstore.log import EventLog

__all__ = ["park", "parked_name"]

_REMEMBERED = 7 * 86_400


def parked_name(message: Delivery | Undecodable) -> str:
    """How a parked message is called: its stream and position, `critical/17`."""
    return f"{message.stream}/{message.position}"


async def park(
    log: EventLog, message: Delivery | Undecodable, error: Exception, extra_events: Sequence[NewEvent] = ()
) -> AppendResult:
    """Append EVENT_PARKED and `extra_events` (blind ones, such as SAFETY_ABORT) and acknowledge the message, at once.

    Once per message, however often it is called: then Duplicate, or NotPending if somebody handled it meanwhile.
    Raises LogUnavailable.
    """
    name = parked_name(message)
    parked = NewEvent(
        EventParked(parked=name, group=GROUP, error=f"{type(error).__name__}: {error}"),
        strategy_id=message.strategy_id,
        user_id=message.user_id,
        causation_id=message.event_id,
    )
    return await log.append(
        [parked, *extra_events], dedupe=Dedupe(f"parked:{name}", name, _REMEMBERED), ack=message.ack
    )
