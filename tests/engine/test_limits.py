"""The account's limits, where the broker's windows are not ours: near a boundary, and for what is held up (§5.6)."""

import asyncio
from collections import Counter

import pytest
from structlog.testing import capture_logs

from brokers.port import Broker, OrderLimits
from domain.events import ExecuteBuy, Intent, OrderDenied, StrategyExited
from domain.values import SECOND, Denial, Instant
from handlers.limits import EARLY, SENT_WITHIN
from tests.engine.conftest import OpenWorld
from tests.engine.world import World


def seconds_of(intents: list[Intent]) -> Counter[Instant]:
    return Counter(intent.at // SECOND for intent in intents)


def next_second(world: World) -> Instant:
    return (world.clock.now() // SECOND + 1) * SECOND


async def strategies_due(world: World, count: int) -> list[int]:
    """It is time for all of them to buy, and nobody has told them."""
    strategies = [await world.running() for _ in range(count)]
    await world.wait_until((await world.state(strategies[0])).buy_at)
    return strategies


def hold_up(world: World, duration: int) -> None:
    """What is sent is held up for so long on its way to the broker."""
    of = world.brokers.of

    async def slowly(user_id: int) -> Broker | None:
        task = asyncio.current_task()
        if task is not None and task.get_name().startswith("send "):
            await world.clock.sleep(duration)
        return await of(user_id)

    world.brokers.of = slowly  # type: ignore[method-assign]


async def test_stops_hit_right_before_a_full_second_take_the_room_of_both_seconds(open_world: OpenWorld) -> None:
    """The broker may hear of them in the next second by its clock, where as many again would be too many."""
    world = await open_world(limits=OrderLimits(second=4, reserve=0.1))
    strategies = [await world.running() for _ in range(8)]
    await world.buy(*strategies)
    await world.pass_time(10 * SECOND)
    boundary = next_second(world) + SECOND
    await world.wait_until(boundary - 30_000)
    await world.stop_loss(*strategies)
    await world.settle()
    first = (await world.intents())[8:]
    assert [intent.at for intent in first] == [boundary - 30_000] * 4
    await world.pass_time(3 * SECOND)
    rest = (await world.intents())[12:]
    assert [intent.at for intent in rest] == [boundary + SECOND + EARLY] * 4
    assert len(await world.of_type(StrategyExited)) == 8


async def test_what_comes_right_after_a_full_second_counts_in_the_one_before(open_world: OpenWorld) -> None:
    """By the broker's clock it may be that one still."""
    world = await open_world(limits=OrderLimits(second=3, reserve=0.3))
    one, two, three = await strategies_due(world, 3)
    boundary = next_second(world)
    await world.wait_until(boundary - SECOND // 2)
    await world.buy(one, two)
    await world.settle()
    await world.wait_until(boundary + EARLY // 2)
    await world.buy(three)
    await world.pass_time(SECOND)
    assert [intent.at - boundary for intent in await world.intents()] == [-SECOND // 2, -SECOND // 2, EARLY]


async def test_what_is_held_up_is_counted_again_where_it_is_sent(open_world: OpenWorld) -> None:
    world = await open_world(limits=OrderLimits(second=3, reserve=0.3))
    strategies = await strategies_due(world, 3)
    boundary = next_second(world)
    await world.wait_until(boundary)
    hold_up(world, SENT_WITHIN + 400_000)
    await world.buy(*strategies)
    await world.pass_time(5 * SECOND)
    assert len(world.hooks.placed) == 3
    at = [intent.at - boundary for intent in await world.intents()]
    assert at == [0, 0, 2 * SECOND + EARLY], "the two take the room of the second into which they are sent"


async def test_what_finds_no_room_before_its_deadline_is_not_sent(open_world: OpenWorld) -> None:
    world = await open_world(limits=OrderLimits(second=3, reserve=0.3))
    one, two, three, four = await strategies_due(world, 4)
    boundary = next_second(world)
    await world.wait_until(boundary)
    hold_up(world, 1_750_000)
    await world.buy(one, two)
    await world.wait_until(boundary + SECOND + EARLY)
    await world.buy(three, four)
    await world.pass_time(20 * SECOND)
    late = {event.tag for event in await world.of_type(OrderDenied) if event.reason is Denial.TOO_LATE}
    intents = await world.intents()
    assert [intent.at - boundary for intent in intents] == [0, 0, SECOND + EARLY, SECOND + EARLY]
    assert late == {intent.tag for intent in intents[:2]}, "they were to be sent into the second of the other two"
    assert {request.tag for request in world.hooks.placed} == {intent.tag for intent in intents[2:]}


async def test_an_order_that_waited_names_its_trigger_and_says_how_long(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    world = await open_world(limits=OrderLimits(second=3, reserve=0.3))
    for process in world.processes:
        monkeypatch.setattr(process.desk.waits, "_observe", waited.append)
    strategies = await strategies_due(world, 6)
    await world.wait_until(next_second(world))
    with capture_logs() as lines:
        await world.buy(*strategies)
        await world.pass_time(5 * SECOND)
    triggers = {each.strategy_id: each.event_id for each in await world.records() if each.event.type == "BUY_TRIGGERED"}
    intents = [each for each in await world.records() if isinstance(each.event, ExecuteBuy)]
    assert {each.strategy_id: each.causation_id for each in intents} == triggers
    assert waited == [0, 0, SECOND + EARLY, SECOND + EARLY, 2 * SECOND + EARLY, 2 * SECOND + EARLY]
    told = [line for line in lines if line["event"] == "order_waited"]
    assert [(line["limit"], line["seconds"]) for line in told] == [("second", 1.1)] * 2 + [("second", 2.1)] * 2
    assert len({line["strategy_id"] for line in told}) == 4, "one line for each"
