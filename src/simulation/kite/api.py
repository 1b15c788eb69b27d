"""From a request to its answer, in the order in which Kite looks at it.

Session, IP address (order calls only), rate limit, then the endpoint's own checks. Faults play in between: what kills a
session before it is looked at, what refuses a call before its limit, and on readings after the endpoint answered.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from domain.values import Side
from simulation.kite.accounts import Account, Attempt
from simulation.kite.errors import (
    IP_NOT_ALLOWED,
    NO_IPS,
    KiteError,
    expired_token,
    input_error,
    too_many,
    wrong_token,
)
from simulation.kite.faults import Fault, Occasion, Play
from simulation.kite.limits import Limit
from simulation.kite.orders import encode
from simulation.kite.routing import Context, Route, Router
from simulation.kite.sim import KiteSim
from simulation.kite.wire import Act, Request, Response, failure, html, json_response

__all__ = ["Api", "spoiled"]

_BREACHES = {"day": "Maximum allowed order requests exceeded."}
_OPTIONAL = (
    "account_id", "guid", "meta", "tags", "validity_ttl", "disclosed_quantity", "pending_quantity",
    "cancelled_quantity", "market_protection", "exchange_update_timestamp", "status_message_raw", "parent_order_id",
    "fill_timestamp", "exchange_order_id", "multiplier", "close_price", "m2m",
)  # fmt: skip


class Api:
    """All endpoints of one simulated server."""

    def __init__(self, sim: KiteSim, routes: Iterable[Route], prefix: str = "") -> None:
        self.sim = sim
        self._router = Router(routes, prefix)

    def answer(self, request: Request) -> Response:
        """Never raises for anything a client can send."""
        sim = self.sim
        sim.settle_now()
        try:
            route, parameters = self._router.find(request.method, request.path)
            account = self._session(request) if route.session else None
            context = Context(sim, request, parameters, account, sim.clock.now())
            if account is not None and route.attempt is not None:
                return self._order_call(route, context, account)
            if account is not None and request.method == "GET":
                return self._reading(route, context, account)
            self._count(route.limit, account)
            return route.handler(context)
        except KiteError as error:
            return failure(error)

    def _session(self, request: Request) -> Account:
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        api_key, colon, access_token = credentials.partition(":")
        if scheme.lower() != "token" or not (colon and api_key and access_token):
            raise input_error("Invalid `api_key` or `access_token`.")
        account = self.sim.account_of(api_key, access_token)
        if account is None:
            raise expired_token() if self.sim.was_session(api_key, access_token) else wrong_token()
        account.calls += 1
        if self.sim.play(Occasion.CALL, account, str(account.calls)) is not None:
            self.sim.fire(Fault.F13_TOKEN_DIES)
            account.end_session()
            raise expired_token()
        return account

    def _count(self, limit: Limit, account: Account | None) -> None:
        if account is None or not self.sim.check_limits:
            return
        breached = account.counters.take(limit, self.sim.now())
        if breached is not None:
            raise too_many(_BREACHES.get(breached, "Too many requests"))

    def _order_call(self, route: Route, context: Context, account: Account) -> Response:
        text = ""
        try:
            self._let_in(route, context, account)
            return route.handler(context)
        except KiteError as error:
            text = error.message
            raise
        finally:
            account.attempts.append(_attempt(route, context, account, text))

    def _let_in(self, route: Route, context: Context, account: Account) -> None:
        key = context.sim.call_key(
            account, route, context.parameters.get("order_id"), _form(context.request).get("tag")
        )
        play = self.sim.play(Occasion.ORDER_CALL, account, key)
        self._check_address(context, account, play)
        self._count(route.limit, account)
        if play is not None and play.fault is Fault.F7_TOO_MANY_ORDERS:
            context.fault = self.sim.fire(play.fault)
            raise too_many()

    def _check_address(self, context: Context, account: Account, play: Play | None) -> None:
        if play is not None and play.fault is Fault.F18_IP_NOT_ALLOWED:
            context.fault = self.sim.fire(play.fault)
            raise KiteError(403, "PermissionException", IP_NOT_ALLOWED)
        allowed = account.allowed_ips
        if allowed is None or context.request.peer in allowed:
            return
        if not allowed:
            raise KiteError(403, "PermissionException", NO_IPS)
        raise input_error(IP_NOT_ALLOWED)

    def _reading(self, route: Route, context: Context, account: Account) -> Response:
        self._count(route.limit, account)
        play = self.sim.play(Occasion.READ, account, str(account.calls))
        if play is None:
            return route.handler(context)
        self.sim.fire(play.fault)
        match play.fault:
            case Fault.F4C_HTML_READING:
                return html(_gateway_status(account.calls))
            case Fault.F7_TOO_MANY_READINGS:
                raise too_many()
            case Fault.READING_HANGS:
                return Response(act=Act.HANG)
            case Fault.READING_DROPPED:
                return Response(act=Act.DROP)
            case Fault.F21_CLOCK_SKEW:
                self.sim.skew = play.after
                return route.handler(context)
            case Fault.F16_ERROR_WITHOUT_TYPE:
                return untyped_error()
            case _:
                return spoiled(play.fault, route.handler(context))


def spoiled(fault: Fault, response: Response) -> Response:
    """An answer as the fault makes it look; one that the fault does not concern is left as it is."""
    match fault:
        case Fault.F16_NO_CONTENT_TYPE:
            return msgspec.structs.replace(response, content_type=None)
        case Fault.F16_LIST_AT_TOP:
            return msgspec.structs.replace(response, body=b"[" + response.body + b"]")
        case Fault.F16_TRUNCATED_JSON:
            return msgspec.structs.replace(response, body=response.body[: len(response.body) // 2])
        case (
            Fault.F16_EXTRA_FIELDS
            | Fault.F16_MISSING_FIELDS
            | Fault.F16_MISSING_KEY_FIELDS
            | Fault.F16_NUMBERS_AS_STRINGS
        ):
            if response.content_type is None or "json" not in response.content_type:
                return response
            return msgspec.structs.replace(response, body=encode(_twisted(fault, msgspec.json.decode(response.body))))
        case _:
            return response


def untyped_error() -> Response:
    """Kite: seen in the wild; the official client dies of it with a TypeError."""
    return json_response({"status": "error", "message": "Something went wrong.", "data": None}, 500)


def _gateway_status(number: int) -> int:
    return 502 if number % 2 else 504


def _twisted(fault: Fault, value: Any) -> Any:
    """The value with every object in it twisted; the envelope itself stays."""
    if isinstance(value, dict) and "status" in value and "data" in value and "order_id" not in value:
        return {**value, "data": _twisted(fault, value["data"])}
    if isinstance(value, list):
        return [_twisted(fault, each) for each in value]
    if isinstance(value, dict):
        kept = {key: _twisted(fault, each) for key, each in value.items()}
        match fault:
            case Fault.F16_EXTRA_FIELDS:
                kept |= {"settlement_cycle": "T+0", "flags": [1, None, {"new": True}], "note": None}
            case Fault.F16_MISSING_FIELDS:
                kept = {key: each for key, each in kept.items() if key not in _OPTIONAL}
            case Fault.F16_MISSING_KEY_FIELDS:
                kept.pop("filled_quantity", None)
        return kept
    if fault is Fault.F16_NUMBERS_AS_STRINGS and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


def _form(request: Request) -> dict[str, str]:
    """The form as far as it can be read."""
    try:
        return request.form
    except KiteError:  # the endpoint says so
        return {}


def _attempt(route: Route, context: Context, account: Account, text: str) -> Attempt:
    """What is remembered of an order call, as far as it can be read; an order that exists says it better."""
    assert route.attempt is not None  # noqa: S101 (order calls only)
    form = _form(context.request)
    order_id = context.order_id or context.parameters.get("order_id")
    order = account.find(order_id) if order_id else None
    side, quantity = form.get("transaction_type"), form.get("quantity", "")
    known_quantity = int(quantity) if quantity.isascii() and quantity.isdecimal() and len(quantity) < 10 else 0
    return Attempt(
        kind=route.attempt,
        at=context.now,
        taken=context.taken,
        order_id=order_id,
        tag=order.tag if order is not None else form.get("tag"),
        symbol=order.symbol if order is not None else f"{form.get('exchange', '')}:{form.get('tradingsymbol', '')}",
        side=order.side if order is not None else (Side(side) if side in {"BUY", "SELL"} else None),
        quantity=order.quantity if order is not None and not known_quantity else known_quantity,
        price=order.price if order is not None else None,
        fault=context.fault,
        text=text,
    )
