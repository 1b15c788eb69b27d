"""Market protection: an order at market is booked with a limit so far from the last price.

Kite: in force since April 2026. The limit is on the tick grid and within the day's circuit limits.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from domain.values import Price, Side
from simulation.kite.instruments import SimInstrument
from simulation.kite.orders import OrderType, SimOrder

__all__ = ["book_protected", "percent", "protected_limit"]

AUTOMATIC_PROTECTION = Decimal(2)
"""The percentage that stands for a market protection of −1."""


def protected_limit(instrument: SimInstrument, side: Side, last: Price, protection: Decimal) -> Price:
    """A market order's limit: `protection` % beyond the last price, on the grid toward it, within the circuits."""
    tick = instrument.tick_size
    beyond = last * protection / 100
    if side is Side.BUY:
        limit = ((last + beyond) / tick).to_integral_value(ROUND_FLOOR) * tick
        return limit if instrument.upper_circuit is None else min(limit, instrument.upper_circuit)
    limit = max(((last - beyond) / tick).to_integral_value(ROUND_CEILING), Decimal(1)) * tick
    return limit if instrument.lower_circuit is None else max(limit, instrument.lower_circuit)


def percent(protection: Decimal | None) -> Decimal:
    """The market protection in %: what −1 stands for, or what was asked for."""
    return AUTOMATIC_PROTECTION if protection is None or protection == -1 else protection


def book_protected(order: SimOrder, last: Price | None) -> bool:
    """Kite: an order at market is booked as one with a limit, so far beyond the last price; whether it was one.

    Without a last price a market order waits as it is. A stop order's limit lies beyond its trigger price.
    """
    if not order.order_type.at_market:
        return False
    stops = order.order_type.stops
    around = order.trigger_price if stops else last
    if around is None:
        return False
    order.price = protected_limit(order.instrument, order.side, around, percent(order.protection))
    order.order_type = OrderType.SL if stops else OrderType.LIMIT
    return True
