"""Days of the real engine as the judge gets them, and the means to tamper with what it gets."""

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from brokers.paper.plan import Lost, Rejection, Script, ScriptedPlan
from domain.values import HOUR, MINUTE, SECOND, OrderRequest, Side
from eventstore.export.cloudevents import Source, as_map
from eventstore.keys import Keys
from simulation.independent import Finding, judge, read_book
from tests.engine.world import World

Line = dict[str, Any]
SELLER, STOPPED, RETRIED, SQUARED = 42, 43, 44, 45
"""The strategies of an ordinary day: sold at its time, by its stop, entered at the second attempt, squared off."""
USERS = (7, 8)


@dataclass
class Day:
    """What the judge gets."""

    history: list[Line]
    orders: list[Line]
    trades: list[Line]
    accounts: Mapping[str, int]

    def copy(self) -> "Day":
        return Day(deepcopy(self.history), deepcopy(self.orders), deepcopy(self.trades), dict(self.accounts))

    def judged(self, *, ended: bool = True, **options: Any) -> list[Finding]:
        return judge(self.history, self.orders, self.trades, accounts=self.accounts, ended=ended, **options)

    # --- what there is

    def events(self, kind: str, strategy: int = 0) -> list[Line]:
        """The lines of a type, of one strategy or of all."""
        return [
            line for line in self.history if line["type"] == kind and strategy in (0, int(line.get("strategyid", "0")))
        ]

    def one(self, kind: str, strategy: int = 0, side: str = "") -> Line:
        """The last one; of an order of that side."""
        tags = {row["tag"] for row in self.orders if row["side"] == side}
        return [line for line in self.events(kind, strategy) if not side or line["data"]["tag"] in tags][-1]

    def row(self, strategy: int, side: str) -> Line:
        """The last order of a strategy at the broker."""
        kinds = ("EXECUTE_BUY",) if side == "BUY" else ("EXECUTE_SELL", "EXECUTE_STOPLOSS")
        tags = {line["data"]["tag"] for kind in kinds for line in self.events(kind, strategy)}
        return [row for row in self.orders if row["tag"] in tags][-1]

    def trades_of(self, row: Line) -> list[Line]:
        return [trade for trade in self.trades if trade["order_id"] == row["order_id"]]

    # --- what may be done to it

    def drop(self, *lines: Line) -> None:
        """As if these had never been: what they caused has their causes."""
        for gone in lines:
            self.history = [line for line in self.history if line is not gone]
            for line in self.history:
                for name in ("causationid", "correlationid"):
                    if line.get(name) == gone["id"]:
                        line[name] = gone.get(name) if gone.get(name) != gone["id"] else line["id"]
                        if line[name] is None:
                            del line[name]
        self.renumber()

    def insert(self, after: Line, *datas: Line, **attributes: Any) -> None:
        """More events of the strategy of `after`, right behind it."""
        at = next(index for index, line in enumerate(self.history) if line is after) + 1
        for number, data in enumerate(datas):
            line = {
                **after,
                "type": data["type"],
                "id": f"new-{number}",
                "correlationid": f"new-{number}",
                "data": data,
            }
            line |= {"version": 1} | attributes
            line.pop("causationid", None)
            self.history.insert(at + number, line)
        self.renumber()

    def move(self, moved: Line, behind: Line) -> None:
        self.history = [line for line in self.history if line is not moved]
        self.history.insert(next(index for index, line in enumerate(self.history) if line is behind) + 1, moved)
        moved["recordedat"] = behind["recordedat"]
        self.renumber()

    def renumber(self) -> None:
        versions: dict[str, int] = {}
        for position, line in enumerate(self.history, 1):
            line["position"] = str(position)
            if line["version"]:
                versions[line["strategyid"]] = line["version"] = versions.get(line["strategyid"], 0) + 1


async def _live(redis_url: str, plan: ScriptedPlan, story: Callable[[World], Any]) -> Day:
    redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0))
    await redis.flushall()
    await redis.set(Keys().log_id, "JUDG")
    world = World(redis_url, redis, plan=plan, users=USERS)
    try:
        await world.open("w1")
        await story(world)
        await world.finish(8 * HOUR)
        await world.watch()
        await world.settle()
        source = Source(world.log.lineage[0].log_id)
        history = [as_map(raw, source) for raw in await world.raw()]
        return Day(history, *read_book(world.book.connection), {f"PAPER-{user}": user for user in USERS})
    finally:
        await world.close()
        await redis.aclose()


def ordinary_day(redis_url: str) -> Day:
    """Four strategies of two users: each exit there is, and an entry that the broker rejects at first."""

    async def story(world: World) -> None:
        buy_time = dt.time(9, 20)
        for strategy, user in ((SELLER, 7), (STOPPED, 7), (RETRIED, 8), (SQUARED, 8)):
            assert await world.running(user=user, buy_time=buy_time) == strategy
        await world.buy(SELLER, STOPPED, RETRIED, SQUARED)
        await world.pass_time(MINUTE)
        await world.tick("151")
        await world.stop_loss(STOPPED)
        await world.pass_time(MINUTE)
        await world.tick("152")
        await world.stop(SQUARED, square_off=True)
        await world.pass_time(MINUTE)
        await world.tick("153")
        await world.sell(SELLER, RETRIED)

    rejected = Script(reject=Rejection(reason="EXCHANGE", curable=True))

    def first_of_retried(request: OrderRequest) -> bool:
        return request.side is Side.BUY and int(request.tag[4:11], 36) == RETRIED and request.tag[16:18] == "01"

    return asyncio.run(_live(redis_url, ScriptedPlan([(first_of_retried, rejected)]), story))


def surfacing_day(redis_url: str) -> Day:
    """An exit that nobody answers, given up after its quarantine, surfaces when another one has sold everything."""

    async def story(world: World) -> None:
        strategy = await world.bought(user=7)
        await world.sell(strategy)
        await world.pass_time(10 * MINUTE)
        await world.tick("150")
        await world.pass_time(MINUTE)

    late = Script(lost=Lost(surfaces=300 * SECOND))
    return asyncio.run(_live(redis_url, ScriptedPlan([(2, late)]), story))
