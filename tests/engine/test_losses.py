"""Redis is lost again and again in the middle of whatever else may happen (architecture §7)."""

import asyncio
import datetime as dt
import random
from collections import Counter

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bahi.database.tables import metadata
from domain.values import MINUTE
from eventstore.archive import PostgresArchive
from eventstore.keys import Keys
from tests.engine.test_random import ACTIONS, PER_USER, USERS, HealingPlan, Nemesis, _heal
from tests.engine.world import OPENING, World


async def _live_through(redis_url: str, redis: "Redis", engine: AsyncEngine, seed: int) -> Counter[str]:
    chance = random.Random(f"lost {seed}")
    plan = HealingPlan(seed, latency=chance.choice([0, 50_000, 1_500_000]))
    await redis.flushall()
    await redis.set(Keys().log_id, "SEED")  # the broker's faults follow from the tags, which begin so
    async with engine.begin() as connection:
        await connection.execute(text(f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)} CASCADE"))
    world = World(redis_url, redis, plan=plan, users=USERS, at=OPENING + MINUTE, archive=PostgresArchive(engine))
    try:
        await world.open("w1", "w2")
        strategies = [
            await world.running(user=each, buy_time=dt.time(9, 17), quantity=10)
            for each in USERS
            for _ in range(PER_USER)
        ]
        await world.pass_time(MINUTE)
        nemesis = Nemesis(world, strategies, seed)
        for _ in range(3):
            for _ in range(ACTIONS // 3):
                await nemesis.act()
            lost = min(chance.choice([0, 1, 3, 8, 20, 40, 60]), await world.log.last_position() - 40)
            nemesis.did.append(f"LOSE {lost}")
            await world.lose(max(0, lost))
        await _heal(world, plan)
        (await world.check()).all_final()
        for state in (await world.states()).values():
            assert state.open_quantity <= 0, state
            assert state.surfaced <= 0, state
            assert not state.settle_after, state
        return Counter(record.event.type for record in await world.records())
    except BaseException as error:
        error.add_note(f"seed {seed}, after {' '.join(nemesis.did)}")
        raise
    finally:
        await world.close()


SEEDS = 4


async def test_whatever_is_lost_the_invariants_hold_and_everything_ends(
    redis_url: str, redis: Redis, engine: AsyncEngine
) -> None:
    """Three losses in each life, of up to sixty events each."""
    # a process that dies leaves tasks behind of which nobody hears
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        seen += await _live_through(redis_url, redis, engine, seed)
    for each in ("ORDER_RECOVERED", "RECOVERY_SETTLED", "STRATEGY_RECOVERED", "SYSTEM_RECOVERY"):
        assert seen[each], f"never seen, so not tested: {each}"
