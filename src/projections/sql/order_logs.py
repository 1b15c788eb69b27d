"""`order_logs`: one row per order, by its tag: what was asked, what became of it, when, and where the log tells it."""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import (
    Event,
    Intent,
    OrderAccepted,
    OrderCancelled,
    OrderDenied,
    OrderFilled,
    OrderFinalized,
    OrderOutcomeUnknown,
    OrderRejected,
)
from domain.strategy import Order, State
from domain.values import Instant, Phase, Tag
from eventstore.envelope import Recorded
from projections.sql.tables import as_json, moment, storable

__all__ = ["OrderChange", "fold_order", "write_orders"]

_CHANGING = (
    OrderAccepted,
    OrderFilled,
    OrderRejected,
    OrderCancelled,
    OrderDenied,
    OrderFinalized,
    OrderOutcomeUnknown,
)


class OrderChange(Struct):
    """What a batch of events did to one order. `request` is there if its intent is among them."""

    order: Order
    request: dict[str, Any] | None = None
    reason: str | None = None
    answered: tuple[int, Instant] | None = None
    """Position and time of the broker's first answer."""
    finalized: tuple[int, Instant] | None = None


def fold_order(changes: dict[Tag, OrderChange], state: State, it: Recorded) -> None:
    """Take one event; `state` is the strategy's after it. An order that the state no longer knows stays as it is."""
    event = it.event
    if isinstance(event, Intent):
        assert state.order is not None  # noqa: S101 (it was just folded)
        changes[event.tag] = OrderChange(state.order, _request(state.order, event, it))
        return
    if not isinstance(event, _CHANGING) or event.tag is None or (order := state.find(event.tag)) is None:
        return
    change = changes.get(event.tag)
    if change is None:
        change = changes[event.tag] = OrderChange(order)
    change.order = order
    change.reason = _reason(event) or change.reason
    here = (it.position, it.recorded_at)
    if isinstance(event, OrderAccepted | OrderRejected):
        change.answered = change.answered or here
    elif isinstance(event, OrderFinalized) and order.resolved:
        change.finalized = here


def _request(order: Order, event: Intent, it: Recorded) -> dict[str, Any]:
    return {
        "user_id": it.user_id,
        "strategy_id": it.strategy_id,
        "run": order.run,
        "kind": str(event.kind),
        "side": str(event.request.side),
        "symbol": storable(event.request.symbol) or "",
        "product": str(event.request.product),
        "quantity": event.request.quantity,
        "attempt": event.attempt,
        "cause": storable(event.cause) or "",
        "intent_position": it.position,
        "requested_at": moment(it.recorded_at or 1),
    }


def _reason(event: Event) -> str | None:
    match event:
        case OrderRejected(reason=reason, text=text):
            return f"{reason}: {text}" if text else reason
        case OrderDenied(reason=reason):
            return str(reason)
        case OrderOutcomeUnknown(doubt=doubt, text=text):
            return f"{doubt}: {text}" if text else str(doubt)
        case OrderCancelled():
            return "CANCELLED"
        case _:
            return None


def _outcome(change: OrderChange) -> dict[str, Any]:
    order = change.order
    answered, finalized = change.answered or (None, 0), change.finalized or (None, 0)
    return {
        "filled": order.filled,
        "average_price": order.average_price if order.filled else None,
        "order_id": storable(order.order_id),
        "status": str(order.final or order.phase),
        "reason": storable(change.reason),
        "outcome_position": answered[0],
        "answered_at": moment(answered[1]),
        "final_position": finalized[0] if order.resolved else None,
        "finalized_at": moment(finalized[1]) if order.resolved else None,
    }


_insert = text(
    "INSERT INTO order_logs SELECT * FROM json_populate_recordset(NULL::order_logs, CAST(:rows AS json))"
    " ON CONFLICT (tag) DO NOTHING"
)
_update = text(
    """
    UPDATE order_logs AS kept SET
        filled = new.filled,
        average_price = new.average_price,
        order_id = new.order_id,
        status = new.status,
        reason = COALESCE(new.reason, kept.reason),
        outcome_position = COALESCE(kept.outcome_position, new.outcome_position),
        answered_at = COALESCE(kept.answered_at, new.answered_at),
        -- of the last finalization; an order that was opened again has none
        final_position = CASE WHEN new.status IN :open THEN NULL
            ELSE COALESCE(new.final_position, kept.final_position) END,
        finalized_at = CASE WHEN new.status IN :open THEN NULL ELSE COALESCE(new.finalized_at, kept.finalized_at) END
    FROM json_populate_recordset(NULL::order_logs, CAST(:rows AS json)) AS new
    WHERE kept.tag = new.tag
    """
).bindparams(bindparam("open", [str(each) for each in Phase if each is not Phase.FINAL], expanding=True))


async def write_orders(connection: AsyncConnection, partition: int, changes: Iterable[OrderChange]) -> None:
    """New rows for new orders, and what the broker said since for the others."""
    new: list[dict[str, Any]] = []
    old: list[dict[str, Any]] = []
    for change in changes:
        outcome = {"tag": change.order.tag, **_outcome(change)}
        if change.request is not None:
            new.append({"partition": partition, **change.request, **outcome})
        else:
            old.append(outcome)
    if new:
        await connection.execute(_insert, {"rows": as_json(new)})
    if old:
        await connection.execute(_update, {"rows": as_json(old)})
