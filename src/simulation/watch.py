"""Whoever watches a simulated life: reads the log from outside as it grows, and holds the invariants against it.

After every step what is new is read and checked (`look`); when nothing moves, the live states are compared with the
fold of the log (`compare`). Both ask Redis past all wires, so that watching changes nothing.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from redis import Redis

from domain.strategy import State
from domain.values import Instant
from eventstore.envelope import Raw, Recorded, decode
from eventstore.epochs import REJOINING, RESTORING
from eventstore.keys import CLASSES, Keys
from eventstore.reading import parse
from projections.runtime import decode_state, differences
from simulation.invariants import Checker

__all__ = ["Watch"]


LOOK: Final = """
local timers = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
local found = {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]), timers[2] or false}
if redis.call('HGET', KEYS[4], 'position') ~= ARGV[1] then
  for i = 5, #KEYS do found[#found + 1] = redis.call('XRANGE', KEYS[i], '(' .. ARGV[1] .. '-0', '+') end
end
return found
"""
"""In one call, because it is made a hundred times in a life: epoch, archived position, the first timer, new entries."""


class Watch:
    """`tell` hears of every event once, in the log's order."""

    def __init__(
        self,
        redis: "Redis",
        archive: Callable[[], list[Raw]],
        accounts: Mapping[str, int],
        tell: Callable[[Recorded], None],
    ) -> None:
        self.redis = redis
        self._archive = archive
        self._accounts = accounts
        self._tell = tell
        self._keys = Keys()
        self._touched: set[int] = set()
        self.types: Counter[str] = Counter()
        self.heard: list[tuple[str, Decimal, Instant, Instant]] = []
        """The trades that the market listeners have dealt with: what follows from them is in the log."""
        self.epoch = ""
        self.archived = 0
        """How far the archive reaches, as it has told."""
        self.next_timer: int | None = None
        """When the first strategy that waits for time is due."""
        self._begin_anew([])

    def _begin_anew(self, history: list[Raw]) -> None:
        """The log was restored, or has begun: what it holds now is its history."""
        self.checker = Checker(accounts=self._accounts)
        self.heard.clear()  # what followed from them may be lost
        self.position = 0
        self.ids: dict[int, str] = {}
        for raw in history:
            self._take(decode(raw), told=True)

    def look(self) -> bool:
        """Reads what is new, and checks it. False while there is nothing to be read: the log is being restored."""
        keys = self._keys
        names = (keys.epoch, keys.archived, keys.timers, keys.position, *(keys.streams[each] for each in CLASSES))
        asked: Any = self.redis.eval(LOOK, len(names), *names, self.position)
        epoch, archived, timer, *streams = asked
        epoch = (epoch or b"").decode()
        if not epoch or epoch.startswith((RESTORING, REJOINING)):
            return False
        if epoch != self.epoch:
            if self.epoch:
                self._begin_anew(self._archive())
            self.epoch = epoch
            return self.look()
        self.archived = int(archived or 0)
        self.next_timer = int(float(timer)) if timer else None
        raws: list[Raw] = []
        for each, entries in zip(CLASSES, streams, strict=False):  # without streams nothing is new
            raws += [parse(entry, each) for entry in entries]
        raws.sort(key=lambda raw: raw.position)
        for raw in raws:
            self._take(decode(raw), told=False)
        return True

    def _take(self, recorded: Recorded, *, told: bool) -> None:
        self.position = recorded.position
        self.ids[recorded.position] = recorded.event_id
        self.checker.feed(recorded)
        if recorded.strategy_id:
            self._touched.add(recorded.strategy_id)
        if not told:
            self.types[recorded.event.type] += 1
            self._tell(recorded)

    def compare(self) -> list[str]:
        """7: where a live state is not the fold of the log. Only what changed since the last call is looked at."""
        touched = sorted(self._touched)
        self._touched.clear()
        pipe = self.redis.pipeline(transaction=False)
        for strategy_id in touched:
            pipe.hgetall(self._keys.strategy(strategy_id))
            pipe.hgetall(self._keys.runtime(strategy_id))
        answers: list[Any] = pipe.execute() if touched else []
        found = []
        for number, strategy_id in enumerate(touched):
            strategy, runtime = (_text(answer) for answer in answers[2 * number : 2 * number + 2])
            live = decode_state(strategy_id, strategy, runtime)
            if wrong := differences(self.checker.states[strategy_id], live):
                found.append(f"7: strategy {strategy_id}: (fold, live) {wrong}")
        return found

    def states(self) -> dict[int, State]:
        """The fold of the log."""
        return dict(sorted(self.checker.states.items()))


def _text(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}
