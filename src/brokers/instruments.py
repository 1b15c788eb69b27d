"""What may be traded: for paper trading the large stocks of NSE, known without asking anybody; for a real broker all
that its newest list has."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from brokers.near import MOST, Names
from brokers.port import Instrument
from domain.calendar import instant, wall
from domain.clock import Clock
from domain.values import Instant, Price

__all__ = ["BUILT_IN", "InstrumentCatalogue", "InstrumentTable", "Limits", "Listing", "Snapshot"]

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


class InstrumentTable:
    """A fixed set of instruments, found by their exact `EXCHANGE:TRADINGSYMBOL`."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._known = {instrument.symbol: instrument for instrument in instruments}
        self._names = Names(self._known)

    def __iter__(self) -> Iterator[Instrument]:
        return iter(self._known.values())

    @property
    def loaded(self) -> bool:
        return True

    def find(self, symbol: str) -> Instrument | None:
        return self._known.get(symbol)

    def near(self, symbol: str) -> list[str]:
        """Up to five known symbols that look like this one, best first; the exchange may be left out or be wrong."""
        return self._names.near(symbol)


BUILT_IN = InstrumentTable(
    Instrument(symbol=f"NSE:{name}", tick_size=_FINER.get(name, Decimal("0.05"))) for name in _NSE
)


class Listing(Struct, frozen=True, kw_only=True, gc=False):
    """An instrument as it is stored: `listed` while the broker's newest list has it."""

    symbol: str
    token: int
    """Names it on the tick stream. A token is given to another instrument when its own has gone."""
    tick_size: Decimal
    lot_size: int
    segment: str
    listed: bool
    renamed_to: str | None = None
    expiry: dt.date | None = None


class Limits(Struct, frozen=True, gc=False):
    """The circuit prices of one day: no order beyond them is taken."""

    lower: Price
    upper: Price


INDICES: Final = "INDICES"
"""The segment of what has a price and cannot be traded."""
IN_LOTS: Final = frozenset({"MCX", "CDS", "BCD", "NCO"})
"""Exchanges whose orders count lots, not units, so that any whole quantity is one of lots."""


class Snapshot:
    """Everything that is listed at one time, made aside and then given to the catalogue in one piece.

    Indices can be looked up by token, for their prices, but are not found: they cannot be traded.
    """

    def __init__(self) -> None:
        self.known: dict[str, Instrument] = {}
        self.tokens: dict[str, int] = {}
        self.symbols: dict[int, str] = {}
        self.expiries: dict[str, dt.date] = {}
        self.renamed: dict[str, str] = {}
        self.names = Names(())
        self._ticks: dict[Decimal, Decimal] = {}

    def add(self, listing: Listing) -> None:
        if not listing.listed:
            if listing.renamed_to is not None:
                self.renamed[listing.symbol] = listing.renamed_to
            return
        symbol = listing.symbol
        self.tokens[symbol] = listing.token
        self.symbols[listing.token] = symbol
        if listing.segment == INDICES:
            return
        self.known[symbol] = Instrument(
            symbol=symbol,
            lot=1 if symbol.partition(":")[0] in IN_LOTS else listing.lot_size,
            tick_size=self._ticks.setdefault(listing.tick_size, listing.tick_size),
        )
        if listing.expiry is not None:
            self.expiries[symbol] = listing.expiry

    def finish(self) -> None:
        """Makes it searchable. Takes a while (tens of milliseconds for twenty thousand): not on the event loop."""
        self.names = Names(self.known)

    def successor(self, symbol: str) -> str | None:
        """What a symbol that is gone is called now, across several renamings; None when that is not known."""
        seen = {symbol}
        while (renamed := self.renamed.get(symbol)) is not None and renamed not in seen:
            if renamed in self.known:
                return renamed
            seen.add(renamed)
            symbol = renamed
        return None


class InstrumentCatalogue:
    """What the broker lists, in memory, as of the last snapshot: `brokers.port.Instruments`, and tokens.

    Whoever stores the lists gives snapshots (`replace`) and the circuit limits of a day (`limit`); nothing here waits
    or reads. Before the first snapshot nothing is found and `loaded` is false.

    Tick size and lot are the list's. The largest single order (freeze quantity) is not: Kite states it nowhere but in
    the refusal of a larger one. It is the port's default, which no stock reaches; for derivatives, whose freeze
    quantities are in the thousands, Kite's refusal is what limits an order.
    """

    def __init__(self, clock: Clock) -> None:
        self.changes = 0
        """Grows with every snapshot: whoever keeps tokens looks them up again then, because a token may come to stand
        for another symbol while their number stays the same."""
        self._clock = clock
        self._now = Snapshot()
        self._gone: dict[str, int] = {}
        """Tokens of what was listed when this process began and is not now."""
        self._limited: dict[str, Instrument] = {}
        self._limits: Mapping[str, Limits] = {}
        self._limits_date: dt.date | None = None
        self._limits_from: Instant = 0
        self._limits_until: Instant = 0

    @property
    def loaded(self) -> bool:
        """Whether there is anything at all; without it every symbol would be unknown."""
        return bool(self._now.known)

    def __len__(self) -> int:
        return len(self._now.known)

    def find(self, symbol: str) -> Instrument | None:
        """The instrument, with the circuit limits when today's are known; None when it is not listed, has expired, or
        cannot be traded."""
        found = self._now.known.get(symbol)
        if found is None:
            return None
        now = self._clock.now()
        if symbol in self._now.expiries and self._now.expiries[symbol] < wall(now).date():
            return None
        if self._limits_from <= now < self._limits_until:
            return self._limited.get(symbol, found)
        return found

    def near(self, symbol: str) -> list[str]:
        """Up to five listed symbols that look like this one, best first: what it was renamed to before all others."""
        found = self._now.names.near(symbol)
        wanted = symbol.upper()
        asked = (wanted,) if ":" in wanted else (f"NSE:{wanted}", f"BSE:{wanted}")
        for each in reversed(asked):
            successor = self._now.successor(each)
            if successor is not None:
                found = [successor, *(other for other in found if other != successor)]
        return found[:MOST]

    def token(self, symbol: str) -> int | None:
        """The instrument's (also an index's) name on the tick stream; None when it is not listed.

        One that has vanished from the list keeps its token until another one has it: a stop in the middle of the day
        must not lose its prices to a list that came late or was damaged.
        """
        return self._now.tokens.get(symbol) or self._gone.get(symbol)

    def symbol(self, token: int) -> str | None:
        """The reverse of `token`."""
        return self._now.symbols.get(token)

    def replace(self, snapshot: Snapshot) -> None:
        """From now on this is listed. The limits stay."""
        known = self._gone | self._now.tokens
        self._gone = {
            symbol: token
            for symbol, token in known.items()
            if symbol not in snapshot.tokens and token not in snapshot.symbols
        }
        self._now = snapshot
        self.changes += 1
        self._merge()

    def limit(self, date: dt.date, limits: Mapping[str, Limits]) -> None:
        """From now on these are the circuit limits of `date`. On other days there are none."""
        if (date, limits) == (self._limits_date, self._limits):
            return
        self._limits_date, self._limits = date, dict(limits)
        self._limits_from = instant(date, dt.time.min)
        self._limits_until = instant(date + dt.timedelta(days=1), dt.time.min)
        self._merge()

    def _merge(self) -> None:
        self._limited = {
            symbol: replace(found, lower_circuit=limits.lower, upper_circuit=limits.upper)
            for symbol, limits in self._limits.items()
            if (found := self._now.known.get(symbol)) is not None
        }
