"""What a decision is expected to be: events, each with the fields it is about."""

from decimal import Decimal
from typing import Any

from msgspec import Struct

from domain.events import (
    AlertTriggered,
    CancelRequested,
    Event,
    ExecuteBuy,
    ExecuteSell,
    ExecuteStoploss,
    ModifyRequested,
    OrderDenied,
    OrderOutcomeUnknown,
    OrderRetryRequired,
    PositionSettled,
    SafetyAbort,
    StrategyExited,
    StrategyStarted,
    StrategyStartRefused,
    StrategyStopped,
)
from domain.strategy import State, apply, initial
from domain.values import Abort, Denial, Kind


class Expected(Struct, frozen=True):
    """An event of this type whose fields have these values (`request.quantity` reaches inside)."""

    type: type[Event]
    fields: dict[str, object]

    def fault(self, event: Event) -> str:
        if type(event) is not self.type:
            return f"expected {self.type.__struct_config__.tag}, was {event}"
        for path, value in self.fields.items():
            found: Any = event
            for name in path.split("."):
                found = getattr(found, name)
            if found != value:
                return f"{event.type}.{path} is {found!r}, expected {value!r}"
        return ""


def _expect(event: type[Event], **fields: object) -> Expected:
    return Expected(event, fields)


def _request(qty: int | None, fields: dict[str, object]) -> dict[str, object]:
    return fields if qty is None else {"request.quantity": qty} | fields


def execute_buy(qty: int | None = None, **fields: object) -> Expected:
    return Expected(ExecuteBuy, _request(qty, {"kind": Kind.BUY} | fields))


def execute_sell(qty: int | None = None, **fields: object) -> Expected:
    return Expected(ExecuteSell, _request(qty, {"kind": Kind.SELL} | fields))


def execute_surfaced(qty: int | None = None, **fields: object) -> Expected:
    return Expected(ExecuteSell, _request(qty, {"kind": Kind.SURFACED} | fields))


def execute_stoploss(qty: int | None = None, **fields: object) -> Expected:
    return Expected(ExecuteStoploss, _request(qty, {"kind": Kind.STOPLOSS} | fields))


def cancel_requested(**fields: object) -> Expected:
    return _expect(CancelRequested, **fields)


def modify_requested(price: str | None = None, **fields: object) -> Expected:
    return _expect(ModifyRequested, **({} if price is None else {"price": Decimal(price)}) | fields)


def retry_required(**fields: object) -> Expected:
    return _expect(OrderRetryRequired, **fields)


def denied(reason: Denial) -> Expected:
    return _expect(OrderDenied, kind=Kind.BUY, reason=reason)


def outcome_unknown(**fields: object) -> Expected:
    return _expect(OrderOutcomeUnknown, **fields)


def safety_abort(reason: Abort) -> Expected:
    return _expect(SafetyAbort, reason=reason)


def alert(code: object) -> Expected:
    return _expect(AlertTriggered, code=code)


def strategy_exited(reason: object, **fields: object) -> Expected:
    return _expect(StrategyExited, reason=reason, **fields)


def strategy_stopped(reason: object, **fields: object) -> Expected:
    return _expect(StrategyStopped, reason=reason, **fields)


def ended(reason: object, open_quantity: int = 0) -> tuple[Expected, Expected]:
    """STRATEGY_EXITED and STRATEGY_STOPPED, which come together: `then(*ended(Exit.SELL))`."""
    return strategy_exited(reason), strategy_stopped(reason, open_quantity=open_quantity)


def strategy_started(**fields: object) -> Expected:
    return _expect(StrategyStarted, **fields)


def start_refused(reason: object) -> Expected:
    return _expect(StrategyStartRefused, reason=reason)


def position_settled(qty: int) -> Expected:
    return _expect(PositionSettled, quantity=qty)


def replayed(events: list[Event]) -> State:
    """The fold of the events from nothing, in place."""
    state = initial(7, 1)
    for event in events:
        apply(state, event)
    return state
