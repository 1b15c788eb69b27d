"""The model broker's book: what is in it, and what a reading of it shows."""

from dataclasses import dataclass
from decimal import Decimal

from domain.values import Instant, Price, Quantity, Side, Tag


@dataclass
class Booked:
    """An order at the model broker."""

    tag: Tag
    side: Side
    quantity: Quantity
    order_id: str
    visible_at: Instant
    filled: Quantity = 0
    value: Decimal = Decimal(0)
    status: str = "open"
    limit: Price | None = None

    @property
    def open(self) -> bool:
        return self.status == "open"

    @property
    def average(self) -> Price:
        return self.value / self.filled if self.filled else Decimal(0)


@dataclass(frozen=True)
class Row:
    """What a reading of the book shows of an order."""

    tag: Tag
    order_id: str
    filled: Quantity
    average: Price
    status: str
