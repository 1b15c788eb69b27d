"""The instruments that paper trading knows without asking anybody: the large stocks of NSE."""

from collections.abc import Iterable
from decimal import Decimal
from difflib import SequenceMatcher

from brokers.port import Instrument

__all__ = ["BUILT_IN", "InstrumentTable"]

# The NIFTY 50 as of September 2025, then stocks of earlier compositions (recorded days are full of them).
_NSE = (
    "ADANIENT", "ADANIPORTS", "APOLLOHOSP", "ASIANPAINT", "AXISBANK", "BAJAJ-AUTO", "BAJAJFINSV", "BAJFINANCE", "BEL",
    "BHARTIARTL", "CIPLA", "COALINDIA", "DRREDDY", "EICHERMOT", "ETERNAL", "GRASIM", "HCLTECH", "HDFCBANK", "HDFCLIFE",
    "HINDALCO", "HINDUNILVR", "ICICIBANK", "INDIGO", "INFY", "ITC", "JIOFIN", "JSWSTEEL", "KOTAKBANK", "LT", "M&M",
    "MARUTI", "MAXHEALTH", "NESTLEIND", "NTPC", "ONGC", "POWERGRID", "RELIANCE", "SBILIFE", "SBIN", "SHRIRAMFIN",
    "SUNPHARMA", "TATACONSUM", "TATASTEEL", "TCS", "TECHM", "TITAN", "TMPV", "TRENT", "ULTRACEMCO", "WIPRO",
    "BPCL", "BRITANNIA", "DIVISLAB", "HDFC", "HEROMOTOCO", "INDUSINDBK", "LTIM", "SHREECEM", "TATAMOTORS", "UPL",
)  # fmt: skip

# NSE's grid depends on the price since 2025 (up to 5.00 for dear stocks); 0.05 was the grid of all of them before, and
# recorded days are on it. Only finer grids are listed: they accept the old prices too.
_FINER = {"TATASTEEL": Decimal("0.01")}

_ALIKE = 0.5
"""How alike two names must be to be suggested, 0 to 1."""


class InstrumentTable:
    """A fixed set of instruments, found by their exact `EXCHANGE:TRADINGSYMBOL`."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._known = {instrument.symbol: instrument for instrument in instruments}

    def find(self, symbol: str) -> Instrument | None:
        return self._known.get(symbol)

    def near(self, symbol: str) -> list[str]:
        """Up to five known symbols that look like this one, best first; the exchange may be left out or be wrong."""
        wanted = symbol.rpartition(":")[2].upper()
        scored = []
        for known in self._known:
            name = known.rpartition(":")[2]
            alike = SequenceMatcher(None, wanted, name, autojunk=False).ratio()
            if wanted and name.startswith(wanted):
                alike += 1
            if alike >= _ALIKE:
                scored.append((-alike, known))
        return [known for _, known in sorted(scored)[:5]]


BUILT_IN = InstrumentTable(
    Instrument(symbol=f"NSE:{name}", tick_size=_FINER.get(name, Decimal("0.05"))) for name in _NSE
)
