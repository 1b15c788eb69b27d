"""Instrument dumps as Kite makes them, and a place to store them, for tests."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy import text

from bahi.database.engine import create_engine
from bahi.database.instruments import SqlInstruments
from brokers.kite.dump import HEADER
from tests.conftest import _execute, with_database

__all__ = ["database", "dump", "emptied", "row", "stocks"]

SEGMENTS = {"NSE": 1, "NFO-OPT": 2, "NFO-FUT": 2, "BSE": 4, "INDICES": 9}


def row(
    symbol: str,
    number: int,
    *,
    name: str = "A COMPANY",
    tick: str = "0.05",
    lot: str = "1",
    kind: str = "EQ",
    segment: str = "",
    expiry: str = "",
    strike: str = "0",
    last: str = "0",
    token: int | None = None,
) -> str:
    """A line of the dump. `number` is the exchange's token."""
    exchange, _, tradingsymbol = symbol.partition(":")
    segment = segment or exchange
    token = number << 8 | SEGMENTS[segment] if token is None else token
    return f"{token},{number},{tradingsymbol},{name},{last},{expiry},{strike},{tick},{lot},{kind},{segment},{exchange}"


def dump(*rows: str) -> bytes:
    return "".join(f"{line}\n" for line in (HEADER, *rows)).encode()


def stocks(names: Iterable[str], exchange: str = "NSE") -> list[str]:
    """A line for each, their tokens by their place."""
    return [row(f"{exchange}:{name}", number) for number, name in enumerate(names, 1)]


@contextmanager
def database(server_url: str, template: str, name: str) -> Iterator[str]:
    """One for many tests: a database for each would take most of their time."""
    _execute(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name} TEMPLATE {template}")
    yield with_database(server_url, name)
    _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def emptied(url: str) -> AsyncIterator[SqlInstruments]:
    """The instruments of this database, none to begin with."""
    engine = create_engine(url, size=8)
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE instruments, instrument_dumps"))
    yield SqlInstruments(engine)
    await engine.dispose()
