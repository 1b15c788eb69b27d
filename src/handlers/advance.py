"""advance: a strategy's next step. Called on every wake-up, by whoever saw one; the state decides (architecture §1)."""

from collections.abc import Callable
from contextvars import ContextVar

from handlers.decider import Turn, Wake, take_turn
from handlers.desk import DecideNext, Desk

__all__ = ["AROUND", "DecideNext", "advance"]

AROUND: ContextVar[Callable[[DecideNext], DecideNext] | None] = ContextVar("around_decide_next", default=None)
"""What goes around `decide_next` in this context and in every task begun there, to record what is decided on what."""


async def advance(desk: Desk, strategy_id: int, wake: Wake) -> Turn:
    """Decides and appends; the effects of the turn are the caller's to carry out, at once (`effects_of`).

    Deciding to do nothing is appended, too: it acknowledges the wake-up and sets the timer to what is waited for now.
    Raises LogUnavailable, LogLost; CorruptState, Undecidable and the like are poison.
    """
    around = AROUND.get()
    return await take_turn(desk, strategy_id, desk.decide if around is None else around(desk.decide), wake)
