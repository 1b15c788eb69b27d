"""The endpoints of sessions, user, orders, trades and positions."""

from simulation.kite import endpoints_book, endpoints_orders, endpoints_user

__all__ = ["ROUTES"]

ROUTES = (*endpoints_user.ROUTES, *endpoints_orders.ROUTES, *endpoints_book.ROUTES)
