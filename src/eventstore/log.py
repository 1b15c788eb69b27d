"""The log: append is the only way anything changes, and reading gives the one total order."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from redis.asyncio import Redis

from domain.clock import Clock
from eventstore.batch import Ack, Appended, AppendResult, Permit, RuntimeWrite
from eventstore.clients import command, sibling
from eventstore.envelope import Dedupe, Ids, NewEvent, Recorded
from eventstore.epochs import Epoch, is_of_family
from eventstore.errors import LogError, LogHole, LogLost, LogUnavailable
from eventstore.following import follow
from eventstore.guard import Guard
from eventstore.keys import Keys
from eventstore.loading import Loaded, load, load_many
from eventstore.reading import Archive, last_position, read_pages
from eventstore.request import Request
from eventstore.script import Script

__all__ = ["Archive", "EventLog", "LogError", "LogHole", "LogLost", "LogUnavailable"]

_append = Script("append")


class EventLog:
    """One partition of the log.

    `epoch` is the incarnation that this process was started with; any other refuses its appends, and so does a log that
    has become shorter than this process has seen it. `defaults` maps the
    fields of a runtime to their defaults: a field that is absent from the hash stands for its default. `archive`
    holds what the streams hold no longer. See `eventstore.open.open_log` for one that is ready to use.
    """

    def __init__(
        self,
        redis: "Redis",
        *,
        keys: Keys,
        clock: Clock,
        ids: Ids,
        epoch: str,
        defaults: Mapping[str, object],
        archive: Archive | None = None,
        log_id: str = "",
        lineage: Sequence[Epoch] = (),
    ) -> None:
        self.guard = Guard()
        self.redis = sibling(redis, redis_connect_func=self.guard.greet)
        self.keys = keys
        self.clock = clock
        self.ids = ids
        self.epoch = epoch
        self.defaults = defaults
        self.archive = archive
        self.log_id = log_id
        self.lineage = tuple(lineage) or (Epoch(number=1, epoch=epoch, log_id=log_id),)
        """The log's incarnations, this one last."""
        self.log_ids = frozenset(each.log_id for each in self.lineage)
        """What the tags of its orders begin with: those of earlier epochs may still be in a book."""
        self.seen = 0
        """A position that the log has certainly reached: should it ever be shorter, this process appends no more."""

    def is_ours(self, log_id: str) -> bool:
        """Whether a tag that begins so is of an order of this log, in whichever epoch it was placed."""
        return log_id in self.log_ids or is_of_family(log_id, self.lineage)

    async def aclose(self) -> None:
        await self.redis.aclose()

    async def append(
        self,
        events: Sequence[NewEvent],
        *,
        expected: int | None = None,
        runtime: RuntimeWrite | None = None,
        dedupe: Dedupe | None = None,
        permit: Sequence[Permit] = (),
        ack: Ack | None = None,
        entry: bool = False,
        strategy_id: int = 0,
        user_id: int = 0,
    ) -> AppendResult:
        """Everything, or nothing: check epoch, dedupe, halt (`entry`), version (`expected`), limits (`permit`) and
        wake-up (`ack`), in this order; then append the events and write what follows from them.

        Without `expected`, blind events change the runtime as `domain.blind` says. `events` may be empty: "nothing to
        do" is checked and acknowledged all the same. `strategy_id` and `user_id` say whose `expected`, `runtime` and
        `entry` are; by default those of the first event.

        Raises LogUnavailable when the answer is lost: then repeat the very same call. Raises DedupeMismatch when a
        key was used for another request, ValueError for a batch that makes no sense.
        """
        request = self._request(
            events,
            expected=expected,
            runtime=runtime,
            dedupe=dedupe,
            permit=permit,
            ack=ack,
            entry=entry,
            strategy_id=strategy_id,
            user_id=user_id,
        )
        return self._noted(request.result(await _append(self.redis, request.keys, *request.arguments())))

    async def append_many(self, batches: Sequence[Sequence[NewEvent]]) -> list[AppendResult]:
        """Several appends without guards, each atomic, sent in one go and written in their order.

        For blind events of many strategies: `append_many(chunked(events))`. Raises LogUnavailable: then some are
        written and some are not, and each event's own `dedupe` makes repeating the call safe.
        """
        requests = [self._request(events) for events in batches]
        answers = await _append.many(self.redis, [(each.keys, each.arguments()) for each in requests])
        results = zip(requests, answers, strict=True)
        return [self._noted(request.result(answer)) for request, answer in results]

    def _noted(self, result: AppendResult) -> AppendResult:
        if isinstance(result, Appended):
            self.seen = max(self.seen, result.positions[-1] if result.positions else 0)
        return result

    def _request(
        self,
        events: Sequence[NewEvent],
        *,
        expected: int | None = None,
        runtime: RuntimeWrite | None = None,
        dedupe: Dedupe | None = None,
        permit: Sequence[Permit] = (),
        ack: Ack | None = None,
        entry: bool = False,
        strategy_id: int = 0,
        user_id: int = 0,
    ) -> Request:
        strategy_id = strategy_id or next((e.strategy_id for e in events if e.strategy_id), 0)
        user_id = user_id or next((e.user_id for e in events if e.user_id), 0)
        if (expected is not None or runtime is not None) and not strategy_id:
            raise ValueError("`expected` and `runtime` need a strategy")
        if expected is not None and any(e.event.versioned and e.strategy_id not in (0, strategy_id) for e in events):
            raise ValueError(f"`expected` is strategy {strategy_id}'s, and the batch has events of others")
        if (entry or (runtime is not None and runtime.user_add)) and not user_id:
            raise ValueError("`entry` and `user_add` need a user")
        request = Request(self.keys, self.ids, self.defaults, self.epoch, self.clock.now(), self.seen)
        request.events(events, is_blind=expected is None)
        request.guard(
            expected=expected,
            strategy_id=strategy_id,
            dedupe=dedupe,
            permit=permit,
            ack=ack,
            entry_of=user_id if entry else None,
        )
        if runtime is not None:
            request.write(runtime, strategy_id, user_id)
        return request

    async def last_position(self) -> int:
        """The position of the last event; 0 for an empty log. Raises LogLost when the log is gone."""
        return await last_position(self.redis, self.keys)

    async def read(self, after: int = 0, until: int | None = None) -> AsyncIterator[Recorded]:
        """The events after `after`, up to `until` or the present end, in position order and without a hole.

        Raises LogHole, CorruptEvent, LogUnavailable.
        """
        async for page in self.read_pages(after, until):
            for recorded in page:
                yield recorded

    def read_pages(self, after: int = 0, until: int | None = None, page: int = 512) -> AsyncIterator[list[Recorded]]:
        """As `read`, a page at a time: for replaying fast."""
        return read_pages(self.redis, self.keys, after, until, page=page, archive=self.archive)

    def follow(self, after: int = 0, page: int = 256) -> AsyncGenerator[Recorded, None]:
        """As `read`, and then every event as it comes, for ever; close it with `aclose()`.

        Reconnects by itself. Raises LogHole, LogLost, CorruptEvent.
        """
        return follow(self.redis, self.keys, self.epoch, after, page=page, archive=self.archive)

    async def load(self, strategy_id: int, *, user_id: int | None = None, symbol: str | None = None) -> Loaded:
        """The hashes of a strategy, its user's halt latch and its symbol's price: as of one moment, in one round trip.
        Raises LogUnavailable."""
        return await load(self.redis, self.keys, strategy_id, user_id, symbol)

    async def halt(self, user_id: int) -> bytes | None:
        """The user's halt latch, None when it is off. Raises LogUnavailable."""
        latch: bytes | None = await command(self.redis, "GET", self.keys.halt(user_id))
        return latch

    async def load_many(self, strategy_ids: Sequence[int]) -> list[Loaded]:
        """The hashes of many strategies, in their order. Raises LogUnavailable."""
        return await load_many(self.redis, self.keys, strategy_ids)


def chunked(events: Sequence[NewEvent], size: int = 64) -> list[Sequence[NewEvent]]:
    """The events in batches that one append takes."""
    return [events[start : start + size] for start in range(0, len(events), size)]
