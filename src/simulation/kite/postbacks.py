"""Postbacks: Kite calls the registered address of an app when an order trades, changes or ends.

The body is JSON, and its checksum is sha256(order_id + order_timestamp + api_secret): it covers neither status nor
quantities, and there is no retry (Kite Connect docs, "Postbacks").
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any, Final, Protocol

import httpx
import structlog

from simulation.kite.faults import Fault, Play
from simulation.kite.orders import encode

__all__ = ["Postbacks", "Receiver", "checksum", "pushed"]

TIMEOUT: Final = 5.0
AT_ONCE: Final = 20
"""Calls that may be under way; an address that does not answer must not stop the others."""
WAITING: Final = 10_000
APP_ID: Final = 4242
_FINAL: Final = ("COMPLETE", "CANCELLED", "REJECTED")

log = structlog.get_logger(__name__)


class Receiver(Protocol):
    """An account, and where the app of its key wants to be called."""

    user_id: str
    api_secret: str
    postback_url: str | None


def checksum(order_id: str, order_timestamp: str, api_secret: str) -> str:
    return sha256(f"{order_id}{order_timestamp}{api_secret}".encode()).hexdigest()


def pushed(row: Mapping[str, Any], api_secret: str | None = None) -> dict[str, Any]:
    """An order's row as it is pushed: whatever is not final is an UPDATE; with the secret, it carries the checksum."""
    payload = dict(row)
    status = str(row.get("status", ""))
    payload["status"] = status if status.startswith(_FINAL) else "UPDATE"
    payload["user_id"] = row.get("placed_by") or row.get("account_id")
    payload["app_id"] = APP_ID
    payload["unfilled_quantity"] = row["quantity"] - row["filled_quantity"]
    if api_secret is not None:
        payload["checksum"] = checksum(str(row["order_id"]), str(row["order_timestamp"]), api_secret)
    return payload


class Postbacks:
    """Observes the simulated Kite. `on_order` is a plain call that never waits; `sending` sends what it was told.

    F12 as on the stream: a postback may be lost, sent twice, or come after the next one.
    """

    def __init__(
        self, accounts: Mapping[str, Receiver], *, plays: Callable[[Fault, str | None], Play | None] | None = None
    ) -> None:
        self.sent = 0
        """Calls that were answered, whatever the answer."""
        self.failed = 0
        self._accounts = accounts
        self._plays = plays or (lambda _fault, _user_id: None)
        self._waiting: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(WAITING)
        self._delayed: dict[str, bytes] = {}

    def on_ticks(self, ticks: object) -> None:
        """Prices are not posted."""

    def on_order(self, user_id: str, payload: Mapping[str, Any]) -> None:
        account = self._accounts.get(user_id)
        if account is None or account.postback_url is None:
            return
        body = encode(pushed(payload, account.api_secret))
        if self._plays(Fault.F12_PUSH_LOST, user_id):
            return
        if self._plays(Fault.F12_PUSH_REORDERED, user_id) and user_id not in self._delayed:
            self._delayed[user_id] = body
            return
        self._post(account.postback_url, body)
        if self._plays(Fault.F12_PUSH_DUPLICATED, user_id):
            self._post(account.postback_url, body)
        if (late := self._delayed.pop(user_id, None)) is not None:
            self._post(account.postback_url, late)

    def _post(self, url: str, body: bytes) -> None:
        try:
            self._waiting.put_nowait((url, body))
        except asyncio.QueueFull:  # Kite promises no delivery either
            self.failed += 1
            log.warning("kite_sim_postback_dropped", waiting=WAITING)

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Sends while the block lasts; what waits at its end is not sent."""
        async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as client:
            senders = [asyncio.create_task(self._send(client), name="kite postbacks") for _ in range(AT_ONCE)]
            try:
                yield
            finally:
                for sender in senders:
                    sender.cancel()
                await asyncio.wait(senders)
                for sender in senders:
                    if not sender.cancelled():
                        sender.result()

    async def _send(self, client: httpx.AsyncClient) -> None:
        while True:
            url, body = await self._waiting.get()
            try:
                answer = await client.post(url, content=body, headers={"Content-Type": "application/json"})
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                self.failed += 1
                log.warning("kite_sim_postback_failed", why=f"{type(error).__name__}: {error}")
            else:
                self.sent += 1
                if answer.is_error:
                    log.warning("kite_sim_postback_refused", status=answer.status_code)
