"""The log answers late or not at all: every single call of a day's story loses its way there or its way back, once."""

from itertools import count

import pytest

from brokers.paper.plan import NEVER, Lost, Portion, Script, ScriptedPlan
from domain.events import OrderDenied
from domain.values import MINUTE, SECOND, Denial, Status
from tests.engine.conftest import OpenWorld
from tests.engine.world import World

STORIES = {
    "plain": ScriptedPlan([]),
    "resting": ScriptedPlan([], otherwise=Script(fills=(Portion(4),), rest=NEVER)),
    "unanswered": ScriptedPlan([], otherwise=Script(lost=Lost(surfaces=20 * SECOND))),
}


async def _day(world: World) -> int:
    """From the start to the stop-loss."""
    strategy = await world.running()
    await world.buy(strategy)
    await world.pass_time(MINUTE)
    await world.stop_loss(strategy)
    await world.finish(10 * MINUTE)
    return strategy


class Nth:
    """Loses the n-th call of a name."""

    def __init__(self, name: str, n: int, fault: str) -> None:
        self.name, self.n, self.fault, self.seen = name, n, fault, 0

    def __call__(self, _: int, name: str) -> str:
        self.seen += name == self.name
        return self.fault if name == self.name and self.seen == self.n else ""


@pytest.mark.parametrize("fault", ["call lost", "reply lost"])
@pytest.mark.parametrize("story", STORIES)
async def test_one_lost_append_changes_nothing_of_what_is_done(open_world: OpenWorld, story: str, fault: str) -> None:
    wanted: list[object] | None = None
    for number in count():  # 0: none is lost
        lost = Nth("append", number, fault)
        world = await open_world(plan=STORIES[story])
        world.checked = False
        world.processes[0].wire.fault = lost
        strategy = await _day(world)
        orders: list[object] = [(row.side, row.quantity, row.filled) for row in await world.rows()]
        wanted = wanted or orders
        assert orders == wanted, f"append {number}"
        assert (await world.state(strategy)).status is Status.STOPPED, f"append {number}"
        types = await world.types(strategy)
        once = ("EXECUTE_BUY", "EXECUTE_STOPLOSS", "ORDER_FINALIZED", "STRATEGY_EXITED", "STRATEGY_STOPPED")
        assert [types.count(name) for name in once] == [1, 1, 2, 1, 1], f"append {number}: {types}"
        await world.check()
        await world.redis.flushall()
        if number > lost.seen:
            assert number > 8
            return


@pytest.mark.parametrize("story", STORIES)
async def test_one_lost_look_costs_an_entry_at_most(open_world: OpenWorld, story: str) -> None:
    """An entry whose latch cannot be read is held back; everything else is looked at again."""
    for number in count(1):
        lost = Nth("load", number, "call lost")
        world = await open_world(plan=STORIES[story])
        world.checked = False
        world.processes[0].wire.fault = lost
        strategy = await _day(world)
        state = await world.state(strategy)
        assert state.open_quantity == 0, f"load {number}"
        denied = [event.reason for event in await world.of_type(OrderDenied)]
        assert denied in ([], [Denial.HALTED]), f"load {number}"
        assert len(await world.rows()) == (0 if denied else 2), f"load {number}"
        await world.check()
        await world.redis.flushall()
        if number > lost.seen:
            assert number > 8
            return


async def test_an_answer_of_the_broker_outlives_an_outage_of_the_log(world: World) -> None:
    """Longer than the poller would need to give the order up."""
    strategy = await world.running()
    process = world.processes[0]

    async def cut_the_line(request: object, answer: object) -> None:
        process.wire.fault = lambda number, name: "call lost"

    world.hooks.after_place = cut_the_line
    world.polling = False
    await world.buy(strategy)
    await world.pass_time(2 * SECOND)
    assert (await world.state(strategy)).order.phase == "sending"  # type: ignore[union-attr]
    process.wire.fault = None
    await world.pass_time(2 * SECOND)
    assert (await world.state(strategy)).order.phase == "live"  # type: ignore[union-attr]
    world.polling = True
    await world.settle()
    assert (await world.types(strategy)).count("ORDER_ACCEPTED") == 1


async def test_an_intent_whose_append_is_never_answered_is_sent_once_the_log_is_back_and_not_after_its_deadline(
    world: World,
) -> None:
    strategy = await world.bought()
    process = world.processes[0]

    def swallow(number: int, name: str) -> str:
        return "reply lost" if name == "append" and world.clock.now() < back_at else ""

    back_at = world.clock.now() + 5 * SECOND
    process.wire.fault = swallow
    await world.sell(strategy)
    await world.settle()
    process.wire.fault = None
    await world.finish(MINUTE)
    tags = [intent.tag for intent in await world.intents(strategy)]
    assert [row.tag for row in await world.rows()] == [tags[0], tags[-1]]
