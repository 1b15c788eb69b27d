"""advance: a strategy's next step. Called on every wake-up, by whoever saw one; the state decides (architecture §1)."""

from domain.decide import decide_next
from handlers.decider import Turn, Wake, take_turn
from handlers.desk import Desk


async def advance(desk: Desk, strategy_id: int, wake: Wake) -> Turn:
    """Decides and appends; the effects of the turn are the caller's to carry out, at once (`effects_of`).

    Deciding to do nothing is appended, too: it acknowledges the wake-up and sets the timer to what is waited for now.
    Raises LogUnavailable, LogLost; CorruptState, Undecidable and the like are poison.
    """

    return await take_turn(desk, strategy_id, decide_next, wake)
