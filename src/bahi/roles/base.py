"""What a role is, and what it is given of each partition."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from domain.strategy import State
from eventstore.envelope import Recorded
from eventstore.fanout import Fanout

__all__ = ["Partition", "Role"]


class Role(Protocol):
    """A service of one process."""

    async def run(self) -> None:
        """Until `stop`, then drained. What it raises ends the process."""
        ...

    async def stop(self) -> None: ...


class Partition:
    """One partition as the followers of a process see it: the states loaded, and the log from before that on."""

    def __init__(self, number: int, states: Sequence[State], fanout: Fanout) -> None:
        self.number = number
        self.states = states
        self._fanout = fanout

    def follow(self) -> AsyncIterator[Recorded]:
        """The events since the states were loaded. Call it before the roles run."""
        return self._fanout.subscribe()
