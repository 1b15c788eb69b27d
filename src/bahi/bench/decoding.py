"""How many full packets a second are read on one core: ours, for the stops and in full, next to the official client."""

import random
import time
from collections.abc import Callable
from decimal import Decimal

from bahi.bench.figures import Figure
from brokers.kite.official_decoder import official_decoder
from brokers.kite.packets import DEPTH, Level, Mode, Noticed, Packet, decode, quick
from domain.values import SECOND
from simulation.kite.encode import encode, frame

__all__ = ["decoding"]

PER_FRAME = 200
ROUNDS = 7
GOAL = 20_000
TEN = 1_795_149_000 * SECOND
"""2026-11-20 10:00:00 IST."""


async def decoding(packets: int) -> list[Figure]:
    """About `packets` of each decoder in each round; the rounds alternate, and the median counts."""
    data = _frame(random.Random(1))  # noqa: S311 (a benchmark)
    noticed = Noticed()
    readers: dict[str, Callable[[bytes], object]] = {
        "full packets read for the stops": lambda each: quick(each, noticed),
        "full packets read in full": lambda each: decode(each, noticed),
        "full packets, official decoder": official_decoder(),
    }
    times = max(1, packets // PER_FRAME // ROUNDS)
    taken: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(ROUNDS):
        for name, read in readers.items():
            begun = time.perf_counter()
            for _ in range(times):
                read(data)
            taken[name].append(time.perf_counter() - begun)
    figures = []
    for name, seconds in taken.items():
        rate = round(times * PER_FRAME / sorted(seconds)[ROUNDS // 2])
        ours = not name.endswith("official decoder")
        figures.append(
            Figure(
                name=name,
                fsync="–",
                value=rate,
                unit="/s",
                goal=f"≥ {GOAL:,}" if ours else "",
                met=rate >= GOAL if ours else None,
                note=f"{ROUNDS} × {times * PER_FRAME:,}",
            )
        )
    return figures


def _frame(rng: random.Random) -> bytes:
    def price(around: int = 100_000) -> Decimal:
        return Decimal(rng.randrange(around, 2 * around)) / 100

    def levels() -> tuple[Level, ...]:
        return tuple(Level(rng.randrange(1, 10_000), price(), rng.randrange(1, 50)) for _ in range(DEPTH))

    return frame(
        [
            encode(
                Packet(
                    token=token << 8 | 1,
                    mode=Mode.FULL,
                    last_price=price(),
                    last_quantity=rng.randrange(1, 500),
                    average_price=price(),
                    volume=rng.randrange(1, 10_000_000),
                    buy_quantity=rng.randrange(1, 1_000_000),
                    sell_quantity=rng.randrange(1, 1_000_000),
                    open=price(),
                    high=price(),
                    low=price(),
                    close=price(),
                    traded_at=TEN,
                    exchange_at=TEN + SECOND,
                    buy=levels(),
                    sell=levels(),
                )
            )
            for token in range(1, PER_FRAME + 1)
        ]
    )
