"""The door under /sim/ for tests and demonstrations in other processes. No session: it is not part of Kite."""

from decimal import Decimal
from typing import Any

import msgspec

from domain.values import Duration, Tick
from simulation.kite.errors import input_error
from simulation.kite.extras_instruments import swap_tokens
from simulation.kite.faults import Fault, Occasion
from simulation.kite.limits import Limit
from simulation.kite.routing import Context, Route
from simulation.kite.wire import Response, json_response

__all__ = ["ROUTES"]


class _User(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`session`: answer an access token too."""

    user_id: str
    api_key: str
    api_secret: str
    postback_url: str | None = None
    redirect_url: str | None = None
    allowed_ips: frozenset[str] | None = None
    cash: Decimal | None = None
    renewable: bool = False
    session: bool = False


class _Fault(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`fault`: a member's name, such as F1_ACCEPTED_THEN_HANGS. `after` in microseconds."""

    fault: str
    user_id: str | None = None
    times: int = 1
    after: Duration | None = None
    on: Occasion | None = None


class _Who(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    user_id: str


class _Swap(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Two symbols that are to have each other's token."""

    first: str
    second: str


def register(context: Context) -> Response:
    user = _read(context, _User)
    money = {} if user.cash is None else {"cash": user.cash}
    try:
        context.sim.register(
            user.user_id,
            api_key=user.api_key,
            api_secret=user.api_secret,
            postback_url=user.postback_url,
            redirect_url=user.redirect_url,
            allowed_ips=user.allowed_ips,
            renewable=user.renewable,
            **money,
        )
    except ValueError as error:
        raise input_error(str(error)) from error
    answer = {"user_id": user.user_id}
    if user.session:
        answer["access_token"] = context.sim.open_session(user.user_id)
    return json_response(answer, 201)


def login(context: Context) -> Response:
    user_id = _known(context, _read(context, _Who).user_id)
    return json_response({"request_token": context.sim.login(user_id)})


def end_session(context: Context) -> Response:
    user_id = _known(context, _read(context, _Who).user_id)
    context.sim.end_session(user_id)
    return json_response({"user_id": user_id})


def set_prices(context: Context) -> Response:
    prices = _read(context, dict[str, Decimal])
    for symbol, price in prices.items():
        if context.sim.instruments.find(symbol) is None:
            raise input_error(f"Unknown symbol {symbol}.")
        if not (price.is_finite() and price > 0):
            raise input_error(f"The price of {symbol} is not above 0.")
    at = context.sim.clock.now()
    context.sim.tick_now([Tick(symbol=symbol, price=price, at=at) for symbol, price in prices.items()])
    return json_response({"set": len(prices)})


def inject(context: Context) -> Response:
    wanted = _read(context, _Fault)
    if wanted.fault not in Fault.__members__:
        raise input_error(f"Unknown fault {wanted.fault}; known are {', '.join(Fault.__members__)}")
    if wanted.user_id is not None:
        _known(context, wanted.user_id)
    try:
        context.sim.inject(Fault[wanted.fault], wanted.user_id, times=wanted.times, after=wanted.after, on=wanted.on)
    except ValueError as error:
        raise input_error(str(error)) from error
    return json_response({"fault": wanted.fault})


def tokens(context: Context) -> Response:
    """F20, without waiting for another day."""
    wanted = _read(context, _Swap)
    try:
        swap_tokens(context.sim, wanted.first, wanted.second)
    except ValueError as error:
        raise input_error(str(error)) from error
    return json_response({"swapped": [wanted.first, wanted.second]})


def orders(context: Context) -> Response:
    """All orders that ever were in the user's book, their trades, and all order calls."""
    account = context.sim.accounts[_known(context, context.request.parameter("user_id") or "")]
    trades = [
        {
            "trade_id": trade.trade_id,
            "order_id": trade.order_id,
            "symbol": trade.symbol,
            "side": trade.side,
            "quantity": trade.quantity,
            "price": trade.price,
            "at": trade.at,
        }
        for trade in account.trades
    ]
    rows = [msgspec.Raw(order.encoded) for order in account.orders]
    return json_response({"orders": rows, "trades": trades, "attempts": account.attempts})


def state(context: Context) -> Response:
    sim = context.sim
    return json_response(
        {
            "now": sim.now(),
            "next_due": sim.next_due(),
            "skew": sim.skew,
            "users": {
                user_id: {
                    "orders": len(account.orders),
                    "live": len(account.live),
                    "trades": len(account.trades),
                    "attempts": len(account.attempts),
                }
                for user_id, account in sim.accounts.items()
            },
            "fired": {fault.name: count for fault, count in sim.fired.items()},
            "waiting": [
                {"fault": fault.name, "user_id": user_id, "times": times}
                for fault, user_id, times in sim.script.waiting()
            ],
            "last_prices": {symbol: tick.price for symbol, tick in sim.exchange.last.items()},
        }
    )


def _read(context: Context, kind: Any) -> Any:
    try:
        return msgspec.json.decode(context.request.body, type=kind)
    except msgspec.DecodeError as error:
        raise input_error(str(error)) from error


def _known(context: Context, user_id: str) -> str:
    if user_id not in context.sim.accounts:
        raise input_error(f"Unknown user {user_id!r}.")
    return user_id


def _door(method: str, path: str, handler: Any) -> Route:
    return Route(method=method, path=path, handler=handler, session=False, limit=Limit.NONE, prefixed=False)


ROUTES = (
    _door("POST", "/sim/users", register),
    _door("POST", "/sim/login", login),
    _door("POST", "/sim/logout", end_session),
    _door("POST", "/sim/prices", set_prices),
    _door("POST", "/sim/faults", inject),
    _door("POST", "/sim/tokens", tokens),
    _door("GET", "/sim/orders", orders),
    _door("GET", "/sim/state", state),
)
