"""What a play has reached, for the measure of what plays it."""

from collections import Counter

from domain.events import (
    AlertTriggered,
    CancelRequested,
    Event,
    Intent,
    ModifyRequested,
    OrderDenied,
    OrderOutcomeUnknown,
    OrderRetryRequired,
    PositionSettled,
    SafetyAbort,
    StrategyExited,
    StrategyStarted,
    TriggerMissed,
)
from domain.strategy import State


def note(seen: Counter[str], state: State, event: Event) -> None:
    """What this play has reached, for the generator's measure."""
    match event:
        case Intent():
            seen[f"intent {event.kind}"] += 1
            if event.attempt > 1:
                seen[f"attempt {min(event.attempt, 4)} {event.kind}"] += 1
            if not state.alive:
                seen[f"after the end {event.kind}"] += 1
        case AlertTriggered():
            seen[f"alert {event.code}"] += 1
        case StrategyStarted():
            seen["runs"] += 1
            if seen["runs"] > 1:
                seen["started again"] += 1
        case StrategyExited():
            seen[f"exited {event.reason}"] += 1
        case SafetyAbort():
            seen[f"abort {event.reason}"] += 1
        case OrderOutcomeUnknown():
            order = state.find(event.tag)
            seen[f"unknown {order.kind if order else ''}"] += 1
        case CancelRequested():
            seen[f"cancel: {event.why.split(',')[0].rstrip('0123456789')}"] += 1
        case ModifyRequested() | PositionSettled() | OrderRetryRequired() | OrderDenied() | TriggerMissed():
            seen[event.type] += 1
