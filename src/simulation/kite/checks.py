"""What Kite checks before it takes an order or a change, in its order, and the terms that come out.

Required fields and vocabularies, the tag, the tick grid, the lot, the freeze quantity, the circuit limits, the market's
hours, market protection, then margin or holdings. Every refusal is a `KiteError` and counts as an order request.
"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import TypeVar

from msgspec import Struct

from domain.values import MINUTE, ZERO, Instant, Price, Product, Quantity, Side
from simulation.kite.accounts import Account
from simulation.kite.errors import (
    KiteError,
    closed,
    freeze_exceeded,
    input_error,
    insufficient_funds,
    insufficient_holding,
    off_grid,
)
from simulation.kite.exchange import Exchange
from simulation.kite.instruments import InstrumentList, SimInstrument
from simulation.kite.orders import Changes, OrderStatus, OrderType, SimOrder, Validity
from simulation.kite.protection import percent, protected_limit

__all__ = [
    "MAX_SLICES",
    "Terms",
    "being_processed",
    "check_changeable",
    "check_market",
    "check_means",
    "check_size",
    "expiry",
    "read_changes",
    "read_terms",
    "slices",
]

TAG_LENGTH = 20
MAX_SLICES = 10
NO_PROTECTION = (
    "Market orders without market protection are not allowed via API. "
    "Please set market protection or use a Limit order."
)
_VARIETIES = ("regular", "amo")
_LARGEST = 10**9

E = TypeVar("E", bound=StrEnum)


class Terms(Struct, frozen=True, kw_only=True):
    """A placing that can be understood. `price` of an order at market is 0 until the last price is known."""

    variety: str
    instrument: SimInstrument
    side: Side
    product: Product
    order_type: OrderType
    validity: Validity
    validity_minutes: int
    quantity: Quantity
    disclosed: Quantity
    price: Price
    trigger_price: Price
    protection: Decimal | None
    tag: str | None
    autoslice: bool


def read_terms(variety: str, form: Mapping[str, str], instruments: InstrumentList) -> Terms:
    """Reads the form. Raises KiteError 400 for what is missing, not in the vocabulary, or an unknown instrument."""
    if variety not in _VARIETIES:
        raise input_error(f"Invalid `variety`: only {' and '.join(_VARIETIES)} orders are simulated.")
    exchange, tradingsymbol = _text(form, "exchange"), _text(form, "tradingsymbol")
    side = _one_of(form, "transaction_type", Side)
    quantity = _whole(form, "quantity", required=True)
    product = _one_of(form, "product", Product)
    order_type = _one_of(form, "order_type", OrderType)
    validity = _one_of(form, "validity", Validity, Validity.DAY)
    minutes = _whole(form, "validity_ttl")
    if validity is Validity.TTL and minutes <= 0:
        raise input_error("Missing or empty field `validity_ttl`")
    tag = form.get("tag") or None
    if tag is not None and len(tag) > TAG_LENGTH:
        raise input_error(f"Invalid `tag`: at most {TAG_LENGTH} characters are allowed.")
    instrument = instruments.find(f"{exchange}:{tradingsymbol}")
    if instrument is None or instrument.is_index:
        raise input_error("The instrument you are placing an order for has either expired or does not exist.")
    if quantity <= 0:
        raise input_error("Invalid `quantity`.")
    return Terms(
        variety=variety,
        instrument=instrument,
        side=side,
        product=product,
        order_type=order_type,
        validity=validity,
        validity_minutes=minutes,
        quantity=quantity,
        disclosed=_whole(form, "disclosed_quantity"),
        price=ZERO if order_type.at_market else _priced(form, "price"),
        trigger_price=_priced(form, "trigger_price") if order_type.stops else ZERO,
        protection=_number(form, "market_protection"),
        tag=tag,
        autoslice=form.get("autoslice", "").lower() == "true",
    )


def check_size(terms: Terms) -> None:
    """Grid, lot and freeze quantity."""
    instrument = terms.instrument
    _check_grid(instrument, terms.order_type, terms.price, terms.trigger_price)
    _check_lot(instrument, terms.quantity)
    if not terms.autoslice and terms.quantity > instrument.freeze:
        raise freeze_exceeded(terms.quantity, instrument.freeze, instrument.lot)


def check_market(terms: Terms, exchange: Exchange, now: Instant) -> None:
    """Circuit limits, hours and market protection."""
    instrument = terms.instrument
    _check_circuit(instrument, terms.order_type, terms.price)
    trading = exchange.trades_at(now)
    if terms.variety == "amo" and trading:
        raise input_error("After market orders are not accepted during market hours.")
    if terms.variety != "amo" and not trading:
        raise closed()
    if terms.order_type.at_market:
        _check_protection(terms.protection)


def check_means(terms: Terms, account: Account, last: Price | None) -> None:
    """Margin for what opens a position, shares for a delivery sale."""
    symbol = terms.instrument.symbol
    if terms.product is Product.CNC and terms.side is Side.SELL:
        if (sellable := account.sellable(symbol)) < terms.quantity:
            raise insufficient_holding(symbol, max(0, sellable))
        return
    price = terms.price
    if terms.order_type.at_market and last is not None:
        price = protected_limit(terms.instrument, terms.side, last, percent(terms.protection))
    required = account.margin_of(symbol, terms.side, terms.product, terms.quantity, price)
    if required and required > (available := account.available):
        raise insufficient_funds(required, available)


def slices(terms: Terms) -> list[Quantity]:
    """The quantities of an autosliced order. Raises KiteError 400 when it need not be or cannot be sliced."""
    freeze = terms.instrument.freeze
    if terms.quantity <= freeze:
        raise input_error(f"Quantity should be greater than or equal to {freeze + 1} for order slicing.")
    if terms.quantity > freeze * MAX_SLICES:
        raise input_error(f"At most {MAX_SLICES} slices are allowed.")
    whole, rest = divmod(terms.quantity, freeze)
    return [freeze] * whole + ([rest] if rest else [])


def read_changes(order: SimOrder, form: Mapping[str, str], most: int | None) -> Changes:
    """What a modification asks for, all checks but the order's state included. Raises KiteError 400.

    Kite: an order that becomes one at market needs market protection, one that is already need not pass it again.
    """
    instrument = order.instrument
    order_type = _one_of(form, "order_type", OrderType, order.order_type)
    quantity = _whole(form, "quantity") if form.get("quantity") else order.quantity
    price = _priced(form, "price") if form.get("price") and not order_type.at_market else order.price
    trigger = _priced(form, "trigger_price") if form.get("trigger_price") else order.trigger_price
    protection = _number(form, "market_protection")
    if quantity <= 0 or quantity < order.filled:
        raise input_error("Invalid `quantity`.")
    _check_grid(instrument, order_type, price, trigger)
    _check_lot(instrument, quantity)
    if quantity > instrument.freeze:
        raise freeze_exceeded(quantity, instrument.freeze, instrument.lot)
    _check_circuit(instrument, order_type, price)
    if order_type.at_market and not order.order_type.at_market:
        _check_protection(protection)
    if order_type.at_market and order.order_type.at_market and not protection:
        protection = order.protection
    if most is not None and order.modifications >= most:
        raise input_error("Maximum allowed order modifications exceeded.")
    return Changes(
        order_type=order_type,
        quantity=quantity,
        price=ZERO if order_type.at_market else price,
        trigger_price=trigger if order_type.stops else ZERO,
        disclosed=_whole(form, "disclosed_quantity") if form.get("disclosed_quantity") else order.disclosed,
        validity=_one_of(form, "validity", Validity, order.validity),
        protection=protection,
    )


def check_changeable(order: SimOrder, verb: str) -> None:
    """Kite: an order between two states can be neither changed nor cancelled; one that is over, never again."""
    if order.is_terminal:
        raise input_error(f"Order cannot be {verb} as it is already {order.status}.")
    resting = (OrderStatus.OPEN, OrderStatus.TRIGGER_PENDING, OrderStatus.AMO_RECEIVED)
    if order.status not in resting:
        raise being_processed(verb)


def being_processed(verb: str) -> KiteError:
    return input_error(f"Order cannot be {verb} as it is being processed. Try later.")


def expiry(terms: Terms, now: Instant) -> Instant | None:
    """When a TTL order is cancelled."""
    return now + terms.validity_minutes * MINUTE if terms.validity is Validity.TTL else None


# --- single checks


def _check_grid(instrument: SimInstrument, order_type: OrderType, price: Price, trigger: Price) -> None:
    prices = ([] if order_type.at_market else [price]) + ([trigger] if order_type.stops else [])
    for each in prices:
        if each <= 0:
            raise input_error("Enter Valid Price")
        if each % instrument.tick_size:
            raise off_grid(instrument.tick_size)


def _check_lot(instrument: SimInstrument, quantity: Quantity) -> None:
    if quantity % instrument.lot:
        raise input_error(f"Invalid `quantity`: it must be a multiple of the lot size {instrument.lot}.")


def _check_circuit(instrument: SimInstrument, order_type: OrderType, price: Price) -> None:
    if order_type.at_market:
        return
    low, high = instrument.lower_circuit, instrument.upper_circuit
    if high is not None and price > high:
        raise input_error(
            f"Your order price is higher than the current upper circuit limit of {high}. "
            "Place an order within the daily range."
        )
    if low is not None and price < low:
        raise input_error(
            f"Your order price is lower than the current lower circuit limit of {low}. "
            "Place an order within the daily range."
        )


def _check_protection(protection: Decimal | None) -> None:
    if not protection:
        raise input_error(NO_PROTECTION)
    if protection != -1 and not 0 < protection <= 100:
        raise input_error("Invalid `market_protection`.")


# --- single fields


def _text(form: Mapping[str, str], name: str) -> str:
    value = form.get(name, "")
    if not value:
        raise input_error(f"Missing or empty field `{name}`")
    return value


def _one_of(form: Mapping[str, str], name: str, kind: type[E], default: E | None = None) -> E:
    value = form.get(name, "")
    if not value and default is not None:
        return default
    if not value:
        raise input_error(f"Missing or empty field `{name}`")
    try:
        return kind(value)
    except ValueError:
        raise input_error(f"Invalid `{name}`.") from None


def _number(form: Mapping[str, str], name: str) -> Decimal | None:
    """None when it is not given. Raises KiteError for what is not a finite number of a sane size."""
    value = form.get(name, "")
    if not value:
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise input_error(f"Invalid `{name}`.") from None
    if not number.is_finite() or abs(number) > _LARGEST or number.adjusted() < -9:
        raise input_error(f"Invalid `{name}`.")
    return number + ZERO  # without an exponent


def _priced(form: Mapping[str, str], name: str) -> Price:
    number = _number(form, name)
    if number is None:
        raise input_error(f"Missing or empty field `{name}`")
    return number


def _whole(form: Mapping[str, str], name: str, *, required: bool = False) -> int:
    number = _number(form, name)
    if number is None:
        if required:
            raise input_error(f"Missing or empty field `{name}`")
        return 0
    if number != number.to_integral_value():
        raise input_error(f"Invalid `{name}`.")
    return int(number)
