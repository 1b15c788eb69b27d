"""The built-in instruments."""

from decimal import Decimal

import pytest

from brokers.instruments import BUILT_IN

RECORDED = (
    "AXISBANK", "BAJAJ-AUTO", "BAJAJFINSV", "BAJFINANCE", "EICHERMOT", "HCLTECH", "HDFC", "HDFCBANK", "HDFCLIFE",
    "HEROMOTOCO", "ICICIBANK", "INDUSINDBK", "INFY", "KOTAKBANK", "M&M", "MARUTI", "RELIANCE", "SBILIFE", "SBIN",
    "TATAMOTORS", "TCS", "TECHM", "WIPRO",
)  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_every_stock_of_the_recorded_day_is_known(name: str) -> None:
    instrument = BUILT_IN.find(f"NSE:{name}")
    assert instrument is not None
    assert instrument.lot == 1
    assert Decimal("0.05") % instrument.tick_size == 0


@pytest.mark.parametrize("symbol", ["SBIN", "BSE:SBIN", "NSE:sbin", "NSE:", ""])
def test_only_the_exact_symbol_is_found(symbol: str) -> None:
    assert BUILT_IN.find(symbol) is None


@pytest.mark.parametrize(
    ("symbol", "first"),
    [
        ("NSE:RELIANC", "NSE:RELIANCE"),
        ("reliance", "NSE:RELIANCE"),
        ("BSE:TCS", "NSE:TCS"),
        ("HDFCB", "NSE:HDFCBANK"),
        ("NSE:BAJAJAUTO", "NSE:BAJAJ-AUTO"),
        ("NSE:M&MM", "NSE:M&M"),
    ],
)
def test_a_misspelt_symbol_has_its_neighbours_named(symbol: str, first: str) -> None:
    near = BUILT_IN.near(symbol)
    assert near[0] == first
    assert len(near) <= 5


@pytest.mark.parametrize("symbol", ["", "NSE:", "NSE:QQQQQQQ"])
def test_nothing_is_near_to_nonsense(symbol: str) -> None:
    assert BUILT_IN.near(symbol) == []
