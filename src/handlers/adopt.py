"""Orders that the book shows and the log does not: their intents were lost with the end of an epoch. Pure.

A tag says which strategy, run and number an order has, so it can be taken over without our records (architecture §7).
Only what cannot be told otherwise is: a number that the strategy's run has not given out, or an earlier epoch's tag.
"""

from brokers.port import BookOrder
from domain.events import OrderRecovered
from domain.facts import Facts
from domain.strategy import State
from domain.tags import TagParts
from domain.values import Kind, Side, Tag

__all__ = ["lost_order"]


def lost_order(state: State, parts: TagParts, row: BookOrder, facts: Facts) -> OrderRecovered | None:
    """The event that takes the row's order over; None when it is known, or is none that we ever asked for."""
    tag = Tag(row.tag or "")
    if state.find(tag) is not None or row.symbol != state.symbol:
        return None
    of_this_run = parts.run == state.run and row.placed_at >= state.buy_at - facts.policy.skew
    of_this_epoch = parts.log_id == facts.log_id
    if of_this_epoch and parts.run <= state.run and not (of_this_run and parts.number > state.orders):
        return None
    return OrderRecovered(
        tag=tag,
        kind=_kind(state, row, of_this_run),
        run=state.run if of_this_run else 0,
        number=parts.number,
        order_id=row.order_id,
        symbol=row.symbol,
        quantity=row.quantity,
        product=row.product,
        placed_at=row.placed_at,
    )


def _kind(state: State, row: BookOrder, of_this_run: bool) -> Kind:
    """What it was for. Of a sale the book does not tell; the shares that are there do."""
    if row.side is Side.BUY:
        return Kind.BUY
    if of_this_run and state.surfaced > 0 and state.open_quantity <= 0:
        return Kind.SURFACED
    return Kind.STOPLOSS if of_this_run and state.stop_due else Kind.SELL
