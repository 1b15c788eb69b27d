"""Which stop-losses a price triggers: per symbol the armed stops, sorted. A fold of the log.

Pure. A stop is armed while its run is alive, holds shares, and is not due already: by the first fill of the BUY, again
by a new stop revision, until it is triggered, the run is flat, or it ends. Which of that holds is not worked out
anew here: a strategy that is alive is kept as the domain's own `State`. It follows the log like `Timetable`.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator

from msgspec import Struct

from domain.events import StrategyCreated, StrategyStarted, StrategyUpdated
from domain.strategy import State, apply, initial
from domain.values import Instant, Price, Tick
from eventstore.envelope import Recorded

__all__ = ["Stop", "StopIndex"]


class Stop(Struct, frozen=True, gc=False):
    """An armed stop. `open_at <= t < close_at` is the session of its run: trades of another one do not concern it."""

    strategy_id: int
    user_id: int
    run: int
    revision: int
    symbol: str
    price: Price
    open_at: Instant
    close_at: Instant

    def is_hit_by(self, tick: Tick) -> bool:
        """Whether this trade is at or under the stop, and of the run's session."""
        return tick.price <= self.price and self.open_at <= tick.at < self.close_at


class StopIndex:
    """The armed stops of all strategies, and the symbols that strategies need prices of."""

    def __init__(self) -> None:
        self._held: dict[int, State] = {}
        self._armed: dict[int, Stop] = {}
        self._stops: dict[str, list[tuple[Price, int]]] = {}
        """Per symbol, ascending: those at or above a price are the tail."""
        self._taken: dict[int, tuple[int, int]] = {}
        """The run and revision of a strategy's stop that was hit here; it is never armed again."""
        self._versions: dict[int, int] = {}
        self._revisions: dict[int, int] = {}
        self._symbols: Counter[str] = Counter()
        self.symbols_revision = 0
        """Changes whenever `symbols()` does."""

    @classmethod
    def from_states(cls, states: Iterable[State]) -> "StopIndex":
        """The index of these states; those of ended runs are needed too, for the versions that they hold. `armed()`
        then are the stops to be checked at once. The states are changed from then on: they belong to the index."""
        index = cls()
        for state in states:
            index._versions[state.id] = state.version
            index._revisions[state.id] = state.stop_revision
            if _needs_prices(state):
                index._hold(state)
                index._rearm(state)
        return index

    def __len__(self) -> int:
        """How many stops are armed."""
        return len(self._armed)

    # --- reading ----------------------------------------------------------------------------------------------------

    def hits(self, symbol: str, price: Price) -> list[Stop]:
        """The armed stops at or above this price, the highest first. O(log n + hits)."""
        stops = self._stops.get(symbol)
        if not stops or price > stops[-1][0]:
            return []
        armed = self._armed
        return [armed[strategy_id] for _, strategy_id in reversed(stops[bisect_left(stops, (price, -1)) :])]

    def armed(self) -> Iterator[Stop]:
        """All of them, by strategy."""
        for strategy_id in sorted(self._armed):
            yield self._armed[strategy_id]

    def symbols(self) -> frozenset[str]:
        """The symbols of all runs that are alive, armed or not, because an entry needs a fresh price too; and of shares
        and orders that an ended run left, because an exit that rests is moved toward the market."""
        return frozenset(self._symbols)

    # --- following --------------------------------------------------------------------------------------------------

    def apply(self, recorded: Recorded) -> list[Stop]:
        """Fold one event of the log; one that is held already changes nothing. The stops that it armed, or armed anew
        at another price, have to be checked at once against the last price."""
        strategy_id, version = recorded.strategy_id, recorded.version
        if not version or version <= self._versions.get(strategy_id, 0):
            return []
        self._versions[strategy_id] = version
        event = recorded.event
        state = self._held.get(strategy_id)
        if state is None:
            if isinstance(event, StrategyCreated):
                self._revisions[strategy_id] = 1
            elif isinstance(event, StrategyUpdated):
                self._revisions[strategy_id] = event.stop_revision
            if not isinstance(event, StrategyStarted):
                return []
            state = initial(strategy_id, recorded.user_id)
            state.stop_revision = self._revisions.get(strategy_id, 1)
        elif isinstance(event, StrategyStarted):
            self._release(state)
        state.version = version - 1
        apply(state, event)
        if strategy_id not in self._held:
            self._hold(state)
        if not state.alive:
            if not _needs_prices(state):
                self._release(state)
            self._disarm(strategy_id)
            self._taken.pop(strategy_id, None)
            self._revisions[strategy_id] = state.stop_revision
            return []
        return self._rearm(state)

    def take(self, stop: Stop) -> None:
        """This stop was hit, its trigger goes into the log: the same run and revision is not hit twice."""
        self._taken[stop.strategy_id] = (stop.run, stop.revision)
        armed = self._armed.get(stop.strategy_id)
        if armed is not None and (armed.run, armed.revision) == (stop.run, stop.revision):
            self._disarm(stop.strategy_id)

    def _hold(self, state: State) -> None:
        self._held[state.id] = state
        self._symbols[state.symbol] += 1
        if self._symbols[state.symbol] == 1:
            self.symbols_revision += 1

    def _release(self, state: State) -> None:
        del self._held[state.id]
        self._symbols[state.symbol] -= 1
        if not self._symbols[state.symbol]:
            del self._symbols[state.symbol]
            self.symbols_revision += 1

    def _rearm(self, state: State) -> list[Stop]:
        """Bring the armed stop of a strategy in line with its state. The stop, if it is another than before."""
        wanted = self._wanted(state)
        if wanted == self._armed.get(state.id):
            return []
        self._disarm(state.id)
        if wanted is None:
            return []
        self._armed[state.id] = wanted
        insort(self._stops.setdefault(wanted.symbol, []), (wanted.price, state.id))
        return [wanted]

    def _wanted(self, state: State) -> Stop | None:
        if not state.alive or state.open_quantity <= 0 or state.stop_due:
            return None
        if self._taken.get(state.id) == (state.run, state.stop_revision):
            return None
        return Stop(
            state.id,
            state.user_id,
            state.run,
            state.stop_revision,
            state.symbol,
            state.stop_loss,
            state.open_at,
            state.close_at,
        )

    def _disarm(self, strategy_id: int) -> None:
        if (stop := self._armed.pop(strategy_id, None)) is None:
            return
        stops = self._stops[stop.symbol]
        del stops[bisect_left(stops, (stop.price, strategy_id))]
        if not stops:
            del self._stops[stop.symbol]


def _needs_prices(state: State) -> bool:
    return state.alive or state.open_quantity > 0 or state.surfaced > 0 or state.unresolved or bool(state.lingering)
