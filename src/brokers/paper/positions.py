"""Positions out of trades: net quantity and average cost per symbol and product."""

from collections.abc import Iterable

from brokers.paper.rows import Movement
from brokers.port import BrokerPosition
from domain.values import ZERO, Money, Product, Quantity

__all__ = ["positions"]


def positions(movements: Iterable[Movement]) -> list[BrokerPosition]:
    """The net of the movements, in the order in which each position first appeared; a flat one stays, at 0.

    The average price is that of the shares now held: a reduction leaves it, a turn through zero starts it anew.
    """
    held: dict[tuple[str, Product], tuple[Quantity, Money]] = {}
    for movement in movements:
        key = (movement.symbol, movement.product)
        quantity, cost = held.get(key, (0, ZERO))
        held[key] = _moved(quantity, cost, movement)
    return [
        BrokerPosition(
            symbol=symbol, product=product, quantity=quantity, average_price=cost / quantity if quantity else None
        )
        for (symbol, product), (quantity, cost) in held.items()
    ]


def _moved(quantity: Quantity, cost: Money, movement: Movement) -> tuple[Quantity, Money]:
    after = quantity + movement.quantity
    if quantity * movement.quantity >= 0:
        return after, cost + movement.quantity * movement.price
    if after * quantity >= 0:
        return after, cost * after / quantity
    return after, after * movement.price
