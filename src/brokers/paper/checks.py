"""What the broker checks before it takes an order or a change, in the broker's order."""

from decimal import Decimal

from brokers.paper.matching import Order, on_grid, protected_limit
from brokers.port import Instrument, NotPlaced, Refused
from domain.values import OrderRequest, Price, Tick

__all__ = ["AUTOMATIC_PROTECTION", "MAX_MODIFICATIONS", "change_refused", "limit_of"]

AUTOMATIC_PROTECTION = Decimal(2)
"""The percentage that stands for a market protection of −1."""
MAX_MODIFICATIONS = 25
"""Kite: an order can be modified so often, then it must be cancelled and placed again."""
TAG_LENGTH = 20
"""Kite: longer tags are rejected, not cut."""


def limit_of(
    request: OrderRequest, instrument: Instrument | None, last: Tick | None, *, trading: bool
) -> Price | NotPlaced:
    """The limit price at which the order enters the book, or why it is not taken."""
    if instrument is None:
        return _refusal("INSTRUMENT", f"unknown instrument {request.symbol}")
    if request.quantity <= 0 or request.quantity % instrument.lot:
        return _refusal("LOT_SIZE", f"quantity {request.quantity} is not a multiple of the lot {instrument.lot}")
    if request.quantity > instrument.freeze:
        text = f"quantity {request.quantity} exceeds the freeze quantity {instrument.freeze}"
        return _refusal("FREEZE_QUANTITY", text)
    if not (len(request.tag) <= TAG_LENGTH and request.tag.isascii() and request.tag.isalnum()):
        return _refusal("TAG", f"tag {request.tag!r}: up to {TAG_LENGTH} letters and digits")
    if not trading:
        return _refusal("MARKET_CLOSED", "the market is closed")
    if request.price is not None:
        return _price_refusal(request.price, instrument) or request.price
    protection = AUTOMATIC_PROTECTION if request.market_protection == -1 else request.market_protection
    if not (protection.is_finite() and 0 < protection <= 100):
        return _refusal("MARKET_PROTECTION", f"market protection {protection}: −1, or above 0 up to 100 %")
    if last is None:
        return NotPlaced(reason="NO_PRICE", curable=True, text=f"{request.symbol} has not traded yet")
    limit = protected_limit(request.side, last.price, protection, instrument.tick_size)
    if instrument.upper_circuit is not None:
        limit = min(limit, instrument.upper_circuit)
    return limit if instrument.lower_circuit is None else max(limit, instrument.lower_circuit)


def change_refused(order: Order, price: Price, instrument: Instrument | None) -> Refused | None:
    """Why the order cannot be re-priced to `price`, None when it can."""
    if order.modifications >= MAX_MODIFICATIONS:
        return Refused("MODIFICATIONS")
    refusal = None if instrument is None else _price_refusal(price, instrument)
    return None if refusal is None else Refused(refusal.reason)


def _price_refusal(price: Price, instrument: Instrument) -> NotPlaced | None:
    if not price.is_finite() or price <= 0:
        return _refusal("PRICE", f"price {price} is not above 0")
    if not on_grid(price, instrument.tick_size):
        return _refusal("TICK_SIZE", f"price {price} is not a multiple of the tick {instrument.tick_size}")
    low, high = instrument.lower_circuit, instrument.upper_circuit
    if (low is not None and price < low) or (high is not None and price > high):
        return _refusal("CIRCUIT", f"price {price} is outside the day's range {low} to {high}")
    return None


def _refusal(reason: str, text: str) -> NotPlaced:
    return NotPlaced(reason=reason, curable=False, text=text)
