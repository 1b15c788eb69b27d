"""Connections to PostgreSQL: one pool per process, with a bound on everything that could wait for ever."""

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

__all__ = ["create_engine"]


def create_engine(url: str, *, size: int = 10, application: str = "bahi") -> AsyncEngine:
    """An engine for `postgresql+psycopg://…`.

    A connection is tested before it is used, so that a restarted server is noticed by nobody. A statement may take
    10 s, a lock 5 s, a transaction that does nothing 30 s, a connection attempt or a place in the pool 5 s.
    """
    limits = (
        "-c statement_timeout=10000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=30000 -c timezone=UTC"
    )
    return create_async_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=True,
        hide_parameters=True,  # an error's text must not carry a password hash or an e-mail address into the log
        connect_args={"options": limits, "connect_timeout": 5, "application_name": application},
    )
