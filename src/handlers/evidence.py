"""How far a reading of the order book proves that an order is not in it. Pure.

A reading proves nothing of what it does not show when it is not whole:
1. It lacks an order of today that an earlier reading showed. Orders do not leave the day's book; an answer that is cut
   short, or comes from another replica, does not say so.
2. Some of its rows could not be understood, and one of them may be the order. It is not when the row was there before
   the order was: a row that is odd for ever hides nothing that came later.
"""

import datetime as dt
from collections.abc import Iterable

from brokers.port import BookOrder, Unread
from domain.calendar import wall
from domain.strategy import Order
from domain.values import Duration, Instant

__all__ = ["Evidence"]


class Evidence:
    """What the readings of one account's book have shown so far; `read` takes the next one."""

    def __init__(self) -> None:
        self._account = ""
        self._shown: dict[str, dt.date] = {}
        """The orders that must be in every reading of their day, by id."""
        self._odd: dict[str | None, Instant] = {}
        """Rows that cannot be understood, by order id (None: those without one), and since when they are known."""
        self._lacking_since: Instant | None = None
        self.lacking: list[str] = []
        """Ids that the last reading should have shown and did not."""

    def read(self, account: str, rows: Iterable[BookOrder], unread: Iterable[Unread], now: Instant) -> None:
        """A reading that was answered at `now`."""
        today = wall(now).date()
        if account != self._account:  # another account is another book
            self._account, self._shown, self._odd = account, {}, {}
        rows, unread = list(rows), list(unread)
        ids = {row.order_id for row in rows} | {each.order_id for each in unread if each.order_id is not None}
        self.lacking = sorted(
            order_id for order_id, date in self._shown.items() if date == today and order_id not in ids
        )
        fresh = {row.order_id: wall(row.placed_at).date() for row in rows}
        self._shown = {order_id: date for order_id, date in (self._shown | fresh).items() if date == today}
        self._odd = {each.order_id: self._odd.get(each.order_id, now) for each in unread if not each.foreign}
        self._lacking_since = (self._lacking_since or now) if self.lacking else None

    @property
    def whole(self) -> bool:
        """Whether the last reading showed every order that may be ours: none was missing, each row was understood."""
        return not self.lacking and not self._odd

    def concerns(self, order: Order, skew: Duration) -> bool:
        """Whether the last reading would have shown this order, were it there. `skew` is how far the clocks of whoever
        read and of whoever decided on the order may lie apart."""
        if self.lacking or None in self._odd:
            return False
        return all(since + skew < order.at for since in self._odd.values())

    def odd_for(self, order_id: str | None, now: Instant) -> Duration:
        """How long this row has not been understood, reading after reading."""
        return now - self._odd.get(order_id, now)

    def lacking_for(self, now: Instant) -> Duration:
        """How long the readings have lacked orders."""
        return 0 if self._lacking_since is None else now - self._lacking_since
