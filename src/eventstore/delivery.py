"""A message of the consumer group in the hands of a worker, and the commands that bring it there."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from domain.values import Priority
from eventstore.batch import Ack
from eventstore.clients import Argument, answers, command
from eventstore.envelope import Raw, Recorded, decode, owner_of
from eventstore.errors import CorruptEvent, LogLost
from eventstore.keys import GROUP, Keys
from eventstore.reading import parse

__all__ = ["Delivery", "Entry", "Inbox", "Undecodable", "acknowledge", "new_of", "own_of"]

TAKE_OVER_AFTER_MS = 2000
"""A message that is pending for longer belongs to a dead worker: it is held for milliseconds only."""


class Delivery(Struct, frozen=True):
    """An event to react to. Acknowledge it with `append(…, ack=delivery.ack)`. `deliveries` counts from 1."""

    recorded: Recorded
    stream: Priority
    ack: Ack
    deliveries: int = 1

    @property
    def position(self) -> int:
        return self.recorded.position

    @property
    def strategy_id(self) -> int:
        return self.recorded.strategy_id

    @property
    def user_id(self) -> int:
        return self.recorded.user_id

    @property
    def event_id(self) -> str:
        return self.recorded.event_id


class Undecodable(Struct, frozen=True):
    """A message whose event cannot be read; whose it is is told as far as that can be (else 0 and "")."""

    envelope: bytes
    stream: Priority
    ack: Ack
    deliveries: int = 1
    strategy_id: int = 0
    user_id: int = 0
    event_id: str = ""

    @property
    def position(self) -> int:
        return self.ack.position


class Entry(Struct, frozen=True):
    """What the group delivered: the message, or for a damaged one the error."""

    message: Delivery | Undecodable
    error: CorruptEvent | None = None


class Inbox:
    """One consumer's view of one class stream. Raises LogUnavailable, and LogLost when group or stream are gone."""

    def __init__(self, keys: Keys, stream: Priority, consumer: str) -> None:
        self.stream = stream
        self._key = keys.streams[stream]
        self._consumer = consumer
        self._cursor = b"0-0"

    async def new(self, redis: "Redis", count: int, block_ms: int | None = None) -> list[Entry]:
        """Messages that nobody got yet. `block_ms` waits for the first one."""
        block: tuple[Argument, ...] = () if block_ms is None else ("BLOCK", block_ms)
        reply = await self._command(
            redis, "XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", count, *block, "STREAMS", self._key, ">"
        )
        return [self._entry(entry, 1) for entry in reply[0][1]] if reply else []

    async def own(self, redis: "Redis", after: int = 0, count: int = 64) -> tuple[list[Entry], list[int], int]:
        """Messages that this consumer got before and did not acknowledge, the positions of those that are gone from
        the stream, and where to go on (0 at the end)."""
        reply = await self._command(
            redis, "XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", count, "STREAMS", self._key, f"{after}-0"
        )
        entries = reply[0][1] if reply else []
        return await self._again(redis, entries)

    async def take_over(self, redis: "Redis", count: int) -> tuple[list[Entry], list[int]]:
        """Messages that other consumers hold for too long are now ours; and the positions of those that are gone
        from the stream. Goes around the pending entries, a little further at each call: see `swept`."""
        reply = await self._command(
            redis, "XAUTOCLAIM", self._key, GROUP, self._consumer, TAKE_OVER_AFTER_MS, self._cursor, "COUNT", count
        )
        self._cursor, claimed = reply[0], reply[1]
        # 7.0 and newer name the deleted ones in a third part; 6.2 has nil for them and keeps them pending.
        deleted = [_position(each) for each in reply[2]] if len(reply) > 2 else []
        if None in claimed:
            deleted += await self._gone(redis)
        entries, gone, _ = await self._again(redis, [each for each in claimed if each is not None])
        return entries, deleted + gone

    async def _gone(self, redis: "Redis") -> list[int]:
        """The positions of this consumer's pending messages that are gone from the stream."""
        positions: list[int] = []
        after, more = 0, True
        while more:
            _, gone, after = await self.own(redis, after)
            positions += gone
            more = after > 0
        return positions

    @property
    def swept(self) -> bool:
        """The last take-over reached the end of the pending entries."""
        return self._cursor == b"0-0"

    async def _again(self, redis: "Redis", entries: Sequence[Any]) -> tuple[list[Entry], list[int], int]:
        """Delivered before: find out how often."""
        if not entries:
            return [], [], 0
        first, last = entries[0][0], entries[-1][0]
        pending = await self._command(redis, "XPENDING", self._key, GROUP, first, last, 1000, self._consumer)
        deliveries = {each[0]: each[3] for each in pending}
        gone = [_position(entry[0]) for entry in entries if not entry[1]]
        return (
            [self._entry(entry, deliveries.get(entry[0], 1)) for entry in entries if entry[1]],
            gone,
            _position(entries[-1][0]),
        )

    def _entry(self, entry: Sequence[Any], deliveries: int) -> Entry:
        ack = Ack(self.stream, _position(entry[0]))
        raw: Raw | None = None
        try:
            raw = parse(entry, self.stream)
            return Entry(Delivery(decode(raw), self.stream, ack, deliveries))
        except CorruptEvent as error:
            envelope = raw.envelope if raw else b""
            owner = owner_of(envelope)
            damaged = Undecodable(
                envelope, self.stream, ack, deliveries, owner.strategy_id, owner.user_id, owner.event_id
            )
            return Entry(damaged, error)

    async def _command(self, redis: "Redis", *args: Argument) -> Any:
        try:
            return await command(redis, *args)
        except ResponseError as error:
            if str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise LogLost(f"the group {GROUP} of {self._key} is gone: {error}") from error
            raise


async def new_of(redis: "Redis", inboxes: Sequence[Inbox], count: int) -> list[list[Entry]]:
    """Messages that nobody got yet, up to `count` of each inbox, in one round trip. Raises what `Inbox.new` raises."""
    found = await _read(redis, inboxes, b">", count)
    return [[inbox._entry(entry, 1) for entry in found.get(inbox._key, ())] for inbox in inboxes]


async def own_of(redis: "Redis", inboxes: Sequence[Inbox], count: int) -> list[tuple[list[Entry], list[int]]]:
    """Messages that each consumer got before and did not acknowledge, and the positions of those that are gone, in one
    round trip when there are none. Raises what `Inbox.own` raises."""
    found = await _read(redis, inboxes, b"0-0", count)
    return [(await inbox._again(redis, found.get(inbox._key, ())))[:2] for inbox in inboxes]


async def acknowledge(redis: "Redis", done: Mapping[Inbox, Sequence[int]]) -> None:
    """Positions of each inbox that need nothing more, in one round trip. Raises LogUnavailable."""
    if done:
        calls = [("XACK", inbox._key, GROUP, *(f"{each}-0" for each in of)) for inbox, of in done.items()]
        await answers(redis, calls)


async def _read(redis: "Redis", inboxes: Sequence[Inbox], after: bytes, count: int) -> dict[str, Sequence[Any]]:
    first = inboxes[0]
    of = ("GROUP", GROUP, first._consumer, "COUNT", count)
    names = [inbox._key for inbox in inboxes]
    reply = await first._command(redis, "XREADGROUP", *of, "STREAMS", *names, *[after] * len(names))
    return {name.decode(): entries for name, entries in reply or ()}


def _position(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])
