"""Sessions, the browser's login, and what the user is told of the account."""

import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

from domain.values import ZERO, Money
from simulation.kite.accounts import Account
from simulation.kite.errors import (
    expired_token,
    input_error,
    wrong_token,
)
from simulation.kite.limits import Limit
from simulation.kite.orders import stamp
from simulation.kite.routing import Context, Route
from simulation.kite.wire import Response, json_response, success

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
)
