"""The endpoints besides sessions, orders and books: quotes, instruments, candles, holdings, GTT, margins."""

from simulation.kite import extras_gtt, extras_instruments, extras_margins, extras_portfolio, extras_quotes

__all__ = ["ROUTES"]

ROUTES = (
    *extras_quotes.ROUTES,
    *extras_instruments.ROUTES,
    *extras_portfolio.ROUTES,
    *extras_gtt.ROUTES,
    *extras_margins.ROUTES,
)
