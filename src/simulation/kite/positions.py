"""Positions out of fills: one per symbol and product, carried from yesterday and traded today, and their wire rows."""

from typing import Any

from msgspec import Struct

from domain.values import ZERO, Money, Price, Product, Quantity, Side
from simulation.kite.instruments import SimInstrument
from simulation.kite.orders import average

__all__ = ["SimPosition"]


class SimPosition(Struct, kw_only=True, eq=False):
    """Sums of quantities and of quantity × price. `overnight` is signed, at `overnight_price` (the previous close)."""

    instrument: SimInstrument
    product: Product
    overnight: Quantity = 0
    overnight_price: Price = ZERO
    bought: Quantity = 0
    bought_value: Money = ZERO
    sold: Quantity = 0
    sold_value: Money = ZERO

    @property
    def net(self) -> Quantity:
        """Positive long, negative short."""
        return self.overnight + self.bought - self.sold

    def add(self, side: Side, quantity: Quantity, price: Price) -> None:
        if side is Side.BUY:
            self.bought += quantity
            self.bought_value += quantity * price
        else:
            self.sold += quantity
            self.sold_value += quantity * price

    @property
    def average_price(self) -> Price:
        """Of all that was bought when it is long, of all that was sold when it is short, 0 when flat."""
        carried = abs(self.overnight)
        value = carried * self.overnight_price
        if self.net > 0:
            long = carried if self.overnight > 0 else 0
            return average(self.bought_value + (value if long else ZERO), self.bought + long)
        if self.net < 0:
            short = carried if self.overnight < 0 else 0
            return average(self.sold_value + (value if short else ZERO), self.sold + short)
        return ZERO

    def row(self, last: Price | None, *, day: bool) -> dict[str, Any]:
        """As /portfolio/positions shows it: `net` with what was carried overnight, or `day`, today's trading alone."""
        overnight = 0 if day else self.overnight
        carried = abs(overnight) * self.overnight_price
        buys, buy_value = self.bought, self.bought_value
        sells, sell_value = self.sold, self.sold_value
        if overnight > 0:
            buys, buy_value = buys + overnight, buy_value + carried
        elif overnight < 0:
            sells, sell_value = sells - overnight, sell_value + carried
        quantity = buys - sells
        value = sell_value - buy_value
        price = ZERO if last is None else last
        pnl = value + quantity * price
        entered = (buy_value, buys) if quantity > 0 else (sell_value, sells)
        return {
            "tradingsymbol": self.instrument.tradingsymbol,
            "exchange": self.instrument.exchange,
            "instrument_token": self.instrument.token,
            "product": self.product.value,
            "quantity": quantity,
            "overnight_quantity": overnight,
            "multiplier": 1,
            "average_price": average(*entered) if quantity else ZERO,
            "close_price": self.overnight_price if overnight else ZERO,
            "last_price": price,
            "value": value,
            "pnl": pnl,
            "m2m": pnl,
            "unrealised": pnl,
            "realised": 0,
            "buy_quantity": buys,
            "buy_price": average(buy_value, buys),
            "buy_value": buy_value,
            "buy_m2m": buy_value,
            "sell_quantity": sells,
            "sell_price": average(sell_value, sells),
            "sell_value": sell_value,
            "sell_m2m": sell_value,
            "day_buy_quantity": self.bought,
            "day_buy_price": average(self.bought_value, self.bought),
            "day_buy_value": self.bought_value,
            "day_sell_quantity": self.sold,
            "day_sell_price": average(self.sold_value, self.sold),
            "day_sell_value": self.sold_value,
        }
