"""The caller's broker account. What goes in is never shown again."""

import hashlib
import hmac
from typing import Final

from fastapi import APIRouter
from msgspec import UNSET
from starlette.responses import Response

from api import answers
from api.dependencies import Deps
from api.models import BrokerState, ConnectBroker
from api.openapi import operation
from api.ports import BrokerAccount, BrokerRefused, Credentials
from api.problems import Problem, not_found
from api.record import record
from api.security.caller import Caller
from api.security.keys import SecretKeys
from api.writes import Write, write
from domain.events import BrokerAuthFailed, BrokerAuthSuccess, BrokerKeySubmitted

__all__ = ["PaperLogin", "router"]

router: Final = APIRouter(tags=["broker"])


@write(router, "POST", "/broker/connect", ConnectBroker, answers={200: BrokerState}, problems=(400,))
async def connect_broker(attempt: Write[ConnectBroker]) -> Response:
    """Check credentials with the broker and keep them; an account that was connected stays if they are refused."""
    deps, user_id, asked = attempt.deps, attempt.user_id, attempt.body
    broker = asked.broker.value
    fingerprint = _fingerprint(deps.keys, asked.api_key)
    login = deps.logins.get(broker)
    if login is None:
        raise Problem(400, "BROKER_NOT_AVAILABLE", f"{broker} cannot be connected here")
    submitted = BrokerKeySubmitted(broker=broker, fingerprint=fingerprint)
    await record(deps, user_id, submitted, correlation_id=attempt.request_id)
    try:
        broker_user_id, credentials = await login.authenticate(user_id, _credentials(asked))
    except BrokerRefused as refused:
        failed = BrokerAuthFailed(broker=broker, reason=refused.reason)
        await record(deps, user_id, failed, correlation_id=attempt.request_id)
        raise Problem(400, "BROKER_AUTH_FAILED", f"{broker} refuses: {refused.reason}") from None
    await deps.accounts.connect(
        user_id,
        broker=broker,
        broker_user_id=broker_user_id,
        credentials=credentials,
        fingerprint=fingerprint,
        egress_proxy=None if asked.egress_proxy is UNSET else asked.egress_proxy,
    )
    success = BrokerAuthSuccess(broker=broker, broker_user_id=broker_user_id)
    await record(deps, user_id, success, correlation_id=attempt.request_id)
    account = await deps.accounts.get(user_id)
    if account is None:
        raise Problem(409, "DISCONNECTED", "the account was disconnected at the same moment")
    return answers.json(_state(account))


@router.get("/broker", operation_id="get_broker", **operation(answers={200: BrokerState}, problems=(404,)))
async def get_broker(deps: Deps, caller: Caller) -> Response:
    """The connected account, without its secrets."""
    account = await deps.accounts.get(caller.user_id)
    if account is None:
        raise not_found("broker account")
    return answers.json(_state(account))


@write(router, "DELETE", "/broker", answers={204: None}, problems=(404,))
async def disconnect_broker(attempt: Write[ConnectBroker]) -> Response:
    """Forget the account and its credentials. Strategies stay armed, but nothing can be bought or sold for them."""
    if not await attempt.deps.accounts.disconnect(attempt.user_id):
        raise not_found("broker account")
    return Response(status_code=204)


class PaperLogin:
    """The paper broker takes any credentials, and knows every user under a name of its own."""

    async def authenticate(self, user_id: int, credentials: Credentials) -> tuple[str, Credentials]:
        return f"PAPER{user_id}", credentials


def _credentials(asked: ConnectBroker) -> dict[str, str]:
    given = {"api_key": asked.api_key, "api_secret": asked.api_secret}
    if asked.access_token is not UNSET:
        given["access_token"] = asked.access_token
    if asked.request_token is not UNSET:
        given["request_token"] = asked.request_token
    return given


def _fingerprint(keys: SecretKeys, api_key: str) -> str:
    return hmac.digest(keys.subkey("fingerprints"), api_key.encode(), hashlib.sha256).hex()[:8]


def _state(account: BrokerAccount) -> BrokerState:
    return BrokerState(
        broker=account.broker,
        status=account.status,
        broker_user_id=account.broker_user_id,
        fingerprint=account.fingerprint,
        connected_at=answers.local(account.connected_at),
        egress_proxy=account.egress_proxy,
    )
