"""Connections to PostgreSQL: one pool per process, with a bound on everything that could wait for ever."""

import asyncio
from typing import Any, TypeVar

from psycopg import AsyncConnection, OperationalError, waiting
from psycopg.abc import PQGen
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

__all__ = ["create_engine"]

SILENCE = 12.0
"""Seconds after which a server that has not answered is taken for gone: it ends every statement after ten itself."""

RV = TypeVar("RV")


class _Bounded(AsyncConnection[Any]):
    """A connection on which every wait ends, also when the server does not answer at all, and at once when it is
    cancelled: psycopg would ask the server to cancel, and wait for that. The connection is then closed."""

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:  # noqa: ASYNC109 (psycopg's)
        try:
            async with asyncio.timeout(SILENCE):
                return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except TimeoutError as error:
            self.pgconn.finish()
            raise OperationalError(f"the server did not answer within {SILENCE:g} s") from error
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


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
        connect_args={
            "async_creator_fn": _Bounded.connect,
            "options": limits,
            "connect_timeout": 5,
            "application_name": application,
        },
    )
