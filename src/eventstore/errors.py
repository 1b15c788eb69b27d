"""What can go wrong with the log, as one small tree. Each message carries the facts."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import redis.exceptions

__all__ = [
    "CorruptEvent",
    "DedupeMismatch",
    "LogError",
    "LogHole",
    "LogLost",
    "LogUnavailable",
    "NeedsRecovery",
    "PartitionMismatch",
    "RestartedServer",
    "ServerTooOld",
    "WeakDurability",
    "outages",
]


class LogError(Exception):
    """The base of all errors of this package."""


class LogUnavailable(LogError):
    """Redis did not answer, or cannot write just now. The outcome of an append is then unknown: repeat the same call,
    its `dedupe` or `expected` recognises what was done already."""


class LogLost(LogError):
    """This is not the log that it was: emptied, shrunken, or its consumer group is gone. An incident: stop, recover."""


class NeedsRecovery(LogLost):
    """Redis lacks what the archive has, or may lack the end of what it had. `why` is EMPTY, OLDER, EARLIER_EPOCH (an
    older copy was put in its place) or RESTARTED (it was killed, and came back on its file)."""

    def __init__(self, why: str, archived: int, held: int) -> None:
        super().__init__(f"{why}: the archive holds events up to {archived}, this Redis up to {held}")
        self.why = why
        self.archived = archived
        self.held = held


class LogHole(LogError):
    """An entry is missing that neither the streams nor the archive hold."""

    def __init__(self, position: int) -> None:
        super().__init__(f"position {position} is missing: neither the streams nor the archive hold it")
        self.position = position


class CorruptEvent(LogError):
    """An entry cannot be read: foreign, damaged, or written by a newer program."""

    def __init__(self, position: int, stream: str, reason: str) -> None:
        super().__init__(f"entry {position} of {stream} cannot be read: {reason}")
        self.position = position
        self.stream = stream
        self.reason = reason

    def __reduce__(self) -> tuple[type["CorruptEvent"], tuple[int, str, str]]:
        return CorruptEvent, (self.position, self.stream, self.reason)


class DedupeMismatch(LogError):
    """The same key was used for another request. Nothing was written."""

    def __init__(self, key: str, digest: str, earlier: str) -> None:
        super().__init__(f"{key} was used before for another request: digest {digest!r} now, {earlier!r} then")
        self.key = key
        self.digest = digest
        self.earlier = earlier


class WeakDurability(LogError):
    """The server may lose what it has acknowledged."""


class PartitionMismatch(LogError):
    """The log was written with another number of partitions."""


class ServerTooOld(LogError):
    """The server lacks what the log needs."""


class RestartedServer(redis.exceptions.ConnectionError):
    """A connection that was refused on this side: the server was restarted, and the log is not known to be whole there.
    `for_good`: nobody of this process will find out any more."""

    def __init__(self, *, for_good: bool) -> None:
        super().__init__("it was restarted, and not every process has found the log whole yet")
        self.for_good = for_good


_PASSING = re.compile(r"\b(OOM|MISCONF|READONLY|BUSY|LOADING|MASTERDOWN|NOREPLICAS|TRYAGAIN|CLUSTERDOWN)\b")
"""Codes of errors that pass by themselves; an error of a script quotes the code in its middle."""


@contextmanager
def outages() -> Iterator[None]:
    """Turn what passes by itself (no connection, no answer, no memory, loading, read-only …) into LogUnavailable, and a
    restarted server of which nobody will say any more that the log is whole there into LogLost."""
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        if isinstance(error, RestartedServer) and error.for_good:
            raise LogLost(f"Redis is not the one that it was: {error}") from error
        raise LogUnavailable(f"no answer from Redis: {error}") from error
    except redis.exceptions.ResponseError as error:
        # redis-py takes the code off the message of those that it has a class for
        passing = (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError)
        if isinstance(error, passing) or _PASSING.search(str(error)):
            raise LogUnavailable(f"Redis cannot do it now: {error}") from error
        raise
