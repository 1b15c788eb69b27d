"""The open streams of a process: who may have how many, what each tells, and when each ends."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import structlog
from msgspec import Struct

from api.audit.ports import History, HistoryRow, Where
from api.problems import UNAVAILABLE, Problem, unavailable
from api.stream.feed import Feed, Listener
from eventstore.archive import OUTAGES
from eventstore.archived import ArchiveWatch

__all__ = ["HEARTBEAT", "Ended", "StreamTerms", "Streams", "Told"]

HEARTBEAT: Final = 15.0

_AWAY: Final[tuple[type[Exception], ...]] = (*UNAVAILABLE, *OUTAGES)

_log = structlog.get_logger(__name__)


class StreamTerms(Struct, frozen=True, kw_only=True):
    """On which terms streams are open. Seconds and numbers, for one process."""

    heartbeat: float = HEARTBEAT
    per_user: int = 5
    at_most: int = 2000
    longest: float | None = None
    """After so many seconds a stream ends, and its client connects again: for balancers that want that."""


class Told(Struct, frozen=True):
    """The next of a stream: events (none at a heartbeat), and how far each partition is told with them."""

    rows: Sequence[HistoryRow]
    after: Mapping[int, int]


class Ended(Exception):
    """The stream is over; the code and the words are for its client."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class Streams:
    """`watches` are by partition. Close it with `aclose()`: every stream then ends at once."""

    def __init__(self, history: History, watches: Sequence[ArchiveWatch], terms: StreamTerms | None = None) -> None:
        self.terms = terms or StreamTerms()
        self._feeds = [Feed(partition, history, watch) for partition, watch in enumerate(watches)]
        self._open: dict[int, int] = {}
        self._waiting: set[asyncio.Event] = set()
        self._closing = False

    @property
    def open(self) -> int:
        """How many streams are open."""
        return sum(self._open.values())

    async def aclose(self) -> None:
        self._closing = True
        for some in self._waiting:
            some.set()
        for feed in self._feeds:
            await feed.aclose()

    def enter(self, user_id: int) -> Callable[[], None]:
        """A place for a stream of this user's; call what is returned when it is over. Raises 429, and 503."""
        if self._closing or self.open >= self.terms.at_most:
            raise unavailable()
        if self._open.get(user_id, 0) >= self.terms.per_user:
            detail = f"you have {self.terms.per_user} streams open, which is as many as there may be: close one"
            raise Problem(
                429, "TOO_MANY_STREAMS", detail, headers={"Retry-After": str(round(self.terms.heartbeat) or 1)}
            )
        self._open[user_id] = self._open.get(user_id, 0) + 1
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self._open[user_id] -= 1
                if not self._open[user_id]:
                    del self._open[user_id]

        return leave

    async def tell(
        self,
        where: Where,
        after: Mapping[int, int | None],
        still_allowed: Callable[[], Awaitable[None]],
    ) -> AsyncGenerator[Told, None]:
        """The events of these partitions from there on (None: from the archive's end), as they come, at the pace at
        which they are taken; and at least every heartbeat how far it is told. First, where it begins.

        Raises Ended: when it may not go on, which `still_allowed` says by raising at each heartbeat, when nothing can
        be read, or when the process stops.
        """
        loop = asyncio.get_running_loop()
        ends_at = None if self.terms.longest is None else loop.time() + self.terms.longest
        some = asyncio.Event()
        async with self._listening(where, after, some) as listeners:
            told = {each: listener.after for each, listener in listeners.items()}
            yield Told((), dict(told))
            beat_at = loop.time() + self.terms.heartbeat
            while not self._closing:
                some.clear()
                for partition, listener in listeners.items():
                    with _ending():
                        rows = await listener.take()
                    for row in rows:
                        told[partition] = row.raw.position
                    if rows:
                        yield Told(rows, dict(told))
                    told[partition] = listener.after
                now = loop.time()
                if ends_at is not None and now >= ends_at:
                    raise Ended("LONG_ENOUGH", "connect again: this stream has been open for as long as it may")
                if now >= beat_at:
                    with _ending():
                        await still_allowed()
                    beat_at = loop.time() + self.terms.heartbeat
                    yield Told((), dict(told))
                if not self._closing:
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(min(beat_at, ends_at or beat_at)):
                            await some.wait()
        raise Ended("STOPPING", "connect again: this server is stopping")

    @asynccontextmanager
    async def _listening(
        self, where: Where, after: Mapping[int, int | None], some: asyncio.Event
    ) -> AsyncIterator[dict[int, Listener]]:
        listeners: dict[int, Listener] = {}
        self._waiting.add(some)
        try:
            for partition, position in after.items():
                with _ending():
                    listeners[partition] = await self._feeds[partition].listen(where, position, some)
            yield listeners
        finally:
            self._waiting.discard(some)
            for partition, listener in listeners.items():
                self._feeds[partition].leave(listener)


@contextmanager
def _ending() -> Iterator[None]:
    """What goes wrong within ends the stream, and says why."""
    try:
        yield
    except Problem as problem:
        raise Ended(problem.code, problem.detail) from problem
    except _AWAY as error:
        _log.warning("stream_ended", why=str(error).splitlines()[0])
        raise Ended("UNAVAILABLE", "connect again: a part of the engine is not reachable just now") from error
