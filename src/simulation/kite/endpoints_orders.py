"""Placing, changing and cancelling orders.

A fault plays once a call has passed every check, so a call that is refused uses none up.
"""

from decimal import Decimal
from typing import Any

import msgspec

from domain.values import ZERO
from simulation.kite.accounts import Account, AttemptKind
from simulation.kite.api import spoiled, untyped_error
from simulation.kite.checks import (
    Terms,
    being_processed,
    check_changeable,
    check_market,
    check_means,
    check_size,
    read_changes,
    read_terms,
    slices,
)
from simulation.kite.errors import (
    KiteError,
    closed,
    input_error,
    insufficient_funds,
    timed_out,
    unknown_order,
)
from simulation.kite.faults import Fault, Occasion, Play
from simulation.kite.limits import Limit
from simulation.kite.orders import SimOrder
from simulation.kite.routing import Context, Route
from simulation.kite.wire import Act, Response, failure, html, success

__all__ = ["ROUTES"]

# --- placing


def place_order(context: Context) -> Response:
    sim, account = context.sim, context.account
    terms = read_terms(context.parameters["variety"], context.request.form, sim.instruments)
    check_size(terms)
    check_market(terms, sim.exchange, sim.clock.now())
    quantities = slices(terms) if terms.autoslice else []
    last = sim.exchange.last.get(terms.instrument.symbol)
    check_means(terms, account, None if last is None else last.price)
    play = sim.play(Occasion.PLACE, account, terms.tag or f"#{len(account.attempts)}")
    if play is not None:
        context.fault = sim.fire(play.fault)
        match play.fault:
            case Fault.F3_DROPPED_BEFORE:
                return Response(act=Act.DROP)
            case Fault.F4B_HTML_BEFORE:
                return html(_gateway_status(account))
            case Fault.F16_ERROR_WITHOUT_TYPE:
                return untyped_error()
            case Fault.MARGIN_REFUSED:
                required = terms.quantity * (terms.price or (ZERO if last is None else last.price))
                raise insufficient_funds(required, min(account.available, required * Decimal("0.9")))
    context.taken = True
    if quantities:
        data = _place_slices(context, terms, quantities)
    else:
        surfaces = play.after if play is not None and play.fault is Fault.F5_SURFACES_LATER else 0
        context.order_id = sim.take(account, terms, surfaces_after=surfaces).order_id
        data = {"order_id": context.order_id}
    answer = success(data)
    return answer if play is None else _placed_but(play, account, answer)


def _place_slices(context: Context, terms: Terms, quantities: list[int]) -> dict[str, Any]:
    """Kite: the first slice is the parent; its siblings are the children, marked by the system's tags."""
    parent, *others = (msgspec.structs.replace(terms, quantity=quantity) for quantity in quantities)
    first = context.sim.take(context.account, parent, system_tags=("autoslice",))
    context.order_id = first.order_id
    tags = ("autoslice", f"autoslice:{first.order_id}")
    children = [
        context.sim.take(context.account, each, parent_order_id=first.order_id, system_tags=tags) for each in others
    ]
    return {"order_id": first.order_id, "children": [{"order_id": child.order_id} for child in children]}


def _placed_but(play: Play, account: Account, answer: Response) -> Response:
    """The order is taken; what its sender hears of that."""
    match play.fault:
        case Fault.F1_ACCEPTED_THEN_HANGS:
            return Response(act=Act.HANG)
        case Fault.F2_ACCEPTED_THEN_DROPPED:
            return Response(act=Act.DROP)
        case Fault.F2_ACCEPTED_HALF_ANSWER:
            return msgspec.structs.replace(answer, act=Act.HALF)
        case Fault.F4A_HTML_AFTER:
            return html(_gateway_status(account))
        case Fault.F5_SURFACES_LATER:
            return failure(KiteError(503, "NetworkException", "Request failed (kitetrade-oms)"))
        case Fault.F6_TIMED_OUT_400:
            return failure(timed_out())
        case _:
            return spoiled(play.fault, answer)


# --- changing and cancelling


def modify_order(context: Context) -> Response:
    sim, account = context.sim, context.account
    order = _own(context)
    order.changes += 1
    check_changeable(order, "modified")
    most = sim.limits.modifications if sim.check_limits else None
    changes = read_changes(order, context.request.form, most)
    now = sim.clock.now()
    if not sim.exchange.trades_at(now) and order.variety != "amo":
        raise closed()
    play = sim.play(Occasion.MODIFY, account, f"{order.tag or order.order_id}/modify/{order.changes}")
    if play is not None:
        context.fault = sim.fire(play.fault)
        match play.fault:
            case Fault.MODIFY_REFUSED:
                raise being_processed("modified")
            case Fault.MODIFY_IGNORED_UNANSWERED:
                return Response(act=Act.DROP)
            case Fault.F16_ERROR_WITHOUT_TYPE:
                return untyped_error()
    context.taken = True
    sim.exchange.modify(order, account, changes, now)
    sim.exchange.settle(now)
    if play is None:
        return _named(order)
    if play.fault is Fault.MODIFY_DONE_UNANSWERED:
        return Response(act=Act.DROP)
    return spoiled(play.fault, _named(order))


def cancel_order(context: Context) -> Response:
    sim, account = context.sim, context.account
    order = _own(context)
    order.cancels += 1
    check_changeable(order, "cancelled")
    now = sim.clock.now()
    play = sim.play(Occasion.CANCEL, account, f"{order.tag or order.order_id}/cancel/{order.cancels}")
    stuck = None
    if play is not None:
        context.fault = sim.fire(play.fault)
        match play.fault:
            case Fault.F9_CANCEL_LOSES:
                sim.exchange.fill_now(order, account, now)
                raise being_processed("cancelled")
            case Fault.CANCEL_REFUSED:
                raise being_processed("cancelled")
            case Fault.CANCEL_IGNORED_UNANSWERED:
                return Response(act=Act.DROP)
            case Fault.F16_ERROR_WITHOUT_TYPE:
                return untyped_error()
            case Fault.F8B_STUCK_THEN_CANCELLED | Fault.F8B_STUCK_THEN_FILLED:
                stuck = play
    context.taken = True
    sim.exchange.cancel(order, account, now, stuck)
    sim.exchange.settle(now)
    if play is None:
        return _named(order)
    if play.fault is Fault.CANCEL_DONE_UNANSWERED:
        return Response(act=Act.DROP)
    return spoiled(play.fault, _named(order))


def _own(context: Context) -> SimOrder:
    """The order of the path. Kite: its variety is not held against the caller, except that AMOs become regular."""
    order = context.account.find(context.parameters["order_id"])
    if order is None:
        raise unknown_order()
    if context.parameters["variety"] not in ("regular", "amo"):
        raise input_error("Invalid `variety`.")
    return order


def _named(order: SimOrder) -> Response:
    return success({"order_id": order.order_id})


def _gateway_status(account: Account) -> int:
    return 502 if account.calls % 2 else 504


ROUTES = (
    Route(
        method="POST",
        path="/orders/{variety}",
        handler=place_order,
        limit=Limit.ORDERS,
        attempt=AttemptKind.PLACE,
    ),
    Route(
        method="PUT",
        path="/orders/{variety}/{order_id}",
        handler=modify_order,
        limit=Limit.ORDERS,
        attempt=AttemptKind.MODIFY,
    ),
    Route(
        method="DELETE",
        path="/orders/{variety}/{order_id}",
        handler=cancel_order,
        limit=Limit.ORDERS,
        attempt=AttemptKind.CANCEL,
    ),
)
