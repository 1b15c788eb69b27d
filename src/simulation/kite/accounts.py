"""A customer of the simulated broker: keys, sessions, the day's book, trades, positions, holdings, money."""

import datetime as dt
import secrets
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest

from msgspec import Struct

from domain.calendar import instant, wall
from domain.values import DAY, MINUTE, ZERO, Duration, Instant, Money, Price, Product, Quantity, Side
from simulation.kite.errors import expired_token, input_error
from simulation.kite.faults import Fault
from simulation.kite.limits import Counters, SimLimits
from simulation.kite.orders import SimOrder, SimTrade
from simulation.kite.positions import SimPosition

__all__ = ["Account", "Attempt", "AttemptKind", "SimHolding", "session_end"]

REQUEST_TOKEN_LIFE: Duration = 3 * MINUTE
_FLUSH = dt.time(6)


def session_end(now: Instant) -> Instant:
    """Kite: every access token dies at 06:00 on the exchange's clock, today or tomorrow."""
    today = instant(wall(now).date(), _FLUSH)
    return today if now < today else today + DAY


class AttemptKind(StrEnum):
    PLACE = "place"
    MODIFY = "modify"
    CANCEL = "cancel"


class Attempt(Struct, frozen=True, kw_only=True):
    """An order call that reached the server, carried out or not.

    `taken`: it was (or, for an order that surfaces later, will be) carried out. `text`: why not, or the fault.
    """

    kind: AttemptKind
    at: Instant
    taken: bool
    order_id: str | None = None
    tag: str | None = None
    symbol: str = ""
    side: Side | None = None
    quantity: Quantity = 0
    price: Price | None = None
    fault: Fault | None = None
    text: str = ""


class SimHolding(Struct, kw_only=True):
    """Shares in the demat account; `t1` of them are bought but not yet delivered."""

    quantity: Quantity
    average_price: Price
    t1: Quantity = 0


class Account:
    """One account. Times are the server's; texts never contain its secrets."""

    def __init__(
        self,
        user_id: str,
        *,
        api_key: str,
        api_secret: str,
        limits: SimLimits,
        cash: Money,
        postback_url: str | None = None,
        redirect_url: str | None = None,
        allowed_ips: frozenset[str] | None = None,
        renewable: bool = False,
    ) -> None:
        self.user_id = user_id
        self.api_key = api_key
        self.api_secret = api_secret
        self.postback_url = postback_url
        self.redirect_url = redirect_url
        self.allowed_ips = allowed_ips
        self.cash = cash
        self.renewable = renewable
        self.orders: list[SimOrder] = []
        """All that ever were in the book, in the order in which they appeared there."""
        self.trades: list[SimTrade] = []
        self.attempts: list[Attempt] = []
        self.holdings: dict[str, SimHolding] = {}
        self.positions: dict[tuple[str, Product], SimPosition] = {}
        self.live: dict[str, SimOrder] = {}
        self.counters = Counters(limits)
        self.calls = 0
        """Calls with a session so far: what names a reading for a seeded plan."""
        self._orders_by_id: dict[str, SimOrder] = {}
        self._day: dt.date | None = None
        self._carried: list[SimOrder] = []
        self._day_orders = 0
        self._day_trades = 0
        self._request_tokens: dict[str, Instant] = {}
        self._access_tokens: dict[str, Instant] = {}
        self._refresh_tokens: set[str] = set()
        self._ended_tokens: set[str] = set()

    def __repr__(self) -> str:
        return f"Account({self.user_id!r}, {len(self.orders)} orders)"

    # --- sessions

    def request_token(self, now: Instant) -> str:
        token = secrets.token_hex(16)
        self._request_tokens[token] = now + REQUEST_TOKEN_LIFE
        return token

    def holds_request_token(self, request_token: str) -> bool:
        return request_token in self._request_tokens

    def holds_refresh_token(self, refresh_token: str) -> bool:
        return refresh_token in self._refresh_tokens

    def exchange(self, request_token: str, checksum: str, now: Instant) -> str:
        """A new access token. The request token is spent. Raises KiteError 403 for one that is not valid any more."""
        expires = self._request_tokens.get(request_token)
        if expires is None or now >= expires:
            self._request_tokens.pop(request_token, None)
            raise expired_token()
        self._verify(request_token, checksum)
        del self._request_tokens[request_token]
        return self.open_session(now)

    def renew(self, refresh_token: str, checksum: str, now: Instant) -> str:
        """A new access token for a refresh token. Raises KiteError 403 when that is not known."""
        if refresh_token not in self._refresh_tokens:
            raise expired_token()
        self._verify(refresh_token, checksum)
        return self.open_session(now)

    def _verify(self, token: str, checksum: str) -> None:
        expected = sha256((self.api_key + token + self.api_secret).encode()).hexdigest()
        if not compare_digest(expected.encode(), checksum.encode()):
            raise input_error("Invalid `checksum`.")

    def open_session(self, now: Instant) -> str:
        token = secrets.token_hex(16)
        self._access_tokens[token] = session_end(now)
        return token

    def refresh_token(self) -> str:
        """Kite: empty for ordinary apps."""
        if not self.renewable:
            return ""
        token = secrets.token_hex(16)
        self._refresh_tokens.add(token)
        return token

    def has_session(self, access_token: str, now: Instant) -> bool:
        expires = self._access_tokens.get(access_token)
        return expires is not None and now < expires

    def had_session(self, access_token: str) -> bool:
        """Whether the token was ever valid."""
        return access_token in self._access_tokens or access_token in self._ended_tokens

    def end_session(self, access_token: str | None = None) -> None:
        """Ends one session, or all of them."""
        ended = list(self._access_tokens) if access_token is None else [access_token]
        for token in ended:
            if self._access_tokens.pop(token, None) is not None:
                self._ended_tokens.add(token)

    def drop_refresh_token(self, refresh_token: str) -> bool:
        known = refresh_token in self._refresh_tokens
        self._refresh_tokens.discard(refresh_token)
        return known

    # --- the book

    def enter(self, order: SimOrder) -> None:
        self.orders.append(order)
        self._orders_by_id[order.order_id] = order
        self.live[order.order_id] = order

    def find(self, order_id: str) -> SimOrder | None:
        """An order of today's book."""
        return self._orders_by_id.get(order_id)

    def book(self) -> list[SimOrder]:
        """Today's orders, and those placed before for today's session."""
        return self._carried + self.orders[self._day_orders :]

    def day_trades(self) -> list[SimTrade]:
        return self.trades[self._day_trades :]

    def position(self, order: SimOrder) -> SimPosition:
        key = (order.symbol, order.product)
        if (position := self.positions.get(key)) is None:
            position = self.positions[key] = SimPosition(instrument=order.instrument, product=order.product)
        return position

    def net(self, symbol: str, product: Product) -> Quantity:
        position = self.positions.get((symbol, product))
        return 0 if position is None else position.net

    def roll(self, today: dt.date) -> None:
        """The book is of the day: a new date starts it anew. What was delivered is held, intraday trades are over."""
        if self._day == today:
            return
        first = self._day is None
        self._day = today
        if first:
            return
        self._carried = list(self.live.values())
        self._day_orders = len(self.orders)
        self._orders_by_id = dict(self.live)
        self._day_trades = len(self.trades)
        for (symbol, product), position in self.positions.items():
            if product is Product.CNC and position.net:
                self._deliver(symbol, position.net, position.average_price)
        self.positions.clear()

    def _deliver(self, symbol: str, quantity: Quantity, price: Price) -> None:
        held = self.holdings.get(symbol)
        if held is None:
            if quantity > 0:
                self.holdings[symbol] = SimHolding(quantity=quantity, average_price=price)
            return
        if quantity > 0:
            value = held.quantity * held.average_price + quantity * price
            held.average_price = value / (held.quantity + quantity)
        held.quantity += quantity
        if held.quantity <= 0:
            del self.holdings[symbol]

    # --- money and shares

    def sellable(self, symbol: str) -> Quantity:
        """Shares that a delivery order may sell: held and bought today, less what is being sold."""
        held = self.holdings.get(symbol)
        selling = sum(
            order.remaining
            for order in self.live.values()
            if order.side is Side.SELL and order.product is Product.CNC and order.symbol == symbol and not order.foreign
        )
        return (0 if held is None else held.quantity) + self.net(symbol, Product.CNC) - selling

    def blocked(self) -> Money:
        """Margin in use: for positions at what they cost, for live orders that would open one at their price."""
        used = ZERO
        for (_, product), position in self.positions.items():
            if product is Product.CNC:
                used += position.bought_value - position.sold_value
            else:
                used += abs(position.net) * position.average_price * margin_share(product)
                if not position.net:
                    used -= position.sold_value - position.bought_value
        for order in self.live.values():
            if order.foreign:
                continue
            used += self.margin_of(order.symbol, order.side, order.product, order.remaining, order.price)
        return used

    def margin_of(self, symbol: str, side: Side, product: Product, quantity: Quantity, price: Price) -> Money:
        """What an order blocks; nothing for the part of it that closes a position."""
        if product is Product.CNC:
            return quantity * price if side is Side.BUY else ZERO
        net = self.net(symbol, product)
        closing = max(0, -net if side is Side.BUY else net)
        return max(0, quantity - closing) * price * margin_share(product)

    @property
    def available(self) -> Money:
        return self.cash - self.blocked()


def margin_share(product: Product) -> Decimal:
    """The part of an order's value that must be there: all for delivery, a fifth for intraday."""
    return Decimal(1) if product is Product.CNC else Decimal("0.2")
