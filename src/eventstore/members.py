"""Which strategies there are: a user's, a symbol's armed ones, or all of a partition."""

from collections.abc import AsyncIterator

from eventstore.clients import command
from eventstore.log import EventLog

__all__ = ["SCANNED", "all_strategies", "symbol_strategies", "user_strategies"]

SCANNED = 2048
"""Keys that one command looks at, some tenths of a millisecond: all that a simulated life has, so that the order in
which Redis keeps them, another one after each of its starts, makes no difference there."""


async def user_strategies(log: EventLog, user_id: int) -> list[int]:
    """All strategies of a user, ascending. Raises LogUnavailable."""
    return await _members(log, log.keys.user_strategies(user_id))


async def symbol_strategies(log: EventLog, symbol: str) -> list[int]:
    """The strategies that have, or may soon have, a position in a symbol, ascending. Raises LogUnavailable."""
    return await _members(log, log.keys.symbol_strategies(symbol))


async def all_strategies(log: EventLog) -> AsyncIterator[list[int]]:
    """Every strategy of the partition that existed throughout, in pages, each ascending. Raises LogUnavailable."""
    prefix = log.keys.strategy(0)[:-1]
    pattern = prefix.replace("{", "\\{").replace("[", "\\[") + "[0-9]*"
    cursor = b"0"
    while True:
        cursor, found = await command(log.redis, "SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED)
        page = sorted(int(key[len(prefix) :]) for key in found if key[len(prefix) :].isdigit())
        if page:
            yield page
        if cursor in (b"0", 0):
            return


async def _members(log: EventLog, key: str) -> list[int]:
    return sorted(int(member) for member in await command(log.redis, "SMEMBERS", key))
