"""advance: a strategy's next step. Called on every wake-up, by whoever saw one; the state decides (architecture §1)."""

from domain.decide import Decision, decide_next
from domain.facts import Facts
from domain.strategy import State
from handlers.decider import Turn, Wake, take_turn
from handlers.desk import Desk


async def advance(desk: Desk, strategy_id: int, wake: Wake) -> Turn:
    """Decides and appends; the effects of the turn are the caller's to carry out, at once (`effects_of`).

    Raises LogUnavailable, LogLost; CorruptState, Undecidable and the like are poison.
    """

    def decide(state: State, facts: Facts) -> Decision | None:
        decision = decide_next(state, facts)
        if not decision.events and wake.ack is None and decision.wake_at is None:
            return None
        return decision

    return await take_turn(desk, strategy_id, decide, wake)
