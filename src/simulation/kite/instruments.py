"""What the simulated exchanges trade. The built-in list is the large stocks of NSE and two indices."""

import datetime as dt
from collections.abc import Iterable, Iterator
from decimal import Decimal
from zlib import crc32

from msgspec import Struct

from brokers.instruments import BUILT_IN
from domain.values import Price, Quantity

__all__ = ["SEGMENTS", "InstrumentList", "SimInstrument", "built_in"]

SEGMENTS = {
    "NSE": 1, "NFO": 2, "CDS": 3, "BSE": 4, "BFO": 5, "BCD": 6, "MCX": 7, "INDICES": 9, "NCO": 12,
}  # fmt: skip
"""The low byte of an instrument_token."""


class SimInstrument(Struct, frozen=True, kw_only=True):
    """`symbol` is `EXCHANGE:TRADINGSYMBOL`; `segment` as in the instrument dump (NSE, NFO-OPT, INDICES …).

    `close`: the previous day's, None when it has none. Circuit limits None: no limits.
    """

    symbol: str
    exchange_token: int
    name: str = ""
    segment: str = ""
    instrument_type: str = "EQ"
    tick_size: Decimal = Decimal("0.05")
    lot: Quantity = 1
    freeze: Quantity = 1_000_000
    expiry: dt.date | None = None
    strike: Decimal = Decimal(0)
    close: Price | None = None
    lower_circuit: Price | None = None
    upper_circuit: Price | None = None

    @property
    def exchange(self) -> str:
        return self.symbol.partition(":")[0]

    @property
    def tradingsymbol(self) -> str:
        return self.symbol.partition(":")[2]

    @property
    def dump_segment(self) -> str:
        return self.segment or self.exchange

    @property
    def is_index(self) -> bool:
        """Indices are quoted but not traded."""
        return self.segment == "INDICES"

    @property
    def token(self) -> int:
        """Kite: exchange_token << 8 | segment, in every row of the dump."""
        return self.exchange_token << 8 | SEGMENTS["INDICES" if self.is_index else self.exchange]


class InstrumentList:
    """Instruments by symbol and by token. Raises ValueError when two share either."""

    def __init__(self, instruments: Iterable[SimInstrument]) -> None:
        self._by_symbol: dict[str, SimInstrument] = {}
        self._by_token: dict[int, SimInstrument] = {}
        for instrument in instruments:
            self.add(instrument)

    def add(self, instrument: SimInstrument) -> None:
        if instrument.symbol in self._by_symbol:
            raise ValueError(f"{instrument.symbol} is listed twice")
        if instrument.token in self._by_token:
            raise ValueError(
                f"{instrument.symbol} and {self._by_token[instrument.token].symbol} share token {instrument.token}"
            )
        self._by_symbol[instrument.symbol] = instrument
        self._by_token[instrument.token] = instrument

    def remove(self, symbol: str) -> SimInstrument:
        """Delists it; its token is free again. Raises KeyError when it is not listed."""
        instrument = self._by_symbol.pop(symbol)
        del self._by_token[instrument.token]
        return instrument

    def find(self, symbol: str) -> SimInstrument | None:
        return self._by_symbol.get(symbol)

    def by_token(self, token: int) -> SimInstrument | None:
        return self._by_token.get(token)

    def __iter__(self) -> Iterator[SimInstrument]:
        return iter(tuple(self._by_symbol.values()))

    def __len__(self) -> int:
        return len(self._by_symbol)


# Exchange tokens that are public knowledge; the others' are made from their names.
_KNOWN = {"SBIN": 3045, "INFY": 1594, "RELIANCE": 2885, "TCS": 11536, "HDFCBANK": 1333, "ICICIBANK": 4963, "ITC": 1660}
_INDICES = (
    SimInstrument(symbol="NSE:NIFTY 50", exchange_token=1001, name="NIFTY 50", segment="INDICES", tick_size=Decimal(0)),
    SimInstrument(symbol="BSE:SENSEX", exchange_token=1, name="SENSEX", segment="INDICES", tick_size=Decimal(0)),
)


def built_in() -> list[SimInstrument]:
    """The stocks that paper trading knows, so that a strategy can move from one to the other, and two indices."""
    taken = set(_KNOWN.values())
    stocks = []
    for stock in BUILT_IN:
        name = stock.symbol.partition(":")[2]
        token = _KNOWN.get(name)
        if token is None:
            token = 20_000 + crc32(name.encode()) % 40_000
            while token in taken:
                token += 1
            taken.add(token)
        stocks.append(SimInstrument(symbol=stock.symbol, exchange_token=token, name=name, tick_size=stock.tick_size))
    return [*stocks, *_INDICES]
