"""What goes into an append besides events, and what comes out of it."""

from collections.abc import Mapping

from msgspec import UNSET, Struct, UnsetType

from domain.values import Instant, Priority

__all__ = [
    "MAX_EVENTS",
    "Ack",
    "AppendResult",
    "Appended",
    "Conflict",
    "Duplicate",
    "Halted",
    "NoPermit",
    "NotPending",
    "Permit",
    "RuntimeWrite",
    "WrongEpoch",
]

MAX_EVENTS = 64
"""Events per append: Redis does nothing else meanwhile."""


class Ack(Struct, frozen=True):
    """A delivered entry that the append acknowledges, together with what it writes."""

    stream: Priority
    position: int

    @property
    def id(self) -> str:
        return f"{self.position}-0"


class Permit(Struct, frozen=True):
    """Room that the append takes: `amount` of at most `limit` within the window that `counter` names; the counter
    vanishes `ttl` seconds after its first use."""

    counter: str
    limit: int
    ttl: int
    amount: int = 1


class RuntimeWrite(Struct, frozen=True, kw_only=True):
    """What an append does to the strategy's hashes and to the sets that name it. `replace` starts the runtime anew;
    `expire_seconds` None makes it persistent; `wake_at` None takes it off the timers, UNSET leaves them."""

    strategy_set: Mapping[str, str] = {}
    strategy_delete: tuple[str, ...] = ()
    runtime_set: Mapping[str, str] = {}
    runtime_delete: tuple[str, ...] = ()
    replace: bool = False
    expire_seconds: int | None = None
    wake_at: Instant | UnsetType | None = UNSET
    symbol_add: str | None = None
    symbol_remove: str | None = None
    user_add: bool = False


class Appended(Struct, frozen=True):
    """Written. One position and version per event, also for those that were skipped as already known (then those of
    the first time)."""

    positions: tuple[int, ...]
    versions: tuple[int, ...]
    recorded_at: Instant


class Duplicate(Struct, frozen=True):
    """All of it was in the log already, there. The wake-up, if one was given, is acknowledged."""

    positions: tuple[int, ...]
    versions: tuple[int, ...]


class Conflict(Struct, frozen=True):
    """Somebody made progress: the strategy is at version `actual`. Load and decide again."""

    actual: int


class NotPending(Struct, frozen=True):
    """The wake-up was acknowledged before: somebody else finished it."""


class NoPermit(Struct, frozen=True):
    """The limit `which` has no room; its window ends in `retry_after` microseconds."""

    which: str
    used: int
    retry_after: int


class Halted(Struct, frozen=True):
    """The user's kill switch is on."""


class WrongEpoch(Struct, frozen=True):
    """The log is another one than this process was started with, or none: an incident."""

    actual: str | None


AppendResult = Appended | Duplicate | Conflict | NotPending | NoPermit | Halted | WrongEpoch
"""All but Appended mean: this call wrote no event."""
