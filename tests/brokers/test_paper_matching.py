"""The pure rules of matching."""

from decimal import Decimal

import pytest

from brokers.paper.matching import protected_limit
from brokers.paper.plan import Portion, Script
from domain.values import SECOND, Side


@pytest.mark.parametrize(
    ("side", "price", "protection", "tick", "limit"),
    [
        (Side.BUY, "340.05", "2", "0.05", "346.85"),
        (Side.SELL, "340.05", "2", "0.05", "333.25"),
        (Side.BUY, "340.00", "0.5", "0.05", "341.70"),
        (Side.BUY, "100.00", "0.01", "0.05", "100.00"),
        (Side.SELL, "0.05", "100", "0.05", "0.05"),
        (Side.BUY, "6815.80", "2", "0.50", "6952.00"),
    ],
)
def test_a_protected_limit_is_on_the_grid_and_no_further_than_the_protection(
    side: Side, price: str, protection: str, tick: str, limit: str
) -> None:
    assert protected_limit(side, Decimal(price), Decimal(protection), Decimal(tick)) == Decimal(limit)


def test_a_fraction_is_a_share_at_least() -> None:
    assert [Portion(Decimal("0.3")).of(quantity) for quantity in (1, 3, 10, 11)] == [1, 1, 3, 3]


def test_portions_come_in_the_order_of_time() -> None:
    with pytest.raises(ValueError, match="order of their `after`"):
        Script(fills=(Portion(1, SECOND), Portion(1, 0)))
