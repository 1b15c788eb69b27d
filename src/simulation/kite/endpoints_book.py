"""The order book, histories, trades and positions."""

import msgspec

from simulation.kite.errors import (
    unknown_order,
)
from simulation.kite.orders import SimOrder
from simulation.kite.routing import Context, Route
from simulation.kite.wire import Response, success

__all__ = ["ROUTES"]

# --- readings


def orders(context: Context) -> Response:
    return success([msgspec.Raw(order.encoded) for order in context.account.book()])


def order_history(context: Context) -> Response:
    """All states of an order, oldest first. Kite: the first row carries an instrument_token of 1."""
    order = _known(context)
    rows = [{key: value for key, value in row.items() if key != "guid"} for row in order.history]
    rows[0]["instrument_token"] = 1
    return success(rows)


def order_trades(context: Context) -> Response:
    order = _known(context)
    return success([trade.row() for trade in context.account.day_trades() if trade.order_id == order.order_id])


def trades(context: Context) -> Response:
    return success([trade.row() for trade in context.account.day_trades()])


def _known(context: Context) -> SimOrder:
    order = context.account.find(context.parameters["order_id"])
    if order is None:
        raise unknown_order()
    return order


def positions(context: Context) -> Response:
    last = context.sim.exchange.last
    net, day = [], []
    for (symbol, _), position in context.account.positions.items():
        tick = last.get(symbol)
        price = None if tick is None else tick.price
        net.append(position.row(price, day=False))
        if position.bought or position.sold:
            day.append(position.row(price, day=True))
    return success({"net": net, "day": day})


ROUTES = (
    Route(method="GET", path="/orders", handler=orders),
    Route(method="GET", path="/orders/{order_id}", handler=order_history),
    Route(method="GET", path="/orders/{order_id}/trades", handler=order_trades),
    Route(method="GET", path="/trades", handler=trades),
    Route(method="GET", path="/portfolio/positions", handler=positions),
)
