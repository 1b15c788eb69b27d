"""Every name of a key in Redis. Nothing else in the code base builds one."""

from typing import Final

from domain.values import Priority

__all__ = ["CLASSES", "GROUP", "MARKET_TICKS", "PARTITIONS", "Keys", "alive", "price"]

GROUP: Final = "workers"
"""The consumer group on the class streams."""
CLASSES: Final = tuple(Priority)
"""The classes, the most urgent first."""
MARKET_TICKS: Final = "market:ticks"
"""The capped stream of market data; global."""
PARTITIONS: Final = "partitions"
"""How many partitions this log was created with; global."""


def price(symbol: str) -> str:
    """The last price of a symbol such as `NSE:INFY`; global."""
    return f"price:{symbol}"


def alive(role: str) -> str:
    """Present while some process runs the role, a few seconds longer at most; global."""
    return f"alive:{role}"


class Keys:
    """The keys of one partition. With `hashtag` every one carries `{partition}:`, so that a Redis Cluster keeps them
    in one slot; without, they are the names of the specification."""

    __slots__ = (
        *("_names", "_prefix", "archived", "doubted", "epoch", "epochs", "halts", "hashtag", "log_id", "members"),
        *("partition", "position", "sealed", "server", "streams", "timers"),
    )

    def __init__(self, partition: int = 0, hashtag: bool = False) -> None:
        self.partition = partition
        self.hashtag = hashtag
        self._prefix = prefix = f"{{{partition}}}:" if hashtag else ""
        self.streams: Final = {each: f"{prefix}events:{each}" for each in CLASSES}
        """The stream of each class."""
        self._names = {name: each for each, name in self.streams.items()}
        self.epoch: Final = f"{prefix}epoch"
        """The random id of this incarnation of the log."""
        self.position: Final = f"{prefix}position"
        """Hash: `position` of the last entry, and `recorded_at`, its time."""
        self.timers: Final = f"{prefix}timers"
        """Sorted set of strategy ids by the instant at which each wants to be woken."""
        self.log_id: Final = f"{prefix}log_id"
        """The log's name in order tags, four characters [A-Z0-9]; another one in each epoch."""
        self.epochs: Final = f"{prefix}epochs"
        """List: the lineage of the log, JSON of each `Epoch`; absent while there was but one."""
        self.server: Final = f"{prefix}server"
        """The run_id of the Redis server on which the log is known to be whole; gone after a stop in good order."""
        self.doubted: Final = f"{prefix}doubted"
        """The run_id of a Redis server on which a process that was there found the log shorter than it had been."""
        self.members: Final = f"{prefix}members"
        """Hash: the processes on the log, and on which server each last found it whole. `witness.lua` tells more."""
        self.archived: Final = f"{prefix}archived"
        """How far the archive reaches; also the channel on which that is told."""
        self.sealed: Final = f"{prefix}sealed"
        """`NUMBER:HASH` of the newest seal of the archive."""
        self.halts: Final = f"{prefix}halt:*"
        """The pattern of all halt latches."""

    def __repr__(self) -> str:
        return f"Keys({self.partition}, {self.hashtag})"

    @property
    def patterns(self) -> tuple[str, ...]:
        """Glob patterns of all keys that follow from the log, and of what guards its appends; no limits, no prices."""
        names = ("strategy:*", "runtime:*", "symbol:*:strategies", "user:*:strategies", "halt:*", "foreign:*")
        prefix = self._prefix.replace("{", "\\{")
        return tuple(f"{prefix}{name}" for name in (*names, "dedupe:*"))

    def lost(self, epoch: str, priority: Priority) -> str:
        """The stream of a class as an epoch left it that was given up."""
        return f"{self._prefix}lost:{epoch}:{priority}"

    def stream(self, priority: Priority) -> str:
        return self.streams[priority]

    def class_of(self, stream: str | bytes) -> Priority:
        """Which class a stream holds. KeyError for any other key."""
        return self._names[stream.decode() if isinstance(stream, bytes) else stream]

    def strategy(self, strategy_id: int) -> str:
        """Hash: config, version, watched tags. Never expires."""
        return f"{self._prefix}strategy:{strategy_id}"

    def runtime(self, strategy_id: int) -> str:
        """Hash: the state of the run."""
        return f"{self._prefix}runtime:{strategy_id}"

    def symbol_strategies(self, symbol: str) -> str:
        """Set: the armed strategies of a symbol."""
        return f"{self._prefix}symbol:{symbol}:strategies"

    def user_strategies(self, user_id: int) -> str:
        """Set: all strategies of a user."""
        return f"{self._prefix}user:{user_id}:strategies"

    def halt(self, user_id: int) -> str:
        """The user's kill switch: present means halted."""
        return f"{self._prefix}halt:{user_id}"

    def foreign(self, user_id: int) -> str:
        """JSON: net quantity by `symbol|product` of the day's fills in the user's account that are not ours."""
        return f"{self._prefix}foreign:{user_id}"

    def dedupe(self, name: str) -> str:
        return f"{self._prefix}dedupe:{name}"

    def limit(self, name: str) -> str:
        """A counter of one window of one limit; the name tells both."""
        return f"{self._prefix}limit:{name}"
