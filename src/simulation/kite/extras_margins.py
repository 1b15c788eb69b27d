"""What orders would need and cost: /margins/orders, /margins/basket, /charges/orders, /margins/{segment}.

The rates are those of shares at NSE, as Zerodha published them in 2025; the shape is Kite's.
"""

from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import Struct

from domain.values import ZERO, Money, Price, Product, Quantity, Side
from simulation.kite.accounts import Account, margin_share
from simulation.kite.errors import input_error
from simulation.kite.instruments import SimInstrument
from simulation.kite.routing import Context, Route
from simulation.kite.wire import Response, success

__all__ = ["ROUTES"]

PAISA: Final = Decimal("0.01")
BROKERAGE: Final = (Decimal("0.0003"), Decimal(20))
"""Of the value, and at most so much, for intraday; delivery is free."""
STT_DELIVERY: Final = Decimal("0.001")
STT_INTRADAY_SALE: Final = Decimal("0.00025")
TURNOVER: Final = Decimal("0.0000297")
SEBI: Final = Decimal("0.000001")
STAMP: Final = {Product.CNC: Decimal("0.00015"), Product.MIS: Decimal("0.00003")}
"""For purchases."""
GST: Final = Decimal("0.18")


class _Order(Struct, frozen=True, kw_only=True):
    """What is asked about. `price` is 0 for an order at market."""

    exchange: str
    tradingsymbol: str
    transaction_type: Side
    quantity: Quantity
    product: Product
    variety: str = "regular"
    order_type: str = "MARKET"
    price: Decimal = ZERO
    trigger_price: Decimal = ZERO
    average_price: Decimal = ZERO
    order_id: str = ""


def orders(context: Context) -> Response:
    asked = _asked(context)
    return success([_margin(context, context.account, order, instrument) for order, instrument in asked])


def basket(context: Context) -> Response:
    """`final` is less than `initial` where orders of the basket, or (unless told otherwise) open positions, are closed
    by others of it."""
    asked = _asked(context)
    rows = [_margin(context, context.account, order, instrument) for order, instrument in asked]
    consider = (context.request.parameter("consider_positions") or "true").lower() != "false"
    needed = _netted(context, asked, consider)
    answer = {
        "initial": _summed(rows, sum((row["total"] for row in rows), ZERO)),
        "final": _summed(rows, needed),
        "orders": [] if context.request.parameter("mode") == "compact" else rows,
        "charges": _added([row["charges"] for row in rows]),
    }
    return success(answer)


def charges(context: Context) -> Response:
    """The virtual contract note."""
    rows = []
    for order, instrument in _asked(context):
        price = order.average_price or _price(context, order, instrument)
        row = msgspec.to_builtins(order, builtin_types=(Decimal,))
        for name in ("average_price", "trigger_price", "order_id"):
            del row[name]
        rows.append({**row, "price": price, "charges": _charges(order, price)})
    return success(rows)


def segment(context: Context) -> Response:
    """The margin of each instrument of a segment, in %, and how many times the money may be traded intraday."""
    match context.parameters["segment"]:
        case "equity":
            share = margin_share(Product.MIS)
            rows = [
                {
                    "tradingsymbol": each.tradingsymbol,
                    "margin": share * 100,
                    "mis_margin": share * 100,
                    "mis_multiplier": int(1 / share),
                    "nrml_margin": 100,
                }
                for each in context.sim.instruments
                if not each.is_index
            ]
            return success(rows)
        case "commodity" | "futures" | "currency":
            return success([])
    raise input_error("Invalid `segment`.")


# --- one order


def _asked(context: Context) -> list[tuple[_Order, SimInstrument]]:
    """The orders of the body. Raises KiteError 400."""
    try:
        asked = msgspec.json.decode(context.request.body, type=list[_Order], strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise input_error("Invalid order list.") from error
    if not asked:
        raise input_error("Missing or empty order list.")
    found = []
    for order in asked:
        instrument = context.sim.instruments.find(f"{order.exchange}:{order.tradingsymbol}")
        if instrument is None or instrument.is_index:
            raise input_error("Invalid `tradingsymbol`.")
        sane = all(price.is_finite() and 0 <= price < 10**9 for price in (order.price, order.average_price))
        if not 0 < order.quantity < 10**9 or not sane:
            raise input_error("Invalid `quantity` or `price`.")
        found.append((order, instrument))
    return found


def _price(context: Context, order: _Order, instrument: SimInstrument) -> Price:
    tick = context.sim.exchange.last.get(instrument.symbol)
    return order.price or (tick.price if tick is not None else instrument.close or ZERO)


def _margin(context: Context, account: Account, order: _Order, instrument: SimInstrument) -> dict[str, Any]:
    price = _price(context, order, instrument)
    needed = account.margin_of(instrument.symbol, order.transaction_type, order.product, order.quantity, price)
    return {
        "type": "equity",
        "tradingsymbol": order.tradingsymbol,
        "exchange": order.exchange,
        **_parts(needed),
        "leverage": int(1 / margin_share(order.product)),
        "charges": _charges(order, price),
    }


def _parts(total: Money) -> dict[str, Any]:
    return {
        "span": 0,
        "exposure": 0,
        "option_premium": 0,
        "additional": 0,
        "bo": 0,
        "cash": 0,
        "var": total,
        "pnl": {"realised": 0, "unrealised": 0},
        "total": total,
    }


def _summed(rows: list[dict[str, Any]], total: Money) -> dict[str, Any]:
    return {
        "type": "",
        "tradingsymbol": "",
        "exchange": "",
        **_parts(total),
        "leverage": 0,
        "charges": _added([row["charges"] for row in rows]),
    }


def _netted(context: Context, asked: list[tuple[_Order, SimInstrument]], consider: bool) -> Money:
    """What the basket needs as a whole: intraday orders of one symbol against each other and, if so, what is open."""
    total = ZERO
    net: dict[tuple[str, Product], tuple[Quantity, Price]] = {}
    for order, instrument in asked:
        price = _price(context, order, instrument)
        if order.product is Product.CNC:
            total += order.quantity * price if order.transaction_type is Side.BUY else ZERO
            continue
        key = (instrument.symbol, order.product)
        held = context.account.net(*key) if consider else 0
        before, _ = net.get(key, (held, price))
        net[key] = (before + (order.quantity if order.transaction_type is Side.BUY else -order.quantity), price)
    for (symbol, product), (quantity, price) in net.items():
        held = abs(context.account.net(symbol, product)) if consider else 0
        total += max(0, abs(quantity) - held) * price * margin_share(product)
    return total


def _charges(order: _Order, price: Price) -> dict[str, Any]:
    value = order.quantity * price
    bought, delivery = order.transaction_type is Side.BUY, order.product is Product.CNC
    rate, most = BROKERAGE
    brokerage = ZERO if delivery else min(value * rate, most)
    tax = value * STT_DELIVERY if delivery else ZERO if bought else value * STT_INTRADAY_SALE
    turnover, sebi = value * TURNOVER, value * SEBI
    stamp = value * STAMP[order.product] if bought else ZERO
    gst = (brokerage + turnover + sebi) * GST
    return {
        "transaction_tax": _paise(tax),
        "transaction_tax_type": "stt",
        "exchange_turnover_charge": _paise(turnover),
        "sebi_turnover_charge": _paise(sebi),
        "brokerage": _paise(brokerage),
        "stamp_duty": _paise(stamp),
        "gst": {"igst": _paise(gst), "cgst": 0, "sgst": 0, "total": _paise(gst)},
        "total": sum(map(_paise, (tax, turnover, sebi, brokerage, stamp, gst)), ZERO),
    }


def _added(all_charges: list[dict[str, Any]]) -> dict[str, Any]:
    added: dict[str, Any] = {"transaction_tax_type": "stt"}
    for name in ("transaction_tax", "exchange_turnover_charge", "sebi_turnover_charge", "brokerage", "stamp_duty"):
        added[name] = sum((each[name] for each in all_charges), ZERO)
    gst = sum((each["gst"]["total"] for each in all_charges), ZERO)
    added["gst"] = {"igst": gst, "cgst": 0, "sgst": 0, "total": gst}
    added["total"] = sum((each["total"] for each in all_charges), ZERO)
    return added


def _paise(money: Money) -> Money:
    return money.quantize(PAISA)


ROUTES = (
    Route(method="POST", path="/margins/orders", handler=orders),
    Route(method="POST", path="/margins/basket", handler=basket),
    Route(method="POST", path="/charges/orders", handler=charges),
    Route(method="GET", path="/margins/{segment}", handler=segment),
)
