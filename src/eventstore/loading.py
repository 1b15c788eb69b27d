"""What a decision is made from: a strategy's hashes, its user's latch and the price, as of one moment."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from redis.asyncio import Redis

from eventstore.clients import command
from eventstore.keys import Keys, price
from eventstore.script import Script

__all__ = ["Loaded", "load", "load_many"]

_load = Script("load")


class Loaded(Struct, frozen=True):
    """The hashes as they are ({} when there is none); the rest is None when absent or not asked for."""

    strategy_id: int
    strategy: dict[str, str]
    runtime: dict[str, str]
    halt: bytes | None = None
    foreign: bytes | None = None
    """What the user's account holds that is not ours (see `Keys.foreign`)."""
    price: bytes | None = None

    @property
    def version(self) -> int:
        """The strategy's version: what `append` takes as `expected`."""
        return int(self.strategy.get("version", 0))


async def load(
    redis: "Redis", keys: Keys, strategy_id: int, user_id: int | None = None, symbol: str | None = None
) -> Loaded:
    """One strategy, in one round trip. Raises LogUnavailable."""
    names = [keys.strategy(strategy_id), keys.runtime(strategy_id)]
    if user_id is not None:
        names += [keys.halt(user_id), keys.foreign(user_id)]
    if symbol is not None and not keys.hashtag:
        names.append(price(symbol))
    answer = await _load(redis, names)
    halt, foreign = answer[2:4] if user_id is not None else (None, None)
    last: bytes | None = None
    if symbol is not None:
        # A global key may live on another node of a cluster, where no script may reach it.
        last = answer[-1] if not keys.hashtag else await command(redis, "GET", price(symbol))
    return Loaded(strategy_id, _dict(answer[0]), _dict(answer[1]), halt, foreign, last)


async def load_many(redis: "Redis", keys: Keys, strategy_ids: Sequence[int]) -> list[Loaded]:
    """Many strategies, each as of one moment, in one round trip. Raises LogUnavailable."""
    calls = [((keys.strategy(each), keys.runtime(each)), ()) for each in strategy_ids]
    answers = await _load.many(redis, calls)
    return [
        Loaded(strategy_id, _dict(answer[0]), _dict(answer[1]))
        for strategy_id, answer in zip(strategy_ids, answers, strict=True)
    ]


def _dict(flat: Sequence[Any]) -> dict[str, str]:
    texts = [part.decode() for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))
