"""The caller's broker account. What goes in is never shown again."""

import datetime as dt
import hashlib
import hmac
import secrets
from typing import Annotated, Final
from urllib.parse import quote

import structlog
from fastapi import APIRouter, Query, Request
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from api import answers
from api.bodies import parse, read_body
from api.dependencies import Dependencies, Deps
from api.egress import egress_of
from api.models import BrokerName, BrokerState, ConnectBroker, KitePostback, LoginUrl
from api.openapi import operation
from api.ports import AccountTaken, BrokerAccount, BrokerRefused, Credentials, EgressShared, Login
from api.problems import FieldProblem, Problem, invalid, not_found
from api.rate import peer
from api.record import record
from api.security.caller import Caller
from api.security.keys import SecretKeys
from api.unsettled import unsettled
from api.writes import Write, write
from brokers.port import BrokerUnavailable
from domain.calendar import wall
from domain.events import BrokerAuthFailed, BrokerAuthSuccess, BrokerKeySubmitted
from domain.values import SECOND, Duration

__all__ = ["PaperLogin", "router"]

router: Final = APIRouter(tags=["broker"])

_log = structlog.get_logger(__name__)

KITE: Final = BrokerName.KITE.value
LISTED_WITHIN: Final[Duration] = 5 * SECOND
LOOK_EVERY: Final[Duration] = SECOND // 20
_SHARED: Final = (
    "another user's Kite account leaves from the same address ({egress}). NSE's rules for retail algorithms, in force "
    "since 2026-04-01, tie a registered static IP to one client and let only a family share one: give this account an "
    "egress_proxy of its own, or set BAHI_KITE_FAMILY where all accounts are one family's"
)


@write(router, "POST", "/broker/connect", ConnectBroker, answers={200: BrokerState}, problems=(400,))
async def connect_broker(attempt: Write[ConnectBroker]) -> Response:
    """Check credentials with the broker and keep them; an account that was connected stays if they are refused."""
    deps, user_id, asked = attempt.deps, attempt.user_id, attempt.body
    broker = asked.broker.value
    login = deps.logins.get(broker)
    if login is None:
        raise Problem(400, "BROKER_NOT_AVAILABLE", f"{broker} cannot be connected here")
    if broker == KITE and not deps.kite.real_prices:
        detail = "this installation's prices are not Kite's: stops would follow prices that are not the market's"
        raise Problem(409, "FEED_NOT_KITE", detail)
    known = await deps.accounts.kept(user_id, broker) if broker == KITE else None
    credentials = _credentials(asked, known or {})
    proxy = _proxy(asked.egress_proxy, known or {})
    own_egress = broker == KITE and not deps.kite.family
    if own_egress and await deps.accounts.shares_egress(user_id, broker, proxy):
        raise _shared(proxy)
    await _refuse_exchange(deps, user_id, broker, None)
    fingerprint = _fingerprint(deps.keys, credentials["api_key"])
    submitted = BrokerKeySubmitted(broker=broker, fingerprint=fingerprint)
    await record(deps, user_id, submitted, correlation_id=attempt.request_id)
    try:
        session = await login.authenticate(user_id, credentials, proxy)
    except BrokerRefused as refused:
        await _failed(attempt, broker, refused.reason)
        cure = "; GET /broker/kite/login-url says where to log in" if broker == KITE else ""
        raise Problem(400, "BROKER_AUTH_FAILED", f"{broker} refuses: {refused.reason}{cure}") from None
    except BrokerUnavailable as error:
        detail = f"{broker} gave no answer that says anything of the login: {error}"
        raise Problem(503, "BROKER_UNAVAILABLE", detail, headers={"Retry-After": "5"}) from None
    try:
        await _refuse_exchange(deps, user_id, broker, session)
        await deps.accounts.connect(
            user_id,
            broker=broker,
            broker_user_id=session.broker_user_id,
            credentials=session.credentials,
            fingerprint=fingerprint,
            egress_proxy=proxy,
            expires_at=session.expires_at,
            own_egress=own_egress,
        )
    except Problem as problem:
        await _failed(attempt, broker, problem.code)
        raise
    except AccountTaken:
        await _failed(attempt, broker, "BROKER_ACCOUNT_TAKEN")
        detail = f"the {broker} account {session.broker_user_id} is connected by another user of this installation"
        raise Problem(409, "BROKER_ACCOUNT_TAKEN", detail) from None
    except EgressShared:
        await _failed(attempt, broker, "EGRESS_SHARED")
        raise _shared(proxy) from None
    success = BrokerAuthSuccess(broker=broker, broker_user_id=session.broker_user_id)
    await record(deps, user_id, success, correlation_id=attempt.request_id)
    account = await deps.accounts.get(user_id)
    if account is None:
        raise Problem(409, "DISCONNECTED", "the account was disconnected at the same moment")
    if broker == KITE:
        await _until_listed(deps)
    return answers.json(_state(account, wall(deps.clock.now())))


async def _until_listed(deps: Dependencies) -> None:
    """The first session of an installation fetches the instruments: a strategy can be created as soon as this answers.
    If it takes long, creating one says so."""
    until = deps.clock.now() + LISTED_WITHIN
    while not deps.instruments.loaded and deps.clock.now() < until:
        await deps.clock.sleep(LOOK_EVERY)


@router.get("/broker", operation_id="get_broker", **operation(answers={200: BrokerState}, problems=(404,)))
async def get_broker(deps: Deps, caller: Caller) -> Response:
    """The connected account, without its secrets."""
    account = await deps.accounts.get(caller.user_id)
    if account is None:
        raise not_found("broker account")
    return answers.json(_state(account, wall(deps.clock.now())))


@write(router, "DELETE", "/broker", answers={204: None}, problems=(404,))
async def disconnect_broker(attempt: Write[ConnectBroker]) -> Response:
    """Forget the account and its credentials. Strategies stay armed, but nothing can be bought or sold for them.

    Not while shares are held or an order is unresolved: nobody could ask the broker about them any more, and another
    account connected later would be taken for theirs.
    """
    deps, user_id = attempt.deps, attempt.user_id
    if await deps.accounts.get(user_id) is None:
        raise not_found("broker account")
    if left := await unsettled(deps, user_id):
        raise _in_use("it cannot be disconnected", left)
    if not await deps.accounts.disconnect(user_id):
        raise not_found("broker account")
    return Response(status_code=204)


@router.get(
    "/broker/kite/login-url",
    operation_id="kite_login_url",
    **operation(answers={200: LoginUrl}, problems=(404,)),
)
async def kite_login_url(
    deps: Deps,
    caller: Caller,
    api_key: Annotated[
        str | None, Query(pattern=r"^[A-Za-z0-9_-]{1,128}$", description="of the user's Kite app; else the stored one")
    ] = None,
    redirect_params: Annotated[
        str | None,
        Query(pattern=r"^[\x21-\x7e]{1,512}$", description="query parameters that Kite adds to its redirect"),
    ] = None,
) -> Response:
    """Where the user logs in at Kite. Its redirect brings the `request_token` that connecting takes."""
    if api_key is None:
        known = await deps.accounts.kept(caller.user_id, KITE)
        if known is None:
            raise Problem(404, "NOT_FOUND", "there is no Kite account to take the api_key from: ask with ?api_key=…")
        api_key = known["api_key"]
    url = f"{deps.kite.login_page}?v=3&api_key={quote(api_key, safe='')}"
    if redirect_params is not None:
        url += f"&redirect_params={quote(redirect_params, safe='')}"
    return answers.json(LoginUrl(login_url=url))


@router.post(
    "/broker/kite/postback",
    operation_id="kite_postback",
    **operation(body=KitePostback, answers={200: None}, problems=(403, 429), public=True),
)
async def kite_postback(request: Request, deps: Deps) -> Response:
    """Kite says that an order changed: a hint, signed with the account's API secret. The order book says what is true.

    Nothing but the order's id is taken from it: the signature covers no more. An unknown account is answered, and
    takes as long, as a wrong signature.
    """
    await deps.rate_limits.postback(peer(request))
    told = parse(await read_body(request, whatever_declared=True), KitePostback)
    account = await deps.accounts.find(KITE, told.user_id)
    secret = secrets.token_hex() if account is None else account[1]["api_secret"]
    expected = hashlib.sha256(f"{told.order_id}{told.order_timestamp}{secret}".encode()).hexdigest()
    signed = hmac.compare_digest(expected.encode(), told.checksum.lower().encode())
    if account is None or not signed:
        _log.warning("postback_refused", address=peer(request), known=account is not None)
        raise Problem(403, "POSTBACK_REFUSED", "the checksum is not that of an account which is connected here")
    await deps.hint(account[0], told.order_id)
    return Response(status_code=200)


class PaperLogin:
    """The paper broker takes any credentials, and knows every user under a name of its own."""

    async def authenticate(self, user_id: int, credentials: Credentials, egress_proxy: str | None = None) -> Login:
        return Login(broker_user_id=f"PAPER{user_id}", credentials=credentials)


# --- what is asked for -----------------------------------------------------------------------------------------------


def _credentials(asked: ConnectBroker, known: Credentials) -> dict[str, str]:
    """What the login is tried with: what was given, completed by what is known of the account. Raises 422.

    The known secret is completed only for the known key: another key is another app, with a secret of its own.
    """
    given = {
        name: value
        for name in ("api_key", "api_secret", "access_token", "request_token")
        if not isinstance(value := getattr(asked, name), UnsetType)
    }
    if given.get("api_key", known.get("api_key")) == known.get("api_key"):
        given = {name: known[name] for name in ("api_key", "api_secret") if name in known} | given
    errors = [
        FieldProblem(name, "required", "is missing, and there is no account of yours to take it from")
        for name in ("api_key", "api_secret")
        if name not in given
    ]
    if asked.broker is BrokerName.KITE:
        tokens = given.keys() & {"access_token", "request_token"}
        if not tokens:
            errors.append(FieldProblem("request_token", "required", "is missing: give it, or an access_token"))
        elif len(tokens) == 2:
            errors.append(FieldProblem("access_token", "conflict", "give a request_token or this, not both"))
    if errors:
        raise invalid(errors)
    return given


def _proxy(asked: str | UnsetType | None, known: Credentials) -> str | None:
    """The proxy to use: what was asked for, else the one that the account has. Raises 422."""
    proxy = known.get("egress_proxy") if asked is UNSET or isinstance(asked, UnsetType) else asked
    try:
        egress_of(proxy)
    except ValueError as error:
        raise invalid([FieldProblem("egress_proxy", "port", str(error))]) from None
    return proxy


def _fingerprint(keys: SecretKeys, api_key: str) -> str:
    return hmac.digest(keys.subkey("fingerprints"), api_key.encode(), hashlib.sha256).hex()[:8]


# --- what is refused -------------------------------------------------------------------------------------------------


async def _refuse_exchange(deps: Dependencies, user_id: int, broker: str, session: Login | None) -> None:
    """409 when another account is to take the place of the connected one while strategies depend on that: its orders
    would be looked for in the wrong book, its shares sold from the wrong account. Without a session: as far as can be
    told before the broker has said whose it is."""
    account = await deps.accounts.get(user_id)
    if account is None or account.broker_user_id is None:
        return
    same = account.broker == broker and (session is None or account.broker_user_id == session.broker_user_id)
    if not same and (left := await unsettled(deps, user_id)):
        raise _in_use(f"another account cannot take the place of {account.broker_user_id}", left)


async def _failed(attempt: Write[ConnectBroker], broker: str, reason: str) -> None:
    failed = BrokerAuthFailed(broker=broker, reason=reason)
    await record(attempt.deps, attempt.user_id, failed, correlation_id=attempt.request_id)


def _in_use(what: str, strategies: list[int]) -> Problem:
    which = ", ".join(str(each) for each in strategies[:10]) + (", …" if len(strategies) > 10 else "")
    detail = f"{what}: strategies hold shares, have an order that may live, or buy within a minute ({which})"
    return Problem(409, "BROKER_IN_USE", detail)


def _shared(proxy: str | None) -> Problem:
    egress = egress_of(proxy)
    where = "this installation's own" if egress is None else f"{egress[0]}:{egress[1]}"
    return Problem(409, "EGRESS_SHARED", _SHARED.format(egress=where))


# --- what is shown ---------------------------------------------------------------------------------------------------


def _state(account: BrokerAccount, now: dt.datetime) -> BrokerState:
    over = account.expires_at is not None and account.expires_at <= now
    return BrokerState(
        broker=account.broker,
        status="expired" if over else account.status,
        broker_user_id=account.broker_user_id,
        fingerprint=account.fingerprint,
        connected_at=answers.local(account.connected_at),
        expires_at=answers.local(account.expires_at),
        egress_proxy=account.egress_proxy,
    )
