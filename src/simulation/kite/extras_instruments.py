"""/instruments: the dump, in which a token may come to stand for another symbol overnight (F20)."""

import csv
import datetime as dt
import io
from typing import Final
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from brokers.kite.dump import HEADER
from domain.calendar import wall
from simulation.kite.errors import input_error
from simulation.kite.faults import Fault
from simulation.kite.instruments import SEGMENTS, SimInstrument
from simulation.kite.routing import Context, Route
from simulation.kite.sim import KiteSim
from simulation.kite.wire import Response, success

__all__ = ["ROUTES", "swap_tokens"]

_dumped: Final[WeakKeyDictionary[KiteSim, dt.date]] = WeakKeyDictionary()
"""The day of the last dump that each server gave."""


def instruments(context: Context) -> Response:
    _roll_over(context)
    return _csv(list(context.sim.instruments))


def instruments_of(context: Context) -> Response:
    exchange = context.parameters["exchange"]
    if exchange not in SEGMENTS or exchange == "INDICES":
        raise input_error("Invalid `exchange`.")
    _roll_over(context)
    return _csv([each for each in context.sim.instruments if each.exchange == exchange])


def swap_tokens(sim: KiteSim, first: str, second: str) -> None:
    """F20: from now on the token of each of these symbols stands for the other, on the stream and in the dump.

    Raises ValueError when they cannot: unknown, or of different segments.
    """
    one, other = sim.instruments.find(first), sim.instruments.find(second)
    if one is None or other is None or one is other or not _alike(one, other):
        raise ValueError(f"{first} and {second} cannot have each other's token")
    _swap(sim, one, other)
    sim.fire(Fault.F20_TOKEN_REUSED)


def _alike(one: SimInstrument, other: SimInstrument) -> bool:
    """Of one segment, so that each may have the other's token."""
    return one.token & 0xFF == other.token & 0xFF


def _swap(sim: KiteSim, one: SimInstrument, other: SimInstrument) -> None:
    for each in (one, other):
        sim.instruments.remove(each.symbol)
    sim.instruments.add(replace(one, exchange_token=other.exchange_token))
    sim.instruments.add(replace(other, exchange_token=one.exchange_token))


def _roll_over(context: Context) -> None:
    """With the first dump of another day a planned F20 plays: the two tokens that hurt most, those of symbols that were
    traded."""
    sim, today = context.sim, wall(context.now).date()
    before = _dumped.get(sim)
    _dumped[sim] = today
    if before is None or before == today:
        return
    stocks = [each for each in sim.instruments if not each.is_index]
    stocks.sort(key=lambda each: (each.symbol not in sim.exchange.last, each.symbol))
    twin = next((each for each in stocks[1:] if _alike(stocks[0], each)), None)
    if twin is not None and sim.plays(Fault.F20_TOKEN_REUSED) is not None:
        _swap(sim, stocks[0], twin)


def _csv(listed: list[SimInstrument]) -> Response:
    """Kite: gzip when the client takes that. An empty strike would break the official client, so it is 0."""
    out = io.StringIO()
    out.write(HEADER + "\n")
    csv.writer(out, lineterminator="\n").writerows(_row(each) for each in listed)
    return Response(body=out.getvalue().encode(), content_type="text/csv", compress=True)


def _row(each: SimInstrument) -> tuple[object, ...]:
    return (
        each.token,
        each.exchange_token,
        each.tradingsymbol,
        each.name,
        each.close or 0,
        "" if each.expiry is None else each.expiry.isoformat(),
        each.strike,
        each.tick_size,
        0 if each.is_index else each.lot,
        each.instrument_type,
        each.dump_segment,
        each.exchange,
    )


def auctions(context: Context) -> Response:
    """Nobody fails to deliver here, so there is never an auction."""
    return success([])


ROUTES = (
    # Kite's sandbox: the dumps are the one thing without its route prefix.
    Route(method="GET", path="/instruments", handler=instruments, prefixed=False),
    Route(method="GET", path="/instruments/{exchange}", handler=instruments_of, prefixed=False),
    Route(method="GET", path="/portfolio/holdings/auctions", handler=auctions),
)
