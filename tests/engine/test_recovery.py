"""Redis is lost, or an older copy of it comes back: nothing that anybody was told is forgotten, nothing is done twice
(architecture §7)."""

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from brokers.paper.plan import Lost, Script, ScriptedPlan
from brokers.port import BookOrder, Broker, PartialReading, Unread
from domain.commands import Changes, decide_update
from domain.events import (
    AlertTriggered,
    ExecuteBuy,
    Intent,
    OrderRecovered,
    RecoverySettled,
    StrategyRecovered,
    StrategyStartRequested,
    SystemRecovery,
)
from domain.tags import TagParts, parse_tag
from domain.values import DAY, MINUTE, SECOND, Code, Exit, Holding, Kind, Side, Status, Tag
from eventstore.batch import WrongEpoch
from eventstore.envelope import NewEvent
from handlers.decider import Wake, decided, take_turn
from handlers.outcomes import OF_ANOTHER_DAY
from handlers.poller import Poller
from projections.runtime import CorruptState
from tests.engine.conftest import OpenArchived
from tests.engine.test_evidence import reading
from tests.engine.world import USER, World


async def since(world: World, kind: type[Intent]) -> int:
    """How many events there are from the first intent of this kind on."""
    first = next(each.position for each in await world.records() if isinstance(each.event, kind))
    return await world.log.last_position() - first + 1


# --- what was lost is found in the book -----------------------------------------------------------------------------


async def test_an_entry_whose_intent_was_lost_is_adopted_and_not_placed_again(archived: OpenArchived) -> None:
    world = await archived()
    strategy = await world.bought()
    lost = await since(world, ExecuteBuy)
    done = await world.lose(lost)
    assert (done.why, done.strategies, done.in_doubt) == ("EMPTY", 1, 1)
    assert (await world.state(strategy)).position is Holding.NONE

    await world.settle()
    assert (await world.state(strategy)).position is Holding.BOUGHT
    (adopted,) = await world.of_type(OrderRecovered)
    assert (adopted.kind, adopted.number, adopted.run) == (Kind.BUY, 1, (await world.state(strategy)).run)
    assert parse_tag(adopted.tag).log_id != world.log.log_id  # type: ignore[union-attr]

    await world.stop_loss(strategy)
    await world.settle()
    assert not await world.intents()  # the stop waits until it is sure that nobody exits already
    await world.pass_time(30 * SECOND)
    assert (await world.state(strategy)).exit_reason is Exit.STOPLOSS
    assert [row.side for row in await world.rows()] == [Side.BUY, Side.SELL]
    assert len(await world.of_type(RecoverySettled)) == 1


@pytest.mark.parametrize("surfaces", [8 * SECOND, 90 * SECOND])
async def test_a_lost_entry_that_surfaces_late_is_still_the_only_one(archived: OpenArchived, surfaces: int) -> None:
    world = await archived(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=surfaces)))]))
    strategy = await world.running()
    await world.buy(strategy)
    await world.step(world.processes[0])
    await world.lose(await since(world, ExecuteBuy))
    await world.pass_time(surfaces + 20 * SECOND)
    assert (await world.state(strategy)).position is Holding.BOUGHT
    await world.pass_time(5 * MINUTE)
    assert [row.side for row in await world.rows()] == [Side.BUY]


async def test_an_exit_whose_intent_was_lost_is_not_sold_again(archived: OpenArchived) -> None:
    world = await archived()
    strategy = await world.bought()
    await world.archive_to(await world.log.last_position())
    await world.stop_loss(strategy)
    await world.settle()
    before = [event.type for event in await world.history(strategy)]
    await world.lose(len(before) - before.index("STOPLOSS_TRIGGERED"))
    assert (await world.state(strategy)).position is Holding.BOUGHT
    await world.stop_loss(strategy)  # the listener sees it again
    await world.pass_time(MINUTE)
    state = await world.state(strategy)
    assert (state.status, state.position) == (Status.STOPPED, Holding.EXITED_BY_SL)
    assert [row.side for row in await world.rows()] == [Side.BUY, Side.SELL]


async def test_shares_of_a_run_that_was_lost_are_sold(archived: OpenArchived) -> None:
    world = await archived()
    strategy = await world.create()
    await world.archive_to(await world.log.last_position())
    await world.start(strategy)
    await world.buy(strategy)
    await world.settle()
    started = next(r.position for r in await world.records() if isinstance(r.event, StrategyStartRequested))
    await world.lose(await world.log.last_position() - started + 1)
    assert (await world.state(strategy)).status is Status.CREATED
    await world.pass_time(2 * MINUTE)  # every book is read once a minute, whatever is known
    (adopted,) = await world.of_type(OrderRecovered)
    assert adopted.run == 0
    state = await world.state(strategy)
    assert (state.surfaced, state.bought) == (0, 0)
    assert [(row.side, row.filled) for row in await world.rows()] == [(Side.BUY, 10), (Side.SELL, 10)]


async def test_a_lost_run_does_not_lend_its_order_to_the_next_of_the_same_number(archived: OpenArchived) -> None:
    world = await archived(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=80 * SECOND)))]))
    strategy = await world.create()
    await world.archive_to(await world.log.last_position())
    lost_run = (await world.start(strategy)).run
    await world.buy(strategy)
    await world.step(world.processes[0])
    started = next(r.position for r in await world.records() if isinstance(r.event, StrategyStartRequested))
    await world.lose(await world.log.last_position() - started + 1)
    soon = world.calendar.wall(world.clock.now() + 30 * SECOND).time().replace(microsecond=0)
    await take_turn(
        world.desk,
        strategy,
        lambda s, f: decided(s, decide_update(s, Changes(buy_time=soon), f)),
        Wake(),  # type: ignore[arg-type]
    )
    assert (await world.start(strategy)).run == lost_run + 1  # an update came between
    await world.wait_until((await world.state(strategy)).buy_at)
    await world.tick("150")
    await world.buy(strategy)
    await world.pass_time(MINUTE)
    await world.watch()
    await world.pass_time(MINUTE)
    state = await world.state(strategy)
    assert state.bought == 10, (lost_run, state)
    assert (await world.of_type(OrderRecovered))[0].run == 0
    assert state.surfaced == 0


async def test_an_order_of_an_epoch_that_no_backup_knows_is_adopted(
    archived: OpenArchived, engine: AsyncEngine
) -> None:
    world = await archived()
    strategy = await world.running()
    await world.lose(0)  # a backup of PostgreSQL is made, and then another epoch begins
    last, epochs_then = world.log.lineage[-1].after, len(world.log.lineage) - 1
    await world.buy(strategy)
    await world.settle()
    placed_in = world.log.log_id
    async with engine.begin() as connection:  # everything is destroyed, and the backup put back
        for statement in (
            "DELETE FROM epochs WHERE number > :epochs",
            "DELETE FROM events WHERE position > :last",
            "UPDATE checkpoint SET position = :last",
        ):
            known = {"epochs": epochs_then} if ":epochs" in statement else {"last": last}
            await connection.execute(text(statement), known)
    for process in list(world.processes):
        await world.kill(process)
    await world.redis.flushall()
    await world.recover("w2")
    assert placed_in not in world.log.log_ids
    assert world.log.is_ours(placed_in)
    await world.watch()
    await world.pass_time(MINUTE)
    assert (await world.state(strategy)).position is Holding.BOUGHT
    assert [row.side for row in await world.rows()] == [Side.BUY]


# --- what was not lost goes on --------------------------------------------------------------------------------------


async def test_what_merely_waits_for_its_time_is_not_held_up(archived: OpenArchived) -> None:
    world = await archived()
    strategy = await world.running()
    await world.halt(8)
    done = await world.lose(0)
    assert (done.strategies, done.halts, done.in_doubt) == (1, 1, 0)
    assert await world.log.halt(8) is not None
    assert await world.log.halt(USER) is None
    await world.buy(strategy)
    await world.settle()
    assert (await world.state(strategy)).position is Holding.BOUGHT
    assert not await world.of_type(StrategyRecovered)


async def test_it_is_told_and_the_numbers_go_on(archived: OpenArchived) -> None:
    world = await archived()
    await world.bought()
    old, last = world.log, await world.log.last_position()
    await world.lose(3)
    (report,) = await world.of_type(SystemRecovery)
    assert (report.old_epoch, report.new_epoch) == (old.epoch, world.log.epoch)
    assert report.lost == {"redis": "EMPTY", "held": "0"}
    assert report.restored["archived"] == str(last - 3)
    assert [each.after for each in world.log.lineage] == [0, last - 3]
    assert world.log.log_ids == {old.log_id, world.log.log_id}
    records = await world.records()
    assert [each.position for each in records] == list(range(1, len(records) + 1))
    assert isinstance(await old.append([NewEvent(StrategyStartRequested(), 42, USER)]), WrongEpoch)


async def test_a_strategy_whose_history_lacks_something_is_named(archived: OpenArchived) -> None:
    world = await archived()
    sound, strategy = await world.bought(), await world.bought()
    await world.archive_to(await world.log.last_position())
    assert world.archive is not None
    async with world.archive.engine.begin() as connection:
        garbled = "UPDATE events SET envelope = '\\x00' WHERE strategy_id = :id AND type = 'ORDER_FILLED'"
        await connection.execute(text(garbled), {"id": strategy})
    done = await world.lose(0)
    assert strategy in done.unsound
    assert sound not in done.unsound
    after = [each async for each in world.log.read(done.archived)]
    (alert,) = [each.event for each in after if isinstance(each.event, AlertTriggered)]
    assert str(strategy) in alert.facts["unsound"].split(", ")
    world.checked = False


# --- what keeps the book from settling it ---------------------------------------------------------------------------


async def test_a_row_of_somebody_else_that_nobody_understands_holds_up_no_exit(archived: OpenArchived) -> None:
    theirs = Unread(order_id="9", tag="theirs", why="no filled_quantity", foreign=True)

    def with_their_row(rows: list[BookOrder]) -> list[BookOrder]:
        raise PartialReading(rows, (theirs,))

    world = await archived()
    strategy = await world.bought()
    await world.lose(0)
    with reading(with_their_row):
        await world.stop_loss(strategy)
        await world.pass_time(30 * SECOND)
        assert (await world.state(strategy)).exit_reason is Exit.STOPLOSS


async def test_what_is_wrong_with_one_strategy_holds_up_no_exit_of_another(
    archived: OpenArchived, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await archived()
    strategy, broken = await world.bought(), await world.bought()
    await world.lose(0)
    booking = Poller._book

    async def failing(self: Poller, broker: Broker, parts: TagParts, tag: Tag, row: BookOrder) -> int:
        if parts.strategy_id == broken:
            raise CorruptState("nothing tells what it is")
        return await booking(self, broker, parts, tag, row)

    with monkeypatch.context() as patch:
        patch.setattr(Poller, "_book", failing)
        await world.pass_time(30 * SECOND)
    assert not (await world.state(strategy)).settle_after
    assert (await world.state(broken)).settle_after
    await world.pass_time(30 * SECOND)
    assert not (await world.state(broken)).settle_after


async def test_shares_that_nobody_can_sell_because_the_book_is_not_read_are_alerted(archived: OpenArchived) -> None:
    world = await archived()
    strategy = await world.bought()
    world.connected.clear()
    await world.lose(0)
    await world.stop_loss(strategy)
    await world.pass_time(25 * SECOND)
    assert Code.UNPROTECTED_POSITION not in (await world.state(strategy)).alerted
    await world.pass_time(10 * MINUTE)
    told = [each for each in await world.of_type(AlertTriggered) if each.code is Code.UNPROTECTED_POSITION]
    assert len(told) == 2
    assert told[0].facts["cure"] == "connect the broker"
    world.connected.add(USER)
    await world.pass_time(MINUTE)
    assert (await world.state(strategy)).exit_reason is Exit.STOPLOSS


async def test_what_was_lost_on_an_earlier_day_is_alerted_since_no_book_shows_it_any_more(
    archived: OpenArchived,
) -> None:
    world = await archived()
    strategy = await world.bought()
    lost = await since(world, ExecuteBuy)
    world.clock.set(world.clock.now() + DAY)
    await world.lose(lost)
    await world.pass_time(MINUTE)
    state = await world.state(strategy)
    assert (state.exit_reason, state.open_quantity) == (Exit.MISSED, 0)
    (told,) = [each for each in await world.of_type(AlertTriggered) if each.code is Code.OUTCOME_UNKNOWN]
    assert told.facts["cure"] == OF_ANOTHER_DAY
    world.checked = False  # the broker has what nobody here knows of
