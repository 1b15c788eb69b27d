"""An archived event as it is shown: what the log says of it, with moments for people."""

from api import answers
from api.audit.models import HistoryEvent
from api.audit.ports import HistoryRow
from api.dependencies import Dependencies
from eventstore.envelope import decode
from eventstore.errors import CorruptEvent

__all__ = ["history_event"]


def history_event(deps: Dependencies, row: HistoryRow) -> HistoryEvent:
    """One that cannot be read is told with the reason: that it is there is known, and its bytes are kept."""
    raw = row.raw
    told = HistoryEvent(
        position=deps.position_in(row.partition, raw.position),
        recorded_at=answers.wall(raw.recorded_at),
        type=row.type,
        strategy_id=row.strategy_id,
        user_id=row.user_id,
        version=raw.version,
        event_id="",
        correlation_id="",
        causation_id="",
        data={},
    )
    try:
        it = decode(raw)
    except CorruptEvent as error:
        told.error = error.reason
        return told
    told.event_id, told.correlation_id, told.causation_id = it.event_id, it.correlation_id, it.causation_id
    told.data = answers.plain(it.event)
    del told.data["schema"]
    return told
