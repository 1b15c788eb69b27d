"""States as they were: a strategy's own history folded again, a little at a time, so that nothing else waits for it."""

import asyncio
import copy
from typing import Any, Final

from msgspec import Struct

from api import answers
from api.audit.ports import History
from domain.strategy import State, initial
from projections.replay import Fault, Replay

__all__ = ["Folded", "changes", "fold", "plain_state"]

PAGE: Final = 512
"""Entries folded at a time: some milliseconds."""
UNTOLD: Final = frozenset({"id", "version", "updated_at", "position_in_log"})
"""What changes with every event, and says nothing of its own."""


class Folded(Struct, frozen=True):
    """A strategy as it was; `faults` are those of its history, after which it is told as well as it can be."""

    state: State
    faults: tuple[Fault, ...] = ()


async def fold(history: History, partition: int, strategy_id: int, *points: int) -> list[Folded | None]:
    """The strategy after each of the positions, which ascend; None where nothing had happened to it yet."""
    faults: list[Fault] = []
    replay = Replay(strategy_id=strategy_id, on_fault=faults.append)
    told: list[Folded | None] = []
    after = 0
    for until in points:
        while after < until:
            raws = await history.of_strategy(partition, strategy_id, after, until, PAGE)
            replay.feed(raws)
            after = raws[-1].position if len(raws) == PAGE else until
            await asyncio.sleep(0)
        state = replay.states.get(strategy_id)
        told.append(None if state is None else Folded(copy.deepcopy(state), tuple(faults)))
    return told


def plain_state(state: State) -> dict[str, Any]:
    """Every field, with moments for people."""
    told: dict[str, Any] = answers.plain(state)
    del told["id"]
    return told


def changes(before: State | None, after: State) -> dict[str, tuple[Any, Any]]:
    """The fields that tell different things, with what they tell: then and later."""
    then, later = plain_state(before or initial(after.id, after.user_id)), plain_state(after)
    return {name: (then[name], told) for name, told in later.items() if name not in UNTOLD and then[name] != told}
