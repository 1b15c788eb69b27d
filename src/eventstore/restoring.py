"""Writing back to Redis what follows from the log. Whoever appends meanwhile wins: then nothing is written."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.msgpack import Encoder

from domain.events import UserHalted
from domain.values import Instant
from eventstore.clients import command
from eventstore.errors import LogLost
from eventstore.keys import Keys
from eventstore.log import EventLog
from eventstore.members import SCANNED
from eventstore.request import halt_latch
from eventstore.script import Script

__all__ = ["Restorable", "drop_strategies", "restore_halts", "restore_strategies"]

_restore = Script("restore")
_restore_halts = Script("restore_halts")
_pack = Encoder().encode


class Restorable(Struct, frozen=True, kw_only=True):
    """A strategy's hashes, timer and places in the sets. No `runtime`: it has expired."""

    strategy_id: int
    user_id: int
    symbol: str
    version: int
    strategy: Mapping[str, str]
    runtime: Mapping[str, str]
    expire_seconds: int | None
    wake_at: Instant | None
    in_market: bool
    wrong: int | None = None
    """A version that the hash may claim although no event has it."""


async def restore_strategies(log: EventLog, states: Sequence[Restorable]) -> dict[int, int]:
    """Write each that nobody has appended to since; of the others the versions that they have now.

    Raises LogUnavailable, LogLost.
    """
    answers = await _restore.many(log.redis, [_call(log, each) for each in states])
    return {each.strategy_id: answer[1] for each, answer in zip(states, answers, strict=True) if not _done(log, answer)}


def _call(log: EventLog, it: Restorable) -> tuple[list[str], list[bytes]]:
    keys = log.keys
    names = [keys.epoch, keys.strategy(it.strategy_id), keys.runtime(it.strategy_id), keys.timers]
    names += [keys.symbol_strategies(it.symbol), keys.user_strategies(it.user_id)]
    request: dict[str, Any] = {
        "epoch": log.epoch,
        "version": it.version,
        "member": str(it.strategy_id),
        "strategy": [part for pair in it.strategy.items() for part in pair],
        "runtime": [part for pair in it.runtime.items() for part in pair],
        "in_market": it.in_market,
    }
    if it.expire_seconds is not None:
        request["expire"] = it.expire_seconds
    if it.wrong is not None:
        request["wrong"] = it.wrong
    if it.wake_at is not None:
        request["wake_at"] = it.wake_at
    return names, [_pack(request)]


async def restore_halts(log: EventLog, halts: Mapping[int, UserHalted], position: int) -> bool:
    """All latches as they are at `position`; False, and nothing is written, if the log is not there any more.

    Raises LogUnavailable, LogLost.
    """
    names = {log.keys.halt(user_id): halt_latch(event) for user_id, event in halts.items()}
    async for name in _scan(log, log.keys.halts):
        names.setdefault(name, "")
    answer = await _restore_halts(
        log.redis, [log.keys.epoch, log.keys.position, *names], log.epoch, position, *names.values()
    )
    return _done(log, answer)


async def drop_strategies(log: EventLog, strategy_ids: Sequence[int]) -> None:
    """Strategies that no event ever spoke of: their hashes and timers go. Raises LogUnavailable."""
    keys: Keys = log.keys
    for strategy_id in strategy_ids:
        await command(log.redis, "DEL", keys.strategy(strategy_id), keys.runtime(strategy_id))
        await command(log.redis, "ZREM", keys.timers, strategy_id)


async def _scan(log: EventLog, pattern: str) -> AsyncIterator[str]:
    cursor = b"0"
    while True:
        cursor, found = await command(log.redis, "SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED)
        for name in sorted(found):
            yield name.decode()
        if cursor == b"0":
            return


def _done(log: EventLog, answer: Sequence[Any]) -> bool:
    match answer[0]:
        case b"Restored":
            return True
        case b"Ahead":
            return False
        case _:
            raise LogLost(f"the epoch was {log.epoch} and is {answer[1] and answer[1].decode()}")
