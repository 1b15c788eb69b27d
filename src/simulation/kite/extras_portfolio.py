"""Holdings, and positions that are moved to another product."""

import datetime as dt
from typing import Any

from domain.calendar import instant, wall
from domain.values import ZERO, Product, Side
from simulation.kite.accounts import Account, SimHolding, margin_share
from simulation.kite.errors import input_error, insufficient_funds, insufficient_holding
from simulation.kite.extras_tape import previous_close
from simulation.kite.instruments import SimInstrument
from simulation.kite.orders import stamp
from simulation.kite.positions import SimPosition
from simulation.kite.routing import Context, Route
from simulation.kite.wire import Response, success

__all__ = ["ROUTES"]


# --- holdings


def holdings(context: Context) -> Response:
    rows = []
    for symbol, held in context.account.holdings.items():
        instrument = context.sim.instruments.find(symbol)
        if instrument is not None:
            rows.append(_row(context, instrument, held))
    return success(rows)


def _row(context: Context, instrument: SimInstrument, held: SimHolding) -> dict[str, Any]:
    """`quantity` does not fall when shares are sold during the day, `used_quantity` rises."""
    day = context.sim.tape.day(instrument.symbol)
    close = previous_close(instrument, day) or ZERO
    last = day.last if day is not None else close
    used = min(held.quantity, max(0, -context.account.net(instrument.symbol, Product.CNC)))
    change = last - close if close else ZERO
    return {
        "tradingsymbol": instrument.tradingsymbol,
        "exchange": instrument.exchange,
        "instrument_token": instrument.token,
        "isin": f"INE{instrument.exchange_token:09d}",
        "product": Product.CNC.value,
        "price": 0,
        "quantity": held.quantity,
        "used_quantity": used,
        "t1_quantity": held.t1,
        "realised_quantity": held.quantity,
        "authorised_quantity": 0,
        "authorised_date": stamp(instant(wall(context.sim.now()).date(), dt.time.min)),
        "authorisation": {},
        "opening_quantity": held.quantity,
        "short_quantity": 0,
        "collateral_quantity": 0,
        "collateral_type": "",
        "discrepancy": False,
        "average_price": held.average_price,
        "last_price": last,
        "close_price": close,
        "pnl": (last - held.average_price) * held.quantity,
        "day_change": change,
        "day_change_percentage": change / close * 100 if close else ZERO,
        "mtf": {"quantity": 0, "used_quantity": 0, "average_price": 0, "value": 0, "initial_margin": 0},
    }


# --- positions


def convert(context: Context) -> Response:
    """Moves `quantity` shares of a position from one product to another, at what they cost.

    Delivery needs the whole value (long) or the shares (short). Answers true.
    """
    form, account = context.request.form, context.account
    symbol = f"{_field(form, 'exchange')}:{_field(form, 'tradingsymbol')}"
    instrument = context.sim.instruments.find(symbol)
    if instrument is None:
        raise input_error("The instrument does not exist.")
    side = _one_of(form, "transaction_type", {each.value: each for each in Side})
    overnight = _one_of(form, "position_type", {"day": False, "overnight": True})
    products = {each.value: each for each in Product}
    old, new = _one_of(form, "old_product", products), _one_of(form, "new_product", products)
    text = _field(form, "quantity")
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise input_error("Invalid `quantity`.")
    quantity = int(text)
    if old is new:
        raise input_error("Invalid `new_product`: the position has it already.")
    position = account.positions.get((symbol, old))
    open_now = 0 if position is None else position.net if side is Side.BUY else -position.net
    carried = 0 if position is None else position.overnight if side is Side.BUY else -position.overnight
    movable = min(open_now, max(carried, 0) if overnight else open_now - max(carried, 0))
    if position is None or quantity > movable:
        raise input_error(f"Position cannot be converted: {max(0, movable)} are open, {quantity} were asked for.")
    _check_means(account, position, side, quantity, new)
    _move(account, position, side, quantity, new, overnight)
    return success(True)


def _check_means(account: Account, position: SimPosition, side: Side, quantity: int, new: Product) -> None:
    symbol = position.instrument.symbol
    if side is Side.SELL and new is Product.CNC:
        if (sellable := account.sellable(symbol)) < quantity:
            raise insufficient_holding(symbol, max(0, sellable))
        return
    more = quantity * position.average_price * (margin_share(new) - margin_share(position.product))
    if more > account.available:
        raise insufficient_funds(more, account.available)


def _move(account: Account, position: SimPosition, side: Side, quantity: int, new: Product, overnight: bool) -> None:
    key = (position.instrument.symbol, new)
    target = account.positions.setdefault(key, SimPosition(instrument=position.instrument, product=new))
    price = position.average_price
    if overnight:
        signed = quantity if side is Side.BUY else -quantity
        position.overnight -= signed
        carried = abs(target.overnight) * target.overnight_price + quantity * position.overnight_price
        target.overnight += signed
        target.overnight_price = carried / abs(target.overnight) if target.overnight else ZERO
    elif side is Side.BUY:
        position.bought -= quantity
        position.bought_value -= quantity * price
        target.add(side, quantity, price)
    else:
        position.sold -= quantity
        position.sold_value -= quantity * price
        target.add(side, quantity, price)


def _field(form: dict[str, str], name: str) -> str:
    value = form.get(name, "")
    if not value:
        raise input_error(f"Missing or empty field `{name}`")
    return value


def _one_of(form: dict[str, str], name: str, values: dict[str, Any]) -> Any:
    value = _field(form, name)
    if value not in values:
        raise input_error(f"Invalid `{name}`.")
    return values[value]


ROUTES = (
    Route(method="GET", path="/portfolio/holdings", handler=holdings),
    Route(method="PUT", path="/portfolio/positions", handler=convert),
)
