"""What auditors are answered."""

import datetime as dt
from decimal import Decimal
from typing import Annotated, Any

from msgspec import Meta

from api.models import Answer

__all__ = [
    "AsOf",
    "AuditDiffPage",
    "AuditEventPage",
    "AuditStatePage",
    "AuditUserPage",
    "AuditedDifference",
    "AuditedState",
    "AuditedUser",
    "Change",
    "HistoryEvent",
    "OrderStory",
    "StreamNotice",
    "Verification",
]


class HistoryEvent(Answer):
    """An event as the archive has it; `data` is the event's own content."""

    position: str
    recorded_at: dt.datetime
    type: str
    strategy_id: int | None
    user_id: int | None
    version: Annotated[int, Meta(description="of the strategy; 0 for an event that takes none")]
    event_id: str
    correlation_id: str
    causation_id: str
    data: dict[str, Any]
    error: Annotated[str | None, Meta(description="why it cannot be read; its bytes are kept")] = None


class StreamNotice(Answer):
    """What a stream says of itself: `reset` (events that were told were lost; it goes on after `after`) or `end`."""

    code: str
    detail: str
    after: str | None = None


class AuditEventPage(Answer):
    events: list[HistoryEvent]
    next_cursor: str | None


class AsOf(Answer):
    """After the event at this position, which was recorded then."""

    position: str
    recorded_at: dt.datetime | None


class AuditedState(Answer):
    """A strategy as it was known then, folded from its own events; `faults` names those that could not be folded."""

    strategy_id: int
    user_id: int
    as_of: AsOf
    state: dict[str, Any]
    faults: list[str]


class AuditStatePage(Answer):
    states: list[AuditedState]
    next_cursor: str | None


class Change(Answer):
    before: Any
    after: Any


class AuditedDifference(Answer):
    """What became of a strategy between two points: the fields that changed, and the events of each type."""

    strategy_id: int
    user_id: int
    before: AsOf
    after: AsOf
    changes: dict[str, Change]
    events: dict[str, int]
    faults: list[str]


class AuditDiffPage(Answer):
    differences: list[AuditedDifference]
    next_cursor: str | None


class AuditedUser(Answer):
    user_id: int
    role: str
    created_at: dt.datetime
    strategies: int


class AuditUserPage(Answer):
    users: list[AuditedUser]
    next_cursor: str | None


class OrderStory(Answer):
    """One order from its cause to its end, and what followed; the same as `bahi explain --json` tells."""

    tag: str
    order_id: str | None
    strategy_id: int
    user_id: int
    run: int
    number: int
    kind: str
    request: dict[str, Any]
    attempt: int
    recovered: Annotated[bool, Meta(description="its intent was lost, and the order book showed it")]
    outcome: str
    filled: int
    average_price: Decimal | None
    checks: Annotated[dict[str, str], Meta(description="what was known when it was decided")]
    sentences: list[str]
    steps: list[dict[str, Any]]
    afterwards: list[dict[str, Any]]
    timings_ms: dict[str, float]


class Verification(Answer):
    """The verdict of `bahi verify --json`. While `running`, it is that of the run before, if there was any."""

    running: bool
    began_at: dt.datetime | None
    ended_at: dt.datetime | None
    ok: bool | None
    verdict: dict[str, Any] | None
