"""The login at Kite: a request token is exchanged, or an access token proved; and when a session ends.

Kite Connect docs: the user logs in in a browser and Kite's redirect brings a `request_token`, good for one exchange
within a few minutes. The access token that it is exchanged for dies at 06:00 IST of the next day, whatever is done.
"""

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from brokers.kite.account import KiteAccount, KiteAddress
from brokers.kite.client import Ask, KiteClients
from brokers.kite.reasons import is_session_over
from brokers.kite.redact import Redactor, proxy_secrets
from brokers.kite.wire import Reply
from brokers.port import BrokerRefused, BrokerUnavailable, Login
from domain.calendar import instant, wall
from domain.clock import Clock
from domain.values import Instant

__all__ = ["SESSIONS_END", "KiteLogin", "session_end"]

SESSIONS_END: Final = dt.time(6)
"""On the exchange's clock. Kite Connect docs."""
LONGEST_TEXT: Final = 200

_USER: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_JUDGED: Final = frozenset({400, 401, 403, 404, 405, 422, 428})
"""The statuses of a login that was looked at and refused."""


def session_end(began: Instant) -> Instant:
    """When a session that is alive at `began` ends: the next 06:00 IST after it."""
    there = wall(began)
    date = there.date() if there.time() < SESSIONS_END else there.date() + dt.timedelta(days=1)
    return instant(date, SESSIONS_END)


class KiteLogin:
    """Checks credentials with Kite, each through the egress proxy of its account."""

    def __init__(self, address: KiteAddress, clock: Clock) -> None:
        self._address = address
        self._clock = clock

    async def authenticate(
        self, user_id: int, credentials: Mapping[str, str], egress_proxy: str | None = None
    ) -> Login:
        """`credentials` hold `api_key`, `api_secret` and one of `request_token` and `access_token`; kept are the key,
        the secret and the access token.

        Raises BrokerRefused with what to do, and BrokerUnavailable when Kite's answer does not say whether the login
        is good. A request token may be used up then.
        """
        key, secret = credentials["api_key"], credentials["api_secret"]
        request_token, access_token = credentials.get("request_token"), credentials.get("access_token")
        if (request_token is None) == (access_token is None):
            raise BrokerRefused("give a request_token or an access_token, and not both")
        checksum = hashlib.sha256(f"{key}{request_token}{secret}".encode()).hexdigest()
        hidden = [key, secret, checksum, request_token or "", access_token or ""]
        redact = Redactor([*hidden, *proxy_secrets(egress_proxy)])
        if request_token is not None:
            reply = await self._call(
                user_id, key, "", egress_proxy, lambda official: official.generate_session(request_token, secret)
            )
            data = _judged(reply, redact, "the request_token was used or is older than a few minutes: log in again")
            access_token = data.get("access_token")
        else:
            reply = await self._call(
                user_id, key, access_token or "", egress_proxy, lambda official: official.profile()
            )
            data = _judged(reply, redact, "the access_token has expired or is another api_key's: log in again")
        kite_user_id = data.get("user_id")
        if not isinstance(access_token, str) or not access_token:
            raise BrokerUnavailable("Kite's answer has no access_token")
        if not isinstance(kite_user_id, str) or not _USER.fullmatch(kite_user_id):
            raise BrokerUnavailable("Kite's answer does not say whose account it is")
        kept = {"api_key": key, "api_secret": secret, "access_token": access_token}
        return Login(broker_user_id=kite_user_id, credentials=kept, expires_at=session_end(self._clock.now()))

    async def _call(self, user_id: int, key: str, access_token: str, proxy: str | None, ask: Ask) -> Reply:
        now = self._clock.now()
        nobody_yet = KiteAccount(
            user_id=user_id,
            kite_user_id="",
            api_key=key,
            access_token=access_token,
            egress_proxy=proxy,
            connected_at=now,
            expires_at=session_end(now),
        )
        clients = KiteClients(nobody_yet, self._address)
        try:
            return await clients.call(ask, lambda reply: reply)
        finally:
            await clients.aclose()


def _judged(reply: Reply, redact: Redactor, over: str) -> dict[str, Any]:
    """The `data` of a successful answer. `over`: what to say when Kite does not take the token."""
    envelope = _envelope(reply)
    if envelope is None:
        raise BrokerUnavailable(_told(reply, redact))
    status, error_type = reply.status or 0, envelope.get("error_type")
    if envelope.get("status") == "success" and not error_type and 200 <= status < 300:
        data = envelope.get("data")
        return data if isinstance(data, dict) else {}
    message = envelope.get("message")
    said = redact.text(" ".join(message.split()))[:LONGEST_TEXT] if isinstance(message, str) else ""
    if status not in _JUDGED or not (envelope.get("status") == "error" or error_type):
        raise BrokerUnavailable(f"HTTP {status}: {said}".rstrip(": "))
    if "checksum" in said.lower():
        raise BrokerRefused(f"the api_secret is not that of the api_key, or the token is for another app ({said})")
    if "api_key" in said and "access_token" not in said:
        raise BrokerRefused(f"Kite does not know this api_key ({said})")
    if is_session_over(str(error_type or ""), said):
        raise BrokerRefused(f"{over} ({said})" if said else over)
    raise BrokerRefused(said or f"HTTP {status} without a reason")


def _envelope(reply: Reply) -> dict[str, Any] | None:
    """Kite's envelope, if the answer is wholly here and one."""
    if reply.trouble or reply.status is None or "json" not in reply.content_type.lower():
        return None
    try:
        body = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _told(reply: Reply, redact: Redactor) -> str:
    if not reply.written:
        return redact.text(f"not sent: {reply.trouble}")
    what = reply.trouble or f"{len(reply.body)} bytes of {reply.content_type or 'no content type'}, not Kite's JSON"
    return redact.text(f"HTTP {reply.status}, {what}" if reply.status is not None else what)
