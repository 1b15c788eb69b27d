"""Which instrument is asked for on which connection, and the messages that ask. Pure."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct

__all__ = ["CONNECTIONS", "EACH", "Change", "Seats", "asking", "unasking"]

CONNECTIONS: Final = 3
"""Kite: connections of one api key; a fourth is refused with 429."""
EACH: Final = 3_000
"""Kite: instruments of one connection."""


class Change(Struct, frozen=True):
    """What is new on a connection, and what is not wanted any more: instrument tokens."""

    added: list[int]
    removed: list[int]


class Seats:
    """Every instrument has a seat on one connection and keeps it for as long as it is wanted.

    Connections are filled one after the other, so that as few as possible are needed.
    """

    def __init__(self, connections: int = CONNECTIONS, each: int = EACH) -> None:
        self.symbols: dict[int, str] = {}
        """What is asked for: the symbol of each instrument token."""
        self.left_out: dict[str, str] = {}
        """Symbols that are wanted and cannot be asked for, and why."""
        self._each = each
        self._seats: list[dict[int, None]] = [{} for _ in range(connections)]

    def want(self, symbols: Iterable[str], tokens: Callable[[str], int | None]) -> list[Change]:
        """From now on these symbols. Their tokens are looked up anew: an exchange uses a token again for another
        instrument. Answers what changes on each connection."""
        wanted: dict[int, str] = {}
        left_out: dict[str, str] = {}
        for symbol in sorted(symbols):
            token = tokens(symbol)
            if token is None:
                left_out[symbol] = "it is not among the instruments"
            elif token in wanted:
                left_out[symbol] = f"its token is that of {wanted[token]}"
            else:
                wanted[token] = symbol
        removed = [[token for token in seats if token not in wanted] for seats in self._seats]
        for seats, gone in zip(self._seats, removed, strict=True):
            for token in gone:
                del seats[token]
        added: list[list[int]] = [[] for _ in self._seats]
        seated = {token for seats in self._seats for token in seats}
        free = 0
        for token in [each for each in wanted if each not in seated]:
            while free < len(self._seats) and len(self._seats[free]) >= self._each:
                free += 1
            if free == len(self._seats):
                room = len(self._seats) * self._each
                left_out[wanted.pop(token)] = f"there is room for {room:,} instruments"
            else:
                self._seats[free][token] = None
                added[free].append(token)
        self.symbols, self.left_out = wanted, left_out
        return [Change(more, gone) for more, gone in zip(added, removed, strict=True)]

    def on(self, connection: int) -> list[int]:
        """The instrument tokens asked for on this connection."""
        return list(self._seats[connection])


def asking(tokens: Sequence[int]) -> list[str]:
    """The messages that ask for these instruments in full: the only mode that carries the exchange's time."""
    return [json.dumps({"a": "subscribe", "v": tokens}), json.dumps({"a": "mode", "v": ["full", tokens]})]


def unasking(tokens: Sequence[int]) -> list[str]:
    return [json.dumps({"a": "unsubscribe", "v": tokens})]
