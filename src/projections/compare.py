"""Replay against life: is what Redis holds of every strategy exactly the fold of its events?"""

from collections.abc import AsyncIterator, Iterator
from collections.abc import Set as AbstractSet

import structlog
from msgspec import Struct

from domain.strategy import State
from domain.values import MINUTE, SECOND, Instant, Status
from eventstore.entries import read_entries
from eventstore.envelope import owner_of
from eventstore.loading import Loaded
from eventstore.log import EventLog
from eventstore.members import all_strategies
from projections.replay import Fault, Progress, Replay
from projections.restoration import restore
from projections.runtime import IN_STRATEGY, RUNTIME_KEPT, CorruptState, decode_state, differences
from projections.snapshots import Postgres, drop_snapshots
from projections.time_travel import states_of

__all__ = ["Difference", "compare_live", "corrupt_strategies", "has_expired"]

_log = structlog.get_logger(__name__)

_SLACK = MINUTE
"""How far the clock of Redis, which lets runtimes expire, may lie off ours."""
_AT_ONCE = 256


class Difference(Struct, frozen=True):
    """A field of a strategy that is not what its events make it. `field` is "" when nothing can be compared."""

    strategy_id: int
    field: str
    replayed: str
    live: str
    position: int
    """Of the last event of the strategy."""

    @property
    def words(self) -> str:
        what = f"{self.field}: " if self.field else ""
        return f"{what}the log says {self.replayed}, Redis says {self.live}"

    def __str__(self) -> str:
        what = f".{self.field}" if self.field else ""
        return f"strategy {self.strategy_id}{what}: the log says {self.replayed}, Redis says {self.live}"


def has_expired(state: State, now: Instant) -> bool:
    """Whether Redis may have let the runtime go: flat, and ended a day ago (architecture §7)."""
    ended = state.status in (Status.STOPPED, Status.FAILED) and not state.unresolved
    flat = state.open_quantity == 0 and state.surfaced == 0
    return ended and flat and state.terminated_at + RUNTIME_KEPT * SECOND - _SLACK <= now


async def compare_live(log: EventLog, replay: Replay | None = None) -> list[Difference]:
    """Every difference between Redis and the fold of the log, by strategy; empty is right.

    May be asked while trading goes on: a strategy is loaded as of one moment, and compared at the version that it had
    then. `replay` is one that has reached some position already. Raises LogHole, LogUnavailable, LogLost.
    """
    if replay is None:
        replay = await restore(log, snapshots=False, on_fault=_tolerate)
    ids = set(replay.states)
    async for some in all_strategies(log):
        ids.update(some)
    return await _compare_these(log, replay, ids)


async def corrupt_strategies(
    log: EventLog, *, snapshots: bool = True, progress: Progress | None = None
) -> dict[int, str]:
    """The strategies whose live state is not what their events make of it, and what differs, in words. Empty is right.

    For the start: it begins with the last snapshot, and may be asked while trading goes on, as `compare_live`. What
    seems to be corrupt is judged by its events alone: should the snapshot be wrong, it is dropped and nobody is
    corrupt. Raises LogHole, LogUnavailable, LogLost.
    """
    replay = await restore(log, snapshots=snapshots, on_fault=_tolerate, progress=progress)
    found = await compare_live(log, replay)
    if found and replay.since:
        suspects = {each.strategy_id for each in found}
        judge = await states_of(log, suspects, replay.position, on_fault=_tolerate)
        found = await _compare_these(log, judge, suspects)
        if innocent := suspects - {each.strategy_id for each in found}:
            _log.error("snapshot_wrong", partition=log.keys.partition, position=replay.since, of=sorted(innocent)[:10])
            postgres: object = log.archive
            assert isinstance(postgres, Postgres)  # noqa: S101 (the snapshot came from there)
            await drop_snapshots(postgres)
    words: dict[int, list[str]] = {}
    for each in found:
        words.setdefault(each.strategy_id, []).append(each.words)
    return {strategy_id: "; ".join(some) for strategy_id, some in words.items()}


async def _compare_these(log: EventLog, replay: Replay, ids: AbstractSet[int]) -> list[Difference]:
    found: list[Difference] = []
    pending: dict[int, Loaded] = {}
    async for loaded in _load(log, sorted(ids)):
        state = replay.states.get(loaded.strategy_id)
        if state is not None and state.version == loaded.version:
            found += _compare(state, loaded, log.clock.now())
        else:
            pending[loaded.strategy_id] = loaded
    if pending:  # what was appended meanwhile, up to the version that was loaded
        async for page in read_entries(log, replay.position):
            for raw in page:
                replay.feed([raw])
                strategy_id = owner_of(raw.envelope).strategy_id
                if strategy_id in pending and pending[strategy_id].version == raw.version:
                    found += _compare(replay.states[strategy_id], pending.pop(strategy_id), log.clock.now())
    for strategy_id, loaded in pending.items():
        state = replay.states.get(strategy_id)
        replayed, position = (str(state.version), state.position_in_log) if state else ("nothing of it", 0)
        live = str(loaded.version) if loaded.strategy else "nothing of it"
        found.append(Difference(strategy_id, "version", replayed, live, position))
    return sorted(found, key=lambda each: (each.strategy_id, each.field))


async def _load(log: EventLog, ids: list[int]) -> AsyncIterator[Loaded]:
    for start in range(0, len(ids), _AT_ONCE):
        for loaded in await log.load_many(ids[start : start + _AT_ONCE]):
            yield loaded


def _compare(state: State, loaded: Loaded, now: Instant) -> Iterator[Difference]:
    try:
        live = decode_state(loaded.strategy_id, loaded.strategy, loaded.runtime)
    except CorruptState as error:
        yield Difference(state.id, "", "something readable", str(error), state.position_in_log)
        return
    found = differences(state, live)
    if not live.run and has_expired(state, now):
        found = {name: values for name, values in found.items() if name in IN_STRATEGY or name == "version"}
    for name, (replayed, alive) in found.items():
        yield Difference(state.id, name, repr(replayed), repr(alive), state.position_in_log)


def _tolerate(_: Fault) -> None:
    """Others look for faults; here only states are compared."""
