"""An order that may exist is reconciled with the book, never assumed (architecture §5.4)."""

import datetime as dt
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from brokers.paper.plan import NEVER, Lost, Portion, Script, ScriptedPlan
from brokers.port import BookOrder, Placing
from domain.commands import Changes, decide_update
from domain.decide import Decision
from domain.events import (
    AlertTriggered,
    CancelRequested,
    Intent,
    OrderAccepted,
    OrderDenied,
    OrderFinalized,
    OrderOutcomeUnknown,
    UnknownOrderSeen,
)
from domain.facts import Facts
from domain.strategy import State
from domain.tags import make_tag
from domain.values import (
    HOUR,
    MINUTE,
    SECOND,
    Denial,
    Doubt,
    Duration,
    Exit,
    Final,
    Kind,
    OrderRequest,
    Phase,
    Product,
    Side,
    Status,
    Tag,
)
from handlers.decider import Wake, decided, take_turn
from handlers.poller import Poller
from tests.engine.conftest import OpenWorld
from tests.engine.world import USER, HookedBroker, World

ENTRY, EXIT = 1, 2


async def at_the_entry(world: World) -> int:
    strategy = await world.running()
    await world.buy(strategy)
    return strategy


async def at_the_exit(world: World) -> int:
    strategy = await world.bought()
    await world.sell(strategy)
    return strategy


Begin = Callable[[World], Awaitable[int]]
BOTH = pytest.mark.parametrize(("number", "begin"), [(ENTRY, at_the_entry), (EXIT, at_the_exit)], ids=["entry", "exit"])


@BOTH
@pytest.mark.parametrize("surfaces", [0, 8 * SECOND, 47 * SECOND, 90 * SECOND])
async def test_an_unanswered_order_that_exists_is_found_by_its_tag(
    open_world: OpenWorld, number: int, begin: Begin, surfaces: Duration
) -> None:
    world = await open_world(plan=ScriptedPlan([(number, Script(lost=Lost(surfaces=surfaces)))]))
    strategy = await begin(world)
    await world.pass_time(2 * MINUTE)
    state = await world.state(strategy)
    assert len(await world.rows()) == number
    assert len(await world.of_type(OrderAccepted)) == number
    if number == ENTRY:
        assert (state.open_quantity, state.status) == (10, Status.RUNNING)
    else:
        assert (state.open_quantity, state.exit_reason) == (0, Exit.SELL)
    # one that shows in the book before the broker's time-out was never unknown
    unknown = [event.doubt for event in await world.of_type(OrderOutcomeUnknown)]
    assert unknown == ([Doubt.AMBIGUOUS] if surfaces else [])


async def test_an_unanswered_entry_that_does_not_exist_is_given_up_after_the_quarantine(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=None)))]))
    strategy = await at_the_entry(world)
    at = world.clock.now()
    assert await world.pass_time(10 * MINUTE, until=_is(world, strategy, Status.STOPPED))
    # deadline 2 s, request time-out 7 s, skew 1 s, quarantine 120 s
    assert 130 * SECOND <= world.clock.now() - at <= 132 * SECOND
    assert (await world.state(strategy)).exit_reason is Exit.REJECTED
    assert len(world.hooks.placed) == 1, "given up, not tried again"


async def test_an_unanswered_exit_that_does_not_exist_is_placed_again_under_a_new_tag(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(2, Script(lost=Lost(surfaces=None)))]))
    strategy = await at_the_exit(world)
    at = world.clock.now()
    await world.pass_time(10 * SECOND)
    assert "OUTCOME_UNKNOWN" in [alert.code for alert in await world.of_type(AlertTriggered)], "an alert at once"
    assert await world.pass_time(10 * MINUTE, until=_is(world, strategy, Status.STOPPED))
    assert 130 * SECOND <= world.clock.now() - at <= 132 * SECOND
    _, first, second = await world.intents(strategy)
    assert first.tag != second.tag
    assert (await world.state(strategy)).exit_reason is Exit.SELL


def _is(world: World, strategy: int, status: Status) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        return (await world.state(strategy)).status is status

    return reached


@BOTH
async def test_failed_readings_prolong_the_quarantine(open_world: OpenWorld, number: int, begin: Begin) -> None:
    dark = 60 * SECOND
    world = await open_world(plan=ScriptedPlan([(number, Script(lost=Lost(surfaces=None)))]))
    strategy = await begin(world)
    at = world.clock.now()
    await world.exchange.fail_readings(f"PAPER-{USER}", since=at + 50 * SECOND, until=at + 50 * SECOND + dark)
    assert await world.pass_time(10 * MINUTE, until=_is(world, strategy, Status.STOPPED))
    assert 130 * SECOND + dark <= world.clock.now() - at <= 135 * SECOND + dark


async def test_a_book_that_was_dark_from_the_start_prolongs_the_quarantine_too(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=None), dark=200 * SECOND))]))
    strategy = await at_the_entry(world)
    at = world.clock.now()
    assert await world.pass_time(10 * MINUTE, until=_is(world, strategy, Status.STOPPED))
    assert world.clock.now() - at >= 200 * SECOND + 120 * SECOND


async def test_time_without_a_session_prolongs_the_quarantine(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=None)))]))
    strategy = await at_the_entry(world)
    at = world.clock.now()
    await world.pass_time(20 * SECOND)
    world.connected.clear()
    await world.pass_time(3 * MINUTE)
    world.connected.add(USER)
    assert await world.pass_time(10 * MINUTE, until=_is(world, strategy, Status.STOPPED))
    assert world.clock.now() - at >= 130 * SECOND + 3 * MINUTE


async def test_a_book_that_cannot_be_read_is_said_once_and_so_is_that_it_can_again(world: World) -> None:
    await world.bought()
    now = world.clock.now()
    await world.exchange.fail_readings(f"PAPER-{USER}", since=now, until=now + 30 * SECOND)
    with capture_logs() as lines:
        for _ in range(40):
            await world.pass_time(SECOND)
            await world.watch()
    said = [line["event"] for line in lines if line["event"].startswith("book_")]
    assert said == ["book_not_read", "book_read_again"]


async def test_three_readings_at_least(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=None)))]))
    strategy = await at_the_entry(world)
    world.polling = False
    await world.pass_time(3 * MINUTE)
    poller = Poller(world.desk, USER)
    for _ in range(2):
        assert await poller.poll(frozenset({strategy})) == 0
    assert await poller.poll(frozenset({strategy})) == 1
    assert [event.final for event in await world.of_type(OrderFinalized)] == [Final.NOT_PLACED]
    world.polling = True


async def test_a_reading_counts_for_the_moment_at_which_it_was_asked_for(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=None)))]))
    strategy = await at_the_entry(world)
    world.polling = False
    await world.pass_time(20 * SECOND)
    poller = Poller(world.desk, USER)
    for _ in range(3):
        await poller.poll(frozenset({strategy}))
    of = world.brokers.of

    async def read_and_wait(user_id: int) -> object:
        broker = await of(user_id)
        orders = broker.orders  # type: ignore[union-attr]

        async def slow_orders() -> object:
            rows = await orders()
            world.clock.set(world.clock.now() + HOUR)
            return rows

        broker.orders = slow_orders  # type: ignore[union-attr, method-assign, assignment]
        return broker

    world.brokers.of = read_and_wait  # type: ignore[method-assign, assignment]
    assert await poller.poll(frozenset({strategy})) == 0, "what it showed is what was there an hour ago"
    world.brokers.of = of  # type: ignore[method-assign]
    world.polling = True


# --- the sender dies ------------------------------------------------------------------------------------------------


async def _die(world: World, begin: Begin, *, sent: bool) -> int:
    """The worker dies between the intent and the send, or between the send and the outcome."""

    async def hang_before(request: OrderRequest) -> None:
        await world.clock.sleep(HOUR)

    async def hang_after(request: OrderRequest, answer: Placing) -> None:
        await world.clock.sleep(HOUR)

    strategy = await world.running() if begin is at_the_entry else await world.bought()
    world.hooks.before_place = None if sent else hang_before
    world.hooks.after_place = hang_after if sent else None
    world.polling = False
    await (world.buy(strategy) if begin is at_the_entry else world.sell(strategy))
    await world.settle()
    assert (await world.state(strategy)).order.phase is Phase.SENDING  # type: ignore[union-attr]
    await world.kill(world.processes[0])
    world.hooks.before_place = world.hooks.after_place = None
    world.polling = True
    await world.hire("w1")
    return strategy


@BOTH
async def test_an_order_whose_sender_died_before_sending_it_is_absent_after_ten_seconds(
    world: World, number: int, begin: Begin
) -> None:
    strategy = await _die(world, begin, sent=False)
    at = world.clock.now()
    assert await world.pass_time(10 * MINUTE, until=_is(world, strategy, Status.STOPPED))
    assert 20 * SECOND <= world.clock.now() - at <= 22 * SECOND
    assert [event.doubt for event in await world.of_type(OrderOutcomeUnknown)] == [Doubt.DEAD_SENDER]
    assert len(world.hooks.placed) == (0 if number == ENTRY else 2)
    assert (await world.state(strategy)).exit_reason is (Exit.REJECTED if number == ENTRY else Exit.SELL)


@BOTH
async def test_an_order_whose_sender_died_after_sending_it_is_found(world: World, number: int, begin: Begin) -> None:
    strategy = await _die(world, begin, sent=True)
    await world.pass_time(15 * SECOND)
    assert (await world.state(strategy)).open_quantity == (10 if number == ENTRY else 0)
    assert len(world.hooks.placed) == len(await world.rows()) == number


@BOTH
async def test_a_sender_thought_dead_that_answers_ambiguously_makes_the_quarantine_long(
    open_world: OpenWorld, number: int, begin: Begin
) -> None:
    slow = Script(lost=Lost(surfaces=60 * SECOND, timeout=15 * SECOND))
    world = await open_world(plan=ScriptedPlan([(number, slow)]))
    strategy = await begin(world)
    await world.pass_time(3 * MINUTE)
    doubts = [event.doubt for event in await world.of_type(OrderOutcomeUnknown)]
    assert doubts == [Doubt.DEAD_SENDER, Doubt.AMBIGUOUS]
    assert len(await world.rows()) == number
    assert (await world.state(strategy)).open_quantity == (10 if number == ENTRY else 0)


@BOTH
async def test_a_sender_thought_dead_that_is_accepted_late_is_believed(
    open_world: OpenWorld, number: int, begin: Begin
) -> None:
    world = await open_world(plan=ScriptedPlan([(number, Script(latency=12 * SECOND))]))
    world.polling = False
    strategy = await begin(world)
    if number == EXIT:
        world.polling = False
    await world.pass_time(30 * SECOND)
    world.polling = True
    await world.pass_time(30 * SECOND)
    assert (await world.state(strategy)).open_quantity == (10 if number == ENTRY else 0)
    assert len(world.hooks.placed) == number


# --- it surfaces after all ------------------------------------------------------------------------------------------


async def test_an_entry_that_surfaces_after_it_was_given_up_is_sold_again(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=5 * MINUTE)))]))
    strategy = await at_the_entry(world)
    await world.pass_time(10 * MINUTE)
    state = await world.state(strategy)
    assert (state.surfaced, state.status) == (0, Status.STOPPED)
    buy, sale = await world.intents(strategy)
    assert (buy.kind, sale.kind, sale.request.quantity) == (Kind.BUY, Kind.SURFACED, 10)
    assert "ORDER_SURFACED" in state.alerted


async def test_an_entry_that_surfaces_resting_is_cancelled(open_world: OpenWorld) -> None:
    rests = Script(lost=Lost(surfaces=5 * MINUTE), fills=(Portion(4),), rest=NEVER)
    world = await open_world(plan=ScriptedPlan([(1, rests)]))
    strategy = await at_the_entry(world)
    await world.pass_time(10 * MINUTE)
    state = await world.state(strategy)
    assert not state.lingering
    assert state.surfaced == 0
    assert len(await world.of_type(CancelRequested)) == 1
    assert [(row.side, row.filled) for row in await world.rows()] == [("BUY", 4), ("SELL", 4)]


async def test_an_entry_that_surfaces_in_the_next_run_stays_out_of_it(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(1, Script(lost=Lost(surfaces=10 * MINUTE)))]))
    strategy = await at_the_entry(world)
    await world.pass_time(3 * MINUTE)
    state = await world.state(strategy)
    assert state.status is Status.STOPPED

    def later(state: State, facts: Facts) -> Decision:
        events = decide_update(state, Changes(buy_time=dt.time(9, 24)), facts)
        assert isinstance(events, tuple)
        return decided(state, events)

    await take_turn(world.desk, strategy, later, Wake())
    await world.start(strategy)
    await world.buy(strategy)
    await world.settle()
    assert (await world.state(strategy)).open_quantity == 10
    await world.pass_time(10 * MINUTE)
    state = await world.state(strategy)
    assert (state.open_quantity, state.surfaced, state.status) == (10, 0, Status.RUNNING)
    assert [row.filled for row in await world.rows()] == [10, 10, 10]


async def test_an_exit_that_surfaces_after_its_replacement_sold_alerts(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(2, Script(lost=Lost(surfaces=5 * MINUTE)))]))
    strategy = await at_the_exit(world)
    await world.pass_time(10 * MINUTE)
    state = await world.state(strategy)
    assert state.open_quantity + state.surfaced == -10
    assert "OVERSOLD" in state.alerted


# --- what is not ours -----------------------------------------------------------------------------------------------


async def _by_hand(world: World, tag: str) -> None:
    request = OrderRequest(symbol="NSE:INFY", side=Side.BUY, quantity=3, product=Product.MIS, tag=Tag(tag))
    await world.exchange.place(f"PAPER-{USER}", request)


async def test_an_order_of_foreign_origin_is_reported_once(world: World) -> None:
    await world.tick("150")
    await _by_hand(world, "BYHAND")
    await _by_hand(world, "BYHANDTOO")
    for _ in range(3):
        await world.watch()
        await Poller(world.desk, USER).poll(frozenset())
    seen = await world.of_type(UnknownOrderSeen)
    assert [(event.account, event.filled) for event in seen] == [(f"PAPER-{USER}", 3)] * 2
    assert [alert.code for alert in await world.of_type(AlertTriggered)] == ["UNKNOWN_ORDER"] * 2


@pytest.mark.parametrize("strategy_of_nobody", [True, False])
async def test_an_order_that_bears_our_sign_and_was_never_asked_for_is_reported(
    open_world: OpenWorld, strategy_of_nobody: bool
) -> None:
    world = await open_world()
    strategy = await world.bought()
    tag = make_tag(world.log.log_id, 999_999 if strategy_of_nobody else strategy, 1, 77)
    await _by_hand(world, tag)
    for _ in range(2):
        await world.watch()
    assert [event.tag for event in await world.of_type(UnknownOrderSeen)] == [tag]
    assert (await world.state(strategy)).open_quantity == 10
    world.checked = False  # that order has no intent, which is the point


async def test_another_logs_order_is_foreign(world: World) -> None:
    await world.tick("150")
    strategy = await world.running()
    await _by_hand(world, make_tag("ZZZZ", strategy, 1, 1))
    await world.watch()
    assert len(await world.of_type(UnknownOrderSeen)) == 1


async def test_an_order_that_a_reading_shows_without_its_tag_is_ours_again_with_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = await world.running()
    await world.buy(strategy)
    world.polling = False
    await world.settle()
    read = HookedBroker.orders

    async def tagless(broker: HookedBroker) -> list[BookOrder]:
        return [replace(row, tag=None) for row in await read(broker)]

    with monkeypatch.context() as patch:
        patch.setattr(HookedBroker, "orders", tagless)
        await world.watch()
    assert (await world.state(strategy)).open_quantity == 0
    assert len(await world.of_type(UnknownOrderSeen)) == 1
    world.polling = True
    await world.watch()
    state, facts = await world.desk.look(strategy)
    assert (state.open_quantity, facts.foreign) == (10, 0)
    await world.sell(strategy)
    await world.finish()


async def test_nothing_is_sent_late_after_a_denial(world: World) -> None:
    strategy = await world.bought()

    async def stall(intent: Intent) -> None:
        world.processes[0].wire.after_intent = None
        world.clock.set(intent.deadline + 20 * SECOND)

    world.processes[0].wire.after_intent = stall
    await world.sell(strategy)
    await world.finish()
    assert [event.reason for event in await world.of_type(OrderDenied)] == [Denial.TOO_LATE]
    assert (await world.state(strategy)).exit_reason is Exit.SELL


async def test_readings_that_are_older_than_what_is_known_change_nothing(open_world: OpenWorld) -> None:
    bits = Script(fills=(Portion(1), Portion(3, after=SECOND)), rest=SECOND)
    world = await open_world(plan=ScriptedPlan([], otherwise=bits))
    strategy = await at_the_entry(world)
    readings = []
    broker = await world.brokers.of(USER)
    assert broker is not None
    for _ in range(4):
        await world.pass_time(SECOND)
        readings.append(await broker.orders())
    known = await world.history(strategy)
    of = world.brokers.of

    class Replica:
        """A server of the broker's that lags behind."""

        def __init__(self, rows: object) -> None:
            self.rows = rows

        async def orders(self) -> object:
            return self.rows

        def __getattr__(self, name: str) -> object:
            return getattr(broker, name)

    for number in (2, 0, 1, 3, 0):

        async def lagging(user_id: int, rows: object = readings[number]) -> object:
            return Replica(rows)

        world.brokers.of = lagging  # type: ignore[method-assign, assignment]
        assert await Poller(world.desk, USER).poll(frozenset({strategy})) == 0
    world.brokers.of = of  # type: ignore[method-assign]
    assert await world.history(strategy) == known
    assert (await world.state(strategy)).open_quantity == 10
