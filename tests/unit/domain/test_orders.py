"""Rules 1–8: the orders that exist, in every status (architecture §4.1)."""

import datetime as dt
from decimal import Decimal

import pytest
from msgspec.structs import replace

from bahi.testing.story import (
    Scene,
    Word,
    aborted,
    absent,
    accepted,
    alert,
    at,
    bought,
    buy_triggered,
    cancel_refused,
    cancel_requested,
    cancelled,
    change_refused,
    completed,
    connected,
    day_begun,
    day_spent,
    decided,
    denied,
    denied_by_sender,
    disconnected,
    ended,
    execute_buy,
    execute_sell,
    execute_stoploss,
    execute_surfaced,
    exiting,
    filled,
    finalized,
    given,
    halted,
    happened,
    instrument,
    intended,
    later,
    modify_requested,
    no_instrument,
    outcome_unknown,
    policy,
    position_settled,
    price,
    rejected,
    retry_required,
    safety_abort,
    sell_triggered,
    settled,
    started,
    started_with,
    stop_requested,
    stoploss_triggered,
    throttled,
    told,
    unknown,
    unreachable,
    updated,
    woken,
)
from domain.events import ModifyRejected, OrderFilled, OrderFinalized
from domain.values import Abort, Code, Denial, Doubt, Exit, Final, Holding, Kind, Phase, Product, Tag

TUESDAY = dt.date(2026, 6, 16)
BUYING = told(buy_triggered, intended(Kind.BUY))


# --- 1: surfaced orders, and exits that are too large ---------------------------------------------------------------


def test_an_order_that_shows_up_after_it_was_given_up_is_cancelled_and_alerted():
    (
        given(started, BUYING, unknown(), absent, decided)
        .when(accepted(of=1))
        .then(cancel_requested(), alert(Code.ORDER_SURFACED))
        .then_state(lock_state=given(started, BUYING).scene.order.tag)
    )


def test_a_surfaced_order_is_cancelled_even_when_the_run_is_over_and_its_fill_is_sold():
    story = given(started, BUYING, unknown(), absent, decided).when(accepted(of=1)).when(later(1), filled(4, of=1))
    story.then_nothing().then_state(surfaced=4, open_quantity=0)
    story.when(cancelled(4, of=1)).then(execute_surfaced(4))
    story.when(accepted(), completed()).then_nothing().then_state(surfaced=0)


def test_a_surfaced_exit_is_cancelled_while_its_successor_lives():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL), unknown(), absent, decided, accepted())
    story.when(accepted(of=2)).then(cancel_requested(tag=story.scene.tag(2)), alert(Code.ORDER_SURFACED))


def test_a_refused_cancel_of_a_surfaced_order_is_asked_again_after_its_deadline_until_the_book_says_it_filled():
    story = given(started, BUYING, unknown(), absent, decided).when(accepted(of=1))
    story.when(cancel_refused(of=1)).then_nothing()
    story.when(later(2)).then(cancel_requested())
    story.when(filled(10, of=1), finalized(Final.COMPLETE, 10, of=1)).then(execute_surfaced(10))


def test_a_fill_alone_reopens_an_order_that_was_given_up():
    story = given(started, BUYING, unknown(), absent, decided).when(filled(4, of=1))
    story.then(cancel_requested(), alert(Code.ORDER_SURFACED)).then_state(surfaced=4)


def test_an_order_that_the_broker_refused_and_has_all_the_same_is_cancelled_beside_its_successor():
    """429 and the like are taken for certain, so that an exit is not held up; the book has the last word."""
    story = given(started, bought(), sell_triggered, intended(Kind.SELL), throttled, decided, later(1), decided)
    story.when(accepted(of=2)).then(cancel_requested(tag=story.scene.tag(2)), alert(Code.ORDER_SURFACED))
    story.when(rejected()).then(retry_required())
    story.when(later(1)).then_nothing()
    story.when(cancelled(4, of=2)).then(execute_sell(6))


def test_an_order_that_the_broker_refused_and_filled_all_the_same_is_sold_again():
    story = given(started, BUYING, rejected("MARGIN", curable=False), decided)
    story.when(filled(10, of=1), finalized(Final.COMPLETE, 10, of=1))
    story.then(alert(Code.ORDER_SURFACED), execute_surfaced(10))


def test_an_order_that_was_rejected_in_the_book_is_over():
    given(started, BUYING, accepted(), rejected("RMS", curable=False), decided).when(accepted(of=1)).then_nothing()


def test_an_order_given_up_that_is_told_with_its_end_needs_no_cancel():
    story = given(started, BUYING, unknown(), absent, decided)
    story.when(finalized(Final.CANCELLED, 4, "99.5", of=1)).then(alert(Code.ORDER_SURFACED), execute_surfaced(4))


def test_a_live_exit_larger_than_what_is_open_is_cancelled():
    story = given(started, bought(), exiting(), settled(4))
    story.when(woken).then(cancel_requested(why="sells 10, only 6 open"))
    story.when(cancelled()).then(execute_sell(6))


def test_a_live_exit_of_just_what_is_open_is_left_alone_however_it_fills():
    given(started, bought(), exiting(filled=4), settled(0)).when(woken).then_nothing()


def test_while_a_surfaced_exit_may_still_sell_no_other_exit_is_placed_for_the_same_shares():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL), unknown(), absent, decided).when(rejected())
    story.when(accepted(of=2)).then(cancel_requested(tag=story.scene.tag(2)), alert(Code.ORDER_SURFACED))
    story.when(later(2)).then(cancel_requested(tag=story.scene.tag(2)))
    story.when(cancelled(0, of=2)).then(execute_sell(10))


def test_over_selling_is_alerted_at_once_and_again_until_it_is_settled():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL), unknown(), absent, decided)
    story.when(accepted(), completed()).then(*ended(Exit.SELL))
    story.when(filled(10, of=2), finalized(Final.COMPLETE, 10, of=2)).then(alert(Code.OVERSOLD))
    story.then_state(open_quantity=-10, position=Holding.SOLD)
    story.when(later(299)).then_nothing()
    story.when(later(1)).then(alert(Code.OVERSOLD))
    story.when(settled(-10)).then_nothing().then_state(open_quantity=0)


def test_over_selling_is_not_alerted_all_night():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL), unknown(), absent, decided)
    story.when(accepted(), completed()).when(filled(10, of=2), finalized(Final.COMPLETE, 10, of=2))
    story.when(at("20:00")).then_nothing()


# --- 2: surfaced shares ---------------------------------------------------------------------------------------------

SURFACED = told(started, BUYING, unknown(), absent, decided, filled(10, of=1), finalized(Final.COMPLETE, 10, of=1))


def test_surfaced_shares_are_sold_and_alerted():
    given(SURFACED).when(woken).then(alert(Code.ORDER_SURFACED), execute_surfaced(10))


def test_surfaced_shares_are_sold_by_at_most_one_order_at_a_time():
    given(SURFACED).when(woken).when(later(1)).then_nothing()


def test_surfaced_shares_wait_for_the_market_to_open_but_not_for_the_alert():
    story = given(SURFACED).when(at("16:00")).then(alert(Code.ORDER_SURFACED))
    story.when(at("20:00")).then_nothing()


@pytest.mark.parametrize("product", Product)
def test_shares_that_surfaced_on_an_earlier_day_are_sold_if_they_were_delivered(product):
    words = (started_with(product=product), BUYING, unknown(), absent, decided, at("15:30"), filled(10, of=1))
    story = given(*words, finalized(Final.COMPLETE, 10, of=1), decided)
    story.when(at("09:15", TUESDAY)).then(alert(Code.ORDER_SURFACED), *[execute_surfaced(10)][: product is Product.CNC])


def test_surfaced_shares_are_alerted_again_while_there_is_no_broker_session():
    story = given(SURFACED, disconnected).when(woken).then(alert(Code.ORDER_SURFACED))
    story.when(later(300)).then(alert(Code.ORDER_SURFACED))


def test_a_refused_sale_of_surfaced_shares_is_tried_again_for_ever_but_slowly():
    story = given(SURFACED).when(woken)
    for attempt, pause in ((1, 1), (2, 2), (3, 30), (4, 30)):
        now = story.scene.facts.now
        story.when(rejected()).then(retry_required(attempt=attempt, not_before=now + pause * 1_000_000))
        story.when(later(pause))
        assert story.state.unresolved


def test_a_sale_of_surfaced_shares_that_is_refused_while_an_abort_is_due_does_not_hold_the_abort_up():
    story = given(SURFACED, started_with(buy="12:00"), at("11:00")).when(woken)
    story.when(rejected(), aborted()).then(
        retry_required(kind=Kind.SURFACED), alert(Code.SAFETY_ABORT), *ended(Exit.ABORT)
    )
    story.when(later(0.9)).then_nothing()
    story.when(later(0.1)).then(execute_surfaced(10, attempt=2))


def test_a_late_fill_of_an_earlier_run_is_sold_while_the_later_run_lives_and_leaves_its_position_alone():
    story = given(started, BUYING, unknown(), absent, decided, started_with(buy="10:00"), bought(10))
    tag = next(iter(story.state.past))
    story.when(came_late(tag, 4)).then(cancel_requested(tag=tag), alert(Code.ORDER_SURFACED), execute_surfaced(4))
    story.then_state(open_quantity=10, surfaced=4, position=Holding.BOUGHT)


def test_what_an_order_of_an_earlier_run_sold_is_settled_with_the_later_run_and_not_sold_again():
    given_up = told(started, bought(), sell_triggered, intended(Kind.SELL), unknown(), absent, decided)
    story = given(given_up, accepted(), completed(), decided, started_with(buy="15:00", sell="15:12"), bought())
    tag = next(tag for tag, order in story.state.past.items() if order.final is Final.NOT_PLACED)
    story.when(came_late(tag, 4, Final.CANCELLED))
    story.then(alert(Code.OVERSOLD), position_settled(4)).then_state(open_quantity=6, surfaced=0)
    story.when(stoploss_triggered()).then(execute_stoploss(6))


def came_late(tag: Tag, quantity: int, final: Final | None = None) -> Word:
    """An order of an earlier run traded after it was given up."""

    def word(scene: Scene) -> None:
        scene.fold(OrderFilled(tag=tag, order_id="o-late", filled=quantity, average_price=Decimal(100)))
        if final is not None:
            scene.fold(OrderFinalized(tag=tag, final=final, filled=quantity, average_price=Decimal(100)))

    return word


# --- 3 and 4: being sent, and unknown -------------------------------------------------------------------------------


def test_an_order_being_sent_is_waited_for_until_its_sender_must_be_dead():
    story = given(started, BUYING).when(woken).then_nothing().then_wakes_at("09:20:10")
    story.when(at("09:20:09.999999")).then_nothing()
    story.when(at("09:20:10")).then(outcome_unknown(doubt=Doubt.DEAD_SENDER)).then_wakes_at("15:30")


def test_a_dead_sender_of_an_exit_is_alerted_at_once():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL)).when(later(10))
    story.then(outcome_unknown(), alert(Code.OUTCOME_UNKNOWN))


def test_a_sender_thought_dead_that_answers_ambiguously_prolongs_the_quarantine():
    story = given(started, BUYING, later(10), decided).when(unknown(Doubt.AMBIGUOUS)).then_nothing()
    assert story.scene.order.doubt is Doubt.AMBIGUOUS


def test_an_unknown_order_holds_everything_back_however_much_is_due():
    story = given(started, BUYING, unknown())
    story.when(sell_triggered, stoploss_triggered(), stop_requested(square_off=True), halted()).then_nothing()


def test_a_fill_that_overtakes_the_acceptance_makes_the_order_live_and_names_it():
    story = given(started, BUYING).when(filled(4)).then_nothing()
    story.then_state(last_buy_order=f"o-{story.scene.order.tag[-4:]}")
    assert story.scene.order.phase is Phase.LIVE
    story.when(completed()).when(accepted()).then_nothing().then_state(bought=10, lock_state="free")


def test_an_acceptance_after_the_end_changes_nothing():
    given(started, BUYING, filled(4), cancelled(4)).when(accepted()).then_nothing().then_state(
        lock_state="free", open_quantity=4
    )


def test_a_larger_cumulative_fill_after_the_end_counts():
    given(started, BUYING, accepted(), cancelled(4)).when(filled(7)).then_nothing().then_state(
        open_quantity=7, lock_state="free"
    )


def test_a_fill_told_only_with_the_end_counts_at_its_price():
    given(started, BUYING, accepted(), finalized(Final.CANCELLED, 4, "99.50")).when(woken).then_nothing().then_state(
        open_quantity=4, buy_value=Decimal(398)
    )


def test_repeated_and_reordered_fills_count_once():
    story = given(started, BUYING, filled(7), filled(4), filled(7), accepted(), filled(4))
    story.when(woken).then_nothing().then_state(bought=7)


def test_nothing_is_decided_while_a_cancel_is_outstanding_and_it_is_repeated_after_its_deadline():
    story = given(started, BUYING, accepted()).when(sell_triggered).then(cancel_requested())
    story.when(later(1.9), stop_requested()).then_nothing()
    story.when(later(0.1)).then(cancel_requested())


# --- 5: a resting entry ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "why"),
    [
        (stoploss_triggered(), "an exit is due"),
        (sell_triggered, "an exit is due"),
        (stop_requested(), "the strategy is being stopped"),
        (halted(), "the user is halted"),
        (later(10), "it rests too long"),
        (at("15:30"), "the session is over"),
    ],
)
def test_a_resting_entry_is_cancelled_when(word, why):
    given(started, bought(filled=4, resting=6)).when(word).then(cancel_requested(why=why))


def test_a_resting_entry_is_left_alone_for_its_patience():
    given(started, bought(filled=4, resting=6)).when(later(9)).then_nothing().then_wakes_at("09:20:10")


def test_a_stop_that_comes_while_the_entry_rests_waits_and_then_exits_what_was_filled():
    story = given(started, bought(qty=10, filled=4, resting=6))
    story.when(stoploss_triggered(at="94.95")).then(cancel_requested())
    story.when(cancelled(filled=5)).then(execute_stoploss(qty=5))


def test_a_stop_while_the_entry_is_in_flight_waits_as_a_flag():
    story = given(started, BUYING).when(stoploss_triggered()).then_nothing()
    story.when(accepted(), filled(2)).then(cancel_requested())


def test_a_resting_entry_without_a_session_waits_for_the_next_one_and_is_cancelled_then():
    story = given(started, bought(filled=4, resting=6), disconnected).when(stoploss_triggered()).then_nothing()
    assert story.scene.wake_at == story.scene.facts.now + 5_000_000
    story.when(later(5)).then_nothing()
    story.when(connected).then(cancel_requested())


def test_a_partly_filled_entry_is_held_when_its_rest_is_cancelled():
    story = given(started, bought(filled=4, resting=6)).when(later(10)).when(cancelled())
    story.then_nothing().then_state(position=Holding.BOUGHT, open_quantity=4)


def test_an_entry_cancelled_unfilled_ends_the_run():
    given(started, BUYING, accepted()).when(later(10)).when(cancelled(0)).then(*ended(Exit.REJECTED))


# --- 6 and 7: a resting exit ----------------------------------------------------------------------------------------


def test_a_resting_exit_is_moved_under_the_last_price_on_the_tick_grid():
    story = given(started, bought(), exiting(), price("97.37")).when(later(3))
    story.then(modify_requested("96.35"), alert(Code.EXIT_NOT_FILLING))  # 97.37 × 0.99 = 96.3963


def test_a_resting_exit_is_left_alone_for_its_patience():
    given(started, bought(), exiting()).when(later(2.9)).then_nothing()


def test_a_resting_exit_goes_on_down_even_when_the_last_trade_was_higher_than_its_limit():
    story = (
        given(started, bought(), exiting(), price("100"))
        .when(later(3))
        .then(modify_requested("99.00"), alert(Code.EXIT_NOT_FILLING))
    )
    story.when(later(3)).then(modify_requested("98.00"))
    story.when(price("105"), later(3)).then(modify_requested("97.00"))


def test_a_resting_exit_stops_at_the_lower_circuit_and_is_looked_at_again_and_alerted_again():
    story = given(started, instrument(lower_circuit=Decimal("98.50")), bought(), exiting()).when(later(3))
    story.then(modify_requested("99.00"), alert(Code.EXIT_NOT_FILLING))
    story.when(later(3)).then(modify_requested("98.50"))
    story.when(later(3)).then_nothing()
    assert story.scene.wake_at == story.scene.facts.now + 3_000_000
    story.when(later(294)).then(alert(Code.EXIT_NOT_FILLING))


@pytest.mark.parametrize("word", [disconnected, day_spent])
def test_a_resting_exit_that_may_not_be_changed_now_is_alerted_and_chased_as_soon_as_it_may(word):
    story = given(started, bought(), exiting(), price("100"), word).when(later(3)).then(alert(Code.EXIT_NOT_FILLING))
    story.when(later(3)).then_nothing()
    story.when(connected, day_begun).then(modify_requested("99.00"))


def test_an_exit_for_which_the_account_has_no_order_left_today_is_alerted_and_stays_due():
    story = given(started, bought(), day_spent).when(sell_triggered).then(alert(Code.UNPROTECTED_POSITION))
    story.when(later(1)).then_nothing()
    story.when(day_begun).then(execute_sell(10))


@pytest.mark.parametrize(
    ("last", "tick"), [("25012.35", "24760"), ("1890.05", "1871"), ("97.37", "96.35"), ("0.04", "0.05")]
)
def test_a_resting_exit_of_what_has_gone_from_the_list_is_moved_on_a_grid_that_fits_any_instrument(last, tick):
    story = given(started, bought(), exiting(), no_instrument, price(last)).when(later(3))
    story.then(modify_requested(tick), alert(Code.EXIT_NOT_FILLING))


def test_a_resting_exit_that_cannot_be_priced_is_alerted_and_looked_at_again_soon():
    story = given(started, bought(), exiting(), price(None)).when(later(3)).then(alert(Code.EXIT_NOT_FILLING))
    assert story.scene.wake_at == story.scene.facts.now + 3_000_000
    story.when(later(3), instrument(), price("100")).then(modify_requested("99.00"))


def test_a_change_that_is_outstanding_or_refused_is_not_repeated_at_once():
    story = given(started, bought(), exiting()).when(later(3)).when(change_refused).then_nothing()
    story.when(later(2.9)).then_nothing()
    story.when(later(0.1)).then(modify_requested())


def test_refused_changes_do_not_drag_the_limit_down():
    """Thirty seconds of a dead line once made it a tenth below the market."""
    story = given(started, bought(), exiting())
    for _ in range(10):
        story.when(later(3))
        assert story.scene.decided[0] == replace(story.scene.decided[0], price=Decimal("99.00"))
        story.when(change_refused).then_nothing()
    story.when(later(3)).then(modify_requested("99.00"))
    story.when(later(3)).then(modify_requested("98.00"))


def test_a_refused_change_is_asked_again_when_there_is_no_newer_price():
    story = (
        given(started, bought(), exiting()).when(later(3)).then(modify_requested("99.00"), alert(Code.EXIT_NOT_FILLING))
    )
    story.when(change_refused, price(None), later(3)).then(modify_requested("99.00"))


def test_a_change_without_an_answer_may_have_been_carried_out():
    story = (
        given(started, bought(), exiting()).when(later(3)).then(modify_requested("99.00"), alert(Code.EXIT_NOT_FILLING))
    )
    story.when(happened(ModifyRejected(tag=story.scene.tag(), reason="unanswered: time-out"))).then_nothing()
    story.when(later(3)).then(modify_requested("98.00"))


def test_after_25_changes_the_exit_is_cancelled_and_placed_again():
    story = given(started, bought(), exiting())
    for _ in range(25):
        story.when(later(3))
        assert story.scene.decided[0].type == "MODIFY_REQUESTED"
    story.when(later(3)).then(cancel_requested(why="its changes are used up"))
    story.when(cancelled()).then(execute_sell(10))
    assert story.scene.order.changes == 0


def test_an_exit_is_not_moved_in_a_closed_market():
    given(started, bought(), exiting()).when(at("15:31")).then_nothing()


def test_a_stop_that_comes_while_a_sell_is_live_changes_nothing():
    given(started, bought(), exiting(Kind.SELL)).when(stoploss_triggered()).then_nothing()


# --- 8: an order that ended short -----------------------------------------------------------------------------------


def test_a_curable_refusal_is_retried_after_a_growing_pause_and_the_third_is_the_last():
    story = given(started, BUYING)
    for attempt, pause in ((1, 1), (2, 2)):
        now = story.scene.facts.now
        story.when(rejected()).then(retry_required(attempt=attempt, not_before=now + pause * 1_000_000))
        story.when(later(pause - 0.1)).then_nothing()
        story.when(later(0.1)).then(execute_buy(10, attempt=attempt + 1))
    story.when(rejected()).then(safety_abort(Abort.RETRIES_EXHAUSTED), alert(Code.SAFETY_ABORT), *ended(Exit.ABORT))


def test_a_refusal_that_no_retry_cures_aborts():
    given(started, BUYING).when(rejected("MARGIN", curable=False)).then(
        safety_abort(Abort.BROKER_REFUSED), alert(Code.SAFETY_ABORT), *ended(Exit.ABORT)
    )


def test_an_exit_refused_for_want_of_a_session_aborts_with_that_reason_and_keeps_the_position():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL)).when(rejected("NO_SESSION", curable=False))
    story.then(retry_required()).when(disconnected, later(2)).then(
        safety_abort(Abort.TOKEN_INVALID),
        alert(Code.SAFETY_ABORT),
        *ended(Exit.ABORT, open_quantity=10),
        alert(Code.UNPROTECTED_POSITION),
    )


def test_an_exit_refused_to_the_last_session_goes_out_in_the_one_that_the_user_has_just_begun():
    story = given(started, bought()).when(stoploss_triggered()).then(execute_stoploss(10))
    story.when(rejected("NO_SESSION", curable=False), disconnected).then(retry_required())
    story.when(connected, later(2)).then(execute_stoploss(10))
    for _ in range(1):
        story.when(rejected("NO_SESSION", curable=False)).then(retry_required()).when(later(2)).then(execute_stoploss())
    story.when(rejected("NO_SESSION", curable=False)).then(
        safety_abort(Abort.TOKEN_INVALID),
        alert(Code.SAFETY_ABORT),
        *ended(Exit.ABORT, open_quantity=10),
        alert(Code.UNPROTECTED_POSITION),
    )


def test_too_many_requests_and_no_permit_do_not_count():
    story = given(started, BUYING)
    for _ in range(8):
        story.when(throttled).then(retry_required(counted=False)).when(later(1)).then(execute_buy(10, attempt=1))


def test_an_outage_of_the_line_is_tried_every_second_never_aborts_an_exit_and_is_alerted_at_once_and_again():
    story = given(started, bought()).when(stoploss_triggered()).then(execute_stoploss(10, attempt=1))
    for second in range(600):
        retry = retry_required(counted=False, not_before=story.scene.facts.now + 1_000_000)
        alerts = (alert(Code.EXIT_NOT_FILLING),) if second in (0, 300) else ()
        story.when(unreachable).then(retry, *alerts)
        story.when(later(1)).then(execute_stoploss(10, attempt=1))
    assert len(story.state.past) == 1, "of what was never sent nothing can come, so it is not kept"
    story.when(accepted(), completed()).then(*ended(Exit.STOPLOSS))


def test_an_entry_whose_line_is_out_is_tried_until_it_is_too_late_and_nobody_is_alerted():
    story = given(started, BUYING)
    for _ in range(30):
        story.when(unreachable).then(retry_required(counted=False)).when(later(1)).then(execute_buy(10, attempt=1))
    story.when(unreachable).then(retry_required(counted=False))
    story.when(later(1)).then(denied(Denial.TOO_LATE), *ended(Exit.DENIED))


def test_the_numbers_of_a_tag_last_a_whole_day_without_a_line():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL))
    while story.scene.facts.now < story.state.close_at - 60_000_000:
        story.when(unreachable)
        story.scene.look(now=story.scene.wake_at)
        story.when(woken)
    assert 600 < story.state.orders < 36**2


def test_an_exit_that_is_throttled_for_long_is_alerted_and_asked_ever_less_often():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL))
    alerted, pauses = [], []
    while story.scene.facts.now < story.state.buy_at + 300_000_000:
        story.when(throttled)
        alerted += [story.scene.facts.now for event in story.scene.decided if event.type == "ALERT_TRIGGERED"]
        pauses.append(story.scene.wake_at - story.scene.facts.now)
        story.scene.look(now=story.scene.wake_at)
        story.when(woken)
    assert [at - story.state.buy_at for at in alerted] == [10_000_000]
    assert (pauses[0], pauses[-1]) == (1_000_000, 10_000_000)


def test_an_exit_that_a_full_day_at_the_broker_refuses_is_alerted_at_once_and_asked_for_once_a_minute():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL))
    for minute in range(10):
        alerts = (alert(Code.EXIT_NOT_FILLING),) if minute in (0, 5) else ()
        story.when(rejected("ORDER_LIMIT", curable=False, counted=False))
        story.then(retry_required(counted=False), *alerts)
        story.when(later(59)).then_nothing()
        story.when(later(1)).then(execute_sell(10, attempt=1))


def test_an_entry_that_a_full_day_at_the_broker_refuses_is_given_up():
    given(started, BUYING).when(rejected("ORDER_LIMIT", curable=False, counted=False)).then(
        safety_abort(Abort.BROKER_REFUSED), alert(Code.SAFETY_ABORT), *ended(Exit.ABORT)
    )


def test_a_fill_ends_what_was_refused_without_counting():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL), throttled, decided, later(9), decided)
    story.when(accepted(), filled(4)).when(later(1), cancelled(4)).then(retry_required())
    story.when(later(1)).then(execute_sell(6)).when(throttled).then(retry_required(counted=False))


def test_a_fill_resets_the_attempts():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL, attempt=3), accepted(), filled(4))
    story.when(cancelled()).then(retry_required(attempt=1)).when(later(1)).then(execute_sell(6, attempt=2))


def test_attempts_count_per_kind():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL, attempt=2), rejected(), decided)
    story.when(stoploss_triggered()).then(execute_stoploss(10, attempt=1))


def test_an_entry_rejected_after_a_partial_fill_is_never_placed_again():
    story = given(started, BUYING, accepted(), filled(4)).when(rejected("RMS"))
    story.then_nothing().then_state(open_quantity=4, position=Holding.BOUGHT)
    story.when(later(60)).then_nothing()
    story.when(stoploss_triggered()).then(execute_stoploss(4))


def test_an_entry_throttled_after_a_partial_fill_is_never_placed_again():
    given(started, BUYING, accepted(), filled(4)).when(throttled).then_nothing()


def test_a_stoploss_takes_over_during_the_back_off_of_a_sell():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL)).when(rejected()).then(retry_required())
    story.when(stoploss_triggered()).then(execute_stoploss(10))


def test_a_sell_that_is_used_up_does_not_abort_while_a_stop_is_untried():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL, attempt=3), stoploss_triggered())
    story.when(rejected()).then(execute_stoploss(10))


def test_a_square_off_that_is_used_up_beside_a_due_stop_goes_on_as_the_stoploss_and_then_aborts():
    """It once went on as SELL, without end and without a pause."""
    squaring_off = told(started, bought(), stop_requested(square_off=True), intended(Kind.SELL, attempt=3))
    story = given(squaring_off, stoploss_triggered())
    story.when(rejected()).then(execute_stoploss(10, attempt=1))
    story.when(rejected()).then(retry_required(kind=Kind.STOPLOSS)).when(later(1)).then(execute_stoploss(attempt=2))
    story.when(rejected("RMS", curable=False)).then(
        safety_abort(Abort.BROKER_REFUSED),
        alert(Code.SAFETY_ABORT),
        *ended(Exit.ABORT, open_quantity=10),
        alert(Code.UNPROTECTED_POSITION),
    )


def test_an_exit_that_somebody_else_cancelled_is_tried_again():
    given(started, bought(), exiting()).when(cancelled(4)).then(retry_required(kind=Kind.SELL)).then_wakes_at(
        "09:20:01"
    )


def test_an_exit_that_failed_for_shares_that_are_gone_does_not_abort():
    given(started, bought(), sell_triggered, intended(Kind.SELL, attempt=3), settled(10)).when(rejected()).then(
        *ended(Exit.USER)
    )


def test_an_absent_entry_is_given_up():
    given(started, BUYING, unknown()).when(absent).then(*ended(Exit.REJECTED))


def test_an_absent_exit_is_decided_again_under_a_new_tag_and_its_tag_stays_watched():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL), unknown())
    old = story.scene.order.tag
    story.when(absent).then(execute_sell(10))
    assert story.scene.order.tag != old
    assert story.state.find(old).final is Final.NOT_PLACED


def test_an_exit_that_we_did_not_send_in_time_is_decided_again_at_once_and_does_not_count():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL, attempt=3)).when(denied_by_sender())
    story.then(retry_required(counted=False), execute_sell(10, attempt=3))


def test_an_exit_that_is_never_sent_in_time_is_decided_again_ever_more_slowly():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL))
    moments = set()
    for _ in range(200):
        if story.state.unresolved:
            moments.add(story.scene.facts.now)
            denied_by_sender()(story.scene)
        story.when(later(1))
    assert story.state.orders < 150


def test_an_entry_that_we_did_not_send_is_denied():
    given(started, BUYING).when(denied_by_sender(Denial.TOO_LATE)).then(*ended(Exit.DENIED))


def test_the_numbers_of_a_tag_last_a_whole_day_of_refusals():
    story = given(started, policy(buy_late_limit=10**12), bought(), sell_triggered, intended(Kind.SELL))
    while story.scene.facts.now < story.state.close_at - 60_000_000:
        story.when(throttled)
        assert story.scene.wake_at is not None
        story.scene.look(now=story.scene.wake_at)
        story.when(woken)
    assert story.state.orders < 36**2


def test_a_late_fill_of_an_earlier_run_shortens_no_back_off():
    story = given(started, BUYING, unknown(), absent, decided, started_with(buy="10:00"), buy_triggered)
    tag = next(iter(story.state.past))
    story.when(intended(Kind.BUY), throttled).then(retry_required(counted=False))
    story.when(came_late(tag, 10, Final.COMPLETE)).then(alert(Code.ORDER_SURFACED), execute_surfaced(10))
    story.when(accepted(), completed()).then_nothing().then_wakes_at("10:00:01")


def test_nothing_of_a_retry_is_left_when_the_run_has_ended():
    story = given(started, BUYING).when(rejected()).when(stop_requested()).then(*ended(Exit.USER)).then_wakes_at(None)
    story.when(later(5)).then_nothing()


def test_an_update_that_moves_the_sell_time_of_a_refused_sell_lets_the_run_hold_on():
    story = given(started, bought(), sell_triggered, intended(Kind.SELL)).when(rejected())
    story.when(updated(sell_at=story.state.sell_at + 60_000_000), later(5)).then_nothing()
    story.when(sell_triggered).then(execute_sell(10, attempt=2))


def test_stopped_is_said_once():
    story = given(started, bought(), exiting()).when(completed()).then(*ended(Exit.SELL))
    story.when(sell_triggered, stoploss_triggered(), stop_requested(), woken).then_nothing()
