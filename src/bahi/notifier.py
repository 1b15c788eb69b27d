"""The notifier: posts alerts (L4) to a webhook, so that a person hears of them.

Once per alert, whichever process sees it first. An address that does not answer is tried again for a while and then
given up, with a line in the log: alerts are in the log of events anyway, and nothing waits for them.
"""

from collections.abc import AsyncIterator

import httpx
import stamina
import structlog

from domain.events import AlertTriggered
from domain.values import Severity
from eventstore.clients import command
from eventstore.envelope import Recorded
from eventstore.errors import LogUnavailable
from eventstore.log import EventLog

__all__ = ["Notifier"]

REMEMBERED = 3600
"""Seconds within which an alert is not posted twice."""
TIMEOUT = 5.0
ATTEMPTS = 4

log = structlog.get_logger(__name__)


class Notifier:
    """Follows one partition. `url` gets a POST of JSON for each alert; without it alerts are log lines only."""

    def __init__(
        self, event_log: EventLog, url: str | None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._log = event_log
        self._url = url
        self._client = httpx.AsyncClient(timeout=TIMEOUT, transport=transport)

    async def run(self, events: AsyncIterator[Recorded]) -> None:
        """Until cancelled."""
        async with self._client:
            async for recorded in events:
                if isinstance(recorded.event, AlertTriggered):
                    await self._tell(recorded, recorded.event)

    async def _tell(self, recorded: Recorded, alert: AlertTriggered) -> None:
        if not await self._first(recorded):
            return
        critical = alert.severity is Severity.CRITICAL
        say = log.critical if critical else log.warning
        say("alert", code=alert.code, strategy_id=recorded.strategy_id, user_id=recorded.user_id, facts=alert.facts)
        if self._url is not None:
            try:
                await self._post(recorded, alert)
            except httpx.HTTPError as error:
                log.error("alert_not_delivered", position=recorded.position, why=f"{type(error).__name__}: {error}")

    async def _post(self, recorded: Recorded, alert: AlertTriggered) -> None:
        body = {
            "code": alert.code,
            "severity": alert.severity,
            "strategy_id": recorded.strategy_id or None,
            "user_id": recorded.user_id or None,
            "position": recorded.position,
            "facts": alert.facts,
        }
        async for attempt in stamina.retry_context(on=httpx.HTTPError, attempts=ATTEMPTS):
            with attempt:
                (await self._client.post(self._url or "", json=body)).raise_for_status()

    async def _first(self, recorded: Recorded) -> bool:
        """Whether nobody has told of it yet. When that cannot be known, tell: twice is better than never."""
        key = self._log.keys.dedupe(f"alert:{recorded.position}")
        try:
            return bool(await command(self._log.redis, "SET", key, "told", "NX", "EX", REMEMBERED))
        except LogUnavailable:
            return True
