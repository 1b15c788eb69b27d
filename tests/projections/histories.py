"""Histories of many strategies as the archive may hold them: legal ones, with damage, halts and nobody's events."""

import random
from collections.abc import Iterator
from itertools import islice

import msgspec

from bahi.bench.trading_days import OPENING, trading_days
from domain.events import Event, UserHalted, UserResumed
from domain.values import DAY
from eventstore.archive import PostgresArchive
from eventstore.envelope import NewEvent, Raw, encode


def history(seed: int, events: int, *, strategies: int = 12, days: int = 5, damage: bool = True) -> list[Raw]:
    """Entries 1 … `events` over some days."""
    rng = random.Random(f"history/{seed}")
    return list(islice(_entries(rng, seed, events, strategies, days, damage), events))


def _entries(rng: random.Random, seed: int, events: int, strategies: int, days: int, damage: bool) -> Iterator[Raw]:
    versions: dict[int, int] = {}
    position = 0
    for new in trading_days(strategies=strategies, users=4, seed=seed, at_once=strategies):
        position += 1
        at = OPENING + position * days * DAY // events
        if rng.random() < 0.02:
            halted: Event = UserHalted(square_off=True) if rng.random() < 0.7 else UserResumed()
            yield Raw(position, "critical", 0, at, encode(NewEvent(halted, 0, rng.randrange(1, 5)), "h", "w"))
            position += 1
        version = 0
        if new.strategy_id and new.event.versioned:
            version = versions[new.strategy_id] = versions.get(new.strategy_id, 0) + 1
        envelope = encode(new, f"e-{position}", "w")
        if damage and rng.random() < 0.02:
            envelope = rng.choice((b"\xc1", _unreadable(new), envelope[:-3]))
        yield Raw(position, new.event.priority, version, at, envelope)


def _unreadable(new: NewEvent) -> bytes:
    """Of a type that this program does not know."""
    return msgspec.msgpack.encode([1, "e", new.strategy_id, new.user_id, "", "", "w", {"type": "NO_SUCH_EVENT"}])


async def archive(where: PostgresArchive, raws: list[Raw]) -> None:
    """Store these in one transaction."""
    async with where.engine.begin() as connection:
        await where.store(connection, raws)
