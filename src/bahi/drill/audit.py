"""Looking at what is left: soon after the moment, and at the end of its day."""

from collections.abc import Mapping, Sequence

from bahi.drill.checks import Found, check, held_back, holdings, read_history, unwatched
from bahi.drill.reading import books_of, reading
from bahi.drill.result import Result
from bahi.drill.stage import Stage
from bahi.drill.users import Acknowledged
from projections.live import live_states

__all__ = ["audit", "look"]


async def look(stage: Stage, watched: Sequence[int], *, in_time: bool) -> Found | None:
    """Is every position and every stop there again? `watched` are the strategies whose stops somebody watches. None
    while a strategy is in doubt or has an order under way, as long as that is `in_time`."""
    async with reading(stage.redis.url, stage.postgres.url) as log:
        _, states, _ = await live_states(log)
        held = holdings(await books_of(stage.home, stage.users))
    doubtful = [state for state in states if state.settle_after or state.unresolved]
    if doubtful and in_time:
        return None
    found = Found()
    found.broken += [f"strategy {state.id} is still in doubt" for state in doubtful if state.settle_after]
    for state in states:
        ours, theirs = state.open_quantity + state.surfaced, held.pop(state.id, 0)
        if not state.unresolved and ours != theirs:
            found.positions.append(f"afterwards strategy {state.id} knew of {ours} shares, the broker of {theirs}")
    found.positions += [f"afterwards strategy {each} was forgotten" for each, shares in held.items() if shares]
    found.stops += unwatched(states, watched)
    return found


async def audit(stage: Stage, result: Result, acknowledged: Sequence[Acknowledged], known: Mapping[int, bytes]) -> None:
    """What holds at the end of the day, into the result. `known`: what could not be lost, by position."""
    async with reading(stage.redis.url, stage.postgres.url) as log:
        history = await read_history(log)
        books = await books_of(stage.home, stage.users)
        result.found.add(await check(log, history, books, users=stage.users, acknowledged=acknowledged, known=known))
        result.acknowledged = len(acknowledged)
        result.events = len(history.records)
        result.orders = len(books.rows)
        result.epochs = len(log.lineage)
        result.exits_held, result.entries_held = held_back(history)
