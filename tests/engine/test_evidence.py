"""A reading of the book that is not whole: what it shows is told, and nothing follows from what it does not show."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from brokers.paper.plan import NEVER, THROTTLED, Lost, Script, ScriptedPlan
from brokers.port import BookOrder, BookStatus, PartialReading, Unread
from domain.events import AlertTriggered, OrderFinalized, UnknownOrderSeen
from domain.strategy import Order
from domain.values import (
    HOUR,
    MINUTE,
    SECOND,
    Code,
    Final,
    Instant,
    Kind,
    Phase,
    Product,
    Severity,
    Side,
    Status,
    Tag,
)
from handlers.evidence import Evidence
from tests.engine.conftest import OpenWorld
from tests.engine.world import OPENING, USER, HookedBroker, World

Rows = list[BookOrder]
ODD = Unread(order_id="9", tag=None, why="no filled_quantity")


@contextmanager
def reading(change: Callable[[Rows], Rows]) -> Iterator[None]:
    """Every reading of the book is changed so, or raises."""
    read = HookedBroker.orders

    async def changed(broker: HookedBroker) -> Rows:
        return change(await read(broker))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HookedBroker, "orders", changed)
        yield


def with_an_odd_row(rows: Rows) -> Rows:
    raise PartialReading(rows, (ODD,))


async def _alerts(world: World) -> list[AlertTriggered]:
    return [alert for alert in await world.of_type(AlertTriggered) if alert.code is Code.UNKNOWN_ORDER]


async def test_a_row_that_nobody_understands_hides_no_fill_and_is_alerted_once(world: World) -> None:
    with reading(with_an_odd_row):
        strategy = await world.bought()
        assert (await world.state(strategy)).open_quantity == 10
        for _ in range(3):
            await world.watch()
            world.clock.set(world.clock.now() + 3 * SECOND)
        await world.sell(strategy)
        await world.finish()
    assert [alert.facts["order_id"] for alert in await _alerts(world)] == ["9"]


async def test_a_row_that_is_odd_for_a_moment_alarms_nobody(world: World) -> None:
    for _ in range(3):
        with reading(with_an_odd_row):
            await world.watch()
        world.clock.set(world.clock.now() + MINUTE)
        await world.watch()
    assert await _alerts(world) == []


async def test_an_order_is_not_called_absent_while_a_row_that_came_with_it_is_not_understood(
    open_world: OpenWorld,
) -> None:
    world = await open_world(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=None)))]))
    strategy = await world.running()
    await world.buy(strategy)
    with reading(with_an_odd_row):
        await world.pass_time(4 * MINUTE)
        order = (await world.state(strategy)).order
        assert order is not None
        assert order.phase is Phase.UNKNOWN
    await world.pass_time(3 * SECOND)
    assert (await world.state(strategy)).status is Status.STOPPED


async def test_a_row_that_was_odd_before_the_order_was_asked_for_is_not_the_order(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=None)))]))
    with reading(with_an_odd_row):
        strategy = await world.running()
        await world.watch()
        await world.buy(strategy)
        await world.pass_time(3 * MINUTE)
        assert (await world.state(strategy)).status is Status.STOPPED


async def test_nothing_follows_from_a_reading_that_lacks_an_order_which_was_there(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(2, Script(lost=Lost(surfaces=None)))]))
    strategy = await world.bought()
    await world.sell(strategy)
    await world.settle()
    with reading(lambda rows: []):
        await world.pass_time(4 * MINUTE)
        order = (await world.state(strategy)).order
        assert order is not None
        assert order.phase is Phase.UNKNOWN
    await world.pass_time(4 * MINUTE, until=lambda: _ended(world))
    assert [event.final for event in await world.of_type(OrderFinalized)][:2] == [Final.COMPLETE, Final.NOT_PLACED]
    assert len(await _alerts(world)) == 1


@pytest.mark.parametrize("kind", [Kind.BUY, Kind.SELL])
async def test_the_book_of_another_day_proves_nothing_so_somebody_is_told_to_look(
    open_world: OpenWorld, kind: Kind
) -> None:
    lost = {Kind.BUY: 1, Kind.SELL: 2}[kind]
    world = await open_world(plan=ScriptedPlan([(lost, Script(lost=Lost(surfaces=None)))]))
    strategy = await (world.running if kind is Kind.BUY else world.bought)(product=Product.CNC)
    await (world.buy if kind is Kind.BUY else world.sell)(strategy)
    await world.settle()
    world.connected.clear()
    world.polling = False
    world.clock.set(OPENING + 3 * 24 * HOUR)
    world.connected.add(USER)
    world.polling = True
    await world.pass_time(30 * MINUTE, until=lambda: _ended(world))
    alerts = [a for a in await world.of_type(AlertTriggered) if a.code is Code.OUTCOME_UNKNOWN and "cure" in a.facts]
    assert [(alert.facts["kind"], "holdings" in alert.facts["cure"]) for alert in alerts] == [(kind, True)]


async def _ended(world: World) -> bool:
    return all(not state.alive for state in (await world.states()).values())


# --- several orders with one tag ------------------------------------------------------------------------------------


def _twin(status: BookStatus, **changes: object) -> Callable[[Rows], Rows]:
    """Another order bears the tag of the newest."""

    def add(rows: Rows) -> Rows:
        newest = max(rows, key=lambda row: (len(row.order_id), row.order_id), default=None)
        if newest is None:
            return rows
        twin = replace(newest, order_id=f"{newest.order_id}9", status=status, filled=0, **changes)  # type: ignore[arg-type]
        return [twin, *rows]

    return add


@pytest.mark.parametrize("status", [BookStatus.REJECTED, BookStatus.CANCELLED])
async def test_the_end_of_another_order_with_our_tag_is_not_the_end_of_ours(
    open_world: OpenWorld, status: BookStatus
) -> None:
    """Taken for ours, the exit was over while it rested, and was placed again."""
    world = await open_world(plan=ScriptedPlan([(2, Script(rest=NEVER))]))
    strategy = await world.bought()
    await world.sell(strategy)
    with reading(_twin(status)):
        await world.pass_time(2 * SECOND)
        order = (await world.state(strategy)).order
        assert order is not None
        assert (order.phase, order.kind) == (Phase.LIVE, Kind.SELL)
        assert len(world.hooks.placed) == 2
        assert [alert.severity for alert in await _alerts(world)] == [Severity.CRITICAL]
    await world.finish()


async def test_another_order_with_our_tag_counts_as_somebody_elses(world: World) -> None:
    strategy = await world.bought()
    (row,) = await world.rows()
    sold = replace(row, order_id="999999", side=Side.SELL, filled=4, quantity=4, tag=Tag(row.tag or ""))
    with reading(lambda rows: [sold, *rows]):
        await world.watch()
        await world.sell(strategy)
        await world.pass_time(SECOND)
        assert [event.order_id for event in await world.of_type(UnknownOrderSeen)] == ["999999"]
        assert [request.quantity for request in world.hooks.placed] == [10, 6]
    world.checked = False  # four of its shares are gone, and nobody has said so


# --- what the broker refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [BookStatus.OPEN, BookStatus.REJECTED])
async def test_an_exit_that_was_refused_and_stands_in_the_book_is_cancelled_if_it_lives(
    open_world: OpenWorld, status: BookStatus
) -> None:
    world = await open_world(plan=ScriptedPlan([(2, Script(refuse=THROTTLED)), (3, Script(rest=NEVER))]))
    strategy = await world.bought()
    await world.sell(strategy)
    await world.settle()
    (refused,) = [intent for intent in await world.intents(strategy) if intent.kind is Kind.SELL]
    (bought,) = await world.rows()
    there = replace(bought, order_id="999", tag=refused.tag, side=Side.SELL, filled=0, status=status)
    with reading(lambda rows: [*rows, there]):
        await world.watch()
        await world.settle()
    assert world.hooks.cancelled == (["999"] if status is BookStatus.OPEN else [])
    world.checked = False  # the book of the paper broker knows nothing of it


# --- the evidence itself --------------------------------------------------------------------------------------------


def _row(order_id: str, at: Instant) -> BookOrder:
    return BookOrder(
        order_id=order_id,
        tag=None,
        symbol="NSE:INFY",
        side=Side.BUY,
        product=Product.MIS,
        quantity=1,
        filled=0,
        average_price=None,
        price=None,
        status=BookStatus.OPEN,
        placed_at=at,
    )


def _order(at: int) -> Order:
    return Order(tag=Tag("T"), kind=Kind.BUY, run=1, quantity=1, attempt=1, at=at, deadline=at)


def test_a_row_without_even_an_id_proves_nothing_for_anybody() -> None:
    evidence = Evidence()
    evidence.read(f"PAPER-{USER}", [], [Unread(order_id=None, tag=None, why="garbage")], 0)
    assert not evidence.concerns(_order(10**15), SECOND)


def test_an_order_must_stay_in_the_book_for_its_day_and_in_that_of_its_account() -> None:
    evidence, order = Evidence(), _order(OPENING)
    evidence.read("A", [_row("1", OPENING - 24 * HOUR), _row("2", OPENING)], [], OPENING)
    evidence.read("A", [_row("2", OPENING)], [], OPENING)
    assert evidence.concerns(order, SECOND), "yesterday's may go"
    evidence.read("A", [], [Unread(order_id="2", tag=None, why="odd")], OPENING)
    assert evidence.lacking == [], "it is there, though nobody understands it"
    for _ in range(2):
        evidence.read("A", [], [], OPENING)
        assert evidence.lacking == ["2"]
        assert not evidence.concerns(order, SECOND)
    evidence.read("A", [], [], OPENING + 24 * HOUR)
    assert evidence.lacking == [], "a new day is a new book"
    evidence.read("A", [_row("3", OPENING + 24 * HOUR)], [], OPENING + 24 * HOUR)
    evidence.read("B", [], [], OPENING + 24 * HOUR)
    assert evidence.lacking == []


def test_somebody_elses_row_that_becomes_odd_hides_nothing_and_is_not_missed() -> None:
    evidence = Evidence()
    evidence.read("A", [_row("1", OPENING)], [], OPENING)
    evidence.read("A", [], [Unread(order_id="1", tag="theirs", why="odd", foreign=True)], OPENING)
    assert evidence.concerns(_order(OPENING), SECOND)


def test_the_clocks_of_two_workers_may_lie_apart() -> None:
    evidence = Evidence()
    evidence.read("A", [], [ODD], OPENING)
    assert not evidence.concerns(_order(OPENING + SECOND), SECOND)
    assert evidence.concerns(_order(OPENING + SECOND + 1), SECOND)
