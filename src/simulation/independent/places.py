"""Where an entry stands: positions, versions, ids, causes, times, and whose it is."""

from collections.abc import Mapping
from typing import Any, Final

from simulation.independent.finding import Finding, Rule
from simulation.independent.lines import CORRUPT, Entry, position_of
from simulation.independent.strategies import Strategy
from simulation.independent.told import Told
from simulation.independent.values import Malformed

__all__ = ["Places"]

_UNVERSIONED: Final = frozenset(
    {
        *("LOCK_CONFLICT", "EVENT_PARKED", "PARKED_RETRIED", "PARKED_DISMISSED", "UNKNOWN_ORDER_SEEN", "AUDIT_READ"),
        *("USER_HALTED", "USER_RESUMED", "RUNTIME_STATE_LOADED", "SYSTEM_RECOVERY", "PRICE_FEED_CONNECTED"),
        *("PRICE_FEED_ERROR", "PRICE_STREAM_DISCONNECTED", "PRICE_STREAM_RESTORED", "PRICE_TICK"),
    }
)
"""What takes no version even when it names a strategy."""


class Places:
    def __init__(self, told: Told) -> None:
        self._told = told
        self._ids: set[str] = set()
        self._next: dict[int, int] = {}
        """The position that is to come, of each partition."""
        self._times: dict[int, int] = {}
        self._lost_versions: set[int] = set()
        """Of entries that cannot be read: of which strategies, nobody can tell."""

    def take(self, entry: Entry) -> bool:
        """The next entry; whether it can be read."""
        told = self._told
        told.entry = entry
        partition, position, at = entry.partition, entry.position, entry.at
        expected = self._next.get(partition, 1)
        if position != expected:
            how = "comes again, or too late" if position < expected else "leaves a gap"
            told.find(Rule.POSITION, f"{entry.type} {how}: {expected} is next")
        if position >= expected:
            self._next[partition] = position + 1
        before = self._times.get(partition, at)
        if at < before:
            told.find(Rule.TIME, f"{entry.type} was recorded at {at}, an event before it at {before}")
        else:
            self._times[partition] = at
            told.last_at = max(told.last_at, at)
        told.families.add(entry.log[:2])
        if entry.type == CORRUPT:
            self._lost_versions.add(entry.version)
            told.find(Rule.UNREADABLE, "nobody can read this entry")
            return False
        self._caused(entry)
        return True

    def _caused(self, entry: Entry) -> None:
        ids = self._ids
        if entry.id in ids:
            self._told.find(Rule.EVENT_ID, f"{entry.type} has the id {entry.id}, as an event before it has")
        if entry.causation and entry.causation not in ids:
            self._told.find(Rule.CAUSE, f"{entry.type} names the cause {entry.causation}, which no event before it is")
        ids.add(entry.id)
        if entry.correlation and entry.correlation not in ids:
            what = f"{entry.type} names the first cause {entry.correlation}, which no event before it is"
            self._told.find(Rule.CAUSE, what)

    def strategy(self, entry: Entry) -> Strategy:
        """The strategy that the entry names, which takes its version."""
        told = self._told
        strategy = told.strategies.get(entry.strategy)
        if strategy is None:
            strategy = told.strategies[entry.strategy] = Strategy(entry.strategy, entry.user)
        if entry.user != strategy.user:
            what = f"{entry.type} of strategy {strategy.id} is user {entry.user}'s, the strategy user {strategy.user}'s"
            told.find(Rule.OWNER, what)
        version, expected = entry.version, strategy.version + 1
        if version == 0 and entry.type in _UNVERSIONED:
            return strategy
        while expected < version and expected in self._lost_versions:
            expected += 1
        if version != expected:
            what = f"{entry.type} of strategy {strategy.id} is version {version}: {expected} is next"
            told.find(Rule.VERSION, what)
        strategy.version = max(strategy.version, version)
        return strategy

    def malformed(self, number: int, line: Mapping[str, Any], error: Malformed) -> None:
        """What can still be told of the line counts, so that it is one finding and not many."""
        found = self._told.found
        try:
            partition, position = position_of(line)
        except Malformed:
            found.append(Finding(Rule.LINE, f"line {number}: {error}"))
            return
        found.append(Finding(Rule.LINE, f"line {number}: {error}", position, partition=partition))
        self._next[partition] = max(self._next.get(partition, 1), position + 1)
        if type(event_id := line.get("id")) is str:
            self._ids.add(event_id)
        if type(version := line.get("version")) is int:
            self._lost_versions.add(version)
