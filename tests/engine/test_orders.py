"""Placing an order safely (architecture §5): the intent before the send, and each known answer of the broker."""

import datetime as dt
from decimal import Decimal

import pytest

from brokers.paper.plan import SESSION_EXPIRED, THROTTLED, Rejection, Script, ScriptedPlan
from brokers.port import NotPlaced, OrderLimits, Placing
from domain.events import (
    AlertTriggered,
    BuyTriggered,
    ExecuteBuy,
    ExecuteStoploss,
    Intent,
    LockConflict,
    OrderDenied,
    OrderFilled,
    OrderFinalized,
    OrderRejected,
    OrderRetryRequired,
    SafetyAbort,
    StrategyExited,
)
from domain.values import HOUR, SECOND, Code, Denial, Exit, Final, Kind, OrderRequest, Status
from handlers.limits import EARLY
from handlers.poller import Poller
from tests.engine.conftest import OpenWorld
from tests.engine.world import CLOSE, USER, World

BUSY = NotPlaced(reason="EXCHANGE_BUSY", curable=True)
MARGIN = NotPlaced(reason="MARGIN", curable=False)


async def test_a_strategy_buys_at_its_time_and_sells_at_its_time(world: World) -> None:
    strategy = await world.bought()
    state = await world.state(strategy)
    assert (state.position, state.open_quantity) == ("bought", 10)
    await world.sell(strategy)
    await world.settle()
    state = await world.state(strategy)
    assert (state.status, state.position, state.exit_reason) == ("stopped", "sold", "SELL")


async def test_the_stop_loss_sells_at_once(world: World) -> None:
    strategy = await world.bought()
    await world.stop_loss(strategy)
    await world.settle()
    state = await world.state(strategy)
    assert (state.status, state.position, state.exit_reason) == ("stopped", "exited_by_sl", "STOPLOSS")
    assert state.sell_value == Decimal("1395.0")


async def test_the_intent_is_in_the_log_before_the_broker_hears_of_the_order(world: World) -> None:
    strategy = await world.running()
    seen: list[list[str]] = []

    async def look(request: OrderRequest) -> None:
        seen.append([intent.tag for intent in await world.intents(strategy)])
        assert (await world.state(strategy)).lock_state == request.tag

    world.hooks.before_place = look
    await world.buy(strategy)
    await world.settle()
    assert seen == [[world.hooks.placed[0].tag]]


async def test_the_intent_says_everything_that_is_sent(world: World) -> None:
    strategy = await world.bought(quantity=25)
    (intent,) = await world.intents(strategy)
    assert isinstance(intent, ExecuteBuy)
    assert intent.request == world.hooks.placed[0]
    assert (intent.attempt, intent.deadline - intent.at) == (1, world.policy.send_deadline)
    trigger = next(record for record in await world.records() if record.event.type == "BUY_TRIGGERED")
    assert intent.cause == trigger.event_id
    story = [record for record in await world.records() if record.event is not intent]
    accepted = next(record for record in story if record.event.type == "ORDER_ACCEPTED")
    assert accepted.correlation_id == trigger.event_id


async def test_a_repeated_trigger_places_nothing_more(world: World) -> None:
    strategy = await world.bought()
    for _ in range(3):
        await world.buy(strategy)
        await world.settle()
    assert len(world.hooks.placed) == 1


async def test_a_trigger_of_an_earlier_run_places_nothing(world: World) -> None:
    strategy = await world.running()
    state = await world.state(strategy)
    await world.tick("150")
    await world.tell(strategy, BuyTriggered(run=state.run - 1, due_at=state.buy_at))
    await world.settle()
    assert world.hooks.placed == []


# --- known not placed -----------------------------------------------------------------------------------------------


async def test_a_curable_rejection_is_tried_again_after_the_back_off(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(1, Script(refuse=BUSY)), (2, Script(refuse=BUSY))]))
    strategy = await world.bought()
    assert len(world.hooks.placed) == 1
    await world.pass_time(10 * SECOND)
    first, second, third = await world.intents(strategy)
    assert [first.attempt, second.attempt, third.attempt] == [1, 2, 3]
    assert second.at - first.at == SECOND
    assert third.at - second.at == 2 * SECOND
    assert len({first.tag, second.tag, third.tag}) == 3
    assert (await world.state(strategy)).open_quantity == 10


async def test_the_third_rejection_of_an_entry_aborts(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([], otherwise=Script(refuse=BUSY)))
    strategy = await world.bought()
    await world.pass_time(HOUR)
    assert len(world.hooks.placed) == 3
    assert [abort.reason for abort in await world.of_type(SafetyAbort)] == ["RETRIES_EXHAUSTED"]
    assert (await world.state(strategy)).status is Status.FAILED


async def test_the_third_rejection_of_an_exit_aborts_keeps_the_position_and_alerts(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(1, Script())], otherwise=Script(refuse=BUSY)))
    strategy = await world.bought()
    await world.sell(strategy)
    await world.pass_time(10 * SECOND)
    state = await world.state(strategy)
    assert (state.status, state.open_quantity, state.exit_reason) == (Status.FAILED, 10, Exit.ABORT)
    assert "UNPROTECTED_POSITION" in state.alerted
    assert len(world.hooks.placed) == 4


async def test_a_rejection_that_cannot_be_cured_is_not_tried_again(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([], otherwise=Script(refuse=MARGIN)))
    strategy = await world.bought()
    await world.pass_time(HOUR)
    assert len(world.hooks.placed) == 1
    assert [abort.reason for abort in await world.of_type(SafetyAbort, strategy)] == ["BROKER_REFUSED"]


async def test_a_429_is_tried_again_and_not_counted(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(n, Script(refuse=THROTTLED)) for n in range(1, 8)]))
    strategy = await world.bought()
    await world.pass_time(20 * SECOND)
    assert {intent.attempt for intent in await world.intents(strategy)} == {1}
    assert {retry.counted for retry in await world.of_type(OrderRetryRequired)} == {False}
    assert (await world.state(strategy)).open_quantity == 10


async def test_an_order_rejected_after_it_was_accepted_is_tried_again(open_world: OpenWorld) -> None:
    late = Script(reject=Rejection(reason="EXCHANGE_BUSY", curable=True, after=SECOND))
    world = await open_world(plan=ScriptedPlan([(1, late), (3, late)]))
    strategy = await world.bought()
    await world.pass_time(10 * SECOND)
    assert (await world.state(strategy)).open_quantity == 10
    await world.sell(strategy)
    await world.finish()
    assert [rejected.order_id is not None for rejected in await world.of_type(OrderRejected)] == [True, True]
    assert (await world.state(strategy)).exit_reason is Exit.SELL


async def test_without_a_broker_session_an_entry_is_denied(world: World) -> None:
    strategy = await world.running()
    world.connected.clear()
    await world.buy(strategy)
    await world.settle()
    assert world.hooks.placed == []
    (denied,) = await world.of_type(OrderDenied)
    assert denied.reason is Denial.NO_SESSION
    assert (await world.state(strategy)).exit_reason is Exit.DENIED


async def test_without_a_broker_session_an_exit_aborts_and_is_squared_off_after_reconnecting(world: World) -> None:
    strategy = await world.bought()
    world.connected.clear()
    await world.stop_loss(strategy)
    await world.settle()
    state = await world.state(strategy)
    assert (state.status, state.open_quantity) == (Status.FAILED, 10)
    assert [abort.reason for abort in await world.of_type(SafetyAbort)] == ["TOKEN_INVALID"]
    world.connected.add(USER)
    await world.stop(strategy, square_off=True)
    await world.settle()
    assert (await world.state(strategy)).open_quantity == 0


@pytest.mark.parametrize("side", ["entry", "exit"])
async def test_a_session_that_ends_between_the_intent_and_the_send_is_found_by_the_sender(
    world: World, side: str
) -> None:
    strategy = await world.running() if side == "entry" else await world.bought()

    async def disconnect(intent: Intent) -> None:
        world.connected.clear()

    world.processes[0].wire.after_intent = disconnect
    await (world.buy(strategy) if side == "entry" else world.sell(strategy))
    await world.settle()
    assert [event.reason for event in await world.of_type(OrderDenied)] == [Denial.NO_SESSION]
    assert len(await world.rows()) == (0 if side == "entry" else 1)
    aborted = [abort.reason for abort in await world.of_type(SafetyAbort)]
    assert aborted == ([] if side == "entry" else ["TOKEN_INVALID"])
    assert (await world.state(strategy)).exit_reason is (Exit.DENIED if side == "entry" else Exit.ABORT)


async def test_a_session_that_the_broker_calls_expired_aborts_an_exit(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(2, Script(refuse=SESSION_EXPIRED))]))
    strategy = await world.bought()
    await world.sell(strategy)
    await world.settle()
    world.connected.clear()
    await world.pass_time(2 * SECOND)
    assert [abort.reason for abort in await world.of_type(SafetyAbort)] == ["TOKEN_INVALID"]
    assert (await world.state(strategy)).open_quantity == 10
    world.connected.add(7)


async def test_an_exit_that_the_last_session_could_not_send_is_sent_by_the_next(open_world: OpenWorld) -> None:
    world = await open_world(plan=ScriptedPlan([(2, Script(refuse=SESSION_EXPIRED))]))
    strategy = await world.bought()
    await world.stop_loss(strategy)
    await world.pass_time(2 * SECOND)
    assert (await world.state(strategy)).position == "exited_by_sl"
    assert await world.of_type(SafetyAbort) == []


async def test_brokers_that_cannot_be_asked_at_all_have_placed_nothing(world: World) -> None:
    of = world.brokers.of

    async def fails(user_id: int) -> object:
        world.brokers.of = of  # type: ignore[method-assign]
        raise OSError("no such host")

    async def cut_the_line(intent: Intent) -> None:
        world.processes[0].wire.after_intent = None
        world.brokers.of = fails  # type: ignore[method-assign, assignment]

    holder = await world.bought()
    world.processes[0].wire.after_intent = cut_the_line
    await world.sell(holder)
    await world.settle()
    assert [rejected.reason for rejected in await world.of_type(OrderRejected)] == ["BROKER_UNREACHABLE"]
    await world.pass_time(SECOND)
    assert (await world.state(holder)).exit_reason is Exit.SELL
    assert len(world.hooks.placed) == len(await world.rows()) == 2


# --- the sender -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
async def test_an_order_is_sent_up_to_its_deadline_and_not_after_it(world: World, late: bool) -> None:
    strategy = await world.bought()

    async def stall(intent: Intent) -> None:
        world.processes[0].wire.after_intent = None
        world.clock.set(intent.deadline + (1 if late else 0))

    world.processes[0].wire.after_intent = stall
    await world.sell(strategy)
    await world.settle()
    assert [event.reason for event in await world.of_type(OrderDenied)] == ([Denial.TOO_LATE] if late else [])
    tags = [intent.tag for intent in await world.intents(strategy) if intent.kind is not Kind.BUY]
    assert len(tags) == (2 if late else 1), "an exit is still due and is decided again under a new tag"
    assert [row.tag for row in await world.rows()][1:] == tags[-1:]
    assert (await world.state(strategy)).exit_reason is Exit.SELL


async def test_an_entry_past_its_deadline_is_given_up(world: World) -> None:
    strategy = await world.running()

    async def stall(intent: Intent) -> None:
        world.clock.set(intent.deadline + 1)

    world.processes[0].wire.after_intent = stall
    await world.buy(strategy)
    await world.settle()
    assert world.hooks.placed == []
    assert (await world.state(strategy)).exit_reason is Exit.DENIED


async def test_a_halt_between_the_intent_and_the_send_holds_the_entry_back(world: World) -> None:
    strategy = await world.running()

    async def halt(intent: Intent) -> None:
        await world.halt()

    world.processes[0].wire.after_intent = halt
    await world.buy(strategy)
    await world.settle()
    assert world.hooks.placed == []
    assert [event.reason for event in await world.of_type(OrderDenied)] == [Denial.HALTED]
    assert [event.final for event in await world.of_type(OrderFinalized)] == [Final.NOT_PLACED]
    assert (await world.state(strategy)).exit_reason is Exit.HALTED


async def test_an_entry_whose_latch_cannot_be_read_is_held_back_and_an_exit_goes(world: World) -> None:
    strategy, holder = await world.running(), await world.bought(quantity=3)
    wire = world.processes[0].wire

    async def cut_the_line(intent: Intent) -> None:
        last = wire.calls
        wire.fault = lambda number, name: "call lost" if name == "halt" and number == last + 1 else ""

    wire.after_intent = cut_the_line
    await world.buy(strategy)
    await world.settle()
    await world.sell(holder)
    await world.settle()
    assert [event.reason for event in await world.of_type(OrderDenied)] == [Denial.HALTED]
    assert [request.quantity for request in world.hooks.placed] == [3, 3]


async def test_a_halt_does_not_hold_an_exit_back(world: World) -> None:
    strategy = await world.bought()
    await world.halt()
    await world.stop_loss(strategy)
    await world.settle()
    assert (await world.state(strategy)).exit_reason is Exit.STOPLOSS


async def test_an_entry_whose_latch_cannot_be_read_is_held_back(world: World) -> None:
    strategy = await world.running()
    process = world.processes[0]
    appended = False

    def after_the_intent(number: int, name: str) -> str:
        return "call lost" if appended and name == "load" and not denied else ""

    denied: list[int] = []
    append = process.log.append

    async def note(*args: object, **kwargs: object) -> object:
        nonlocal appended
        result = await append(*args, **kwargs)
        if any(isinstance(new.event, Intent) for new in args[0]):  # type: ignore[attr-defined]
            appended = True
        return result

    process.log.append = note  # type: ignore[method-assign, assignment]
    look = process.wire.fault = after_the_intent
    assert look
    await world.buy(strategy)
    process.wire.fault = lambda n, name: after_the_intent(n, name) if not denied.append(n) or len(denied) < 2 else ""
    await world.settle()
    process.wire.fault = None
    await world.settle()
    assert len(world.hooks.placed) <= 1


async def test_a_broker_that_raises_has_given_no_answer(world: World) -> None:
    strategy = await world.running()

    async def breaks(request: OrderRequest) -> None:
        raise RuntimeError("an adapter's defect")

    world.hooks.before_place = breaks
    await world.buy(strategy)
    await world.settle()
    assert (await world.state(strategy)).order.phase == "unknown"  # type: ignore[union-attr]
    world.hooks.before_place = None
    await world.finish()
    assert (await world.state(strategy)).exit_reason is Exit.REJECTED


async def test_an_answer_after_the_fills_changes_nothing(world: World) -> None:
    strategy = await world.running()

    async def read_the_book_first(request: OrderRequest, answer: Placing) -> None:
        await world.poll()

    world.hooks.after_place = read_the_book_first
    await world.buy(strategy)
    await world.settle()
    types = await world.types(strategy)
    assert [types.count(name) for name in ("ORDER_ACCEPTED", "ORDER_FILLED", "ORDER_FINALIZED")] == [1, 1, 1]


async def test_the_same_reading_twice_by_two_pollers_is_told_once(world: World) -> None:
    strategy = await world.running()
    await world.buy(strategy)
    world.polling = False
    await world.settle()
    for _ in range(3):
        await Poller(world.desk, USER).poll(frozenset({strategy}))
    world.polling = True
    await world.settle()
    assert len(await world.of_type(OrderFilled)) == 1


# --- limits ---------------------------------------------------------------------------------------------------------


async def test_ten_orders_a_second_with_a_share_for_exits(open_world: OpenWorld) -> None:
    world = await open_world(limits=OrderLimits())
    strategies = [await world.running() for _ in range(30)]
    await world.buy(*strategies)
    begun = world.clock.now()
    await world.settle()
    assert len(world.hooks.placed) == 8, "two of ten are kept for exits"
    await world.pass_time(5 * SECOND)
    assert len(world.hooks.placed) == 30
    per_second: dict[int, int] = {}
    for intent in await world.intents():
        per_second[intent.at // SECOND] = per_second.get(intent.at // SECOND, 0) + 1
    assert max(per_second.values()) == 8
    assert max(per_second) - begun // SECOND == 3, "as fast as the limit allows"


async def test_an_exit_takes_the_share_that_entries_may_not(open_world: OpenWorld) -> None:
    world = await open_world(limits=OrderLimits())
    holder = await world.bought(buy_time=dt.time(9, 19))
    strategies = [await world.running() for _ in range(12)]
    await world.buy(*strategies)
    await world.settle()
    await world.stop_loss(holder)
    await world.settle()
    assert (await world.state(holder)).position == "exited_by_sl"
    assert [type(intent) for intent in await world.intents()].count(ExecuteStoploss) == 1
    await world.pass_time(2 * SECOND)


async def test_an_exit_without_room_waits_for_the_next_window(open_world: OpenWorld) -> None:
    world = await open_world(limits=OrderLimits(second=2, reserve=0.1))
    one, two, three = [await world.running() for _ in range(3)]
    await world.buy(one, two, three)
    await world.pass_time(5 * SECOND)
    await world.wait_until((world.clock.now() // SECOND + 1) * SECOND)
    await world.stop_loss(one, two, three)
    at = world.clock.now()
    await world.settle()
    assert len(await world.of_type(StrategyExited)) == 2
    await world.pass_time(2 * SECOND)
    assert len(await world.of_type(StrategyExited)) == 3
    assert (await world.intents())[-1].at == (at // SECOND + 1) * SECOND + EARLY
    assert await world.of_type(OrderRetryRequired) == [], "waiting for room is no attempt"


async def test_an_entry_beyond_the_days_limit_is_denied_and_an_exit_is_not(open_world: OpenWorld) -> None:
    world = await open_world(limits=OrderLimits(day=4, reserve=0.5))
    one, two, three = [await world.running() for _ in range(3)]
    await world.buy(one, two)
    await world.settle()
    await world.buy(three)
    await world.settle()
    assert [event.reason for event in await world.of_type(OrderDenied)] == [Denial.LIMIT_DAY]
    await world.stop_loss(one, two)
    await world.settle()
    assert [(await world.state(each)).exit_reason for each in (one, two, three)] == ["STOPLOSS", "STOPLOSS", "DENIED"]


async def test_an_exit_beyond_the_days_limit_is_alerted_and_stays_due(open_world: OpenWorld) -> None:
    world = await open_world(limits=OrderLimits(day=3, reserve=0.3))
    one, two = [await world.running() for _ in range(2)]
    await world.buy(one, two)
    await world.settle()
    await world.stop_loss(one, two)
    await world.pass_time(60 * SECOND)
    assert sorted([(await world.state(each)).open_quantity for each in (one, two)]) == [0, 10]
    alerts = [event for event in await world.of_type(AlertTriggered) if event.code is Code.UNPROTECTED_POSITION]
    assert [event.facts["cause"] for event in alerts] == ["LIMIT_DAY"]
    await world.wait_until(CLOSE + SECOND)
    await world.settle()
    assert sorted([(await world.state(each)).exit_reason for each in (one, two)]) == [Exit.SESSION_END, Exit.STOPLOSS]


async def test_what_never_left_uses_up_no_order_of_the_day(open_world: OpenWorld) -> None:
    """An exit is tried every second while the line is out: ten strategies would spend a day's limit in minutes."""
    out = NotPlaced("BROKER_UNREACHABLE", curable=True, counted=False, text="not sent: no route to host")
    plan = ScriptedPlan([(number, Script(refuse=out)) for number in range(2, 122)])
    world = await open_world(plan=plan, limits=OrderLimits(day=10))
    strategy = await world.bought()
    await world.stop_loss(strategy)
    await world.pass_time(121 * SECOND)
    assert (await world.state(strategy)).position == "exited_by_sl"
    assert len(world.hooks.placed) == 122
    alerts = [event.code for event in await world.of_type(AlertTriggered)]
    assert alerts == [Code.EXIT_NOT_FILLING], "at once, and again after five minutes"
    assert await world.of_type(SafetyAbort) == []


async def test_one_users_limits_are_not_anothers(open_world: OpenWorld) -> None:
    world = await open_world(limits=OrderLimits(second=2, reserve=0.1), users=(7, 8))
    mine = [await world.running() for _ in range(3)]
    other = await world.running(user=8)
    await world.buy(*mine, other)
    await world.settle()
    assert len(await world.rows(8)) == 1
    assert len(await world.rows(7)) == 1
    await world.pass_time(5 * SECOND)


# --- two workers ----------------------------------------------------------------------------------------------------


async def test_of_two_workers_that_decide_at_once_one_sends(open_world: OpenWorld) -> None:
    world = await open_world(workers=("w1", "w2"))
    strategy = await world.bought()
    first, second = world.processes
    await world.sell(strategy)
    # the second decides between the first one's look and its append
    load = first.log.load
    lured: list[int] = []

    async def load_and_be_overtaken(*args: object, **kwargs: object) -> object:
        loaded = await load(*args, **kwargs)  # type: ignore[arg-type]
        if not lured:
            lured.append(1)
            await world.stop_loss(strategy)
            await second.worker.step()
        return loaded

    first.log.load = load_and_be_overtaken  # type: ignore[method-assign, assignment]
    await first.worker.step()
    await world.settle()
    exits = [intent for intent in await world.intents(strategy) if intent.kind is not Kind.BUY]
    assert len(exits) == 1
    assert (await world.state(strategy)).status is Status.STOPPED
    assert len(await world.of_type(LockConflict)) <= 1


async def test_a_process_that_bears_anothers_name_places_no_order_without_an_intent(open_world: OpenWorld) -> None:
    world = await open_world(workers=())
    log = await world.log_of("twin")
    first = await world.hire("w1", log)
    one, two = await world.bought(), await world.running(buy_time=dt.time(9, 21))
    await world.kill(first)
    await world.hire("w1", await world.log_of("twin"))
    await world.buy(two)
    await world.settle()
    assert [row.tag for row in await world.rows()] == [intent.tag for intent in await world.intents()]
    assert (await world.state(two)).open_quantity == (await world.state(one)).open_quantity == 10
    world.checked = False  # ids are used twice, which is the point
