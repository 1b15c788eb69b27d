"""The live states of a partition, for followers that begin with state: note the position, load, follow from there."""

from domain.strategy import State
from eventstore.log import EventLog
from eventstore.members import all_strategies
from projections.runtime import CorruptState, decode_state

__all__ = ["live_states"]


async def live_states(log: EventLog) -> tuple[int, list[State], dict[int, str]]:
    """A position, the states loaded after it was noted, and the strategies whose state cannot be read, with the reason.

    A state may be ahead of the position: a follower skips the versions that it already holds. Raises LogUnavailable.
    """
    position = await log.last_position()
    states: list[State] = []
    corrupt: dict[int, str] = {}
    async for page in all_strategies(log):
        for loaded in await log.load_many(page):
            try:
                states.append(decode_state(loaded.strategy_id, loaded.strategy, loaded.runtime))
            except CorruptState as error:
                corrupt[loaded.strategy_id] = str(error)
    return position, sorted(states, key=lambda state: state.id), corrupt
