"""What becomes of an order: a pure function of its row, its script, the time and the market's last price.

Nothing runs in the background. Whenever somebody looks, what is due by then happens then.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from msgspec import Struct
from msgspec.structs import replace

from brokers.paper.plan import FAITHFUL, Script
from brokers.port import BookStatus
from domain.values import ZERO, Instant, Money, Price, Product, Quantity, Side

__all__ = ["Fill", "Order", "filled_by", "next_due", "on_grid", "protected_limit", "settle"]


class Order(Struct, frozen=True, kw_only=True):
    """A row of the book. `value` is the sum of quantity × price over its trades. It surfaces at `placed_at`."""

    order_id: int
    account: str
    tag: str
    symbol: str
    side: Side
    product: Product
    quantity: Quantity
    filled: Quantity = 0
    value: Money = ZERO
    limit: Price
    status: BookStatus = BookStatus.OPEN
    placed_at: Instant
    lapses_at: Instant | None = None
    """The close of its session: a day order does not outlive it."""
    script: Script = FAITHFUL
    released: bool = False
    """A modification ended whatever the script held back."""
    modify_attempts: int = 0
    modifications: int = 0
    cancel_attempts: int = 0
    reason: str = ""
    text: str = ""
    curable: bool = False

    @property
    def remaining(self) -> Quantity:
        return self.quantity - self.filled

    @property
    def live_at(self) -> Instant:
        """When it reaches the market."""
        return self.placed_at + self.script.latency

    @property
    def average_price(self) -> Price | None:
        return self.value / self.filled if self.filled else None

    def crosses(self, price: Price) -> bool:
        """Whether the market's price lies inside the limit."""
        return price <= self.limit if self.side is Side.BUY else price >= self.limit


class Fill(Struct, frozen=True):
    quantity: Quantity
    price: Price


def settle(order: Order, now: Instant, price: Price | None, trading: bool) -> tuple[Order, Fill | None]:
    """The order as it is at `now`, with what filled since it was last looked at.

    `price` is the market's last (None: unknown, nothing fills), `trading` whether the market is open. A fill is made at
    the market's price, never outside the limit.
    """
    if order.status.terminal or now < order.placed_at:
        return order, None
    if order.lapses_at is not None and now >= order.lapses_at:
        return replace(order, status=BookStatus.CANCELLED, text="the session is over"), None
    rejection = order.script.reject
    if rejection is not None:
        if now < order.live_at + rejection.after:
            return order, None
        return replace(
            order,
            status=BookStatus.REJECTED,
            reason=rejection.reason,
            text=rejection.text,
            curable=rejection.curable,
        ), None
    due = _released(order, now) - order.filled
    if due <= 0 or price is None or not trading or not order.crosses(price):
        return order, None
    return filled_by(order, Fill(due, price))


def filled_by(order: Order, fill: Fill) -> tuple[Order, Fill]:
    filled = order.filled + fill.quantity
    return replace(
        order,
        filled=filled,
        value=order.value + fill.quantity * fill.price,
        status=BookStatus.COMPLETE if filled == order.quantity else order.status,
    ), fill


def next_due(order: Order, now: Instant) -> Instant | None:
    """The next instant at which time alone may change the order."""
    script = order.script
    instants = [order.placed_at, order.live_at]
    if script.reject is not None:
        instants.append(order.live_at + script.reject.after)
    elif not order.released:
        instants += [order.live_at + portion.after for portion in script.fills]
        instants.append(instants[-1] + script.rest)
    if order.lapses_at is not None:
        instants.append(order.lapses_at)
    return min((at for at in instants if at > now), default=None)


def _released(order: Order, now: Instant) -> Quantity:
    """How much of the order its script lets fill by now, all fills included."""
    if order.released:
        return order.quantity
    start = last = order.live_at
    total = 0
    for portion in order.script.fills:
        last = start + portion.after
        if now < last:
            return min(total, order.quantity)
        total += portion.of(order.quantity)
    if now < last + order.script.rest or now < start:
        return 0 if now < start else min(total, order.quantity)
    return order.quantity


def on_grid(price: Price, tick_size: Decimal) -> bool:
    return price % tick_size == 0


def protected_limit(side: Side, price: Price, protection: Decimal, tick_size: Decimal) -> Price:
    """A market order's limit: `protection` % beyond the last price, on the tick grid, rounded toward the last price."""
    beyond = price * protection / 100
    if side is Side.BUY:
        return ((price + beyond) / tick_size).to_integral_value(ROUND_FLOOR) * tick_size
    return max(((price - beyond) / tick_size).to_integral_value(ROUND_CEILING), Decimal(1)) * tick_size
