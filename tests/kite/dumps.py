"""Instrument dumps as Kite makes them, for tests."""

from collections.abc import Iterable

from brokers.kite.dump import HEADER

__all__ = ["dump", "row", "stocks"]

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
