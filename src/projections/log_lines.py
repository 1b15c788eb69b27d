"""The log lines L1 to L3 of the catalogue, one or two for each archived event that they are about.

L1 STRATEGY_EVENT_LOGGED: the life of a strategy. L2 ORDER_EVENT_LOGGED: what was asked of the broker and what it said.
L3 ERROR_LOGGED: what went wrong. A refusal by the broker is both L2 and L3.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from domain.events import (
    AlertTriggered,
    BrokerAuthFailed,
    BuyTriggered,
    CancelRejected,
    CancelRequested,
    Event,
    EventParked,
    ExecuteBuy,
    ExecuteSell,
    ExecuteStoploss,
    ForceStop,
    ModifyRejected,
    ModifyRequested,
    OrderAccepted,
    OrderCancelled,
    OrderDenied,
    OrderFilled,
    OrderFinalized,
    OrderOutcomeUnknown,
    OrderRejected,
    OrderRetryRequired,
    ParkedDismissed,
    ParkedRetried,
    PositionSettled,
    PriceFeedError,
    PriceStreamDisconnected,
    SafetyAbort,
    SellTriggered,
    StoplossTriggered,
    StrategyCreated,
    StrategyExited,
    StrategyReady,
    StrategyRunning,
    StrategyStarted,
    StrategyStartRefused,
    StrategyStartRequested,
    StrategyStopped,
    StrategyStopRequested,
    StrategyUpdated,
    SystemRecovery,
    TriggerMissed,
    UnknownOrderSeen,
    UserHalted,
    UserResumed,
)
from eventstore.envelope import Recorded
from eventstore.errors import CorruptEvent
from projections.replay import Fault

__all__ = [
    "ERROR",
    "ORDER",
    "STRATEGY",
    "LineWriter",
    "fields_of",
    "lines_of",
    "log_corrupt",
    "log_fault",
    "log_gap",
    "log_outage",
    "write_lines",
]

LineWriter = Callable[[int, Sequence[Recorded]], None]
"""Writes the lines about events of a partition."""

STRATEGY = "STRATEGY_EVENT_LOGGED"
ORDER = "ORDER_EVENT_LOGGED"
ERROR = "ERROR_LOGGED"

_STRATEGY: tuple[type[Event], ...] = (
    *(StrategyCreated, StrategyUpdated, StrategyStartRequested, StrategyStartRefused, StrategyStopRequested, ForceStop),
    *(StrategyStarted, StrategyReady, StrategyRunning, StrategyStopped, StrategyExited),
    *(BuyTriggered, SellTriggered, StoplossTriggered, TriggerMissed, PositionSettled, UserHalted, UserResumed),
)
_ORDER: tuple[type[Event], ...] = (
    *(ExecuteBuy, ExecuteSell, ExecuteStoploss, CancelRequested, ModifyRequested, OrderDenied, OrderRetryRequired),
    *(OrderAccepted, OrderFilled, OrderCancelled, OrderFinalized),
)
_REFUSED: tuple[type[Event], ...] = (OrderRejected, OrderOutcomeUnknown, CancelRejected, ModifyRejected)
_ERROR: tuple[type[Event], ...] = (
    *(SafetyAbort, AlertTriggered, EventParked, ParkedRetried, ParkedDismissed, BrokerAuthFailed, UnknownOrderSeen),
    *(PriceFeedError, PriceStreamDisconnected, SystemRecovery),
)
_LINES: dict[type[Event], tuple[str, ...]] = {
    **dict.fromkeys(_STRATEGY, (STRATEGY,)),
    **dict.fromkeys(_ORDER, (ORDER,)),
    **dict.fromkeys(_REFUSED, (ORDER, ERROR)),
    **dict.fromkeys(_ERROR, (ERROR,)),
}

_log = structlog.get_logger("bahi.events")


def lines_of(event: Event) -> tuple[str, ...]:
    """The lines that are written about an event; many have none."""
    return _LINES.get(type(event), ())


def write_lines(partition: int, events: Sequence[Recorded]) -> None:
    """The lines about these events, through structlog."""
    for it in events:
        for line in lines_of(it.event):
            (_log.error if line == ERROR else _log.info)(line, **fields_of(partition, it))


def fields_of(partition: int, it: Recorded) -> dict[str, Any]:
    """What a line says of an event."""
    data: dict[str, Any] = msgspec.to_builtins(it.event)
    return {
        "partition": partition,
        "position": it.position,
        "type": data.pop("type"),
        "strategy_id": it.strategy_id or None,
        "user_id": it.user_id or None,
        "version": it.version or None,
        "recorded_at": it.recorded_at,
        "event_id": it.event_id,
        "correlation_id": it.correlation_id,
        "causation_id": it.causation_id or None,
        "data": data,
    }


def log_corrupt(partition: int, error: CorruptEvent, strategy_id: int) -> None:
    """An entry that was archived as it is, because it cannot be read."""
    _log.error(
        ERROR,
        partition=partition,
        position=error.position,
        stream=str(error.stream),
        strategy_id=strategy_id or None,
        error=error.reason,
        what="corrupt entry",
    )


def log_fault(partition: int, fault: Fault) -> None:
    """An event that was archived, and that the projections could not take."""
    _log.error(
        ERROR,
        partition=partition,
        position=fault.position,
        strategy_id=fault.strategy_id or None,
        error=fault.text,
        what=f"{fault.kind} event",
    )


def log_outage(partition: int, what: str, error: Exception) -> None:
    """Redis or PostgreSQL does not answer."""
    _log.error(ERROR, partition=partition, what=what, error=f"{type(error).__name__}: {error}")


def log_gap(partition: int, first: int, last: int) -> None:
    """Positions that neither Redis nor the archive holds, so that nothing after them can be archived."""
    _log.error(
        ERROR,
        partition=partition,
        what="hole in the archive",
        first=first,
        last=last,
        error=f"positions {first} to {last} are neither in Redis nor in the archive, which therefore ends at "
        f"{first - 1}; trading goes on. Fill it with `bahi archive import FILE` from an export or another backup",
    )
