"""The endpoints of sessions, user, orders, trades and positions."""

import secrets
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from domain.values import ZERO, Money
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
    expired_token,
    input_error,
    insufficient_funds,
    timed_out,
    unknown_order,
    wrong_token,
)
from simulation.kite.faults import Fault, Occasion, Play
from simulation.kite.limits import Limit
from simulation.kite.orders import SimOrder, stamp
from simulation.kite.routing import Context, Route
from simulation.kite.wire import Act, Response, failure, html, json_response, success

__all__ = ["ROUTES"]

_EXCHANGES = ["NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX", "MF"]
_PRODUCTS = ["CNC", "NRML", "MIS"]
_ORDER_TYPES = ["MARKET", "LIMIT", "SL", "SL-M"]


# --- sessions


def generate_session(context: Context) -> Response:
    form, now = context.request.form, context.sim.now()
    request_token, checksum = _required(form, "request_token"), _required(form, "checksum")
    account = _holder(context, lambda account: account.holds_request_token(request_token))
    return _session(context, account, account.exchange(request_token, checksum, now))


def renew_session(context: Context) -> Response:
    form, now = context.request.form, context.sim.now()
    refresh_token, checksum = _required(form, "refresh_token"), _required(form, "checksum")
    account = _holder(context, lambda account: account.holds_refresh_token(refresh_token))
    return _session(context, account, account.renew(refresh_token, checksum, now))


def _holder(context: Context, holds: Callable[[Account], bool]) -> Account:
    """The account of the form's api_key that holds the token: customers of one platform share its key."""
    api_key = _required(context.request.form, "api_key")
    accounts = [account for account in context.sim.accounts.values() if account.api_key == api_key]
    if not accounts:
        raise wrong_token()
    holder = next((account for account in accounts if holds(account)), None)
    if holder is None:
        raise expired_token()
    return holder


def _session(context: Context, account: Account, access_token: str) -> Response:
    return success(
        {
            **_person(account),
            "user_id": account.user_id,
            "api_key": account.api_key,
            "access_token": access_token,
            "public_token": secrets.token_hex(16),
            "enctoken": secrets.token_hex(32),
            "refresh_token": account.refresh_token(),
            "silo": "",
            "login_time": stamp(context.sim.now()),
            "meta": {"demat_consent": "consent"},
        }
    )


def end_session(context: Context) -> Response:
    """Ends the session (or forgets the refresh token) that the query names; it must be of the caller's app."""
    account = context.account
    access_token, refresh_token = context.request.parameter("access_token"), context.request.parameter("refresh_token")
    if context.request.parameter("api_key") != account.api_key:
        raise wrong_token()
    if access_token is not None:
        if not account.has_session(access_token, context.sim.now()):
            raise expired_token()
        account.end_session(access_token)
    elif refresh_token is None:
        raise input_error("Missing or empty field `access_token`")
    elif not account.drop_refresh_token(refresh_token):
        raise expired_token()
    return success(True)


def login(context: Context) -> Response:
    """The browser's part of a login, as if the user had passed the two factors: redirects with a request token.

    An account without a redirect URL gets it as JSON. `user_id` chooses among the customers of one key.
    """
    request, sim = context.request, context.sim
    api_key, user_id = request.parameter("api_key"), request.parameter("user_id")
    account = next(
        (
            each
            for each in sim.accounts.values()
            if each.api_key == api_key and (user_id is None or each.user_id == user_id)
        ),
        None,
    )
    if account is None:
        raise input_error("Invalid `api_key`.")
    token = sim.login(account.user_id)
    if account.redirect_url is None:
        return json_response({"request_token": token, "status": "success", "action": "login", "type": "login"})
    query = {"action": "login", "type": "login", "status": "success", "request_token": token}
    query |= dict(parse_qsl(request.parameter("redirect_params") or ""))
    glue = "&" if "?" in account.redirect_url else "?"
    return Response(
        status=302,
        content_type="text/html",
        headers=(("Location", f"{account.redirect_url}{glue}{urlencode(query)}"),),
    )


# --- user


def _person(account: Account) -> dict[str, Any]:
    return {
        "user_type": "individual",
        "email": f"{account.user_id.lower()}@example.com",
        "user_name": f"Customer {account.user_id}",
        "user_shortname": account.user_id,
        "broker": "ZERODHA",
        "exchanges": _EXCHANGES,
        "products": _PRODUCTS,
        "order_types": _ORDER_TYPES,
        "avatar_url": None,
    }


def profile(context: Context) -> Response:
    account = context.account
    return success({"user_id": account.user_id, **_person(account), "meta": {"demat_consent": "consent"}})


def margins(context: Context) -> Response:
    return success({"equity": _equity(context.account), "commodity": _commodity()})


def margins_of_segment(context: Context) -> Response:
    match context.parameters["segment"]:
        case "equity":
            return success(_equity(context.account))
        case "commodity":
            return success(_commodity())
    raise input_error("Invalid `segment`.")


def _equity(account: Account) -> dict[str, Any]:
    return _segment(account.cash, account.blocked())


def _commodity() -> dict[str, Any]:
    return _segment(ZERO, ZERO)


def _segment(cash: Money, used: Money) -> dict[str, Any]:
    return {
        "enabled": cash > 0,
        "net": cash - used,
        "available": {
            "adhoc_margin": 0,
            "cash": cash,
            "opening_balance": cash,
            "live_balance": cash - used,
            "collateral": 0,
            "intraday_payin": 0,
        },
        "utilised": {
            "debits": used,
            "exposure": 0,
            "m2m_realised": 0,
            "m2m_unrealised": 0,
            "option_premium": 0,
            "payout": 0,
            "span": 0,
            "holding_sales": 0,
            "turnover": 0,
            "liquid_collateral": 0,
            "stock_collateral": 0,
            "equity": 0,
            "delivery": 0,
        },
    }


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


# --- readings


def orders(context: Context) -> Response:
    return success([msgspec.Raw(order.encoded) for order in context.account.book()])


def order_history(context: Context) -> Response:
    """All states of an order, oldest first. Kite: the first row carries an instrument_token of 1."""
    order = _known(context)
    rows = [{key: value for key, value in row.items() if key != "guid"} for row in order.history]
    rows[0]["instrument_token"] = 1
    return success(rows)


def order_trades(context: Context) -> Response:
    order = _known(context)
    return success([trade.row() for trade in context.account.day_trades() if trade.order_id == order.order_id])


def trades(context: Context) -> Response:
    return success([trade.row() for trade in context.account.day_trades()])


def _known(context: Context) -> SimOrder:
    order = context.account.find(context.parameters["order_id"])
    if order is None:
        raise unknown_order()
    return order


def positions(context: Context) -> Response:
    last = context.sim.exchange.last
    net, day = [], []
    for (symbol, _), position in context.account.positions.items():
        tick = last.get(symbol)
        price = None if tick is None else tick.price
        net.append(position.row(price, day=False))
        if position.bought or position.sold:
            day.append(position.row(price, day=True))
    return success({"net": net, "day": day})


def _required(form: dict[str, str], name: str) -> str:
    value = form.get(name, "")
    if not value:
        raise input_error(f"Missing or empty field `{name}`")
    return value


ROUTES = (
    Route(method="POST", path="/session/token", handler=generate_session, session=False),
    Route(method="DELETE", path="/session/token", handler=end_session),
    Route(method="POST", path="/session/refresh_token", handler=renew_session, session=False),
    Route(method="GET", path="/connect/login", handler=login, session=False, limit=Limit.NONE, prefixed=False),
    Route(method="GET", path="/user/profile", handler=profile),
    Route(method="GET", path="/user/margins", handler=margins),
    Route(method="GET", path="/user/margins/{segment}", handler=margins_of_segment),
    Route(method="GET", path="/orders", handler=orders),
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
    Route(method="GET", path="/orders/{order_id}", handler=order_history),
    Route(method="GET", path="/orders/{order_id}/trades", handler=order_trades),
    Route(method="GET", path="/trades", handler=trades),
    Route(method="GET", path="/portfolio/positions", handler=positions),
)
