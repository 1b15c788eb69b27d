"""An answer waits until what its request appended is in the archive too: then it outlives the loss of either store.

One place for all operations: the API's logs note what is appended on behalf of a request, and the answer is held until
the archive holds that. The wait counts from the append, so that it adds nothing to what a route waits for anyway; after
`patience` it is answered all the same, since it is in the log.
"""

import asyncio
import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final, cast

import structlog
from prometheus_client import CollectorRegistry, Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventstore.archived import ArchiveWatch
from eventstore.batch import Appended, AppendResult, Duplicate
from eventstore.envelope import NewEvent
from eventstore.log import EventLog

__all__ = ["Acknowledge", "ArchivedFirst", "noted"]

_log = structlog.get_logger(__name__)


class _Appends:
    """What one request appended: the last position of each partition, and when that was."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        self.at = 0.0

    def note(self, partition: int, positions: Sequence[int]) -> None:
        self.last[partition] = max(self.last.get(partition, 0), *positions)
        self.at = time.monotonic()


_appends: Final[ContextVar[_Appends | None]] = ContextVar("appends", default=None)


def noted(log: EventLog) -> EventLog:
    """The same log, whose appends are noted for the request that they are made for."""
    return cast(EventLog, _NotedLog(log))


class _NotedLog:
    def __init__(self, log: EventLog) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, events: Sequence[NewEvent], **how: Any) -> AppendResult:
        result = await self._log.append(events, **how)
        mine = _appends.get()
        if mine is not None and isinstance(result, Appended | Duplicate) and result.positions:
            mine.note(self._log.keys.partition, result.positions)
        return result


class Acknowledge:
    """Holds answers until the archive holds what they answer to. `watches` is by partition, `patience` in seconds."""

    def __init__(self, watches: Sequence[ArchiveWatch], patience: float, registry: CollectorRegistry) -> None:
        self._watches = watches
        self._patience = patience
        self._early = Counter(
            "bahi_answers_before_archive",
            "Answers given before the archive held what they answer to",
            registry=registry,
        )

    async def settle(self) -> None:
        """Until what the present request appended so far is archived, or patience is over."""
        mine = _appends.get()
        if mine is None or not mine.last:
            return
        last, left = mine.last, max(0.0, mine.at + self._patience - time.monotonic())
        mine.last = {}
        there = await asyncio.gather(*(self._watches[each].reached(position, left) for each, position in last.items()))
        if not all(there):
            self._early.inc()
            reached = {each: self._watches[each].position for each in last}
            _log.warning("answered_before_archive", appended=last, archived=reached, patience=self._patience)


class ArchivedFirst:
    """Middleware: no answer begins before `Acknowledge.settle`, where the application has one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        acknowledge: Acknowledge | None = (
            scope["app"].state.dependencies.acknowledge if scope["type"] == "http" else None
        )
        if acknowledge is None:
            await self._app(scope, receive, send)
            return

        async def held(message: Message) -> None:
            if message["type"] == "http.response.start":
                await acknowledge.settle()
            await send(message)

        token = _appends.set(_Appends())
        try:
            await self._app(scope, receive, held)
        finally:
            _appends.reset(token)
