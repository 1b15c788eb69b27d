"""What ties a user to the broker account that is connected: shares, and orders that may yet become shares."""

from typing import Final

from api.dependencies import Dependencies
from domain.calendar import wall
from domain.state import Order, State
from domain.values import MINUTE, Duration, Instant
from domain.values import Final as Ended
from eventstore.members import user_strategies
from projections.runtime import CorruptState, decode_state

__all__ = ["unsettled"]

SOON: Final[Duration] = MINUTE
"""A strategy that buys so soon may do it while the accounts are exchanged."""


async def unsettled(deps: Dependencies, user_id: int) -> list[int]:
    """The user's strategies that another account could not go on with: they hold shares, have an order that is not
    resolved or may yet surface today, or are about to buy. One whose state cannot be read counts.

    Raises LogUnavailable.
    """
    log, now = deps.log_of(user_id), deps.clock.now()
    found: list[int] = []
    if not (theirs := await user_strategies(log, user_id)):
        return found
    for loaded in await log.load_many(theirs):
        try:
            state = decode_state(loaded.strategy_id, loaded.strategy, loaded.runtime)
        except CorruptState:
            found.append(loaded.strategy_id)
        else:
            if _is_unsettled(state, now):
                found.append(state.id)
    return found


def _is_unsettled(state: State, now: Instant) -> bool:
    orders = [*state.past.values(), *([state.order] if state.order is not None else [])]
    return bool(
        state.open_quantity
        or state.surfaced
        or state.unresolved
        or state.lingering
        or any(_may_surface(order, now) for order in orders)
        or (state.alive and not state.entered and state.buy_at - SOON <= now)
    )


def _may_surface(order: Order, now: Instant) -> bool:
    """It was given up after an answer that said nothing, and the order book of the day could still show it."""
    given_up = order.final is Ended.NOT_PLACED and order.doubt is not None
    return given_up and wall(order.at).date() == wall(now).date()
