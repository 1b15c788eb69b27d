"""Appending a user's events that need no state."""

from api.dependencies import Dependencies
from domain.events import Event
from eventstore.batch import Appended, Duplicate
from eventstore.envelope import Dedupe, NewEvent
from eventstore.errors import LogUnavailable

__all__ = ["record"]


async def record(
    deps: Dependencies, user_id: int, *events: Event, correlation_id: str, dedupe: Dedupe | None = None
) -> None:
    """Append them to the user's partition, all or none.

    Raises LogUnavailable when they may not have been appended, or when the log is not the one we were started with.
    """
    batch = [NewEvent(event, user_id=user_id, correlation_id=correlation_id) for event in events]
    result = await deps.log_of(user_id).append(batch, dedupe=dedupe)
    if not isinstance(result, Appended | Duplicate):
        raise LogUnavailable(f"{', '.join(event.type for event in events)} not appended: {result}")
